"""Losses against cases worked out by hand, slow loops and numerical gradients."""

import math

import pytest
import torch
from torch import Tensor

from zegment.data import IGNORE_INDEX
from zegment.losses import (
    class_masks,
    count_masks,
    cross_entropy,
    dice_loss,
    focal_loss,
    non_mutually_exclusive_loss,
    present_classes,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_masks_leave_ignored_pixels_out_of_every_class() -> None:
    masks = class_masks(torch.tensor([[[0, 1], [IGNORE_INDEX, 1]]]), 2)
    assert masks.tolist() == [[[[1, 0], [0, 0]], [[0, 1], [0, 1]]]]


@pytest.mark.parametrize("label", [2, 254, -1])
def test_masks_refuse_unknown_labels(label: int) -> None:
    with pytest.raises(ValueError, match=str(label)):
        class_masks(torch.tensor([[[label]]]), 2)


def test_masks_are_counted_per_image_and_class() -> None:
    label = torch.tensor(
        [[[0, 0], [1, IGNORE_INDEX]], [[1, 1], [1, 1]], [[IGNORE_INDEX, IGNORE_INDEX]] * 2]
    )
    assert count_masks(label, 3).item() == 3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_present_classes_are_those_whose_mask_has_a_pixel(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 9, (4, 2, 3), generator=generator)
    label[label == 8] = IGNORE_INDEX
    label[0] = IGNORE_INDEX
    expected = class_masks(label, 8).flatten(2).any(dim=2)
    assert torch.equal(present_classes(label, 8), expected)
    assert torch.equal(present_classes(label.int(), 8), expected)


@pytest.mark.parametrize("label", [2, 254, -1])
def test_unknown_labels_are_not_counted_as_present(label: int) -> None:
    with pytest.raises(ValueError, match=str(label)):
        present_classes(torch.tensor([[[label]]]), 2)


def test_focal_loss_of_two_by_two_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-1.0, 3.0]]]])
    masks = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    expected = (
        0.25 * (1 - sigmoid(0)) ** 2 * -math.log(sigmoid(0))
        + 0.25 * (1 - sigmoid(2)) ** 2 * -math.log(sigmoid(2))
        + 0.75 * sigmoid(-1) ** 2 * -math.log(1 - sigmoid(-1))
        + 0.75 * sigmoid(3) ** 2 * -math.log(1 - sigmoid(3))
    ) / 4
    assert focal_loss(logits, masks).item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_balance_and_focus_is_cross_entropy() -> None:
    logits, masks = torch.randn(2, 3, 4, 4), (torch.rand(2, 3, 4, 4) > 0.5).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, masks, reduction="none"
    ).mean(dim=(2, 3))
    torch.testing.assert_close(focal_loss(logits, masks, alpha=None, gamma=0), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_dice_loss_of_two_by_two_by_hand(squared: bool) -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-1.0, 3.0]]]])
    masks = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    p = [sigmoid(x) for x in (0, 2, -1, 3)]
    total = sum(x**2 for x in p) if squared else sum(p)
    expected = 1 - (2 * (p[0] + p[1]) + 1) / (total + 2 + 1)
    assert dice_loss(logits, masks, squared=squared).item() == pytest.approx(expected, rel=1e-5)


def slow_nel(logits: Tensor, label: Tensor, *, ignored_are_negatives: bool) -> tuple[float, float]:
    """The released criterion as loops over images, classes and pixels."""
    focal, dice, n = 0.0, 0.0, 0
    for image, truth in zip(logits.sigmoid().tolist(), label.tolist(), strict=True):
        pixels = [t for row in truth for t in row]
        present = sorted(set(pixels) - {IGNORE_INDEX})
        n += len(present)
        for k, plane in enumerate(image):
            p = [x for row in plane for x in row]
            pairs = [
                (x, float(t == k))
                for x, t in zip(p, pixels, strict=True)
                if ignored_are_negatives or t != IGNORE_INDEX
            ]
            terms = [
                -0.25 * (1 - x) ** 2 * math.log(x) if t else -0.75 * x**2 * math.log(1 - x)
                for x, t in pairs
            ]
            focal += sum(terms) / len(terms)
            if k in present:
                overlap = 2 * sum(x * t for x, t in pairs) + 1
                dice += 1 - overlap / (sum(x for x, _ in pairs) + sum(t for _, t in pairs) + 1)
    return 100 * focal / n, dice / n


@pytest.mark.parametrize("ignored_are_negatives", [True, False])
def test_nel_equals_a_loop(ignored_are_negatives: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    label = torch.randint(0, 3, (3, 5, 6), generator=generator)
    label[0, :2] = IGNORE_INDEX
    label[1] = 2
    losses = non_mutually_exclusive_loss(
        logits,
        label,
        n_masks=count_masks(label, 4),
        ignored_are_negatives=ignored_are_negatives,
    )
    expected = slow_nel(logits, label, ignored_are_negatives=ignored_are_negatives)
    assert losses["loss_mask"].item() == pytest.approx(expected[0], rel=1e-4)
    assert losses["loss_dice"].item() == pytest.approx(expected[1], rel=1e-4)


def test_ignored_pixels_get_gradients_only_as_negatives() -> None:
    label = torch.tensor([[[0, IGNORE_INDEX]]])
    for as_negatives in (True, False):
        logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
        losses = non_mutually_exclusive_loss(
            logits, label, n_masks=torch.tensor(1.0), ignored_are_negatives=as_negatives
        )
        sum(losses.values()).backward()
        assert bool(logits.grad[..., 1].any()) is as_negatives


def test_gradients_are_those_of_the_function() -> None:
    logits = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    masks = (torch.rand(1, 2, 3, 3) > 0.5).double()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, masks), logits)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, masks, squared=True), logits)


def test_saturated_pixels_have_finite_gradients_for_any_focus() -> None:
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[[[200.0, -200.0, 25.0]]]], requires_grad=True)
        focal_loss(logits, torch.tensor([[[[1.0, 0.0, 1.0]]]]), gamma=gamma).sum().backward()
        assert logits.grad.isfinite().all()


def test_batch_without_any_annotation_has_finite_loss() -> None:
    label = torch.full((1, 2, 2), IGNORE_INDEX)
    logits = torch.zeros(1, 2, 2, 2)
    nel = non_mutually_exclusive_loss(logits, label, n_masks=torch.tensor(1.0))
    assert torch.stack(list(nel.values())).isfinite().all()
    assert nel["loss_dice"] == 0
    assert cross_entropy(logits, label, n_pixels=torch.tensor(1.0)) == 0
