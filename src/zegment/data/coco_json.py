"""Images with one COCO annotation file as a dataset: outlines become label maps.

H W pixels; K classes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX, Split
from zegment.data.checked import CheckedDataset
from zegment.data.classes import BACKGROUND, natural_name
from zegment.data.outlines import mask_tools, outline_runs
from zegment.data.pairing import existing_folder, read_descriptions, read_list
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, did_you_mean
from zegment.images import read_image

#: Options for the pixel values of masks, of which an annotation file has none.
_ONLY_FOR_MASKS = ("label_values", "reduce_zero_label", "ignore_value")

#: What to do about a file of another kind.
_EXPECTED = "expected a file of COCO instances, such as instances_val2017.json"


class _Picture(NamedTuple):
    """An image of the annotation file."""

    path: str
    height: int
    width: int


class CocoJsonDataset(CheckedDataset):
    """Images of one split and the COCO annotation file that outlines what is in them.

    A category is the class of its name, and so are further spellings of it ("tvmonitor" and "TV
    monitor"). Every class needs a category in the file, except "background", and except unseen
    classes in training, whose annotations may have been taken out of the file. A category that
    is no class and has annotations is an error, counts nowhere, or is a class, as
    ``data.other_values`` says.

    Pixels that no annotation covers are `IGNORE_INDEX`, unless a class is called "background":
    then they are of this class. Where annotations overlap, the smaller one is on top, and of two
    equally large ones the later in the file. A crowd region (``iscrowd``) is of its class like
    any other, but lies beneath the single objects, because its outline is coarse.

    The images are those of the file, also the ones without an annotation, in the order of their
    names, or those of ``data.<split>.list``.

    Args:
        config: Folder of the images, annotation file and class names.
        split: Which of the configured splits.

    Raises:
        ConfigError: If the split is not configured, pycocotools is not installed, or an option
            is for masks only.
        DatasetNotFoundError: If the folder, the annotation file or the list does not exist.
        DatasetError: If the annotation file cannot be read or contradicts itself.
        DatasetError: If a class has no category, or a category that is used no class.
        DatasetError: If an image of the file is not in the folder.

    Note:
        The file is read once; afterwards the outlines are kept as text in one array, which worker
        processes share instead of copying it.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        super().__init__(config, split)
        _refuse_options_for_masks(config)
        mask_tools()  # if they are not installed, that is said before anything is read
        files = self._files
        self._path = Path(config.root) / files.masks
        self._uncovered = {natural_name(name): k for k, name in enumerate(self.class_names)}.get(
            BACKGROUND, IGNORE_INDEX
        )
        folder = existing_folder(config, f"data.{split}.images", files.images)
        content = _read_json(self._path, f'data.{split}.masks = "{files.masks}"')
        pictures = _pictures(content["images"], folder, self._path)
        chosen = _chosen(pictures, config, split, files)
        self._pictures = [pictures[identity] for identity in chosen]
        self._refuse_missing_images(folder)
        outlines = self._outlines(content, known=pictures.keys(), chosen=set(chosen))
        texts = [json.dumps(outlines[identity]).encode() for identity in chosen]
        self._ends = np.array([0, *accumulate(len(text) for text in texts)])
        self._texts = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._descriptions = read_descriptions(
            config, split, files, [(Path(picture.path), self._path) for picture in self._pictures]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pictures)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return self._pictures[index].path

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return one image, uint8 (H, W, 3), and its label map, int64 (H, W)."""
        path, height, width = self._pictures[index]
        image = read_image(path)
        if image.shape[:2] != (height, width):
            raise DatasetError(
                f"image {path} is {image.shape[1]} x {image.shape[0]} pixels as it is shown, but "
                f"{width} x {height} in {self._path}; take the image that was annotated, and if a "
                "camera turned it, save it without its EXIF orientation"
            )
        layers = []
        for identity, label, crowd, outline in self._outlines_of(index):
            where = f"annotation {identity} of {self._path}"
            runs = outline_runs(outline, height=height, width=width, where=where)
            layers.append((not crowd, -sum(runs[1::2]), runs, label))
        columns = np.full(width * height, self._uncovered, dtype=np.int64)
        for _, _, runs, label in sorted(layers, key=lambda layer: layer[:2]):
            ends = list(accumulate(runs))
            for start, end in zip(ends[::2], ends[1::2], strict=False):
                columns[start:end] = label
        return image, np.ascontiguousarray(columns.reshape(width, height).T)

    def _check_counts(self, pixels: NDArray[np.int64]) -> None:
        if not pixels[:IGNORE_INDEX].any():
            raise DatasetError(
                f"no pixel of the {self.split} images has a class: {self._path} outlines nothing "
                f"in them; check data.{self.split}.masks and data.other_values"
            )

    def _outlines_of(self, index: int) -> list[tuple[int | str, int, bool, Any]]:
        """Return (id, label, crowd, segmentation) of the annotations of one image."""
        index = range(len(self))[index]
        text = self._texts[self._ends[index] : self._ends[index + 1]].tobytes()
        outlines: list[tuple[int | str, int, bool, Any]] = json.loads(text)
        return outlines

    def _refuse_missing_images(self, folder: Path) -> None:
        if not self._pictures:
            raise DatasetError(f"{self._path} names no image; {_EXPECTED}")
        # One listing of each folder takes less time than asking for each file.
        parents = {Path(picture.path).parent for picture in self._pictures}
        present = {str(f) for parent in parents if parent.is_dir() for f in parent.iterdir()}
        missing = [picture.path for picture in self._pictures if picture.path not in present]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(self)} images of {self._path} are not in {folder}, first "
                f"{missing[0]}; add them, correct data.{self.split}.images, or name the images "
                f"to use in data.{self.split}.list"
            )

    def _outlines(
        self,
        content: Mapping[str, Any],
        *,
        known: Collection[int | str],
        chosen: Collection[int | str],
    ) -> dict[int | str, list[tuple[int | str, int, bool, Any]]]:
        """Return (id, label, crowd, segmentation) of every annotation, by the id of the image."""
        names = _category_names(content["categories"], self._path)
        labels = self._labels(names)
        outlines: dict[int | str, list[tuple[int | str, int, bool, Any]]] = defaultdict(list)
        for position, annotation in enumerate(content["annotations"]):
            where = f"annotation number {position} of {self._path}"
            identity = _value(annotation, "id", (int, str), where)
            where = f"annotation {identity} of {self._path}"
            image = _value(annotation, "image_id", (int, str), where)
            category = _value(annotation, "category_id", (int, str), where)
            if image not in known:
                raise DatasetError(
                    f"{where} is of image {image}, which the file does not list; add the image to "
                    '"images", or remove the annotation'
                )
            if category not in names:
                raise DatasetError(
                    f"{where} is of category {category}, which the file does not list; add the "
                    'category to "categories", or remove the annotation'
                )
            if image not in chosen:
                continue
            label = labels[category]
            if label is None:
                raise DatasetError(self._explain_category(where, category, names[category]))
            outline = _value(annotation, "segmentation", (list, dict), where)
            crowd = bool(annotation.get("iscrowd", 0))
            outlines[image].append((identity, label, crowd, outline))
        return outlines

    def _labels(self, names: Mapping[int | str, str]) -> dict[int | str, int | None]:
        """Return the label of each category; None for one that must not occur."""
        other = {"error": None, "ignore": IGNORE_INDEX}.get(self._config.other_values, -1)
        if other == -1:
            other = self._class_names.index(self._config.other_values)
        known = {natural_name(name): k for k, name in reversed([*enumerate(self._class_names)])}
        known |= {name: k for k, name in enumerate(self._class_names)}
        labels = {
            identity: known.get(name, known.get(natural_name(name), other))
            for identity, name in names.items()
        }
        found = {*names.values(), *(natural_name(name) for name in names.values())}
        for name in self._class_names:
            may_lack = self.split == "train" and name in self._unseen
            if natural_name(name) == BACKGROUND or may_lack:
                continue
            if name not in found and natural_name(name) not in found:
                categories = tuple(names.values())
                first, more = ", ".join(categories[:10]), ", ..." if len(categories) > 10 else ""
                raise DatasetError(
                    f'class "{name}" is no category of {self._path}'
                    f"{did_you_mean(name, categories) or ';'} its categories are {first}{more}; "
                    "spell the class as the file does, or leave it out"
                )
        return labels

    def _explain_category(self, where: str, category: int | str, name: str) -> str:
        """Return what is wrong with a category that is no class."""
        return (
            f'{where} is a "{name}" (category {category}), which is no class'
            f"{did_you_mean(name, self._class_names) or ';'} add it to data.classes, or set "
            'data.other_values = "ignore" if its pixels count nowhere, or to the class that they '
            "belong to"
        )


def _refuse_options_for_masks(config: DataConfig) -> None:
    """Refuse options that would be passed over without a word."""
    for key in _ONLY_FOR_MASKS:
        if getattr(config, key) not in (None, (), False):
            raise ConfigError(
                f"data.{key} is about the pixel values of masks, and a COCO file has none; leave "
                "it out, classes are found by the names of the categories"
            )


def _read_json(path: Path, option: str) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of an annotation file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f"no annotation file for {option}: looked for {path.absolute()}; put it there, or "
            "correct the option or data.root"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot read {path} ({error}); give one annotation file") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not valid JSON ({error}); if it is damaged or cut off, copy it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        table = content.get(key) if isinstance(content, dict) else None
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise DatasetError(f'{path} has no list "{key}" of objects; {_EXPECTED}')
    tables: dict[str, list[dict[str, Any]]] = content
    return tables


def _value(row: Mapping[str, Any], key: str, kinds: tuple[type, ...], where: str) -> Any:  # noqa: ANN401
    """Return what a row of the file says under ``key``."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise DatasetError(
            f'{where} has {"no usable" if key in row else "no"} "{key}"; {_EXPECTED}, with '
            "outlines and not only boxes"
        )
    return value


