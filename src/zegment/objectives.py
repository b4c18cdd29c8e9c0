"""What a model is trained for: labels and a model in, losses out. The leak guard lives here.

Letters: B images, S classes that the objective knows, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.data import IGNORE_INDEX
from zegment.errors import LeakError
from zegment.losses import count_masks, cross_entropy, non_mutually_exclusive_loss


class SegmentationLoss(Protocol):
    """Full-size logits and targets to named losses that are to be added."""

    def count(self, target: Tensor, num_classes: int) -> Tensor:
        """Return how much a batch of targets (B, H, W) holds of what the loss averages over."""

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return scalar losses for logits (B, S, H, W) and targets (B, H, W).

        Args:
            logits: Full-size logits, float (B, S, H, W).
            target: Class ranks or `IGNORE_INDEX`, int (B, H, W).
            count: What to divide by; None counts these targets. Parts of one batch that are
                given the count of the whole add up to the loss of the whole.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class NonMutuallyExclusive:
    """ZegCLIP's NEL; the fields are those of `zegment.losses.non_mutually_exclusive_loss`."""

    focal_weight: float = 100.0
    dice_weight: float = 1.0
    alpha: float | None = 0.25
    gamma: float = 2.0
    squared_dice: bool = False
    ignored_are_negatives: bool = True

    def count(self, target: Tensor, num_classes: int) -> Tensor:
        """Return the number of (image, class) masks, averaged over processes, at least 1."""
        return _mean_over_processes(count_masks(target, num_classes)).clamp(min=1)

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``loss_mask`` and ``loss_dice``; see `SegmentationLoss`."""
        return non_mutually_exclusive_loss(
            logits,
            target,
            n_masks=self.count(target, logits.shape[1]) if count is None else count,
            focal_weight=self.focal_weight,
            dice_weight=self.dice_weight,
            alpha=self.alpha,
            gamma=self.gamma,
            squared_dice=self.squared_dice,
            ignored_are_negatives=self.ignored_are_negatives,
        )


class SoftmaxCrossEntropy:
    """Cross-entropy over annotated pixels, the baseline's loss."""

    def count(self, target: Tensor, num_classes: int) -> Tensor:
        """Return the number of annotated pixels, averaged over processes, at least 1."""
        del num_classes
        return _mean_over_processes((target != IGNORE_INDEX).sum().float()).clamp(min=1)

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``loss_ce``; see `SegmentationLoss`."""
        count = self.count(target, logits.shape[1]) if count is None else count
        return {"loss_ce": cross_entropy(logits, target, n_pixels=count)}


class Objective(Protocol):
    """A training setting."""

    def count(self, label: Tensor) -> Tensor | None:
        """Return what the losses of a whole batch of labels (B, H, W) are divided by.

        None means that it depends on the model, so each part of the batch counts for itself.
        """

    def __call__(
        self, model: nn.Module, image: Tensor, label: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return named scalar losses.

        Args:
            model: Any model of the one interface, possibly wrapped.
            image: Normalised images, float (B, 3, H, W).
            label: Ids as the data set has them, int (B, H, W).
            count: From `count`, when this is one part of a larger batch.
        """


