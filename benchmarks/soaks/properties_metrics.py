"""Properties of scores: additive, whatever the order, bounded, and blind where nobody annotated.

Letters: B images, K classes, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from soaks.property_running import holds
from torch import Tensor

from zegment.data import IGNORE_INDEX
from zegment.metrics import ConfusionMatrix, DiceScores, Scores, report


@st.composite
def predictions(draw: st.DrawFn) -> tuple[int, Tensor, Tensor]:
    """Draw K, predictions with the unknown, and labels with ignored pixels, both (B, H, W)."""
    classes = draw(st.sampled_from([1, 2, 3, 7, 40, 300]))
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    label = torch.randint(0, classes, shape, generator=generator)
    guess = torch.randint(-1, classes, shape, generator=generator)
    right, ignored = draw(st.sampled_from([0.0, 0.5, 1.0])), draw(st.sampled_from([0.0, 0.3, 1.0]))
    guess = torch.where(torch.rand(shape, generator=generator) < right, label, guess)
    label[torch.rand(shape, generator=generator) < ignored] = IGNORE_INDEX
    return classes, guess, label


def names_of(classes: int) -> tuple[str, ...]:
    """Return K names."""
    return tuple(f"class {k}" for k in range(classes))


def counted(classes: int, guess: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return what both metrics count of a batch."""
    matrix = ConfusionMatrix(classes, ignore_index=IGNORE_INDEX)
    dice = DiceScores(names_of(classes))
    matrix.update(guess, label)
    dice.update(guess, label, ignore_index=IGNORE_INDEX)
    return matrix.state, dice.state


def scores_of(classes: int, guess: Tensor, label: Tensor, seen: list[bool]) -> Scores:
    """Return the scores of a batch."""
    matrix = ConfusionMatrix(classes, ignore_index=IGNORE_INDEX)
    matrix.update(guess, label)
    return report(matrix, names_of(classes), seen=seen)


@holds(
    short=60,
    published=2500,
    drawn=predictions(),
    order=st.randoms(use_true_random=False),
    processes=st.integers(1, 4),
)
def metrics_are_the_sum_over_batches_in_any_order_and_over_processes(
    drawn: tuple[int, Tensor, Tensor],
    order: Any,  # noqa: ANN401 - a generator of hypothesis
    processes: int,
) -> None:
    """Every process takes every so-manieth image, alone, after the images were shuffled."""
    classes, guess, label = drawn
    whole = counted(classes, guess, label)
    places = list(range(len(label)))
    order.shuffle(places)
    totals = [torch.zeros_like(state) for state in whole]
    for rank in range(processes):
        for place in places[rank::processes]:
            one = counted(classes, guess[place : place + 1], label[place : place + 1])
            for total, state in zip(totals, one, strict=True):
                total.add_(state)
    for total, state in zip(totals, whole, strict=True):
        assert torch.equal(total, state)


@holds(short=60, published=2500, drawn=predictions(), every=st.integers(1, 4))
def scores_are_fractions_and_means_lie_between_what_they_are_the_mean_of(
    drawn: tuple[int, Tensor, Tensor], every: int
) -> None:
    """Also: a prediction that is right everywhere has 1, and IoU is at most accuracy and Dice."""
    classes, guess, label = drawn
    seen = [k % every == 0 for k in range(classes)]
    scores = scores_of(classes, guess, label, seen)
    measured = [value for value in scores.per_class.values() if value is not None]
    for value in (*measured, scores.pAcc, scores.mAcc, scores.mIoU, scores.hIoU):
        assert value is None or 0 <= value <= 1
    halves = [v for v in (scores.mIoU_seen, scores.mIoU_unseen) if v is not None]
    slack = 1e-12
    if halves:
        assert min(halves) - slack <= scores.mIoU <= max(halves) + slack
    if scores.hIoU is not None:
        assert min(halves) - slack <= scores.hIoU <= sum(halves) / 2 + slack
    assert (scores.hIoU is None) == (len(halves) < 2)
    if scores.pAcc == 1:
        assert set(measured) == {1.0}
    dice = DiceScores(names_of(classes))
    dice.update(guess, label, ignore_index=IGNORE_INDEX)
    values = dice.to_dict()
    assert all(0 <= value <= 1 for value in values["per_class_DSC"].values())
    if len(label) == 1:  # of one image, Dice is 2 IoU / (1 + IoU)
        for name, iou in scores.per_class.items():
            expected = 1.0 if iou is None else 2 * iou / (1 + iou)
            assert abs(values["per_class_DSC"][name] - expected) < 1e-9


@holds(short=60, published=2500, drawn=predictions(), seed=st.integers(0, 2**31))
def ignored_pixels_count_nowhere(drawn: tuple[int, Tensor, Tensor], seed: int) -> None:
    """Whatever is predicted there, even what is no class, and as if they had been cut out."""
    classes, guess, label = drawn
    ignored = label == IGNORE_INDEX
    generator = torch.Generator().manual_seed(seed)
    other = torch.randint(-1, classes, guess.shape, generator=generator)
    changed = torch.where(ignored, other, guess)
    for before, after in zip(
        counted(classes, guess, label), counted(classes, changed, label), strict=True
    ):
        assert torch.equal(before, after)
    kept = ConfusionMatrix(classes, ignore_index=IGNORE_INDEX)
    kept.update(torch.where(ignored, classes + 7, guess), label)
    if classes <= 255:
        cut = ConfusionMatrix(classes)
        cut.update(guess[~ignored], label[~ignored])
        assert torch.equal(cut.state, kept.state)
    assert int(kept.state.sum()) == int((~ignored).sum())


@holds(short=40, published=2500, drawn=predictions(), order=st.randoms(use_true_random=False))
def permuting_the_classes_permutes_the_scores(
    drawn: tuple[int, Tensor, Tensor],
    order: Any,  # noqa: ANN401 - a generator of hypothesis
) -> None:
    """And changes none of the means."""
    classes, guess, label = drawn
    seen = [k % 3 > 0 for k in range(classes)]
    place = list(range(classes))
    order.shuffle(place)
    new = torch.tensor([*place, -1])
    known = label != IGNORE_INDEX
    first = scores_of(classes, guess, label, seen)
    second = scores_of(
        classes,
        new[guess],
        torch.where(known, new[label.where(known, torch.zeros_like(label))], label),
        [seen[place.index(k)] for k in range(classes)],
    )
    before, after = (list(scores.per_class.values()) for scores in (first, second))
    assert [after[place[k]] for k in range(classes)] == before
    for name in ("pAcc", "mAcc", "mIoU", "mIoU_seen", "mIoU_unseen", "hIoU"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        assert one is None or abs(one - other) < 1e-12


PROPERTIES = (
    metrics_are_the_sum_over_batches_in_any_order_and_over_processes,
    scores_are_fractions_and_means_lie_between_what_they_are_the_mean_of,
    ignored_pixels_count_nowhere,
    permuting_the_classes_permutes_the_scores,
)
