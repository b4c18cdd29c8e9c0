"""The winner at every pixel, tile by tile, so that memory does not grow with classes × pixels.

Letters: B images, K classes, h w pixels at which there are scores, H W pixels of the result, n m
sides of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zegment.by_parts import map_parts
from zegment.inference.fields import ScoreField
from zegment.inference.resizing import Axis, axis, resize
from zegment.models.base import penalize_seen

TILE_NUMBERS = {"cpu": 2**20, "cuda": 2**26}
"""How many scores are looked at together, by the kind of device.

On a CPU they stay in the cache; a GPU wants few large tiles.
"""

TILE_SIDE = 96
"""Longest side of a tile on a CPU, in pixels: the smaller, the fewer classes come into question."""

SLACK = 1e-5
"""By how much rounding may carry a score beyond its bounds, with much to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """What was found in a part of the result.

    Attributes:
        rows: Of the tile.
        columns: Of the tile.
        winners: The best class, int64 (B, n, m).
        best: Its calibrated score, float (B, n, m).
        second: The calibrated score of the second-best class, float (B, n, m), if asked for;
            of a single class its own.
        scores: Scores of all classes, not calibrated, float (B, K, n, m), if asked for.
    """

    rows: slice
    columns: slice
    winners: Tensor
    best: Tensor
    second: Tensor | None = None
    scores: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is to be found out about the classes at every pixel.

    Attributes:
        seen: Which classes had masks in training, bool (K,).
        margin: Taken from the scores of seen classes.
        size: Height and width of the result in pixels.
        second: Whether the second-best score is wanted.
        scores: Whether the scores of all classes are wanted.
    """

    seen: Tensor
    margin: float
    size: tuple[int, int]
    second: bool = False
    scores: bool = False


@torch.inference_mode()
def decide(field: ScoreField, judgement: Judgement) -> Iterator[Tile]:
    """Yield the winners at all pixels, tile by tile, rows of tiles from top to bottom.

    They are those of the straightforward computation, which forms the scores of all classes at all
    pixels, resizes them, and takes the largest, the first of equals. Where scores are separate,
    classes that cannot win in a tile are left out: at each pixel a score lies within the
    bounds that the field knows, so a class whose upper bound falls below the lower bound of another
    is beaten everywhere.

    Args:
        field: Scores at h × w pixels.
        judgement: What is to be found out.

    Raises:
        ValueError: If there is no class.
    """
    batch, classes = field.shape[:2]
    if not classes:
        raise ValueError("no class to choose from")
    numbers = TILE_NUMBERS.get(field.device.type, TILE_NUMBERS["cuda"]) // batch
    fits = classes * math.prod(judgement.size) <= numbers
    together = fits or judgement.scores or not field.separate
    height, width = _tile_size(field, judgement.size, numbers // classes if together else numbers)
    judge = partial(_judge, judgement=judgement, numbers=None if together else numbers)
    for top in range(0, judgement.size[0], height):
        rows = slice(top, min(top + height, judgement.size[0]))
        lefts = range(0, judgement.size[1], width)
        columns = [slice(left, min(left + width, judgement.size[1])) for left in lefts]
        places = [_Place(field, judgement.size, rows, own) for own in columns]
        field.prepare(places[0].source[0])
        work = classes * batch * (rows.stop - rows.start) * judgement.size[1]
        yield from map_parts(judge, places, numbers=work, device=field.device)


def _tile_size(field: ScoreField, size: tuple[int, int], pixels: int) -> tuple[int, int]:
    """Return height and width of tiles of about so many pixels at most."""
    longest = TILE_SIDE if field.device.type == "cpu" else max(size)
    width = min(size[1], longest)
    height = max(1, min(size[0], longest, pixels // width))
    return height, width


class _Place:
    """A tile, and the part of a field that it is resized from.

    Attributes:
        field: Whose scores.
        rows: Of the tile.
        columns: Of the tile.
        source: Rows and columns of the part.
    """

    def __init__(
        self, field: ScoreField, size: tuple[int, int], rows: slice, columns: slice
    ) -> None:
        self.field, self.rows, self.columns = field, rows, columns
        self.source = rows, columns
        self._axes: tuple[Axis, Axis] | None = None
        if field.shape[2:] != size:
            y = axis(field.shape[2], size[0], field.device).part(rows)
            x = axis(field.shape[3], size[1], field.device).part(columns)
            self._axes, self.source = (y, x), (y.samples, x.samples)

    @property
    def pixels(self) -> int:
        """How many there are in the tile."""
        height, width = (side.stop - side.start for side in (self.rows, self.columns))
        return int(height * width)

    def scores(self, ids: Tensor | None) -> Tensor:
        """Return scores of classes at the tile's pixels, float (B, K, n, m)."""
        part = self.field.part(*self.source, ids)
        return part if self._axes is None else resize(part, *self._axes, complete=ids is None)