def _pictures(
    rows: Sequence[Mapping[str, Any]], folder: Path, file: Path
) -> dict[int | str, _Picture]:
    """Return the images of the file by their ids."""
    pictures: dict[int | str, _Picture] = {}
    for position, row in enumerate(rows):
        where = f"image number {position} of {file}"
        identity = _value(row, "id", (int, str), where)
        where = f"image {identity} of {file}"
        name = _value(row, "file_name", (str,), where)
        height, width = (_value(row, key, (int,), where) for key in ("height", "width"))
        if identity in pictures:
            raise DatasetError(f"{where} is listed twice; give each image an id of its own")
        pictures[identity] = _Picture(str(folder / name), height, width)
    return pictures


def _chosen(
    pictures: Mapping[int | str, _Picture], config: DataConfig, split: Split, files: SplitFiles
) -> list[int | str]:
    """Return the ids of the images of a split, in the order of the names or of the list."""
    ordered = sorted(pictures, key=lambda identity: pictures[identity].path)
    for one, other in pairwise(ordered):
        if pictures[one].path == pictures[other].path:
            raise DatasetError(
                f"images {one} and {other} of {Path(config.root) / files.masks} are the same file "
                f"{pictures[one].path}; list it once"
            )
    if files.list is None:
        return ordered
    folder = Path(config.root) / files.images
    paths: dict[str, Path] = {}
    identities: dict[str, int | str] = {}
    for identity in ordered:
        path = Path(pictures[identity].path)
        name = path.with_suffix("").as_posix().removeprefix(f"{folder.as_posix()}/")
        if paths.setdefault(name, path) is not path:
            raise DatasetError(f"{paths[name]} and {path} have one name; rename one of them")
        identities[name] = identity
    names = read_list(config, f"data.{split}.list", files.list, paths)
    return [identities[name] for name in names]


def _category_names(rows: Sequence[Mapping[str, Any]], file: Path) -> dict[int | str, str]:
    """Return the names of the categories by their ids."""
    names: dict[int | str, str] = {}
    for position, row in enumerate(rows):
        identity = _value(row, "id", (int, str), f"category number {position} of {file}")
        name = _value(row, "name", (str,), f"category {identity} of {file}")
        if names.setdefault(identity, name) != name:
            raise DatasetError(
                f'category {identity} of {file} is "{names[identity]}" and "{name}"; give each '
                "category an id of its own"
            )
    return names
