"""Properties of what a model is trained on: targets that keep annotations, and losses by parts.

Letters: B images, S classes, K all classes, D embedding, H W pixels, h w grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from soaks.property_running import holds
from torch import Tensor
from torch.nn import functional as F

from zegment.clip_zss import ClipZss, fuse_labels
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.objectives import NonMutuallyExclusive, SegmentationLoss, SoftmaxCrossEntropy
from zegment.self_training import Oracle, TransductiveObjective, Unlabelled
from zegment.teaching.pixel_learning import NOWHERE, PixelLearning
from zegment.teaching.teacher import Tokens

DIM = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotated:
    """Labels of a batch, and what else is random about it.

    Attributes:
        label: Ids, `IGNORE_INDEX` or `PADDING_INDEX`, int64 (B, H, W).
        classes: K.
        unseen: Ids of the unseen classes, some but not all.
        seed: Of whatever a check draws itself.
    """

    label: Tensor
    classes: int
    unseen: tuple[int, ...]
    seed: int

    @property
    def seen(self) -> list[int]:
        """Ids of the other classes."""
        return [k for k in range(self.classes) if k not in self.unseen]

    @property
    def of_unseen(self) -> Tensor:
        """Where the labels hold an unseen class, bool (B, H, W)."""
        return torch.isin(self.label, torch.tensor(self.unseen))

    def random(self, *shape: int) -> Tensor:
        """Return normal numbers that only the seed decides about."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(self.seed + 1))

    def hidden(self) -> Tensor:
        """Return the labels without the annotations of unseen classes."""
        return self.label.masked_fill(self.of_unseen, IGNORE_INDEX)

    def exchanged(self) -> Tensor:
        """Return the labels with other unseen classes where there are unseen ones."""
        ids = torch.tensor(self.unseen)
        chosen = torch.randint(
            0, len(ids), self.label.shape, generator=torch.Generator().manual_seed(self.seed + 2)
        )
        return torch.where(self.of_unseen, ids[chosen], self.label)


