"""A configuration to a training setting: which stages, and which losses of what in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zegment.clip import Clip
from zegment.clip_zss import ClipZss
from zegment.config import Config, OptimConfig
from zegment.data.classes import BACKGROUND
from zegment.described import DescribedObjective
from zegment.errors import ConfigError
from zegment.models.base import SegmentationModel
from zegment.objectives import InductiveObjective, Objective
from zegment.self_training import REGIONS, TransductiveObjective
from zegment.teaching.global_learning import GlobalLearning
from zegment.teaching.local_distillation import LocalDistillation
from zegment.teaching.pixel_learning import PixelLearning
from zegment.teaching.synthesizer import Synthesizer
from zegment.teaching.token_cache import TokenCache
from zegment.text_tower import TextTower
from zegment.training.guides import build_guide, build_teacher
from zegment.training.mask_losses import mask_loss, taught_losses
from zegment.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of a run with one objective and one schedule.

    Attributes:
        name: ``inductive``, ``supervised`` or ``self-training``.
        first: Steps of the run before it.
        steps: Steps that it takes.
        optim: Its schedule, which may be longer than the stage.
    """

    name: str
    first: int
    steps: int
    optim: OptimConfig


def stages(config: Config) -> list[Stage]:
    """Return the stages of a run, in order.

    Source:
        ZegCLIP released configurations: self-training starts from the half-way checkpoint of the
        inductive schedule, with an optimizer and a schedule of its own for the other half.
    """
    half, steps = config.inductive_steps, config.optim.steps
    if config.setting != "transductive":
        return [Stage(name=config.setting, first=0, steps=steps, optim=config.optim)]
    rest = replace(config.optim, steps=steps - half)
    after = Stage(name="self-training", first=half, steps=steps - half, optim=rest)
    if half == 0 or config.self_training.start is not None:
        return [after]
    return [Stage(name="inductive", first=0, steps=half, optim=config.optim), after]


def seen_names(config: Config, names: Sequence[str], unseen: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose masks a run may learn from.

    Raises:
        ConfigError: If the setting is transductive and no class is unseen.
    """
    if config.setting == "transductive" and not unseen:
        raise ConfigError(
            "setting: transductive training needs unseen classes, and the data has none; name "
            "some in data.unseen, or use supervised"
        )
    return tuple(n for n in names if config.setting == "supervised" or n not in unseen)


def build_self_training(
    config: Config, clip: Clip, model: SegmentationModel, text_embeddings: Tensor, seen: list[int]
) -> TransductiveObjective:
    """Return what a model is trained for once it makes its own labels.

    Args:
        config: Of the run.
        clip: Whose image tower may guess.
        model: For its normalisation.
        text_embeddings: Unit embeddings of all classes, float (S, D).
        seen: Ids of the seen classes in the data set's labels.

    Raises:
        ModelNotFoundError: If the checkpoint that is to guess does not exist.
        CheckpointError: If it is damaged, or was trained with the words of another CLIP.
        VocabularyError: If it is an exported one that does not know the classes.
        ConfigError: If it is an exported one, and onnxruntime is not installed.
    """
    own = config.self_training
    flags = torch.zeros(len(text_embeddings), dtype=torch.bool)
    flags[seen] = True
    return TransductiveObjective(
        text_embeddings,
        seen=flags,
        loss=mask_loss(config.loss, model),
        region=REGIONS[own.region](),
        guide=build_guide(config, clip, model, text_embeddings),
        guided_steps=math.ceil((config.optim.steps - config.inductive_steps) * own.guided_share),
    )


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
    return InductiveObjective(text_embeddings, seen=seen, loss=mask_loss(config.loss, model))


def build_described(
    config: Config,
    model: SegmentationModel,
    vocabulary: Vocabulary,
    text_tower: TextTower,
    sentences: Sequence[str],
) -> DescribedObjective:
    """Return what a model is trained for where each image is described in a sentence.

    Args:
        config: Of the run.
        model: Whose way of scoring chooses the loss, unless ``loss.kind`` does.
        vocabulary: The background and one class more.
        text_tower: Encodes the sentences, as they are.
        sentences: One for each item of the data set.

    Raises:
        ConfigError: If model, setting or classes are not made for it.
    """
    names = vocabulary.class_names
    places = [i for i, name in enumerate(names) if name != BACKGROUND]
    if config.model.kind == "student" or config.setting == "transductive" or len(places) != 1:
        raise ConfigError(
            "data.train.descriptions: sentences are for a zegclip or one_stage model in the "
            f"inductive or supervised setting, with two classes, one of them {BACKGROUND}; leave "
            "them out"
        )
    return DescribedObjective(
        vocabulary.embed(text_tower),
        place=places[0],
        sentences=text_tower(sentences),
        loss=mask_loss(config.loss, model),
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
    teacher = build_teacher(own.attention, clip, model)
    teach = teacher if own.cache is None else TokenCache(teacher, Path(own.cache))
    return ClipZss(
        text_embeddings,
        seen=seen,
        teacher=teach,
        mask_losses=taught_losses(config.loss),
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
