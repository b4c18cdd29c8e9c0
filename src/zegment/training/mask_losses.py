"""Which loss holds class logits against labels, by its name in a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zegment.config import LossConfig
from zegment.models.base import SegmentationModel
from zegment.objectives import NonMutuallyExclusive, SegmentationLoss, SoftmaxCrossEntropy


def non_mutually_exclusive(config: LossConfig) -> NonMutuallyExclusive:
    """Return ZegCLIP's mask loss."""
    return NonMutuallyExclusive(
        focal_weight=config.focal_weight,
        dice_weight=config.dice_weight,
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        squared_dice=config.squared_dice,
        ignored_are_negatives=config.ignored_are_negatives,
    )


def cross_entropy(config: LossConfig) -> SoftmaxCrossEntropy:
    """Return the baseline's loss, which has no options."""
    del config
    return SoftmaxCrossEntropy()


LOSSES: Mapping[str, Callable[[LossConfig], SegmentationLoss]] = {
    "non_mutually_exclusive": non_mutually_exclusive,
    "cross_entropy": cross_entropy,
}


def mask_loss(config: LossConfig, model: SegmentationModel) -> SegmentationLoss:
    """Return the loss of a model's logits.

    As released, that is ZegCLIP's for scores that are separate, and cross-entropy for those that
    vie with each other.
    """
    released = "non_mutually_exclusive" if model.separate_scores else "cross_entropy"
    return LOSSES[released if config.kind == "released" else config.kind](config)


def taught_losses(config: LossConfig) -> list[SegmentationLoss]:
    """Return the losses of a student's logits, as CLIP-ZSS has them: both, if none is chosen."""
    names = list(LOSSES) if config.kind == "released" else [config.kind]
    return [LOSSES[name](config) for name in names]