class InductiveObjective:
    """Learns from the masks of seen classes and knows of no other class.

    It holds one embedding per seen class and a table that turns every other label, known or not,
    into `IGNORE_INDEX`, so neither id, name nor embedding of an unseen class can reach the loss.
    With every class seen this is fully supervised training.

    Args:
        text_embeddings: Unit embeddings of the seen classes alone, in the order of ``seen``,
            float (S, D).
        seen: Ids of the seen classes in the data set's labels.
        loss: What the logits and targets are turned into.

    Raises:
        LeakError: If the number of embeddings differs from the number of seen classes.
        ValueError: If a seen id is repeated or is no label below `IGNORE_INDEX`.

    Source:
        ZegCLIP section 3.1 and released code (``base_class``).
    """

    def __init__(
        self, text_embeddings: Tensor, *, seen: Sequence[int], loss: SegmentationLoss
    ) -> None:
        if len(set(seen)) != len(seen) or any(not 0 <= i < IGNORE_INDEX for i in seen):
            raise ValueError(
                f"seen ids must be distinct and in 0 … {IGNORE_INDEX - 1}, not {list(seen)}"
            )
        if len(text_embeddings) != len(seen):
            raise LeakError(
                f"{len(text_embeddings)} text embeddings for {len(seen)} seen classes: an "
                "inductive objective may know the seen classes only"
            )
        self.text_embeddings = text_embeddings.detach()
        self.loss = loss
        self._table = torch.full((IGNORE_INDEX + 1,), IGNORE_INDEX, dtype=torch.long)
        self._table[torch.tensor(seen, dtype=torch.long)] = torch.arange(len(seen))

    def target(self, label: Tensor) -> Tensor:
        """Return labels as ranks 0 … S − 1 among the seen classes, else `IGNORE_INDEX`, (B, H, W).

        Raises:
            IndexError: If a label is negative or above `IGNORE_INDEX`.
        """
        if label.min() < 0:
            raise IndexError(f"label {int(label.min())} is negative")
        return self._table.to(label.device)[label.long()]

    def count(self, label: Tensor) -> Tensor:
        """Return what the losses of a whole batch are divided by; see `Objective`."""
        return self.loss.count(self.target(label), len(self.text_embeddings))

    def __call__(
        self, model: nn.Module, image: Tensor, label: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        logits = full_size_logits(model, image, self.text_embeddings, label)
        return self.loss(logits, self.target(label), count=count)


class TransductiveObjective:
    """Self-training: seen classes from their masks, unseen ones from the model's own prediction.

    The region in which unseen classes are guessed is where the labels hold an unseen class, as
    in the released code. That uses the true location of unseen pixels, though not their class.

    Args:
        text_embeddings: Unit embeddings of all classes, float (S, D).
        seen: Which of them have masks, bool (S,).
        loss: What the logits and targets are turned into.

    Source:
        ZegCLIP section 3.5 and released code (``self_training``); the paper's † variant.
    """

    def __init__(self, text_embeddings: Tensor, *, seen: Tensor, loss: SegmentationLoss) -> None:
        if seen.shape != text_embeddings.shape[:1]:
            raise ValueError(f"{len(seen)} seen flags for {len(text_embeddings)} embeddings")
        self.text_embeddings = text_embeddings.detach()
        self.seen = seen
        self.loss = loss

    def target(self, label: Tensor, logits: Tensor) -> Tensor:
        """Return labels in which each unseen pixel holds the likeliest unseen class, (B, H, W).

        Args:
            label: Ids of all classes or `IGNORE_INDEX`, int (B, H, W).
            logits: The model's own logits at the size of ``label``, float (B, S, H, W).
        """
        seen = self.seen.to(label.device)
        guess = logits.detach().masked_fill(seen[:, None, None], -torch.inf).argmax(dim=1)
        annotated = torch.isin(label, seen.nonzero().flatten()) | (label == IGNORE_INDEX)
        return torch.where(annotated, label, guess)

    def count(self, label: Tensor) -> None:
        """Return None: pseudo labels, and so their masks, come from the model."""
        del label

    def __call__(
        self, model: nn.Module, image: Tensor, label: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        logits = full_size_logits(model, image, self.text_embeddings, label)
        return self.loss(logits, self.target(label, logits), count=count)


def full_size_logits(
    model: nn.Module, image: Tensor, text_embeddings: Tensor, label: Tensor
) -> Tensor:
    """Return the model's logits bilinearly resized to the label's size, float (B, S, H, W)."""
    logits = model(image, text_embeddings.to(image.device)).float()
    return F.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=False)


def _mean_over_processes(value: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        return value / torch.distributed.get_world_size()
    return value
