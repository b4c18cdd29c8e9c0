"""Losses by parts: equal to the equations at full size, in little memory, for every option."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from comparisons.plain_loss import full_size, plain_cross_entropy, plain_mask_losses
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from zegment import by_parts
from zegment.bilinear import Bilinear
from zegment.data import IGNORE_INDEX
from zegment.grid_losses import focal_and_dice
from zegment.objectives import (
    InductiveObjective,
    NonMutuallyExclusive,
    SegmentationLoss,
    SoftmaxCrossEntropy,
)

SIZES = [
    ((4, 5), (16, 20)),
    ((7, 3), (19, 11)),  # no whole ratio
    ((6, 5), (6, 5)),  # nothing to resize
    ((9, 8), (4, 3)),  # smaller
    ((3, 8), (9, 5)),  # one side larger, one smaller
    ((1, 1), (5, 4)),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"alpha": None},
    {"alpha": 0.75, "gamma": 0.0},
    {"gamma": 0.5},
    {"gamma": 1.0, "squared_dice": True},
    {"gamma": 2.5, "ignored_are_negatives": False},
    {"alpha": None, "gamma": 0.3, "squared_dice": True, "ignored_are_negatives": False},
    {"focal_weight": 3.0, "dice_weight": 7.0},
]


def case(
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    scale: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """Logits of 7 classes, of which images have some, and labels with ignored pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 7, *grid, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (3, *size), generator=generator)
    label[0, : size[0] // 2] = IGNORE_INDEX
    label[2] = 6
    return logits.to(dtype), label


def gradients(losses: dict[str, Tensor], logits: Tensor) -> dict[str, Tensor]:
    return {
        name: torch.autograd.grad(loss, logits, retain_graph=True)[0]
        for name, loss in losses.items()
    }


def assert_same(
    loss: SegmentationLoss, plain: Any, logits: Tensor, label: Tensor, tolerance: float
) -> None:
    """Compare values and the gradient of each loss on its own, relative to the largest number."""
    logits = logits.detach().requires_grad_()
    exact = logits.detach().double().requires_grad_()
    ours, expected = loss(logits, label), plain(exact, label)
    assert ours.keys() == expected.keys()
    slopes, expected_slopes = gradients(ours, logits), gradients(expected, exact)
    for name in ours:
        for own, theirs in ((ours, expected), (slopes, expected_slopes)):
            assert own[name].dtype == logits.dtype
            difference = (own[name].double() - theirs[name]).abs().max()
            assert difference <= tolerance * theirs[name].abs().max(), name


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_parts, "CPU_NUMBERS", 40)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_mask_losses_of_any_size_are_those_at_full_size(
    grid: tuple[int, int], size: tuple[int, int], seed: int, tiny_parts: None
) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        logits, label = case(grid, size, seed=seed, dtype=dtype)
        assert_same(NonMutuallyExclusive(), plain_mask_losses, logits, label, tolerance)


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_mask_losses_have_every_option_of_the_equations(
    options: dict[str, Any], scale: float
) -> None:
    """Up to logits where a probability is 1 or 0 to the last bit."""
    # Single precision cannot say by more than 1e-5 how large a resized logit of 300 is.
    single = 1e-5 if scale < 100 else 1e-4
    for dtype, tolerance in ((torch.float32, single), (torch.float64, 1e-10)):
        logits, label = case((5, 4), (13, 9), dtype=dtype, scale=scale)
        assert_same(
            NonMutuallyExclusive(**options),
            partial(plain_mask_losses, **options),
            logits,
            label,
            tolerance,
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_planes_that_are_right_beyond_doubt_have_the_slopes_of_the_equations(gamma: float) -> None:
    logits = -25 + torch.randn(2, 3, 4, 5, dtype=torch.float64)
    label = torch.full((2, 9, 8), IGNORE_INDEX)
    slopes = []
    for loss in (NonMutuallyExclusive(gamma=gamma), partial(plain_mask_losses, gamma=gamma)):
        own = logits.clone().requires_grad_()
        slopes.append(gradients(loss(own, label), own)["loss_mask"])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=0)
    assert slopes[0].all()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_cross_entropy_of_any_size_is_that_at_full_size(
    grid: tuple[int, int], size: tuple[int, int], seed: int, tiny_parts: None
) -> None:
    def plain(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        return plain_cross_entropy(logits, label, count=(label != IGNORE_INDEX).sum())

    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        logits, label = case(grid, size, seed=seed, dtype=dtype)
        assert_same(SoftmaxCrossEntropy(), plain, logits, label, tolerance)


LOSSES = pytest.mark.parametrize(
    "loss", [NonMutuallyExclusive(squared_dice=True), SoftmaxCrossEntropy()], ids=["nel", "ce"]
)


@LOSSES
def test_gradients_are_those_of_finite_differences(loss: SegmentationLoss) -> None:
    logits, label = case((2, 3), (5, 4), dtype=torch.float64, scale=1.0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(loss(x, label).values()), logits)


@LOSSES
def test_sizes_of_parts_and_threads_change_nothing(
    loss: SegmentationLoss, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, label = case((5, 4), (13, 9))
    logits.requires_grad_()

    def gradient() -> Tensor:
        return torch.stack(list(gradients(loss(logits, label), logits).values()))

    found = []
    for numbers in (1, 130, 10**6):
        monkeypatch.setattr(by_parts, "CPU_NUMBERS", numbers)
        found.append(gradient())
        assert torch.equal(found[-1], gradient())
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as pool:  # and threads that are started later
            assert pool.submit(torch.get_num_threads).result() == threads
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-7)


@LOSSES
def test_half_precision_logits_are_computed_with_in_single_precision(
    loss: SegmentationLoss,
) -> None:
    logits, label = case((5, 4), (13, 9), dtype=torch.bfloat16)
    logits.requires_grad_()
    exact = logits.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = loss(logits, label)
    expected = loss(exact, label)
    slopes, expected_slopes = gradients(ours, logits), gradients(expected, exact)
    for name in ours:
        assert torch.equal(ours[name], expected[name])
        assert torch.equal(slopes[name], expected_slopes[name].bfloat16())


@LOSSES
def test_without_gradients_losses_are_the_same(loss: SegmentationLoss) -> None:
    logits, label = case((5, 4), (13, 9))
    constant = loss(logits, label)
    learnt = loss(logits.requires_grad_(), label)
    with torch.no_grad():
        unwatched = loss(logits, label)
    for name, value in learnt.items():
        assert value.requires_grad
        for other in (constant, unwatched):
            assert not other[name].requires_grad
            assert torch.equal(other[name], value)


@LOSSES
def test_there_is_no_second_derivative(loss: SegmentationLoss) -> None:
    logits, label = case((5, 4), (13, 9))
    logits.requires_grad_()
    total = torch.stack(list(loss(logits, label).values())).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(total, logits, create_graph=True)


@LOSSES
def test_images_without_annotations_teach_nothing_but_absence(loss: SegmentationLoss) -> None:
    logits, label = case((5, 4), (13, 9))
    label[:] = IGNORE_INDEX
    logits.requires_grad_()
    losses = loss(logits, label)
    slopes = gradients(losses, logits)
    for name, value in losses.items():
        assert value.isfinite()
        assert bool(slopes[name].any()) is (name == "loss_mask")


@LOSSES
@pytest.mark.parametrize("wrong", [7, 254, -1])
def test_unknown_labels_are_refused(loss: SegmentationLoss, wrong: int) -> None:
    logits, label = case((5, 4), (13, 9))
    label[1, 2, 3] = wrong
    with pytest.raises(ValueError, match=str(wrong)):
        loss(logits, label, count=torch.ones(()))


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor that an operation returned has in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                stored = value.untyped_storage().nbytes() // value.element_size()
                self.numbers = max(self.numbers, stored)
        return result


@LOSSES
@pytest.mark.parametrize("threads", [1], indirect=True)  # others are not watched
def test_no_tensor_is_larger_than_a_part_the_grid_or_the_labels(
    loss: SegmentationLoss, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_parts, "CPU_NUMBERS", 7000)
    logits, label = torch.randn(2, 30, 8, 8, requires_grad=True), torch.zeros(2, 60, 60).long()
    label[:, 20:] = 7
    with Largest() as largest:
        torch.stack(list(loss(logits, label).values())).sum().backward()
    assert largest.numbers <= max(7200, 2 * logits.numel())  # a part; both gradients
    assert full_size(logits, label).numel() == 216_000


class ByEquations:
    """The mask loss as its equations are written, where objectives want a loss."""

    amount = NonMutuallyExclusive().amount
    __call__ = staticmethod(plain_mask_losses)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Conv2d(8, 8, 1))

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        return torch.einsum("bchw,kc->bkhw", self.layers(image), text_embeddings)


