"""Label maps as polygons along the edges of pixels.

A region is a set of pixels of one class that hang together by their sides. Its outline is walked
side by side, with the region on the right as one looks at the picture. At a vertex where two
pixels of a region touch only diagonally the walk stays with its pixel. Points are (x, y) with x to
the right and y down from the top left corner of the picture, so that whole numbers lie between
pixels. A ring's area is positive around a region and negative around a hole.

Letters: H W pixels, E unit sides of pixels at which a region ends.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zegment.formats.walks import Sides, area, closed_walks, sides_of, simple_rings

__all__ = ["Region", "RegionMap", "regions_of"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """One connected set of pixels of a class.

    Attributes:
        label: Class id.
        rings: The outer ring, then those of holes; each int64 (points, 2), not closed: the first
            point is not repeated. No ring meets a point twice; rings may touch in a point.
        pieces: The region cut into parts without holes, as outer rings of the same form.
    """

    label: int
    rings: tuple[NDArray[np.int64], ...]
    pieces: tuple[NDArray[np.int64], ...]

    @property
    def pixels(self) -> int:
        """How many pixels the region has."""
        return sum(area(ring) for ring in self.rings)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The smallest box around the region as x, y, width, height in pixels."""
        (left, top), (right, bottom) = self.rings[0].min(0).tolist(), self.rings[0].max(0).tolist()
        return left, top, right - left, bottom - top


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionMap:
    """All regions of a label map.

    Attributes:
        regions: In the order of their first pixels, row by row.
        places: Index into ``regions`` of every pixel, int64 (H, W); -1 is unknown.
    """

    regions: tuple[Region, ...]
    places: NDArray[np.int64]

    def mean_scores(self, scores: NDArray[np.float32]) -> list[float]:
        """Return the mean over each region of scores of pixels, float (H, W)."""
        inside = self.places >= 0
        places, number = self.places[inside], len(self.regions)
        sums = np.bincount(places, scores[inside].astype(np.float64), minlength=number)
        means: list[float] = (sums / np.bincount(places, minlength=number)).tolist()
        return means


def regions_of(labels: NDArray[np.int32], *, stride: int | None = None) -> RegionMap:
    """Return the regions of a label map and their outlines.

    Args:
        labels: Class ids, int32 (H, W); -1 is unknown and has no region.
        stride: If given, rings also have points where three regions meet, and on every
            ``stride``-th line between pixels. Neighbours then share their points, and may be bent
            by a map projection without parting.

    Returns:
        The regions; filling the rings, or the pieces, of a region gives its pixels exactly.
    """
    sides = sides_of(labels)
    walks, walk_of_side = closed_walks(sides, stride=stride)
    region_of_walk, number = _number_regions(sides, walks, walk_of_side)
    places = _fill(sides, region_of_walk[walk_of_side])
    rings: list[list[NDArray[np.int64]]] = [[] for _ in range(number)]
    for walk, place in zip(walks, region_of_walk.tolist(), strict=True):
        rings[place].extend(simple_rings(walk))
    whole = [sorted(found, key=area, reverse=True) for found in rings]  # the outer ring first
    ids = labels.ravel()[_first_pixels(places, number)].tolist()
    # Nobody asks for the pieces of what is unknown, so its holes need not be looked at.
    cut = [found if label >= 0 else found[:1] for label, found in zip(ids, whole, strict=True)]
    pieces = _without_holes(places, cut)
    regions = [
        Region(label=label, rings=tuple(found), pieces=tuple(parts))
        for label, found, parts in zip(ids, whole, pieces, strict=True)
    ]
    return _drop_unknown(regions, places)


def _number_regions(
    sides: Sides, walks: list[NDArray[np.int64]], walk_of_side: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Return the region of each walk, and how many regions there are.

    A walk around a hole belongs to whatever walk is met first from the hole towards the left. That
    one reaches further to the left, so the holes are settled in that order.
    """
    region = np.full(len(walks), -1, dtype=np.int64)
    outer = np.array([area(walk) > 0 for walk in walks], dtype=bool)
    region[outer] = np.arange(np.count_nonzero(outer))
    nearest = _fill(sides, walk_of_side)
    for walk in sorted(np.flatnonzero(~outer).tolist(), key=lambda w: int(walks[w][:, 0].min())):
        points = walks[walk]
        following = np.roll(points, -1, axis=0)
        # Left of the hole its outline runs down, beside pixels of the region around it.
        down = (points[:, 0] == points[:, 0].min()) & (following[:, 1] > points[:, 1])
        x, y = points[np.flatnonzero(down)[0]].tolist()
        region[walk] = region[nearest[y, x - 1]]
    return region, int(np.count_nonzero(outer))


def _fill(sides: Sides, value_of_side: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for every pixel the value of the nearest left side at it or before it in its row."""
    height, width = sides.shape
    lefts = sides.facing(3)
    values = np.zeros(height * width, dtype=np.int64)
    values[sides.pixels[lefts]] = value_of_side[lefts]
    columns = np.zeros(height * width, dtype=np.int64)
    columns[sides.pixels[lefts]] = sides.pixels[lefts] % width
    nearest = np.maximum.accumulate(columns.reshape(height, width), axis=1)
    return np.take_along_axis(values.reshape(height, width), nearest, axis=1)


def _first_pixels(places: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return the index of the first pixel of each region in the flattened picture."""
    firsts = np.empty(number, dtype=np.int64)
    firsts[places.ravel()[::-1]] = np.arange(places.size)[::-1]
    return firsts


def _without_holes(
    places: NDArray[np.int64], rings: list[list[NDArray[np.int64]]]
) -> list[list[NDArray[np.int64]]]:
    """Return the regions cut upwards and downwards from the left end of each hole.

    Note:
        Cuts from the left end reach the outside above and below, if need be through other holes,
        and no two of them run in a circle: so every part is bounded by one simple ring.
    """
    pieces = [[found[0]] if len(found) == 1 else [] for found in rings]
    holed: NDArray[np.bool_] = np.array([len(found) > 1 for found in rings], dtype=bool)
    if not holed.any():
        return pieces
    cuts: set[tuple[int, int]] = set()
    for found in rings:
        for hole in found[1:]:
            left = hole[hole[:, 0] == hole[:, 0].min()]
            x = int(left[0, 0])
            cuts.update(_cut(places, x, int(left[:, 1].min()) - 1, -1))
            cuts.update(_cut(places, x, int(left[:, 1].max()), +1))
    cut = sides_of(np.where(holed[places], places, -1), cuts=sorted(cuts), only_known=True)
    for walk in closed_walks(cut)[0]:
        middle = walk[0]  # walks begin at the upper left corner of their first pixel
        place = int(places[middle[1], middle[0]])
        pieces[place].extend(simple_rings(walk))
    return pieces


def _cut(places: NDArray[np.int64], x: int, y: int, step: int) -> list[tuple[int, int]]:
    """Return the rows, with ``x``, in which a vertical line runs inside a region from ``y`` on."""
    rows = []
    inside = places[y, x] if 0 <= y < places.shape[0] else -1
    while 0 <= y < places.shape[0] and places[y, x] == places[y, x - 1] == inside:
        rows.append((y, x))
        y += step
    return rows


def _drop_unknown(regions: list[Region], places: NDArray[np.int64]) -> RegionMap:
    """Return the map without the regions of unknown pixels."""
    known = np.array([region.label >= 0 for region in regions], dtype=bool)
    renumbered = np.where(known, np.cumsum(known) - 1, -1)
    return RegionMap(
        regions=tuple(region for region in regions if region.label >= 0),
        places=renumbered[places],
    )
