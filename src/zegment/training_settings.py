"""A configuration to a training setting: which losses, of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from zegment.clip import Clip
from zegment.clip_zss import ClipZss
from zegment.config import Config, LossConfig
from zegment.errors import ConfigError
from zegment.models.base import SegmentationModel
from zegment.models.dense_clip import ATTENTIONS
from zegment.objectives import (
    InductiveObjective,
    NonMutuallyExclusive,
    Objective,
    SegmentationLoss,
    SoftmaxCrossEntropy,
)
from zegment.teaching.global_learning import GlobalLearning
from zegment.teaching.local_distillation import LocalDistillation
from zegment.teaching.pixel_learning import PixelLearning
from zegment.teaching.synthesizer import Synthesizer
from zegment.teaching.teacher import Teacher
from zegment.teaching.token_cache import TokenCache


def build_objective(
    config: Config, clip: Clip, model: SegmentationModel, text_embeddings: Tensor, seen: list[int]
) -> Objective[Any, Any]:
    """Return what a model is to be trained for.

    Args:
        config: Of the run.
        clip: Whose image tower may teach.
        model: For its normalisation.
        text_embeddings: Unit embeddings of the seen classes alone, float (S, D).
        seen: Ids of the seen classes in the data set's labels.

    Raises:
        ConfigError: If the synthesizer's heads do not divide the embedding.
    """
    if config.model.kind == "student":
        return _clip_zss(config, clip, model, text_embeddings, seen)
    loss: SegmentationLoss = non_mutually_exclusive(config.loss)
    if config.model.kind == "one_stage":
        loss = SoftmaxCrossEntropy()
    return InductiveObjective(text_embeddings, seen=seen, loss=loss)


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


def _clip_zss(
    config: Config, clip: Clip, model: SegmentationModel, text_embeddings: Tensor, seen: list[int]
) -> ClipZss:
    own, dim = config.teaching, text_embeddings.shape[1]
    if own.pseudo_classes == "synthesizer" and dim % own.synthesizer_heads:
        raise ConfigError(
            f"teaching.synthesizer_heads: must divide the {dim} dimensions of "
            f"'{config.model.clip}', got {own.synthesizer_heads}"
        )
    teacher = Teacher(
        clip.image_tower,
        ATTENTIONS[own.attention](),
        mean=clip.mean,
        std=clip.std,
        student_mean=model.mean.tolist(),
        student_std=model.std.tolist(),
        name=clip.fingerprint,
    )
    teach = teacher if own.cache is None else TokenCache(teacher, Path(own.cache))
    return ClipZss(
        text_embeddings,
        seen=seen,
        teacher=teach,
        mask_losses=[non_mutually_exclusive(config.loss), SoftmaxCrossEntropy()],
        global_learning=GlobalLearning(
            dim,
            bank_size=own.bank_size,
            temperature=own.global_temperature,
            weight=own.global_weight,
        )
        if own.global_weight
        else None,
        pixel_learning=PixelLearning(
            own.window_sizes,
            iterations=own.iterations,
            threshold=own.fusion_threshold,
            smallest=own.smallest_group,
        )
        if own.pseudo_classes != "none"
        else None,
        synthesizer=Synthesizer(dim, layers=own.synthesizer_layers, heads=own.synthesizer_heads)
        if own.pseudo_classes == "synthesizer"
        else None,
        local_distillation=LocalDistillation(
            teacher, temperature=own.local_temperature, weight=own.local_weight
        )
        if own.local_weight
        else None,
        temperature=config.model.student.temperature,
        pseudo_temperature=own.pseudo_temperature,
        stride=own.loss_stride,
    )
