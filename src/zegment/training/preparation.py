"""Everything that a run needs, made and checked before its first step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate.utils import set_seed

from zegment.checkpoint import restore_weights
from zegment.clip import Clip
from zegment.clip_loading import load_clip
from zegment.config import Config
from zegment.config.model import TRAINING_FREE
from zegment.data import SegmentationDataset, checked_dataset, describe
from zegment.errors import ConfigError
from zegment.models.build import build_model
from zegment.objectives import Objective
from zegment.trained import Trained, training_vocabulary
from zegment.training.launch import Launch
from zegment.training.optimization import compile_network
from zegment.training.settings import (
    Stage,
    build_described,
    build_objective,
    build_self_training,
    seen_names,
    stages,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run consists of.

    Attributes:
        train_data: Images and labels to learn from.
        val_data: Those that choose the best checkpoint; None if there are none.
        trained: The model, still as it begins.
        stages: The parts of the run, in order.
        objectives: What the model is trained for, by name of the stage.
    """

    train_data: SegmentationDataset
    val_data: SegmentationDataset | None
    trained: Trained
    stages: tuple[Stage, ...]
    objectives: Mapping[str, Objective[Any, Any]]


def prepare(config: Config, launch: Launch) -> Prepared:
    """Make and check everything that a run needs.

    Args:
        config: What to train, on what, how.
        launch: The processes that do it.

    Raises:
        ConfigError: If the configuration asks for something that cannot be trained.
        DatasetNotFoundError: If files are missing.
        DatasetError: If images, masks and class names do not fit together.
        ModelNotFoundError: If the CLIP cannot be found or downloaded.
    """
    check_trainable(config)
    own_batch = launch.share(config.optim.batch_size)
    parts = tuple(stages(config))
    train_data = checked_dataset(config.data, "train")
    validates = config.data.source == "shapes" or config.data.val is not None
    val_data = checked_dataset(config.data, "val") if validates else None
    set_seed(config.seed)
    clip = load_clip(config.model.clip, device=launch.device)
    trained = _build_model(config, clip, launch, train_data)
    objectives = {
        stage.name: _build_objective(config, stage, clip, trained, train_data).to(launch.device)
        for stage in parts
    }
    _check_crop(config, trained, own_batch)
    return Prepared(
        train_data=train_data,
        val_data=val_data,
        trained=trained,
        stages=parts,
        objectives=objectives,
    )


def check_trainable(config: Config) -> None:
    """Refuse models that there is nothing to train of."""
    if config.model.kind in TRAINING_FREE:
        raise ConfigError(f'model.kind: "{config.model.kind}" has nothing to train; evaluate it')


def _build_model(config: Config, clip: Clip, launch: Launch, data: SegmentationDataset) -> Trained:
    names, unseen = data.class_names, data.unseen
    seen = seen_names(config, names, unseen)
    model = build_model(config.model, clip).to(launch.device)
    launch.join_norms(model)
    if config.optim.gradient_checkpointing:
        model.use_gradient_checkpointing()
    if config.optim.compile:
        compile_network(model)
    trained = Trained(
        config=config,
        model=model,
        text_tower=clip.text_tower,
        fingerprint=clip.fingerprint,
        vocabulary=training_vocabulary(names, config.text.templates),
        seen=seen,
    )
    if config.self_training.start is not None and config.setting == "transductive":
        restore_weights(trained, config.self_training.start)
    return trained


def _build_objective(
    config: Config, stage: Stage, clip: Clip, trained: Trained, data: SegmentationDataset
) -> Objective[Any, Any]:
    vocabulary, model = trained.vocabulary, trained.model
    assert vocabulary is not None  # noqa: S101 - whatever is trained has one
    seen = [vocabulary.class_names.index(name) for name in trained.seen]
    if describe(data, 0) is not None:
        sentences = [describe(data, item) or "" for item in range(len(data))]
        return build_described(config, model, vocabulary, clip.text_tower, sentences)
    if stage.name == "self-training":
        embeddings = vocabulary.embed(clip.text_tower)
        return build_self_training(config, clip, model, embeddings, seen)
    # Unseen names are not even encoded.
    own = training_vocabulary(trained.seen, config.text.templates)
    return build_objective(config, clip, model, own.embed(clip.text_tower), seen)


def _check_crop(config: Config, trained: Trained, own_batch: int) -> None:
    patch, crop = trained.model.patch_size, config.augment.crop_size
    if crop is None and config.data.source == "shapes":
        crop = (config.data.image_size, config.data.image_size)
    if crop is None:
        raise ConfigError(
            "augment.crop_size: photographs differ in size, so training needs one; "
            f"for example crop_size = [{14 * patch}, {14 * patch}]"
        )
    most = config.optim.micro_batch_size or own_batch
    batch = own_batch % most or most  # the smallest pass
    try:
        trained.model.check_batch(crop, batch=batch, training=True)
    except ConfigError as error:
        raise ConfigError(
            f"augment.crop_size {list(crop)}, optim.micro_batch_size {batch}: {error}"
        ) from error
