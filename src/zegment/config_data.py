"""Options that say where images, label maps and class names come from."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Literal

from zegment.config_fields import Count, FieldError, Range, Section, did_you_mean
from zegment.data.classes import ClassSet, class_set
from zegment.errors import ConfigError

#: Formats that give back the label values that were put in.
LOSSLESS_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFiles(Section):
    """Where the files of one split lie, relative to ``data.root``.

    Attributes:
        images: Folder of the images.
        masks: Folder of the label maps; a mask is named after its image.
        list: Text file with one image name per line, without folder and extension; None takes
            every image of the folder.
    """

    images: str
    masks: str
    list: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Section):
    """Images, label maps and class names.

    Attributes:
        source: ``shapes`` is the packaged miniature, ``folder`` is your own files.
        root: Folder that ``train``, ``val`` and ``test`` are relative to. In a file it is relative
            to that file, elsewhere to the working directory.
        class_set: A packaged list of class names, such as ``voc`` or ``coco_stuff``.
        classes: Class names in the order of the label values, if not from a class set.
        unseen: Classes without a mask in training; None takes those of the class set, an empty
            list makes training fully supervised.
        ignore_value: Label value of pixels that count nowhere, besides 255, which always does.
        reduce_zero_label: Whether label 0 is a background that counts nowhere, and label 1 is the
            first class.
        mask_suffix: What turns the name of an image, without extension, into that of its mask.
        train: Files of the training split.
        val: Files of the validation split.
        test: Files of the test split.
        train_length: Number of training scenes; Shapes only.
        val_length: Number of validation scenes; Shapes only.
        test_length: Number of test scenes; Shapes only.
        image_size: Side of a scene in pixels; Shapes only.
    """

    source: Literal["shapes", "folder"] = "shapes"
    root: str = "."
    class_set: str | None = None
    classes: tuple[str, ...] = ()
    unseen: tuple[str, ...] | None = None
    ignore_value: Annotated[int, Range(at_least=0, at_most=65535)] = 255
    reduce_zero_label: bool = False
    mask_suffix: str = ".png"
    train: SplitFiles | None = None
    val: SplitFiles | None = None
    test: SplitFiles | None = None
    train_length: Count = 4000
    val_length: Count = 400
    test_length: Count = 400
    image_size: Annotated[int, Range(at_least=16)] = 96

    def named_classes(self) -> ClassSet:
        """Return the class names and the unseen ones of a folder, wherever they are written.

        Raises:
            FieldError: If the class set is unknown.
        """
        if self.class_set is None:
            return ClassSet(names=self.classes, unseen=self.unseen or (), source="data.classes")
        try:
            packaged = class_set(self.class_set)
        except ConfigError as error:
            raise FieldError("class_set", str(error)) from error
        unseen = packaged.unseen if self.unseen is None else self.unseen
        return ClassSet(names=packaged.names, unseen=unseen, source=packaged.source)

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If Shapes is given class names, or a folder lacks names or splits.
            FieldError: If names are empty, repeated, too many, or unseen ones are unknown.
            FieldError: If a label value would mean both a class and nothing.
            FieldError: If masks would be lossy pictures.
        """
        if self.source == "shapes":
            self._check_shapes()
        else:
            self._check_folder()

    def _check_shapes(self) -> None:
        for key in ("class_set", "classes", "unseen"):
            if getattr(self, key):
                raise FieldError(
                    key, 'Shapes has its own classes; leave this out or set source = "folder"'
                )

    def _check_folder(self) -> None:
        if self.class_set and self.classes:
            raise FieldError(
                "classes", 'class_set gives the names already; add class_set = "none" to use these'
            )
        if not (self.class_set or self.classes):
            raise FieldError(
                "classes", "your own files need class names, in the order of the label values"
            )
        if not (self.train or self.val or self.test):
            raise FieldError(
                "train", "your own files need [data.train], [data.val] or [data.test]; add one"
            )
        if PurePath(f"x{self.mask_suffix}").suffix.lower() not in LOSSLESS_SUFFIXES:
            raise FieldError(
                "mask_suffix",
                f'"{self.mask_suffix}" does not end in a lossless format, and a lossy one changes '
                f"label values; use one of {', '.join(LOSSLESS_SUFFIXES)}",
            )
        names = self.named_classes().names
        self._check_names(names)
        self._check_unseen(names)
        self._check_label_values(names)

    def _check_names(self, names: tuple[str, ...]) -> None:
        known: dict[str, str] = {}
        for position, name in enumerate(names):
            if not name.strip():
                raise FieldError("classes", f"class {position} has an empty name; name it")
            # Text towers do not tell capitals from small letters.
            twin = known.setdefault(name.strip().casefold(), name)
            if twin is not name or names.index(name) != position:
                raise FieldError(
                    "classes", f'"{name}" is the same name as "{twin}"; each class needs its own'
                )

    def _check_unseen(self, names: tuple[str, ...]) -> None:
        unseen = self.unseen or ()
        for name in unseen:
            if name not in names:
                raise FieldError(
                    "unseen", f'"{name}" is not one of the classes{did_you_mean(name, names)}'
                )
        if len(set(unseen)) < len(unseen):
            raise FieldError("unseen", "a class is listed twice; name each once")
        if len(unseen) == len(names):
            raise FieldError("unseen", "every class is unseen; training needs at least one mask")

    def _check_label_values(self, names: tuple[str, ...]) -> None:
        first = int(self.reduce_zero_label)
        if len(names) + first > 255:
            raise FieldError(
                "classes", f"{len(names)} are too many: label 255 means that a pixel counts nowhere"
            )
        if first <= self.ignore_value < first + len(names):
            raise FieldError(
                "ignore_value",
                f'{self.ignore_value} is also the label of "{names[self.ignore_value - first]}"; '
                "give ignored pixels a value of their own",
            )
