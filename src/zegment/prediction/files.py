"""The files of one segmented picture: written whole, marked, recognised and read back.

The label map is written last and carries a mark of the picture and of the settings that it was
made with. So its presence says that the picture is finished, and its mark that it still is.

H W pixels, K classes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from zegment.errors import OutputError
from zegment.files import as_output_error, atomic_write_bytes
from zegment.formats import write_image_outputs
from zegment.images import DECODE_ERRORS
from zegment.results import UNKNOWN, unknown_id

if TYPE_CHECKING:
    from zegment.results import Segmentation

#: What is written into the folder of a video's frames when the last one is done.
NOTE = "video.json"

#: What each format is written as; in braces the stem of a picture.
FORMAT_FILES = {
    "coco": ("coco.json",),
    "coco-polygons": ("coco-polygons.json",),
    "geojson": ("{}.geojson",),
    "geojson-world": ("{}.world.geojson",),
    "label-studio": ("label-studio.json", "label-studio.xml"),
    "cvat": ("cvat.zip",),
    "fiftyone": ("fiftyone",),
}

_MARK = "zegment"
_ENDINGS = {"masks": "masks", "scores": "scores.npz"}
_CONFIDENCE_STEPS = 65535


def result_path(out: Path, stem: str, kind: str) -> Path:
    """Return where an output of one picture lies, such as ``<stem>.labels.png``."""
    return out / f"{stem}.{_ENDINGS.get(kind, f'{kind}.png')}"


def write_results(
    result: Segmentation, out: Path, stem: str, *, kinds: Sequence[str], mark: str
) -> None:
    """Write what was asked for of one picture, and its label map last.

    Args:
        result: What the model made of the picture.
        out: Folder of the run.
        stem: Of the files.
        kinds: Some of `zegment.formats.KINDS`.
        mark: From `zegment.prediction.record.RunRecord.mark`.

    Raises:
        OutputError: If a file cannot be written.
    """
    others = [kind for kind in kinds if kind != "labels"]
    with as_output_error(out / stem):
        write_image_outputs(result, out, stem, others)
    marked = PngImagePlugin.PngInfo()
    marked.add_text(_MARK, mark)
    stream = io.BytesIO()
    result.index_png().save(stream, format="PNG", pnginfo=marked)
    atomic_write_bytes(result_path(out, stem, "labels"), stream.getvalue())


def is_finished(labels: Path, mark: str) -> bool:
    """Return whether a label map is whole and carries the mark."""
    try:
        with Image.open(labels, formats=("PNG",)) as picture:
            picture.load()  # one that was cut off while being copied is made again
            return picture.info.get(_MARK) == mark
    except DECODE_ERRORS:
        return False


def mark_of(labels: Path) -> str | None:
    """Return the mark of a label map, or None if it is no picture or no run wrote it."""
    try:
        with Image.open(labels, formats=("PNG",)) as picture:
            mark = picture.info.get(_MARK)
    except DECODE_ERRORS:  # missing, or damaged
        return None
    return mark if isinstance(mark, str) else None


def read_index_png(path: Path, num_classes: int) -> NDArray[np.int32]:
    """Return the label map that an index PNG holds.

    Args:
        path: As `Segmentation.index_png` was saved.
        num_classes: K, which decides what number stands for unknown.

    Returns:
        Indices of classes, int32 (H, W); -1 is unknown.

    Raises:
        OutputError: If the file cannot be read, or holds other numbers.
    """
    labels = _read(path).astype(np.int32)
    labels[labels == unknown_id(num_classes)] = UNKNOWN
    if labels.ndim != 2 or labels.max() >= num_classes:
        raise OutputError(
            f"{path} is not a label map of {num_classes} classes; remove it and run again"
        )
    return labels


def read_confidence_png(path: Path) -> NDArray[np.float32]:
    """Return the confidence map that a 16-bit grey PNG holds, float32 (H, W), in [0, 1].

    Raises:
        OutputError: If the file cannot be read.
    """
    steps = _read(path).astype(np.float32)
    return steps / np.float32(_CONFIDENCE_STEPS)


def refuse_replacing(paths: Iterable[Path]) -> None:
    """Refuse to write where something is already that no record speaks of.

    Raises:
        OutputError: If one of the paths exists.
    """
    for path in paths:
        if os.path.exists(path):  # noqa: PTH110 - Path.exists raises if a path is too long
            raise OutputError(
                f"'{path}' exists, and no run.json says what it was made with; give another --out "
                "or --overwrite"
            )


def refuse_edited(labels: Iterable[Path]) -> None:
    """Refuse to write where a label map lies that no run has written.

    Raises:
        OutputError: If a whole picture without a mark is among the paths.
    """
    for path in labels:
        try:
            with Image.open(path, formats=("PNG",)) as picture:
                foreign = _MARK not in picture.info
        except DECODE_ERRORS:  # missing, or damaged
            continue
        if foreign:
            raise OutputError(
                f"'{path}' was changed or put there after the run; move it, or give another --out "
                "or --overwrite"
            )


def _read(path: Path) -> NDArray[np.generic]:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return np.asarray(picture)
    except DECODE_ERRORS as error:
        raise OutputError(f"cannot read {path} ({error}); remove it and run again") from error
