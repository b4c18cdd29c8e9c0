"""Properties of windows, parts of score fields, and the winners found in them tile by tile.

Letters: B images, K classes, H W pixels, h w at which there are scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import torch
from comparisons.plain_prediction import bilinear, plain_scores
from hypothesis import assume
from hypothesis import strategies as st
from soaks.property_running import holds
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.config.fields import MOST_SIDE
from zegment.inference import decisions
from zegment.inference.decisions import Judgement, decide
from zegment.inference.fields import WindowedScores
from zegment.inference.image import NormalizedImage
from zegment.inference.running import Execution, Runner
from zegment.inference.windows import shared_stretches, window_places, working_size
from zegment.models.base import SegmentationModel

ROUNDING = 2e-5
"""By how much two ways to compute a score may differ; its numbers are float32, up to 1."""


class Filters(SegmentationModel):
    """Logits are random filters of patches; of no filter they are the same everywhere."""

    def __init__(self, classes: int, *, patch_size: int, separate: bool, constant: bool) -> None:
        super().__init__(mean=(0.5,) * 3, std=(0.25,) * 3, patch_size=patch_size)
        generator = torch.Generator().manual_seed(classes)
        shape = (classes, 3, patch_size, patch_size)
        self.filters = torch.randn(*shape, generator=generator) * (0.0 if constant else 1.0)
        self.filters /= patch_size
        self.offsets = torch.randn(classes, 1, 1, generator=generator)
        self.separate = separate

    @property
    def separate_scores(self) -> bool:
        return self.separate

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        own = slice(0, len(text_embeddings))
        return F.conv2d(image, self.filters[own], stride=self.patch_size) + self.offsets[own]

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.separate else logits.softmax(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Images, a model, and how windows are laid over them.

    Attributes:
        model: Whose scores are wanted.
        image: Normalised, float (B, 3, H, W).
        classes: K.
        windows: How they are cut; images keep their size.
        at_once: How many windows go through the model together.
    """

    model: Filters
    image: Tensor
    classes: int
    windows: WindowConfig
    at_once: int

    @property
    def size(self) -> tuple[int, int]:
        """H and W."""
        return self.image.shape[-2], self.image.shape[-1]

    @property
    def texts(self) -> Tensor:
        """Embeddings that the model only counts."""
        return torch.zeros(self.classes, 1)

    def field(self) -> WindowedScores:
        """Return the scores, of which nothing has been computed yet."""
        runner = Runner(self.model, Execution(window_batch=self.at_once))
        return WindowedScores(runner, NormalizedImage(self.image), self.texts, self.windows)


@st.composite
def window_configs(draw: st.DrawFn, *, largest: int, short_side: int = 0) -> WindowConfig:
    """Draw sizes and strides that fit together, or one window."""
    size = draw(st.none() | st.integers(1, min(largest, MOST_SIDE)))
    stride = None if size is None else draw(st.none() | st.integers(max(1, size // 4), size))
    return WindowConfig(
        short_side=draw(st.none() | st.integers(1, short_side)) if short_side else None,
        size=size,
        stride=stride,
        blend=draw(st.sampled_from(["average", "smooth"])),
    )


@st.composite
def cases(draw: st.DrawFn, *, constant: bool = False) -> Case:
    """Draw small images of any proportions, of one class or many."""
    batch, classes = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2, 3, 4, 9, 33]))
    sides = st.integers(1, 40) | st.integers(60, 110)
    height, width, seed = draw(sides), draw(sides), draw(st.integers(0, 2**31))
    model = Filters(
        classes,
        patch_size=draw(st.sampled_from([1, 4, 7])),
        separate=draw(st.booleans()),
        constant=constant,
    )
    return Case(
        model=model,
        image=torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)),
        classes=classes,
        windows=draw(window_configs(largest=max(12, max(height, width) + 10)).filter(_affordable)),
        at_once=draw(st.integers(1, 4)),
    )


def _affordable(windows: WindowConfig) -> bool:
    """Return whether a small picture has few windows."""
    return windows.size is None or (windows.stride or windows.size) >= 8


