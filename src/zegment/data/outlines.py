"""Outlines of COCO's annotation files as runs of pixels: polygons and run-length codes.

A region is the lengths of runs of pixels that lie outside and inside it by turns, outside first, in
the order of the columns. H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zegment.errors import DatasetError
from zegment.optional import optional

#: A run length of 32 bits takes at most this many characters of five bits.
_LONGEST_RUN = 7


def mask_tools() -> Any:  # noqa: ANN401 - an untyped package
    """Return ``pycocotools.mask``."""
    return optional("pycocotools.mask", extra="data", purpose='data.source = "coco_json"')


def outline_runs(outline: Any, *, height: int, width: int, where: str) -> list[int]:  # noqa: ANN401
    """Return a segmentation as the lengths of runs of pixels, columns first, outside first.

    Raises:
        DatasetError: If it is no outline of a region of a picture of this size.

    Note:
        Everything is looked at before pycocotools sees it, which fills what too short a code leaves
        open with whatever is in memory, and does not return from a polygon with NaN.
    """
    if isinstance(outline, dict):
        return _stored_runs(outline, height=height, width=width, where=where)
    mask = mask_tools()
    polygons = _polygons(outline, height=height, width=width, where=where)
    code = mask.merge(mask.frPyObjects(polygons, height, width))["counts"]
    return decompress(code.decode("ascii")) or []


def decompress(code: str) -> list[int] | None:
    """Return the runs of COCO's compressed code; None if it is none.

    A run is a signed number in characters of five bits, the lowest first, each of which also says
    whether another follows. From the fourth on it is the difference to the last but one.
    """
    characters = np.frombuffer(code.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    values = characters.astype(np.int64) - 48
    if not values.size or values.min() < 0 or values.max() > 63 or values[-1] & 32:
        return None
    ends = np.flatnonzero(values & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_RUN:
        return None
    places = np.arange(values.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((values & 31) << (5 * places), starts)
    runs -= np.where(values[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    decompressed: list[int] = runs.tolist()
    return decompressed


def _polygons(outline: list[Any], *, height: int, width: int, where: str) -> list[list[float]]:
    """Return polygons x1 y1 x2 y2 ... after a look at each number."""
    if not outline:
        raise DatasetError(f"{where} has an empty outline; draw it, or remove the annotation")
    for polygon in outline:
        numbers: list[Any] = polygon if isinstance(polygon, list) else [None]
        # Booleans are whole numbers to Python, but not to whoever drew the outline.
        if not all(type(number) in (int, float) for number in numbers):
            raise DatasetError(
                f"{where} has a polygon that is no list of numbers; write [x1, y1, x2, y2, ...]"
            )
        if len(numbers) < 6 or len(numbers) % 2:
            raise DatasetError(
                f"{where} has a polygon of {len(numbers)} numbers; a polygon has at least three "
                "points of two numbers each: draw it again, or remove it"
            )
        # A point may lie a little outside, and one far outside would cost memory without end.
        across = all(-width <= x <= 2 * width for x in numbers[::2])
        down = all(-height <= y <= 2 * height for y in numbers[1::2])
        if not (across and down):
            raise DatasetError(
                f"{where} has a polygon with points far outside its image of {width} x {height} "
                "pixels, or with NaN; check that it belongs to this image, or remove it"
            )
    return outline


def _stored_runs(outline: Mapping[str, Any], *, height: int, width: int, where: str) -> list[int]:
    """Return the runs of a mask that the file holds as such, after a look at each."""
    size, counts = outline.get("size"), outline.get("counts")
    if size != [height, width]:
        raise DatasetError(
            f"{where} is a mask of size {size}, its image is [{height}, {width}] (height, width); "
            "export the annotation again"
        )
    runs = None
    if isinstance(counts, str):
        runs = decompress(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    if runs is None or min(runs, default=-1) < 0 or sum(runs) != height * width:
        raise DatasetError(
            f"{where} has a damaged run-length code: its runs do not add up to the {width} x "
            f"{height} pixels of its image; export the annotation again"
        )
    return runs
