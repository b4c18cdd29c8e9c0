"""Options that say where images, label maps and class names come from."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Annotated, Literal, TypeAlias

from zegment.config.fields import FieldError, Name, Range, Section, Share, show
from zegment.data.classes import ClassSet, Spelling, class_set
from zegment.data.shapes_classes import CLASS_NAMES, UNSEEN
from zegment.errors import ConfigError, did_you_mean

#: Formats that give back the label values that were put in.
LOSSLESS_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")

#: Largest value that a mask can hold.
MAX_VALUE = 65535

#: Scenes of a split, which are drawn anew whenever they are asked for.
MAX_SCENES = 1_000_000

#: Longest side of a drawn scene; memory grows with its square.
MAX_SCENE = 4096

Scenes: TypeAlias = Annotated[int, Range(at_least=1, at_most=MAX_SCENES)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFiles(Section):
    """Where the files of one split lie, relative to ``data.root``.

    Attributes:
        images: Folder of the images; for ``huggingface`` the column that holds them.
        masks: Folder of the label maps, where a mask is named after its image; for ``coco_json``
            the annotation file, for ``huggingface`` the column.
        list: Text file with one image name per line, without ending; None takes every image of
            the folder. For ``huggingface`` the name of the split there.
        descriptions: CSV file with the columns ``image`` and ``description``: a sentence for each
            image about its one class that is not the background; None has none.
    """

    images: str
    masks: str
    list: str | None = None
    descriptions: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Section):
    """Images, label maps and class names.

    Attributes:
        source: ``shapes`` is the packaged miniature, ``folder`` is your own files, ``coco_json``
            is a folder of images with one annotation file, ``huggingface`` a data set of its Hub.
        benchmark: A known data set; it gives every option here that is not set, but the root.
        root: Folder that ``train``, ``val`` and ``test`` are relative to; for ``huggingface`` the
            name of the data set. In a file it is relative to that file, elsewhere to the working
            directory.
        class_set: A packaged list of class names, such as ``voc`` or ``coco_stuff``.
        classes: Class names in the order of the label values, if not from a class set.
        unseen: Classes without a mask in training; None takes those of the class set or of
            Shapes, an empty list makes training fully supervised.
        split: A further published split of the class set into seen and unseen, by its name.
        spelling: Whether class names are taken as published (``pottedplant``) or in natural
            spelling (``potted plant``).
        ignore_value: Label value of pixels that count nowhere; None is 255, or 65535 if there are
            more classes than fit below 255.
        reduce_zero_label: Whether label 0 is a background that counts nowhere, and label 1 is the
            first class.
        label_values: Value of each class in the masks, -1 for a class without one; if empty, they
            count from 0, or from 1 with ``reduce_zero_label``.
        other_values: What a value is that belongs to no class: an ``error``, or ``ignore``, or the
            class of that name.
        image_suffix: What the names of images end in; None takes every kind of picture.
        mask_suffix: What turns the name of an image, without its ending, into that of its mask.
        nested: Whether folders inside the folders belong to them.
        train: Files of the training split.
        val: Files of the validation split.
        test: Files of the test split.
        train_length: Number of training scenes; Shapes only.
        val_length: Number of validation scenes; Shapes only.
        test_length: Number of test scenes; Shapes only.
        image_size: Side of a scene in pixels; Shapes only.
        unannotated_share: Share of the classes in a training scene that the annotator left out, as
            PASCAL VOC leaves out its background; Shapes only.
    """

    source: Literal["shapes", "folder", "coco_json", "huggingface"] = "shapes"
    benchmark: str | None = None
    root: Name = "."
    class_set: str | None = None
    classes: tuple[str, ...] = ()
    unseen: tuple[str, ...] | None = None
    split: str | None = None
    spelling: Spelling = "published"
    ignore_value: Annotated[int, Range(at_least=0, at_most=MAX_VALUE)] | None = None
    reduce_zero_label: bool = False
    label_values: tuple[Annotated[int, Range(at_least=-1, at_most=MAX_VALUE)], ...] = ()
    other_values: str = "error"
    image_suffix: str | None = None
    mask_suffix: str = ".png"
    nested: bool = False
    train: SplitFiles | None = None
    val: SplitFiles | None = None
    test: SplitFiles | None = None
    train_length: Scenes = 4000
    val_length: Scenes = 400
    test_length: Scenes = 400
    image_size: Annotated[int, Range(at_least=16, at_most=MAX_SCENE)] = 96
    unannotated_share: Share = 0.0

    def named_classes(self) -> ClassSet:
        """Return the class names and the unseen ones, wherever they are written.

        Raises:
            FieldError: If the class set or its split is unknown.
        """
        if self.source == "shapes":
            unseen = UNSEEN if self.unseen is None else self.unseen
            return ClassSet(names=CLASS_NAMES, unseen=unseen, source="zegment.data.shapes")
        if self.class_set is None:
            return ClassSet(names=self.classes, unseen=self.unseen or (), source="data.classes")
        try:
            packaged = class_set(self.class_set)
        except ConfigError as error:
            raise FieldError("class_set", str(error)) from error
        if self.split is not None:
            if self.split not in packaged.splits:
                raise FieldError(
                    "split",
                    f'class set "{self.class_set}" has no split {show(self.split)}; it has '
                    f"{', '.join(packaged.splits) or 'only the default one'}",
                )
            packaged = replace(packaged, unseen=packaged.splits[self.split])
        spelled = packaged.spelled(self.spelling)
        return spelled if self.unseen is None else replace(spelled, unseen=self.unseen)

    @property
    def unlabelled_value(self) -> int:
        """Return the value of pixels that count nowhere."""
        if self.ignore_value is not None:
            return self.ignore_value
        return 255 if len(self.named_classes().names) + self.reduce_zero_label <= 255 else MAX_VALUE

    @property
    def title(self) -> str:
        """Return what to call the data in a report."""
        if self.source == "shapes":
            return self.source
        return self.benchmark or PurePath(self.root).name or self.source

    def class_values(self) -> tuple[int, ...]:
        """Return the value of each class in the masks, -1 for a class without one."""
        if self.label_values:
            return self.label_values
        first = int(self.reduce_zero_label)
        return tuple(range(first, first + len(self.named_classes().names)))

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If Shapes is given class names, or other data lacks names or splits.
            FieldError: If names are empty, repeated, too many, or unseen ones are unknown.
            FieldError: If a label value would mean both a class and nothing, or two classes.
            FieldError: If masks would be lossy pictures.
        """
        if self.source == "shapes":
            self._check_shapes()
        else:
            self._check_files()

    def _check_shapes(self) -> None:
        for key in ("class_set", "classes", "split", "benchmark"):
            if getattr(self, key) not in (None, ()):
                raise FieldError(
                    key, 'Shapes has its own classes; leave this out or set source = "folder"'
                )
        self._check_unseen(CLASS_NAMES)

    def _check_files(self) -> None:
        if self.class_set and self.classes:
            raise FieldError(
                "classes", 'class_set gives the names already; add class_set = "none" to use these'
            )
        if not (self.class_set or self.classes):
            raise FieldError(
                "classes", "your own files need class names, in the order of the label values"
            )
        if self.split and not self.class_set:
            raise FieldError("split", "is for a class_set; name your own unseen classes in unseen")
        if self.spelling != "published" and not self.class_set:
            raise FieldError("spelling", "is for a class_set; spell your own classes as you like")
        if not (self.train or self.val or self.test):
            raise FieldError(
                "train", "your own files need [data.train], [data.val] or [data.test]; add one"
            )
        lossy = PurePath(f"x{self.mask_suffix}").suffix.lower() not in LOSSLESS_SUFFIXES
        if self.source == "folder" and lossy:
            raise FieldError(
                "mask_suffix",
                f"{show(self.mask_suffix)} does not end in a lossless format, and a lossy one "
                f"changes label values; use one of {', '.join(LOSSLESS_SUFFIXES)}",
            )
        names = self.named_classes().names
        self._check_names(names)
        self._check_unseen(names)
        self._check_label_values(names)

    def _check_names(self, names: tuple[str, ...]) -> None:
        known: dict[str, int] = {}
        for position, name in enumerate(names):
            if not name.strip():
                raise FieldError("classes", f"class {position} has an empty name; name it")
            # Text towers do not tell capitals from small letters.
            first = known.setdefault(name.strip().casefold(), position)
            if first != position:
                raise FieldError(
                    "classes",
                    f"{show(name)} is the same name as {show(names[first])}; each class needs its "
                    "own",
                )

    def _check_unseen(self, names: tuple[str, ...]) -> None:
        unseen, known = self.unseen or (), set(names)
        for name in unseen:
            if name not in known:
                raise FieldError(
                    "unseen", f"{show(name)} is not one of the classes{did_you_mean(name, names)}"
                )
        if len(set(unseen)) < len(unseen):
            raise FieldError("unseen", "a class is listed twice; name each once")
        if len(unseen) == len(names):
            raise FieldError("unseen", "every class is unseen; training needs at least one mask")

    def _check_label_values(self, names: tuple[str, ...]) -> None:
        if len(names) + self.reduce_zero_label > MAX_VALUE:
            raise FieldError(
                "classes", f"{len(names)} are too many: masks hold at most {MAX_VALUE}"
            )
        if self.label_values:
            self._check_given_values(names)
        values = self.class_values()
        if self.unlabelled_value in values:
            name = names[values.index(self.unlabelled_value)]
            raise FieldError(
                "ignore_value",
                f"{self.unlabelled_value} is also the label of {show(name)}; "
                "give ignored pixels a value of their own",
            )
        if self.other_values not in ("error", "ignore", *names):
            raise FieldError(
                "other_values",
                f'expected "error", "ignore" or the name of a class, got {show(self.other_values)}'
                f"{did_you_mean(self.other_values, names)}",
            )

    def _check_given_values(self, names: tuple[str, ...]) -> None:
        if self.reduce_zero_label:
            raise FieldError(
                "label_values", "already say what each value is; leave out reduce_zero_label"
            )
        if len(self.label_values) != len(names):
            raise FieldError(
                "label_values",
                f"{len(self.label_values)} values for {len(names)} classes; give one for each",
            )
        counts = Counter(value for value in self.label_values if value >= 0)
        twice = next((value for value, count in counts.items() if count > 1), None)
        if twice is not None:
            raise FieldError("label_values", f"{twice} stands for two classes; each needs its own")
