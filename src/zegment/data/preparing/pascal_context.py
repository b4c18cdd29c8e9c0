"""PASCAL Context: masks of 459 and of 59 classes, and lists of images, from VOC 2010.

The annotation is one Matlab file for each image, whose ``LabelMap`` holds 0 for unlabelled pixels
and 1 to 459. It becomes ``SegmentationClassContext459`` with the same values, in 16 bits, and
``SegmentationClassContext`` with 0 for the background and 1 to 59, in the order and the places that
mmsegmentation's converter uses. Its lists of images may stay; they lack three images.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zegment.data.classes import CLASS_SETS, class_set
from zegment.data.masks import read_mask
from zegment.data.preparing.conversion import (
    as_mask,
    demand_files,
    is_whole,
    png,
    read_mat,
    read_names,
    write_list,
    write_masks,
)
from zegment.data.preparing.report import Report
from zegment.errors import DatasetError, DatasetNotFoundError

#: Folders that tell where the files of an archive belong.
ANCHORS = ("JPEGImages", "trainval/*.mat", "59_context_labels")

_VOC = "unpack VOCtrainval_03-May-2010.tar, of 2010 and no other year, or give it with --archive"
_ANNOTATION = "unpack trainval.tar.gz of PASCAL Context again, or give it with --archive"
_PICTURES = "unpack 59_context_labels.tar.gz of PASCAL Context again"
_NAMES = "download 59_labels.txt of PASCAL Context"
_SPLITS = ("train", "val")

#: What the publishers' list of 59 names calls three classes of their list of 459.
_RENAMED = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}


def prepare(root: Path, *, report: Report) -> None:
    """Write index pictures and lists from whichever annotation is there.

    Raises:
        ConfigError: If SciPy is not installed and Matlab files are to be read.
        DatasetNotFoundError: If the annotation, or files of VOC 2010, are missing.
        DatasetError: If a file is damaged or of another release.
        OutputError: If the root cannot be written to.
    """
    source, suffix = _find_annotation(root)
    if source is None:
        _demand_converted(root)
        return
    lists = root / "ImageSets/Main"
    names = {split: read_names(lists / f"{split}.txt", remedy=_VOC) for split in _SPLITS}
    every = names["train"] + names["val"]
    demand_files(every, root / "JPEGImages", ".jpg", origin=_VOC)
    origin = _ANNOTATION if suffix == ".mat" else _PICTURES
    demand_files(every, source, suffix, origin=f"{origin}; or the lists are not VOC 2010's: {_VOC}")
    if suffix == ".mat":
        _convert_matlab(root, source, every, report=report)
    else:
        _convert_pictures(root, source, every, report=report)
    for split in _SPLITS:
        write_list(root / f"ImageSets/SegmentationContext/{split}.txt", names[split])


def _find_annotation(root: Path) -> tuple[Path | None, str]:
    """Return the folder of the annotation and what its files end in."""
    above = root.absolute().parent
    for place in (root, above, above.parent):
        if next((place / "trainval").glob("*.mat"), None) is not None:
            return place / "trainval", ".mat"
    for place in (root, above, above.parent):
        if next((place / "59_context_labels").glob("*.png"), None) is not None:
            return place / "59_context_labels", ".png"
    return None, ""


def _demand_converted(root: Path) -> None:
    """Accept what mmsegmentation's converter has left.

    Raises:
        DatasetNotFoundError: If masks or lists are missing.
    """
    lists, masks = root / "ImageSets/SegmentationContext", root / "SegmentationClassContext"
    if not (lists.is_dir() and masks.is_dir()):
        raise DatasetNotFoundError(
            f"{root} has no annotation of PASCAL Context: give trainval.tar.gz with --archive, or "
            f"unpack it there, so that {root / 'trainval'} holds its .mat files"
        )
    for split in _SPLITS:
        names = read_names(lists / f"{split}.txt", remedy=_ANNOTATION)
        demand_files(names, masks, ".png", origin=_ANNOTATION)


def _convert_matlab(root: Path, source: Path, names: list[str], *, report: Report) -> None:
    full, part = root / "SegmentationClassContext459", root / "SegmentationClassContext"
    sources = {name: source / f"{name}.mat" for name in names}
    write_masks(
        {full / f"{name}.png": path for name, path in sources.items()},
        lambda path: png(_label_map(path)),
        what="convert 459 classes",
        report=report,
    )
    write_masks(
        {part / f"{name}.png": path for name, path in sources.items()},
        lambda path: png(_to_59()[_label_map(path)]),
        what="convert 59 classes",
        report=report,
    )


def _label_map(path: Path) -> NDArray[np.uint16]:
    content = read_mat(path, "LabelMap", remedy=_ANNOTATION)
    return as_mask(content, path, largest=459, remedy=_ANNOTATION)


@cache
def _to_59() -> NDArray[np.uint8]:
    """Return the value among 59 of each of the 459, uint8 (460,); 0 is the background."""
    values = CLASS_SETS.read("pascal_context")["label_values_459"]
    table = np.zeros(460, dtype=np.uint8)
    table[values] = np.arange(1, 60)
    return table


def _convert_pictures(root: Path, source: Path, names: list[str], *, report: Report) -> None:
    """Renumber the publishers' pictures of 59 classes, which have an order of their own."""
    jobs = {root / f"SegmentationClassContext/{name}.png": source / f"{name}.png" for name in names}
    if all(is_whole(target) for target in jobs):
        return
    table = _published_order(source)
    write_masks(
        jobs,
        lambda path: png(table[as_mask(read_mask(path), path, largest=59, remedy=_PICTURES)]),
        what="convert 59 classes",
        report=report,
    )


def _published_order(source: Path) -> NDArray[np.uint8]:
    """Return our value of each of the publishers' 59, uint8 (60,), by their list of names.

    Raises:
        DatasetNotFoundError: If the list is not there.
        DatasetError: If it does not name the 59 classes once each.
    """
    places = [folder / "59_labels.txt" for folder in (source, *source.parents[:3])]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DatasetNotFoundError(
            f"no 59_labels.txt, which says what the values in {source} mean; {_NAMES} to "
            f"{source.parent}"
        )
    ours = class_set("pascal_context").names
    table = np.zeros(60, dtype=np.uint8)
    found = set()
    for line in path.read_text("utf-8-sig").splitlines():
        number, colon, name = (part.replace(" ", "") for part in line.partition(":"))
        name = _RENAMED.get(name, name)
        if colon and number.isdigit() and 0 < int(number) < 60 and name in ours:
            table[int(number)] = ours.index(name) + 1
            found.add(name)
    if len(found) < len(ours) or not table[1:].all():
        lost = next((name for name in ours if name not in found), "a number")
        raise DatasetError(f"{path} does not name the 59 classes, it lacks {lost}; {_NAMES} again")
    return table
