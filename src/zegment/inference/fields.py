"""The scores of an image, any part of which can be had without the rest.

Letters: B images of one size, K classes, N their names, D embedding, H W pixels at which windows
are cut, h w feature grid of one window, n m sides of a part.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from zegment.config import WindowConfig
from zegment.inference.image import NormalizedImage, WorkingImage
from zegment.inference.resizing import Axis, axis, resize
from zegment.inference.running import Runner
from zegment.inference.windows import (
    shared_stretches,
    smooth_weights,
    window_places,
)
from zegment.models.base import SegmentationModel


class ScoreField(ABC):
    """Class scores at every pixel of some images, formed where they are asked for.

    Attributes:
        shape: B, K, H and W.
        device: Where scores are formed.
        separate: Whether the score of a class does not depend on what other classes there are.
    """

    shape: tuple[int, int, int, int]
    device: torch.device
    separate: bool = False

    @abstractmethod
    def part(self, rows: slice, columns: slice, classes: Tensor | None = None) -> Tensor:
        """Return the scores of a part, float (B, K, n, m).

        Parts from top to bottom cost least.

        Args:
            rows: Of the part.
            columns: Of the part.
            classes: Which classes to form scores of, int64; where scores are not separate, all of
                them enter all the same.
        """

    @torch.inference_mode()
    def all(self) -> Tensor:
        """Return the scores of all classes at all pixels, float (B, K, H, W)."""
        return self.part(slice(0, self.shape[2]), slice(0, self.shape[3]))

    def prepare(self, rows: slice) -> None:
        """Do what parts within some rows have in common; what only rows above need is forgotten.

        Afterwards several threads may ask for parts within these rows.
        """
        del rows

    def bounds(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Return scores that no pixel of a part exceeds and falls below, two float (B, K).

        They hold up to rounding; None if finding them would cost as much as the scores.
        """
        del rows, columns
        return None


