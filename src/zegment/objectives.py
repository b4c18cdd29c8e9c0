"""What a model is trained for: labels and a model in, losses out. The leak guard lives here.

Letters: B images, S classes that the objective knows, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.distributed import divisor
from zegment.errors import LeakError
from zegment.grid_cross_entropy import summed_cross_entropy
from zegment.grid_losses import focal_and_dice
from zegment.losses import count_masks
from zegment.models.base import SegmentationModel


class SegmentationLoss(Protocol):
    """Logits on the feature grid and full-size targets to named losses that are to be added."""

    def amount(self, target: Tensor, num_classes: int) -> Tensor:
        """Return how much targets (B, H, W) hold of what the loss averages over, float ()."""

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return scalar losses of the logits, resized bilinearly to the size of the targets.

        Args:
            logits: Logits of any size, float (B, S, h, w).
            target: Class ranks or `IGNORE_INDEX`, int (B, H, W).
            count: What to divide by; None counts these targets. Parts of one batch that are
                given the count of the whole add up to the loss of the whole.
        """


def count_targets(loss: SegmentationLoss, target: Tensor, num_classes: int) -> Tensor:
    """Return what the loss of a batch is divided by; see `zegment.distributed.divisor`."""
    return divisor(loss.amount(target, num_classes))


