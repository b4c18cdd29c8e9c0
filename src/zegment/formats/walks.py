"""Closed walks along the sides of pixels where a label map changes.

The four sides of a pixel are numbered in the order in which a walk with the pixel on its right
meets them: 0 top, eastwards; 1 right, southwards; 2 bottom, westwards; 3 left, northwards.

Letters: H W pixels, E sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Where each side begins, as (x, y) from the upper left corner of its pixel.
_STARTS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sides:
    """The sides of pixels at which a region ends.

    Attributes:
        shape: (height, width) of the picture.
        directions: 0 to 3, int64 (E,), ascending.
        pixels: The pixel on the right, as an index into the flattened picture, int64 (E,),
            ascending within each direction.
    """

    shape: tuple[int, int]
    directions: NDArray[np.int64]
    pixels: NDArray[np.int64]

    def facing(self, direction: int) -> slice:
        """Return where the sides of one direction are."""
        first, end = np.searchsorted(self.directions, [direction, direction + 1]).tolist()
        return slice(first, end)

    def starts(self) -> NDArray[np.int64]:
        """Return the points at which the sides begin, as (x, y), int64 (E, 2)."""
        width = self.shape[1]
        corners = np.stack([self.pixels % width, self.pixels // width], axis=1)
        return np.asarray(corners + _STARTS[self.directions])

    def following(self) -> NDArray[np.int64]:
        """Return for each side the one that continues the walk, int64 (E,).

        It is the pixel's own next side, or the same side of the pixel ahead, or the side of the
        pixel ahead on the left that faces backwards: whichever is there first.
        """
        height, width = self.shape
        size = height * width
        codes = self.directions * size + self.pixels  # ascending
        ahead = self.pixels + np.array([1, width, -1, -width])[self.directions]
        aside = ahead + np.array([-width, 1, width, -1])[self.directions]
        turned_right = (self.directions + 1) % 4 * size + self.pixels
        straight_on = self.directions * size + ahead
        turned_left = (self.directions - 1) % 4 * size + aside
        following = _find(codes, turned_left)
        for candidate in (straight_on, turned_right):
            place = _find(codes, candidate)
            following = np.where(codes[place] == candidate, place, following)
        return following


def sides_of(
    labels: NDArray[np.integer],
    *,
    cuts: Sequence[tuple[int, int]] = (),
    only_known: bool = False,
) -> Sides:
    """Return where regions of equal labels end.

    Args:
        labels: Any integers (H, W).
        cuts: Pixels (y, x) that are parted from their left neighbours, though they are equal.
        only_known: Whether negative labels have no sides.
    """
    height, width = labels.shape
    across = np.ones((height, width + 1), dtype=bool)
    across[:, 1:-1] = labels[:, 1:] != labels[:, :-1]
    if cuts:
        across[tuple(np.array(cuts).T)] = True
    down = np.ones((height + 1, width), dtype=bool)
    down[1:-1] = labels[1:] != labels[:-1]
    found = [down[:-1], across[:, 1:], down[1:], across[:, :-1]]
    if only_known:
        found = [there & (labels >= 0) for there in found]
    pixels = [np.flatnonzero(there) for there in found]
    return Sides(
        shape=(height, width),
        directions=np.repeat(np.arange(4), [len(some) for some in pixels]),
        pixels=np.concatenate(pixels),
    )


def closed_walks(
    sides: Sides, *, stride: int | None = None
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the walks that all sides form, each with its region on the right.

    Args:
        sides: Of a label map.
        stride: As in `zegment.formats.outlines.regions_of`.

    Returns:
        The points at which each walk turns, int64 (points, 2), beginning with the first side in
        the order of ``sides``; and the walk that each side belongs to, int64 (E,).
    """
    following = sides.following()
    points = sides.starts()
    goes_on = sides.directions[following] == sides.directions
    if stride is not None:
        goes_on &= ~_shared_points(sides, points, stride)[following]
    # The last side before the next turn, found by jumping twice as far each time.
    last = np.where(goes_on, following, np.arange(len(following)))
    while not np.array_equal(last, further := last[last]):
        last = further
    after_turn = following[last].tolist()
    walks: list[NDArray[np.int64]] = []
    walk_of_last = np.full(len(last), -1, dtype=np.int64)
    seen: set[int] = set()
    for first in np.sort(following[~goes_on]).tolist():
        if first in seen:
            continue
        turns = [first]
        while (place := after_turn[turns[-1]]) != first:
            turns.append(place)
        seen.update(turns)
        walk_of_last[last[turns]] = len(walks)
        walks.append(points[turns])
    return walks, walk_of_last[last]


def area(ring: NDArray[np.int64]) -> int:
    """Return the signed area inside a ring of whole-numbered points, in pixels.

    Args:
        ring: int64 (points, 2).
    """
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


def simple_rings(walk: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return a walk as rings that meet no point twice.

    Args:
        walk: int64 (points, 2); it may touch itself in points at which it turns.
    """
    rings: list[NDArray[np.int64]] = []
    path: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for x, y in walk.tolist():
        if (x, y) in places:  # what came since then is a ring of its own
            begin = places[x, y]
            rings.append(np.array(path[begin:], dtype=np.int64))
            for point in path[begin:]:
                del places[point]
            del path[begin:]
        places[x, y] = len(path)
        path.append((x, y))
    rings.append(np.array(path, dtype=np.int64))
    return rings


def _find(codes: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where ``wanted`` is in the ascending ``codes``, or anywhere if it is not."""
    return np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)


def _shared_points(sides: Sides, points: NDArray[np.int64], stride: int) -> NDArray[np.bool_]:
    """Return whether a side begins where at least three regions meet, or on a line of the grid."""
    height, width = sides.shape
    across = points[:, 1] * (width + 1) + points[:, 0]
    # Every boundary is walked once from each side, and the picture's frame once.
    lines = np.bincount(across, minlength=(height + 1) * (width + 1))
    frame_x = (points[:, 0] == 0) | (points[:, 0] == width)
    frame_y = (points[:, 1] == 0) | (points[:, 1] == height)
    meets = lines[across] + (frame_x | frame_y) >= 3
    along = np.where(sides.directions % 2 == 0, points[:, 0], points[:, 1])
    return np.asarray(meets | (along % stride == 0))