@torch.inference_mode()
def _judge(place: _Place, *, judgement: Judgement, numbers: int | None) -> Tile:
    """Return what was found in a tile, looking at so many numbers at a time; None: at all."""
    if numbers is None:
        return _Winners(place.scores(None), judgement, None).tile(place)
    ids = _candidates(place, judgement)
    first, *others = ids.split(max(1, numbers // place.pixels))
    winners = _Winners(place.scores(first), judgement, first)
    for chunk in others:
        winners.meet(_Winners(place.scores(chunk), judgement, chunk))
    return winners.tile(place)


def _candidates(place: _Place, judgement: Judgement) -> Tensor:
    """Return the classes that may win somewhere in a tile, or come second, in order, int64."""
    # On a GPU, waiting for the answer would cost more than the classes do.
    bounds = None
    if place.field.device.type == "cpu":
        bounds = place.field.bounds(*place.source)
    if bounds is None:
        return torch.arange(place.field.shape[1], device=place.field.device)
    taken = judgement.margin * judgement.seen.to(bounds[0])
    upper, lower = (bound - taken for bound in bounds)
    rank = min(2 if judgement.second else 1, upper.shape[1])
    bar = lower.topk(rank, dim=1).values[:, -1:]
    return (upper + SLACK >= bar).any(dim=0).nonzero()[:, 0]


class _Winners:
    """The best of some classes at the pixels of a tile."""

    def __init__(self, scores: Tensor, judgement: Judgement, ids: Tensor | None) -> None:
        seen = judgement.seen if ids is None else judgement.seen[ids]
        self.scores = scores if judgement.scores else None
        if judgement.margin and seen.any():
            scores = penalize_seen(scores, seen, margin=judgement.margin)
        self.best, winners = _first_largest(scores)
        self.second: Tensor | None = None
        if judgement.second:
            others = scores.scatter(1, winners[:, None], float("-inf"))
            self.second = others.amax(dim=1)
        self.winners = winners if ids is None else ids[winners]

    def meet(self, other: _Winners) -> None:
        """Take in classes that come later."""
        better = other.best > self.best  # a tie belongs to the class that comes first
        if self.second is not None and other.second is not None:
            beaten = torch.minimum(self.best, other.best)
            self.second = torch.maximum(beaten, torch.maximum(self.second, other.second))
        self.winners = torch.where(better, other.winners, self.winners)
        self.best = torch.where(better, other.best, self.best)

    def tile(self, place: _Place) -> Tile:
        """Return what was found; of a single class, the second is as good as the best."""
        second = self.second
        if second is not None:
            second = torch.where(second.isneginf(), self.best, second)
        return Tile(
            rows=place.rows,
            columns=place.columns,
            winners=self.winners,
            best=self.best,
            second=second,
            scores=self.scores,
        )


def _first_largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest score at each pixel and the first class that has it, two (B, n, m)."""
    best = scores.amax(dim=1)
    if scores.device.type != "cpu":
        return best, scores.argmax(dim=1)
    # `argmax` is not vectorised on the CPU; this takes a third of its time.
    classes = scores.shape[1]
    narrow = torch.int16 if classes < 2**15 else torch.int32
    ids = torch.arange(classes, dtype=narrow)[:, None, None]
    absent = torch.tensor(classes, dtype=narrow)
    return best, torch.where(scores == best[:, None], ids, absent).amin(dim=1).long()


def best_class(
    field: ScoreField, seen: Tensor, *, margin: float, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the winning class and its calibrated score at every pixel.

    Args:
        field: Scores at h × w pixels.
        seen: Which classes had masks in training, bool (K,).
        margin: Taken from the scores of seen classes.
        size: Height and width of the result in pixels.

    Returns:
        Class indices, int64 (B, H, W), and their scores, float (B, H, W).

    Raises:
        ValueError: If there is no class.
    """
    best = torch.empty(field.shape[0], *size, device=field.device)
    winners = best.new_empty(best.shape, dtype=torch.long)
    for tile in decide(field, Judgement(seen=seen, margin=margin, size=size)):
        winners[:, tile.rows, tile.columns] = tile.winners
        best[:, tile.rows, tile.columns] = tile.best
    return winners, best


def entropy(scores: Tensor) -> Tensor:
    """Return how undecided scores are, float (B, n, m).

    Args:
        scores: Averaged scores that are not negative, float (B, K, n, m).

    Returns:
        Shannon's entropy of the scores divided by their sum, over that of K equal scores: 0 where
        one class has it all, 1 where all have the same. A single class is never undecided.
    """
    total = scores.sum(dim=1)
    if scores.shape[1] == 1:
        return torch.zeros_like(total)
    weighted = torch.special.entr(scores).sum(dim=1)  # -s log s
    # H(s / S) = log S + (-Σ s log s) / S
    nats = total.log() + weighted / total
    return torch.where(total > 0, nats / math.log(scores.shape[1]), 1.0).clamp(0, 1)