class HeldScores(ScoreField):
    """Scores that are there already.

    Args:
        scores: Float (B, K, H, W).
    """

    def __init__(self, scores: Tensor) -> None:
        batch, classes, height, width = scores.shape
        self.shape = batch, classes, height, width
        self.device, self.separate = scores.device, True
        self._scores = scores

    def part(self, rows: slice, columns: slice, classes: Tensor | None = None) -> Tensor:
        """Return the scores of a part; see the base class."""
        part = self._scores[..., rows, columns]
        return part if classes is None else part.index_select(1, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """A part that one set of windows covers.

    ``windows`` holds, of each window, the logits that the part needs, and its rows and columns;
    ``weights`` how much each counts at each pixel, float (n, m), if not all count alike.
    """

    rows: slice
    columns: slice
    windows: list[tuple[Tensor, Axis, Axis]]
    weights: list[Tensor]


Row: TypeAlias = Sequence[Tensor]
"""Logits of the windows that lie side by side, each float (B, K, h, w)."""


class WindowedScores(ScoreField):
    """Scores of a model, averaged over overlapping windows.

    The logits of a row of windows are kept, on the feature grid, as long as parts reach into it.

    Args:
        runner: Runs the model.
        image: Images of one size.
        text_embeddings: Unit rows, float (N, D).
        windows: Size, stride and blending.
        owners: The class that each row of embeddings speaks for, N places below K; None if each
            is a class.

    Source:
        ZegCLIP released code (sliding-window test): scores are averaged, not logits.
    """

    def __init__(
        self,
        runner: Runner,
        image: WorkingImage | NormalizedImage,
        text_embeddings: Tensor,
        windows: WindowConfig,
        owners: Sequence[int] | None = None,
    ) -> None:
        classes = len(text_embeddings) if owners is None else max(owners) + 1
        self.shape = (len(image), classes, *image.size)
        self.device = text_embeddings.device
        self.separate = runner.model.separate_scores
        self._runner, self._image, self._owners = runner, image, owners
        self._text_embeddings, self._blend = text_embeddings, windows.blend
        self._rows = window_places(image.size[0], windows.size, windows.stride)
        self._columns = window_places(image.size[1], windows.size, windows.stride)
        self._logits: dict[int, Row] = {}

    def part(self, rows: slice, columns: slice, classes: Tensor | None = None) -> Tensor:
        """Return the scores of a part; see the base class."""
        self.prepare(rows)
        stretches = list(self._stretches(rows, columns))
        if len(stretches) == 1:
            return self._average(stretches[0], classes)
        count = self.shape[1] if classes is None else len(classes)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        out = torch.empty(self.shape[0], count, *size, device=self.device)
        for stretch in stretches:
            own = _within(stretch.rows, rows), _within(stretch.columns, columns)
            out[(..., *own)] = self._average(stretch, classes)
        return out

    def bounds(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Return what no pixel of a part exceeds and falls below; see the base class.

        A bilinear mixture lies between the samples that are mixed, scores rise with logits, and an
        average lies between what is averaged.
        """
        if not self.separate:
            return None
        self.prepare(rows)
        uppers, lowers = [], []
        for stretch in self._stretches(rows, columns):
            upper = [self._score(logits.amax(dim=(2, 3))) for logits, _, _ in stretch.windows]
            lower = [self._score(logits.amin(dim=(2, 3))) for logits, _, _ in stretch.windows]
            plain = self._blend == "average"
            uppers.append(torch.stack(upper).mean(0) if plain else reduce(torch.maximum, upper))
            lowers.append(torch.stack(lower).mean(0) if plain else reduce(torch.minimum, lower))
        return reduce(torch.maximum, uppers), reduce(torch.minimum, lowers)

    def _score(self, logits: Tensor) -> Tensor:
        return self._runner.model.scores(logits[..., None, None])[..., 0, 0]

    def _stretches(self, rows: slice, columns: slice) -> Iterator[_Stretch]:
        for own_rows, in_rows in shared_stretches(self._rows, rows):
            for own_columns, in_columns in shared_stretches(self._columns, columns):
                windows, weights = [], []
                for i, j in product(in_rows, in_columns):
                    places = self._rows[i], self._columns[j]
                    inside = _within(own_rows, places[0]), _within(own_columns, places[1])
                    logits = self._logits[i][j]
                    y, x = self._axes(logits, *places)
                    y, x = y.part(inside[0]), x.part(inside[1])
                    windows.append((logits[..., y.samples, x.samples], y, x))
                    if self._blend == "smooth":
                        weights.append(self._weights(places, inside))
                yield _Stretch(rows=own_rows, columns=own_columns, windows=windows, weights=weights)

    def _weights(self, places: tuple[slice, slice], inside: tuple[slice, slice]) -> Tensor:
        rows, columns = (
            smooth_weights(place.stop - place.start, device=self.device)[own]
            for place, own in zip(places, inside, strict=True)
        )
        return rows[:, None] * columns

    def _axes(self, logits: Tensor, rows: slice, columns: slice) -> tuple[Axis, Axis]:
        """Return how the pixels of a window are mixed of its logits; padding is left out."""
        patch = self._runner.model.patch_size
        lengths = [place.stop - place.start for place in (rows, columns)]
        y, x = (
            axis(samples, -(-length // patch) * patch, self.device)
            for samples, length in zip(logits.shape[-2:], lengths, strict=True)
        )
        return y, x

    def _average(self, stretch: _Stretch, classes: Tensor | None) -> Tensor:
        """Return the mean of the windows' scores, float (B, K, n, m)."""
        if len(stretch.windows) == 1:
            return self._scores(*stretch.windows[0], classes)
        scores = (self._scores(*window, classes) for window in stretch.windows)
        if stretch.weights:
            weighted = map(torch.mul, scores, stretch.weights)
            return reduce(Tensor.add_, weighted).div_(torch.stack(stretch.weights).sum(0))
        return reduce(Tensor.add_, scores).div_(len(stretch.windows))

    def _scores(self, logits: Tensor, y: Axis, x: Axis, classes: Tensor | None) -> Tensor:
        if classes is None:
            return self._runner.model.scores(resize(logits, y, x, complete=True))
        if self.separate:
            return self._runner.model.scores(resize(logits.index_select(1, classes), y, x))
        return self._runner.model.scores(resize(logits, y, x)).index_select(1, classes)

    def prepare(self, rows: slice) -> None:
        """Run the model on the windows that reach into some rows; see the base class."""
        wanted = [
            i for i, p in enumerate(self._rows) if p.start < rows.stop and rows.start < p.stop
        ]
        if all(i in self._logits for i in wanted):
            return
        for i in [i for i in self._logits if self._rows[i].stop <= rows.start]:
            del self._logits[i]
        for i in wanted:
            if i not in self._logits:
                self._logits[i] = self._run(self._rows[i])

    def _run(self, rows: slice) -> Row:
        crops = torch.cat([self._image.crop(rows, columns) for columns in self._columns])
        logits = self._runner(crops, self._text_embeddings)
        return [best_name(own, self._owners) for own in logits.split(self.shape[0])]


def _within(place: slice, whole: slice) -> slice:
    return slice(place.start - whole.start, place.stop - whole.start)


def best_name(logits: Tensor, owners: Sequence[int] | None) -> Tensor:
    """Return the highest logit among the names of each class.

    Args:
        logits: One plane per name, float (B, N, h, w).
        owners: The class of each name, N places below K; None returns ``logits``.

    Returns:
        One plane per class, float (B, K, h, w).
    """
    if owners is None:
        return logits
    size = (len(logits), max(owners) + 1, *logits.shape[-2:])
    places = torch.tensor(owners, device=logits.device)[:, None, None].expand_as(logits)
    lowest = logits.new_full(size, float("-inf"))
    return lowest.scatter_reduce(1, places, logits, reduce="amax")


def image_scores(
    model: SegmentationModel, image: Tensor, text_embeddings: Tensor, windows: WindowConfig
) -> Tensor:
    """Return a model's scores of images that are normalised already, float (B, K, H, W).

    Args:
        model: In evaluation mode.
        image: Float (B, 3, H, W).
        text_embeddings: Unit rows, float (K, D).
        windows: Size, stride and blending; the image keeps its size.
    """
    return WindowedScores(Runner(model), NormalizedImage(image), text_embeddings, windows).all()
