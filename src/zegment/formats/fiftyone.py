"""FiftyOne: a folder that it reads as "ImageSegmentationDirectory".

Letters: H W pixels, K classes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.errors import OutputError
from zegment.files import atomic_folder
from zegment.formats.labelled import LabelledImage, Legend
from zegment.formats.streams import as_json, png_bytes, write_inside

__all__ = ["FiftyOne", "check_own", "shifted"]

_PARTS = ("data", "labels", "mask_targets.json")


class FiftyOne:
    """``fiftyone/``: ``data/`` with the pictures, ``labels/`` with PNGs, ``mask_targets.json``.

    FiftyOne keeps 0 for what is not labelled: unknown is 0, and class k is k + 1.
    """

    name: ClassVar[str] = "fiftyone"

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture."""

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write the folder; pictures are hard links where the file system has them, else copies.

        Raises:
            OutputError: If the folder holds something else already, or cannot be written to.
        """
        target = out / "fiftyone"
        check_own(target)
        with atomic_folder(target, replace=True) as folder:
            for part in _PARTS[:2]:
                (folder / part).mkdir()
            for image in images:
                picture = folder / "data" / f"{image.stem}{image.image.suffix}"
                _link(image.image, picture)
                labels = folder / "labels" / f"{image.stem}.png"
                numbers = shifted(image.labels(), num_classes=len(legend.class_names))
                write_inside(labels, png_bytes(Image.fromarray(numbers)))
            targets = {place + 1: name for place, name in enumerate(legend.class_names)}
            write_inside(folder / _PARTS[2], as_json(targets) + b"\n")
        return [target]


def shifted(
    labels: NDArray[np.int32], *, num_classes: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a label map in which 0 is unknown and k + 1 is class k.

    Args:
        labels: Class ids, int32 (H, W); -1 is unknown.
        num_classes: K, at most 65535.

    Returns:
        uint8 (H, W) for up to 255 classes, uint16 for more.
    """
    numbers = labels + 1
    return numbers.astype(np.uint8) if num_classes <= 255 else numbers.astype(np.uint16)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A link to the file itself, not to a symbolic link, which could be relative.
        os.link(source.resolve(), target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise OutputError(
                f"cannot copy '{source}' for FiftyOne: {error.strerror or error}; "
                "keep the pictures where they were until the run has ended"
            ) from error


def check_own(folder: Path) -> None:
    """Refuse to replace a folder with anything in it that this format does not write.

    Raises:
        OutputError: If there is something else.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if path.name not in _PARTS:
            raise OutputError(
                f"'{path}' would be lost, because the folder is written anew; move it away"
            )
