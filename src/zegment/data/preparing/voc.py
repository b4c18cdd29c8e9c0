"""PASCAL VOC 2012 with the masks of SBD: ``SegmentationClassAug`` and ``train_aug.txt``.

SBD, the Semantic Boundaries Dataset, has masks for 11,355 images of VOC as Matlab files. Training
images are those of VOC's ``train.txt`` and all of SBD without those of VOC's ``val.txt``: 10,582.
Where VOC has a mask of its own, that one is taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zegment.data.classes import class_set
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
ANCHORS = ("JPEGImages", "benchmark_RELEASE", "SegmentationClassAug")

_VOC = "unpack VOCtrainval_11-May-2012.tar again, or give it with --archive"
_SBD = "unpack SBD's benchmark.tgz again, or give it with --archive"
_MASKS, _LIST = "SegmentationClassAug", "ImageSets/Segmentation/train_aug.txt"


def prepare(root: Path, *, report: Report) -> None:
    """Write the training masks that VOC and SBD have together, and the list of their images.

    Raises:
        ConfigError: If SciPy is not installed.
        DatasetNotFoundError: If files of VOC or of SBD are missing.
        DatasetError: If one is damaged or of another data set.
        OutputError: If the root cannot be written to.
    """
    lists = root / "ImageSets/Segmentation"
    train = read_names(lists / "train.txt", remedy=_VOC)
    val = read_names(lists / "val.txt", remedy=_VOC)
    demand_files(train + val, root / "SegmentationClass", ".png", origin=_VOC)
    sbd = _find_sbd(root)
    if sbd is None:
        _adopt(root, train, set(val))
        return
    theirs = [read_names(sbd / f"{part}.txt", remedy=_SBD) for part in ("train", "val")]
    added = sorted({*theirs[0], *theirs[1]} - {*train, *val})
    demand_files(train + added, root / "JPEGImages", ".jpg", origin=_VOC)
    masks = root / _MASKS
    jobs = {masks / f"{name}.png": sbd / "cls" / f"{name}.mat" for name in added}
    if not all(is_whole(target) for target in jobs):
        demand_files(added, sbd / "cls", ".mat", origin=_SBD)
    own = {masks / f"{name}.png": root / "SegmentationClass" / f"{name}.png" for name in train}
    write_masks(own, _copy, what="copy VOC's masks", report=report)
    write_masks(jobs, _convert, what="convert SBD's masks", report=report)
    write_list(root / _LIST, train + added)


def _find_sbd(root: Path) -> Path | None:
    """Return the folder of SBD that has ``cls``, ``train.txt`` and ``val.txt``."""
    above = root.absolute().parent
    places = [
        root / "benchmark_RELEASE/dataset",
        root / "dataset",
        above / "VOCaug/dataset",
        above / "benchmark_RELEASE/dataset",
        above.parent / "benchmark_RELEASE/dataset",
    ]
    return next((place for place in places if (place / "cls").is_dir()), None)


def _adopt(root: Path, train: list[str], val: set[str]) -> None:
    """Take masks that somebody else has converted.

    Raises:
        DatasetNotFoundError: If there are none, or not of all the images.
    """
    masks = root / _MASKS
    there = sorted(path.stem for path in masks.glob("[!.]*.png")) if masks.is_dir() else []
    if not there:
        raise DatasetNotFoundError(
            f"{root} has no masks of SBD, which training needs: give benchmark.tgz with --archive, "
            f"or unpack it there, so that {root / 'benchmark_RELEASE/dataset/cls'} exists. The "
            "test split needs no preparation"
        )
    if (root / _LIST).is_file():
        names = read_names(root / _LIST, remedy="remove it and prepare again")
        demand_files(names, masks, ".png", origin=_SBD)
        return
    demand_files(train, masks, ".png", origin=_SBD)
    write_list(root / _LIST, [name for name in there if name not in val])


def _copy(source: Path) -> bytes:
    if not is_whole(source):
        raise DatasetError(f"mask {source} is damaged or cut off; {_VOC}")
    return source.read_bytes()


def _convert(source: Path) -> bytes:
    """Return SBD's class map as a picture in VOC's colours."""
    content = read_mat(source, "GTcls", remedy=_SBD)
    try:
        values = content["Segmentation"][0, 0]
    except (ValueError, IndexError, TypeError) as error:
        raise DatasetError(f"{source} has no GTcls.Segmentation; {_SBD}") from error
    mask = as_mask(values, source, largest=20, remedy=_SBD)
    return png(mask.astype(np.uint8), class_set("voc21").colours)