@dataclass(frozen=True, slots=True, kw_only=True)
class NonMutuallyExclusive:
    """ZegCLIP's NEL; the fields are those of `zegment.losses.non_mutually_exclusive_loss`."""

    focal_weight: float = 100.0
    dice_weight: float = 1.0
    alpha: float | None = 0.25
    gamma: float = 2.0
    squared_dice: bool = False
    ignored_are_negatives: bool = True

    def amount(self, target: Tensor, num_classes: int) -> Tensor:
        """Return the number of (image, class) masks."""
        return count_masks(target, num_classes)

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``loss_mask`` and ``loss_dice``; see `SegmentationLoss`."""
        count = count_targets(self, target, logits.shape[1]) if count is None else count
        focal, dice = focal_and_dice(
            logits,
            target,
            alpha=self.alpha,
            gamma=self.gamma,
            squared_dice=self.squared_dice,
            ignored_are_negatives=self.ignored_are_negatives,
        )
        return {
            "loss_mask": self.focal_weight * focal / count,
            "loss_dice": self.dice_weight * dice / count,
        }


class SoftmaxCrossEntropy:
    """Cross-entropy over annotated pixels, the baseline's loss."""

    def amount(self, target: Tensor, num_classes: int) -> Tensor:
        """Return the number of annotated pixels."""
        del num_classes
        return (target != IGNORE_INDEX).sum().float()

    def __call__(
        self, logits: Tensor, target: Tensor, *, count: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``loss_ce``; see `SegmentationLoss`."""
        count = count_targets(self, target, logits.shape[1]) if count is None else count
        return {"loss_ce": summed_cross_entropy(logits, target) / count}


def training_logits(model: nn.Module, image: Tensor, text_embeddings: Tensor) -> list[Tensor]:
    """Return the logits that losses are computed of, those of the prediction first.

    Anything that makes logits of images and text embeddings can be trained; a segmenter may have
    more of them, see `SegmentationModel.training_logits`.
    """
    if isinstance(model, SegmentationModel):
        return model.training_logits(image, text_embeddings)
    return [model(image, text_embeddings)]


def named_losses(
    loss: SegmentationLoss,
    logits: Sequence[Tensor],
    target: Tensor,
    *,
    count: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the losses of every logits, to be added.

    Args:
        loss: What each is held against the target with.
        logits: From `training_logits`. Losses of all but the first are called ``loss_mask_0`` and
            so on, as released.
        target: See `SegmentationLoss`.
        count: Likewise.
    """
    losses = loss(logits[0], target, count=count)
    for i, further in enumerate(logits[1:]):
        own = loss(further, target, count=count)
        losses |= {f"{name}_{i}": value for name, value in own.items()}
    return losses


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """The images of one optimizer step and what is to be learnt on them.

    Attributes:
        image: Normalised images, float (B, 3, H, W).
        label: What the objective that made the batch wants to read, int (B, H, W).
        count: What the losses are divided by, so that parts add up to the whole; None if that is
            known only once a model has seen every part, see `Objective.gradient_scale`.
        text_embeddings: Unit embeddings of each image's own classes, float (B, S, D); None where
            all images have the same.
    """

    image: Tensor
    label: Tensor
    count: Tensor | None = None
    text_embeddings: Tensor | None = None

    def split(self, size: int) -> list[LabelledBatch]:
        """Return parts of at most ``size`` images, in order."""
        text = self.text_embeddings
        places = [slice(start, start + size) for start in range(0, len(self.image), size)]
        return [
            replace(
                self,
                image=self.image[own],
                label=self.label[own],
                text_embeddings=None if text is None else text[own],
            )
            for own in places
        ]


ModelT = TypeVar("ModelT", bound=nn.Module)
PreparedT = TypeVar("PreparedT")


class Objective(nn.Module, ABC, Generic[ModelT, PreparedT]):
    """A training setting; it may have parameters of its own, which are trained and then dropped."""

    @abstractmethod
    def prepare(self, image: Tensor, label: Tensor, item: Tensor | None = None) -> PreparedT:
        """Return a whole batch with all that does not depend on the model, without gradients.

        Args:
            image: Normalised images, float (B, 3, H, W).
            label: Ids as the data set has them, int (B, H, W).
            item: Which images of the data set these are, int (B,), where that is told.

        Returns:
            Something with a method ``split(size)`` for accumulating gradients, such as a
            `LabelledBatch`.
        """

    @abstractmethod
    def forward(self, model: ModelT, batch: PreparedT) -> dict[str, Tensor]:
        """Return named scalar losses, which are to be added, of a prepared batch or part of one."""

    def facts(self) -> Mapping[str, str]:
        """Return what must be the same when a run goes on, told to the user if it differs."""
        return {}

    def gradient_scale(self) -> Tensor | float:
        """Return what losses and gradients are multiplied by once every part of a step is done."""
        return 1.0


class SeenLabels(nn.Module):
    """The guard between a data set's labels and inductive training.

    It holds a table that turns every label but those of seen classes into `IGNORE_INDEX`, so
    that no id of an unseen class gets past it.

    Args:
        seen: Ids of the seen classes in the data set's labels.

    Raises:
        ValueError: If a seen id is repeated or is no label below `IGNORE_INDEX`.
    """

    table: Tensor

    def __init__(self, seen: Sequence[int]) -> None:
        super().__init__()
        if len(set(seen)) != len(seen) or any(not 0 <= i < IGNORE_INDEX for i in seen):
            raise ValueError(
                f"seen ids must be distinct and in 0 … {IGNORE_INDEX - 1}, not {list(seen)}"
            )
        table = torch.full((PADDING_INDEX + 1,), IGNORE_INDEX, dtype=torch.long)
        table[torch.tensor(seen, dtype=torch.long)] = torch.arange(len(seen))
        self.register_buffer("table", table, persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """Return labels as ranks 0 … S − 1 among the seen classes, else `IGNORE_INDEX`, (B, H, W).

        Raises:
            IndexError: If a label is negative or above `PADDING_INDEX`.
        """
        if label.min() < 0:
            raise IndexError(f"label {int(label.min())} is negative")
        ranks: Tensor = self.table[label.long()]
        return ranks


def seen_embeddings(text_embeddings: Tensor, seen: Sequence[int]) -> Tensor:
    """Return the embeddings of the seen classes, after checking that they are no more than that.

    Args:
        text_embeddings: Unit rows, float (S, D).
        seen: Ids of the seen classes.

    Raises:
        LeakError: If the number of embeddings differs from the number of seen classes.
    """
    if len(text_embeddings) != len(seen):
        raise LeakError(
            f"{len(text_embeddings)} text embeddings for {len(seen)} seen classes: an "
            "inductive objective may know the seen classes only"
        )
    return text_embeddings.detach()


class InductiveObjective(Objective[nn.Module, LabelledBatch]):
    """Learns from the masks of seen classes and knows of no other class.

    It holds one embedding per seen class, and sees labels through `SeenLabels`, so neither id,
    name nor embedding of an unseen class can reach the loss. With every class seen this is fully
    supervised training.

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

    text_embeddings: Tensor

    def __init__(
        self, text_embeddings: Tensor, *, seen: Sequence[int], loss: SegmentationLoss
    ) -> None:
        super().__init__()
        self.target = SeenLabels(seen)
        own = seen_embeddings(text_embeddings, seen)
        self.register_buffer("text_embeddings", own, persistent=False)
        self.loss = loss

    def prepare(self, image: Tensor, label: Tensor, item: Tensor | None = None) -> LabelledBatch:
        """Return a batch labelled with ranks of seen classes; see `Objective`."""
        del item
        target = self.target(label)
        count = count_targets(self.loss, target, len(self.text_embeddings))
        return LabelledBatch(image=image, label=target, count=count)

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        logits = training_logits(model, batch.image, self.text_embeddings)
        return named_losses(self.loss, logits, batch.label, count=batch.count)