@holds(
    short=150,
    published=8000,
    length=st.integers(1, 300) | st.integers(1, 70_000),
    windows=window_configs(largest=70_000),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def windows_cover_every_pixel_and_stretches_name_each_that_does(
    length: int, windows: WindowConfig, ends: tuple[float, float]
) -> None:
    """Windows are as long as was asked for where the side is, and none begins in vain."""
    assume(length <= 300 * (windows.stride or windows.size or length))
    places = window_places(length, windows.size, windows.stride)
    size = windows.size or length
    assert (places[0].start, places[-1].stop) == (0, length)
    assert {place.stop - place.start for place in places} == {min(size, length)}
    starts = [place.start for place in places]
    assert starts == sorted(set(starts))
    steps = {b - a for a, b in pairwise(starts)}
    assert all(step <= (windows.stride or size) for step in steps)
    first, last = sorted(round(end * (length - 1)) for end in ends)
    stretches = list(shared_stretches(places, slice(first, last + 1)))
    assert [s.start for s, _ in stretches] == [first, *(s.stop for s, _ in stretches[:-1])]
    assert stretches[-1][0].stop == last + 1
    for stretch, numbers in stretches:
        for pixel in (stretch.start, stretch.stop - 1):
            wanted = tuple(i for i, p in enumerate(places) if p.start <= pixel < p.stop)
            assert numbers == wanted


@holds(short=60, published=1500, case=cases(constant=True))
def the_weights_of_windows_sum_to_one_at_every_pixel(case: Case) -> None:
    """A model that says the same everywhere gives that, wherever and however windows overlap."""
    own = case.model.offsets.expand(len(case.image), -1, *case.size)
    found = case.field().all()
    assert found.shape == own.shape
    torch.testing.assert_close(found, case.model.scores(own), rtol=0, atol=ROUNDING)


@holds(short=60, published=1500, case=cases(), seed=st.integers(0, 2**31))
def a_part_of_a_field_has_the_scores_of_the_whole_and_keeps_its_bounds(
    case: Case, seed: int
) -> None:
    """Parts from top to bottom, of all classes and of some."""
    generator = torch.Generator().manual_seed(seed)
    whole, field = case.field().all(), case.field()
    top = 0
    while top < case.size[0]:
        bottom = int(torch.randint(top + 1, case.size[0] + 1, (), generator=generator))
        left, right = (
            torch.randint(0, case.size[1], (2,), generator=generator).sort().values.tolist()
        )
        rows, columns = slice(top, bottom), slice(left, right + 1)
        chosen = torch.randperm(case.classes, generator=generator)[: 1 + case.classes // 2]
        part, some = field.part(rows, columns), field.part(rows, columns, chosen)
        close = {"rtol": 0, "atol": ROUNDING}
        torch.testing.assert_close(part, whole[..., rows, columns], **close)
        torch.testing.assert_close(some, whole[:, chosen, rows, columns], **close)
        bounds = field.bounds(rows, columns)
        assert (bounds is not None) == case.model.separate
        if bounds is not None:
            assert (part.amax(dim=(2, 3)) <= bounds[0] + decisions.SLACK).all()
            assert (part.amin(dim=(2, 3)) >= bounds[1] - decisions.SLACK).all()
        top = bottom


@holds(
    short=40,
    published=600,
    case=cases(),
    result=st.none() | st.tuples(st.integers(1, 130), st.integers(1, 130)),
    penalty=st.sampled_from([0.0, 0.1, 0.7]),
    tiles=st.tuples(st.sampled_from([2**6, 2**11, 2**20]), st.sampled_from([5, 96])),
)
def winners_are_those_of_all_scores_at_all_pixels(
    case: Case, result: tuple[int, int] | None, penalty: float, tiles: tuple[int, int]
) -> None:
    """Where the best class leads by more than rounding; best and second score everywhere."""
    size = result or case.size
    scores = case.field().all()
    if case.windows.blend == "average":
        plain = plain_scores(case.model, case.image, case.texts, case.windows)
        torch.testing.assert_close(scores, plain, rtol=0, atol=ROUNDING)
    if size != case.size:
        scores = bilinear(scores, size)
    seen = torch.arange(case.classes) % 2 == 0
    scores = scores - penalty * seen[:, None, None].float()
    best, winners = scores.topk(min(2, case.classes), dim=1)
    numbers, side = tiles
    judgement = Judgement(seen=seen, margin=penalty, size=size, second=True)
    found = [torch.full_like(best[:, 0], torch.nan) for _ in range(3)]
    with (
        patch.dict(decisions.TILE_NUMBERS, cpu=numbers),
        patch.object(decisions, "TILE_SIDE", side),
    ):
        for tile in decide(case.field(), judgement):
            for whole, part in zip(
                found, (tile.winners.float(), tile.best, tile.second), strict=True
            ):
                whole[:, tile.rows, tile.columns] = part
    second = best[:, -1]
    torch.testing.assert_close(found[1], best[:, 0], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found[2], second, rtol=0, atol=ROUNDING)
    clear = (best[:, 0] - second > 2 * ROUNDING) | (case.classes == 1)
    assert torch.equal(found[0][clear], winners[:, 0][clear].float())


@holds(
    short=200,
    published=8000,
    height=st.integers(1, 70_000),
    width=st.integers(1, 70_000),
    short_side=st.integers(1, 2048),
)
def the_working_size_keeps_proportions_and_is_bounded(
    height: int, width: int, short_side: int
) -> None:
    """Whichever side is the longer; transposing the picture transposes it."""
    windows = WindowConfig(short_side=short_side)
    size = working_size(height, width, windows)
    assert working_size(width, height, windows) == size[::-1]
    assert 1 <= min(size) <= short_side
    assert max(size) <= 4 * short_side
    scale = min(short_side / min(height, width), 4 * short_side / max(height, width))
    for side, given in zip(size, (height, width), strict=True):
        assert side == 1 or abs(side - scale * given) <= 0.5 + 1e-6
    assert working_size(height, width, WindowConfig()) == (height, width)


PROPERTIES = (
    windows_cover_every_pixel_and_stretches_name_each_that_does,
    the_weights_of_windows_sum_to_one_at_every_pixel,
    a_part_of_a_field_has_the_scores_of_the_whole_and_keeps_its_bounds,
    winners_are_those_of_all_scores_at_all_pixels,
    the_working_size_keeps_proportions_and_is_bounded,
)
