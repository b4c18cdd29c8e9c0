"""Where the windows of an image lie, and how they share its pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from zegment.config import WindowConfig

LONGEST = 4
"""How many times the short side the long side of an image may be when it is resized."""


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows along one side begin; the last one is moved back to fit.

    Args:
        length: Pixels along the side.
        size: Pixels of a window.
        stride: Pixels between windows.
    """
    count = max(length - size + stride - 1, 0) // stride + 1
    return [min(i * stride, max(length - size, 0)) for i in range(count)]


def window_places(length: int, size: int | None, stride: int | None) -> tuple[slice, ...]:
    """Return the pixels of each window along one side, in order.

    Args:
        length: Pixels along the side.
        size: Pixels of a window; None is one window of the whole side.
        stride: Pixels between windows; None lays them side by side.
    """
    size = size or length
    starts = window_starts(length, size, stride or size)
    return tuple(slice(start, min(start + size, length)) for start in starts)


def shared_stretches(
    places: tuple[slice, ...], wanted: slice
) -> Iterator[tuple[slice, tuple[int, ...]]]:
    """Yield the stretches of a side that the same windows cover, and the numbers of these windows.

    Args:
        places: From `window_places`.
        wanted: The part of the side that is asked for.
    """
    edges = {edge for place in places for edge in (place.start, place.stop)}
    inner = {edge for edge in edges if wanted.start < edge < wanted.stop}
    cuts = sorted({wanted.start, wanted.stop} | inner)
    for start, stop in pairwise(cuts):
        numbers = (i for i, p in enumerate(places) if p.start <= start and stop <= p.stop)
        yield slice(start, stop), tuple(numbers)


def smooth_weights(length: int, *, device: torch.device) -> Tensor:
    """Return the weights of a window's pixels along one side, float (length,), in (0, 1].

    Half a period of the squared sine between the window's edges: pixels beside an edge, where the
    model sees only one side of their surroundings, count least, and none counts nothing.
    """
    places = (torch.arange(length, dtype=torch.float32, device=device) + 0.5) / length
    return (math.pi * places).sin() ** 2


def working_size(height: int, width: int, windows: WindowConfig) -> tuple[int, int]:
    """Return the size an image is brought to before windows are cut, keeping its proportions.

    The long side is at most `LONGEST` times the short side that is asked for, so that the cost of
    an image does not grow with its proportions.

    Source:
        ZegCLIP released code brings the short side to 512 pixels and leaves the long one as it
        comes out; the bound is ours, with the proportions of its training scale (2048, 512).
    """
    if windows.short_side is None:
        return height, width
    scale = min(
        windows.short_side / min(height, width),
        LONGEST * windows.short_side / max(height, width),
    )
    # Half a pixel is rounded up, as the released pipeline does.
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