def test_training_ends_at_the_parameters_that_the_equations_lead_to() -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(2, 3, 24, 20, generator=generator)
    label = torch.randint(0, 5, (2, 24, 20), generator=generator)
    text = F.normalize(torch.randn(4, 8, generator=generator), dim=1)

    def trained(loss: SegmentationLoss) -> dict[str, Tensor]:
        model = Small()
        objective = InductiveObjective(text, seen=[0, 1, 3, 4], loss=loss)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        for _ in range(8):
            optimizer.zero_grad()
            losses = objective(model, objective.prepare(image, label))
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        return {k: v.detach() for k, v in model.state_dict().items()}

    ours, expected, before = trained(NonMutuallyExclusive()), trained(ByEquations()), Small()
    for name, start in before.state_dict().items():
        assert not torch.allclose(ours[name], start, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_resizing_and_its_transpose_are_those_of_interpolation(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    planes = torch.randn(4, *grid, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, *size, dtype=torch.float64)
    resize = Bilinear.between(planes, size)
    expected = F.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize(planes), expected)
    (slope,) = torch.autograd.grad(expected, planes, weights)
    torch.testing.assert_close(resize.transposed(weights), slope)
    reach, stripe = resize.stripe(slice(1, 3))
    torch.testing.assert_close(stripe(planes[:, reach]), expected[:, 1:3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@LOSSES
def test_a_gpu_computes_the_same(loss: SegmentationLoss) -> None:
    logits, label = case((5, 4), (13, 9))
    here, there = logits.requires_grad_(), logits.detach().cuda().requires_grad_()
    ours, expected = loss(there, label.cuda()), loss(here, label)
    slopes, expected_slopes = gradients(ours, there), gradients(expected, here)
    for name in ours:
        torch.testing.assert_close(ours[name].cpu(), expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slopes[name].cpu(), expected_slopes[name], rtol=1e-4, atol=1e-6)


def test_halves_are_scalars_before_weighting() -> None:
    logits, label = case((5, 4), (13, 9))
    focal, dice = focal_and_dice(logits, label)
    weighted = NonMutuallyExclusive()(logits, label, count=torch.tensor(4.0))
    torch.testing.assert_close(100 * focal / 4, weighted["loss_mask"])
    torch.testing.assert_close(dice / 4, weighted["loss_dice"])
