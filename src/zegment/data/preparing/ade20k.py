"""ADE20K as a whole, with 847 classes: index pictures from its colour-coded ones.

Beside every image lies ``NAME_seg.png``, which encodes the number of the object as
``R // 10 * 256 + G``; instances are in B. It becomes ``annotations/ADE/.../NAME.png`` with the
number of the class, 0 to 846, and 65535 for objects that are not scored. The index of the data set
is a pickle, which could run anything, and is not opened.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zegment.data.classes import class_set
from zegment.data.preparing.conversion import png, write_masks
from zegment.data.preparing.report import Report
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.images import DECODE_ERRORS, decode, open_image

#: Folders that tell where the files of an archive belong.
ANCHORS = ("images/ADE",)

_REMEDY = "take ADE20K_2021_17_01, the full release of 2021, and unpack it again"
_UNLABELLED = 65535

#: Numbers above have been given to no object of this release.
_LARGEST = 3688


def prepare(root: Path, *, report: Report) -> None:
    """Write an index picture for every image.

    Raises:
        DatasetNotFoundError: If the images are missing, or some of their masks.
        DatasetError: If a mask is damaged or of another release.
        OutputError: If the root cannot be written to.
    """
    images = root / "images/ADE"
    splits = [images / split for split in ("training", "validation")]
    splits = [split for split in splits if split.is_dir()]
    if not splits:
        older = " It has images of an earlier release." if (root / "images").is_dir() else ""
        raise DatasetNotFoundError(
            f"no folder {images / 'training'} or {images / 'validation'}.{older} {_REMEDY}"
        )
    jobs: dict[Path, Path] = {}
    missing = []
    for split in splits:
        for image in sorted(split.rglob("[!.]*.jpg")):
            source = image.with_name(f"{image.stem}_seg.png")
            target = root / "annotations/ADE" / image.relative_to(images).with_suffix(".png")
            jobs[target] = source
            if not source.is_file():
                missing.append(source)
    if missing:
        raise DatasetNotFoundError(
            f"{len(missing)} of {len(jobs)} images have no mask, first {missing[0]}; {_REMEDY}"
        )
    if not jobs:
        raise DatasetNotFoundError(f"no image in {splits[0]}; {_REMEDY}")
    write_masks(jobs, _convert, what="convert masks", report=report)


def _convert(source: Path) -> bytes:
    with open_image(source) as picture:
        if picture.mode != "RGB":
            raise DatasetError(f"mask {source} is a {picture.mode} picture, not RGB; {_REMEDY}")
        try:
            decode(picture)
            pixels = np.asarray(picture).astype(np.uint16)
        except DECODE_ERRORS as error:
            raise DatasetError(f"mask {source} is damaged ({error}); {_REMEDY}") from error
    numbers = pixels[..., 0] // 10 * 256 + pixels[..., 1]  # (H, W)
    if numbers.max() > _LARGEST:
        raise DatasetError(
            f"mask {source} has the number {numbers.max()}, and the last object is {_LARGEST}; it "
            f"is of another release: {_REMEDY}"
        )
    return png(_classes()[numbers])


@cache
def _classes() -> NDArray[np.uint16]:
    """Return the class of each object number, uint16 (3689,), or the unlabelled value."""
    table = np.full(_LARGEST + 1, _UNLABELLED, dtype=np.uint16)
    values = class_set("ade847").label_values
    table[list(values)] = np.arange(len(values))
    return table
