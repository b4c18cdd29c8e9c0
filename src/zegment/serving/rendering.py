"""What the page shows of a result: the painted picture, the legend and one pixel in words.

Class names are strangers' text: they are escaped wherever they enter HTML.

H W pixels; K classes; h w pixels of the picture as shown.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from html import escape

import numpy as np
from PIL import Image

from zegment.colours import as_hex
from zegment.results import UNKNOWN, Segmentation

#: Longest side of the picture as shown; what is downloaded has the size of the original.
_MOST, _LEAST = 1024, 512

_NAMES_LISTED = 30
_LONGEST_POLICY = 100


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which a picture is shown: large ones shrunk, small ones multiplied."""
    side = max(height, width)
    if side > _MOST:
        return max(1, round(height * _MOST / side)), max(1, round(width * _MOST / side))
    factor = max(1, round(_LEAST / side)) if side < _LEAST else 1
    return height * factor, width * factor


def paint_result(result: Segmentation, *, opacity: float, shown: Collection[int]) -> Image.Image:
    """Return the picture as shown, with the chosen classes painted over it.

    Args:
        result: At the size of the original.
        opacity: Of the colours, in [0, 1].
        shown: Ids of the classes to paint.

    Returns:
        Mode "RGB", of `shown_size`.
    """
    height, width = result.labels.shape
    size = shown_size(height, width)
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])  # nearest pixel centres
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    labels = result.labels[np.ix_(rows, columns)]  # (h, w)
    photo = Image.fromarray(result.image).resize(size[::-1], Image.Resampling.BICUBIC)
    paintable = np.zeros(len(result.class_names) + 1, dtype=bool)  # the last is the unknown
    paintable[list(shown)] = True
    view = replace(
        result,
        labels=np.where(paintable[labels], labels, UNKNOWN).astype(np.int32),
        image=np.array(photo, order="C"),
        confidence=None,
    )
    return view.overlay(opacity=opacity, legend=False)


def found_classes(result: Segmentation) -> list[tuple[str, int]]:
    """Return name with share, and id, of each class that occurs, in the user's order."""
    return [
        (f"{name} · {percent(share)}", place)
        for place, (name, share) in enumerate(result.share().items())
        if share
    ]


def legend_html(result: Segmentation, element: str) -> str:
    """Return the colours of the found classes as a style sheet, and what else is to be said.

    Args:
        result: What is shown.
        element: Id of the page's element whose n-th label is the n-th found class.
    """
    found = found_classes(result)
    rules = "".join(
        f"#{element} label:nth-of-type({row}){{--class:{as_hex(result.colours[place])}}}"
        for row, (_, place) in enumerate(found, start=1)
    )
    lines = []
    if unknown := np.count_nonzero(result.labels == UNKNOWN):
        lines.append(f"none of the words: {percent(unknown / result.labels.size)}")
    if missing := [name for name, share in result.share().items() if not share]:
        more = len(missing) - _NAMES_LISTED
        names = ", ".join(missing[:_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"not found: {names}")
    height, width = result.labels.shape
    policy = result.background.replace(",", ", ")
    policy = policy if len(policy) <= _LONGEST_POLICY else policy[:_LONGEST_POLICY] + "…"
    lines.append(f"{width} × {height} pixels, background: {policy}")
    return f"<style>{rules}</style>" + "".join(f"<div>{escape(line)}</div>" for line in lines)


def describe_pixel(result: Segmentation, x: int, y: int) -> str:
    """Return the class, confidence and place of one pixel as HTML.

    Args:
        result: At the size of the original.
        x: Column in the picture as shown, from 0; one outside is taken to the edge.
        y: Row in the picture as shown.
    """
    height, width = result.labels.shape
    shown_height, shown_width = shown_size(height, width)
    row = min(max((2 * y + 1) * height // (2 * shown_height), 0), height - 1)
    column = min(max((2 * x + 1) * width // (2 * shown_width), 0), width - 1)
    label = int(result.labels[row, column])
    if label == UNKNOWN:
        name, colour = "none of the words", "transparent"
    else:
        name, colour = result.class_names[label], as_hex(result.colours[label])
    parts = [f'<i style="background:{colour}"></i><b>{escape(name)}</b>']
    if result.confidence is not None:
        parts.append(f"confidence {result.confidence[row, column]:.3f}")
    parts.append(f"x {column}, y {row}")
    return " ".join(f"<span>{part}</span>" for part in parts)


def percent(share: float) -> str:
    """Return a share in [0, 1] for people."""
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"