@st.composite
def annotations(draw: st.DrawFn) -> Annotated:
    """Draw labels in blocks of one class, with unannotated pixels and padding."""
    classes = draw(st.sampled_from([2, 3, 5, 12]))
    count = draw(st.integers(1, classes - 1))
    unseen = tuple(draw(st.permutations(range(classes)))[:count])
    batch, height, width = draw(
        st.tuples(st.integers(1, 3), st.integers(1, 33), st.integers(1, 33))
    )
    block, seed = draw(st.integers(1, 9)), draw(st.integers(0, 2**31))
    values = torch.tensor([*range(classes), IGNORE_INDEX, IGNORE_INDEX])
    places = torch.randint(
        0,
        len(values),
        (batch, -(-height // block), -(-width // block)),
        generator=torch.Generator().manual_seed(seed),
    )
    label = values[places].repeat_interleave(block, 1).repeat_interleave(block, 2)
    label = label[:, :height, :width].clone()
    label[:, height - draw(st.integers(0, height)) :] = PADDING_INDEX
    return Annotated(label=label, classes=classes, unseen=unseen, seed=seed)


def pupil(drawn: Annotated) -> ClipZss:
    """Return the setting in which fused labels are made; its losses are not asked for."""

    def nobody(image: Tensor) -> Tokens:
        raise AssertionError(f"asked about images {tuple(image.shape)}")

    return ClipZss(
        F.normalize(drawn.random(len(drawn.seen), DIM), dim=-1),
        seen=drawn.seen,
        teacher=nobody,
        mask_losses=[],
        global_learning=None,
        pixel_learning=PixelLearning((0.25, 0.5), threshold=0.5),
        synthesizer=None,
    )


@holds(
    short=60,
    published=1500,
    drawn=annotations(),
    grid=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def fused_labels_keep_annotated_pixels_and_know_of_no_unseen_class(
    drawn: Annotated, grid: tuple[int, int]
) -> None:
    """Padding gets no group, and every group's number is one that the image has."""
    tokens = F.normalize(drawn.random(len(drawn.label), *grid, DIM), dim=-1)
    setting, seen = pupil(drawn), drawn.seen
    fused, centres, present = setting.fused_labels(drawn.label, tokens)
    for rank, identity in enumerate(seen):
        assert torch.equal(fused == rank, drawn.label == identity)
    assert (fused[drawn.label == PADDING_INDEX] == IGNORE_INDEX).all()
    for image, there in zip(fused, present, strict=True):
        groups = image[(image != IGNORE_INDEX) & (image >= len(seen))] - len(seen)
        assert there[groups].all()
    assert torch.isfinite(centres).all()
    for other in (drawn.hidden(), drawn.exchanged()):
        again, others, there = setting.fused_labels(other, tokens)
        assert torch.equal(again, fused)
        assert torch.equal(others, centres)
        assert torch.equal(there, present)


@holds(short=60, published=3000, drawn=annotations(), groups=st.integers(1, 300))
def any_groups_at_all_leave_annotated_pixels_as_they_are(drawn: Annotated, groups: int) -> None:
    """Even groups that claim annotated pixels."""
    generator = torch.Generator().manual_seed(drawn.seed)
    claimed = torch.randint(NOWHERE, groups, drawn.label.shape, generator=generator)
    target = drawn.label.where(drawn.label < drawn.classes, IGNORE_INDEX)
    fused = fuse_labels(target, claimed, num_seen=drawn.classes)
    annotated = target != IGNORE_INDEX
    assert torch.equal(fused[annotated], target[annotated])
    expected = torch.where(claimed == NOWHERE, IGNORE_INDEX, claimed + drawn.classes)
    assert torch.equal(fused[~annotated], expected[~annotated])


@holds(
    short=60,
    published=2500,
    drawn=annotations(),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    region=st.sampled_from([Unlabelled(), Oracle()]),
)
def pseudo_labels_keep_seen_annotations_and_do_not_read_unseen_ones(
    drawn: Annotated, grid: tuple[int, int], region: Unlabelled | Oracle
) -> None:
    """Neither region tells which unseen class is there; "unlabelled" not even where one is."""
    logits = drawn.random(len(drawn.label), drawn.classes, *grid)
    seen = torch.ones(drawn.classes, dtype=torch.bool)
    seen[list(drawn.unseen)] = False
    setting = TransductiveObjective(
        torch.eye(drawn.classes), seen=seen, loss=SoftmaxCrossEntropy(), region=region
    )
    target = setting.target(drawn.label, logits)
    annotated = torch.isin(drawn.label, torch.tensor(drawn.seen))
    assert torch.equal(target[annotated], drawn.label[annotated])
    guessed = (target != IGNORE_INDEX) & ~annotated
    assert torch.isin(target[guessed], torch.tensor(drawn.unseen)).all()
    padding = drawn.label == PADDING_INDEX
    assert (target[padding] == IGNORE_INDEX).all()
    if isinstance(region, Unlabelled):
        assert torch.equal(guessed, ~annotated & ~padding)
        assert torch.equal(setting.target(drawn.hidden(), logits), target)
    else:
        assert torch.equal(guessed, drawn.of_unseen)
    assert torch.equal(setting.target(drawn.exchanged(), logits), target)


LOSSES: tuple[SegmentationLoss, ...] = (
    NonMutuallyExclusive(),
    NonMutuallyExclusive(alpha=None, gamma=0.5, squared_dice=True, ignored_are_negatives=False),
    SoftmaxCrossEntropy(),
)


def valued(
    loss: SegmentationLoss, logits: Tensor, target: Tensor, count: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the value of each named loss and its gradient, (B, K, h, w)."""
    leaf = logits.clone().requires_grad_()
    return {
        name: (value.detach(), torch.autograd.grad(value, leaf, retain_graph=True)[0])
        for name, value in loss(leaf, target, count=count).items()
    }


@holds(
    short=16,
    published=350,
    drawn=annotations(),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.integers(1, 2),
    order=st.randoms(use_true_random=False),
)
def losses_of_parts_add_up_and_the_order_of_images_and_classes_does_not_matter(
    drawn: Annotated,
    grid: tuple[int, int],
    size: int,
    order: Any,  # noqa: ANN401 - a generator of hypothesis
) -> None:
    """In float64, where only the order of sums is left to differ; gradients as well as values."""
    target = drawn.label.where(drawn.label < drawn.classes, IGNORE_INDEX)
    batch, classes = len(target), drawn.classes
    logits = 3 * drawn.random(batch, classes, *grid).double()
    slices = [slice(start, start + size) for start in range(0, batch, size)]
    images, place = list(range(batch)), list(range(classes))
    order.shuffle(images)
    order.shuffle(place)
    new = torch.tensor(place)
    renamed = torch.where(target == IGNORE_INDEX, target, new[target.clamp(max=classes - 1)])
    for loss in LOSSES:
        count = loss.amount(target, classes).clamp(min=1).double()
        whole = valued(loss, logits, target, count)
        parts = [valued(loss, logits[own], target[own], count) for own in slices]
        shuffled = valued(loss, logits[images], target[images], count)
        permuted = valued(loss, logits[:, new.argsort()], renamed, count)
        for name, (value, slope) in whole.items():
            together = torch.stack([part[name][0] for part in parts]).sum()
            for other in (together, shuffled[name][0], permuted[name][0]):
                torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-12)
            joined = torch.cat([part[name][1] for part in parts])
            for found, expected in (
                (joined, slope),
                (shuffled[name][1], slope[images]),
                (permuted[name][1][:, new], slope),
            ):
                torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


PROPERTIES = (
    fused_labels_keep_annotated_pixels_and_know_of_no_unseen_class,
    any_groups_at_all_leave_annotated_pixels_as_they_are,
    pseudo_labels_keep_seen_annotations_and_do_not_read_unseen_ones,
    losses_of_parts_add_up_and_the_order_of_images_and_classes_does_not_matter,
)
