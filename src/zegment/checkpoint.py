"""From a checkpoint folder back to a trained model.

There are four kinds: weights to be joined to the CLIP that they were trained on, and to no other;
a model on an image tower of its own; a student, which runs none; and an exported one, which runs
outside PyTorch. All but the first bring the text embeddings of their classes along.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from zegment.checkpoint_files import (
    GRAPH,
    ONNX,
    TEXT,
    WEIGHTS,
    checkpoint_folder,
    read_header,
)
from zegment.checkpoint_parts import read_embeddings, read_normalization, read_tower, read_words
from zegment.checkpoint_weights import check_digests, load_weights, read_tensors
from zegment.clip import Clip
from zegment.clip_loading import load_clip
from zegment.config import Config, ModelConfig
from zegment.config.model import TRAINING_FREE
from zegment.errors import CheckpointError, ModelNotFoundError
from zegment.hub.download import download, hub_model
from zegment.models.build import build_model, build_student
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText
from zegment.trained import Trained, dense_windows, usable_device
from zegment.vocabulary import Vocabulary
from zegment.wording import printable


def load_trained(
    name: str, *, device: str | torch.device | None = None, config: Config | None = None
) -> Trained:
    """Return a trained model, or a CLIP made ready for training-free prediction.

    Args:
        name: A run or checkpoint folder, a packaged checkpoint, a model of the Hub (see
            `zegment.hub.download.hub_model`), or a CLIP (see `zegment.clip_loading.load_clip`).
        device: Where to compute; None takes a GPU if there is one.
        config: For a CLIP only: how it predicts without training. By default as its
            publications do, see `dense_windows`.

    Raises:
        ModelNotFoundError: If nothing answers to the name, or it needs a download and there is
            no network.
        CheckpointError: If the folder is damaged or belongs to another model.
        UnsupportedModelError: If the CLIP's image tower cannot be used.
        ConfigError: If the device cannot be used.
    """
    device = usable_device(device)
    folder = checkpoint_folder(name)
    shared = hub_model(name) if folder is None else None
    if shared is not None:
        folder = download(shared)
    if folder is not None:
        return _read(folder, device)
    clip = load_clip(name, device=device)
    if config is None or config.model.kind not in TRAINING_FREE:
        model = ModelConfig(kind="dense_clip", clip=name)
        config = Config(model=model, windows=dense_windows(clip))
    return _assemble(config, clip, device)


def restore_weights(trained: Trained, name: str) -> None:
    """Give a model the weights of a checkpoint of the same model, classes and CLIP.

    Args:
        trained: Whose model is changed.
        name: A run or checkpoint folder, or a packaged checkpoint.

    Raises:
        ModelNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is of another model, other classes or another CLIP.
    """
    folder = checkpoint_folder(name)
    if folder is None:
        raise ModelNotFoundError(
            f"no checkpoint at '{name}'; give a folder that `zegment train` made, such as its half"
        )
    header, config = read_header(folder)
    kind = config.model.kind
    if kind != trained.config.model.kind:
        raise CheckpointError(
            f"{folder} holds a {kind}, and a {trained.config.model.kind} is to be trained; start "
            "from a checkpoint of the same model"
        )
    words, seen = read_words(folder)
    assert trained.vocabulary is not None  # noqa: S101 - whatever is trained has one
    given = (words.class_names, words.templates, seen)
    wanted = (trained.vocabulary.class_names, trained.vocabulary.templates, trained.seen)
    for what, theirs, ours in zip(
        ("classes", "templates", "seen classes"), given, wanted, strict=True
    ):
        if theirs != ours:
            raise CheckpointError(
                f"{folder} was trained with other {what} ({', '.join(theirs)}) than are asked for "
                f"({', '.join(ours)}); start from a checkpoint of the same data"
            )
    if header.get("clip_fingerprint") != trained.fingerprint:
        raise CheckpointError(
            f"{folder} was trained on another CLIP; use the one it was trained on"
        )
    check_digests(folder, header)
    load_weights(trained, folder / WEIGHTS)


def _read(folder: Path, device: torch.device) -> Trained:
    header, config = read_header(folder)
    if GRAPH in header or (folder / ONNX).is_file():
        # An optional package runs these, which other checkpoints must load without.
        from zegment.models.exported import load_exported  # noqa: PLC0415

        trained = load_exported(folder, device)
        check_digests(folder, header)
        return trained
    vocabulary, seen = read_words(folder)
    # What brings its image tower along, or runs none, brings its text embeddings too.
    if "tower" in header:
        trained = _self_contained(folder, config, device, header, vocabulary)
    elif config.model.kind == "student":
        trained = _student(folder, config, device, header.get("clip_fingerprint", ""), vocabulary)
    else:
        trained = _on_clip(folder, config, device, header.get("clip_fingerprint"))
    trained = replace(trained, vocabulary=vocabulary, seen=seen)
    load_weights(trained, folder / WEIGHTS)
    check_digests(folder, header)  # last: what it finds, nothing else can name
    return trained


def _on_clip(folder: Path, config: Config, device: torch.device, fingerprint: object) -> Trained:
    """Return the model of a checkpoint, still untrained, on top of the CLIP that it names."""
    clip = load_clip(config.model.clip, device=device)
    if clip.fingerprint != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on another '{printable(config.model.clip)}' than the one found "
            f"here (weights {printable(str(fingerprint), most=40)}, found {clip.fingerprint}); use "
            "the CLIP it was trained on"
        )
    return _assemble(config, clip, device)


def _self_contained(
    folder: Path,
    config: Config,
    device: torch.device,
    header: Mapping[str, Any],
    vocabulary: Vocabulary,
) -> Trained:
    """Return the model of a checkpoint on the image tower that it brings along."""
    tower = read_tower(folder, header, read_tensors(folder / WEIGHTS))
    mean, std = read_normalization(folder)
    clip = Clip(
        name=config.model.clip,
        image_tower=tower,
        text_tower=_text(folder, config, device, vocabulary),
        mean=mean,
        std=std,
        fingerprint=header.get("clip_fingerprint", ""),
    )
    return replace(_assemble(config, clip, device), own_tower=tower)


def _student(
    folder: Path, config: Config, device: torch.device, fingerprint: str, vocabulary: Vocabulary
) -> Trained:
    """Return the student of a checkpoint, still untrained, with the embeddings it came with."""
    text_tower = _text(folder, config, device, vocabulary)
    mean, std = read_normalization(folder)
    model = build_student(
        _without_weights(config).student,
        embed_dim=vocabulary.embed(text_tower).shape[1],
        mean=mean,
        std=std,
    )
    return Trained(
        config=config,
        model=model.to(device).eval(),
        text_tower=text_tower,
        fingerprint=fingerprint,
    )


def _text(
    folder: Path, config: Config, device: torch.device, vocabulary: Vocabulary
) -> RememberedText:
    """Return the text embeddings that a checkpoint brings along.

    Raises:
        CheckpointError: If they cannot be read, or one of the vocabulary is missing.
    """
    embeddings = read_embeddings(folder / TEXT, vocabulary)
    load = partial(load_text_tower, config.model.clip, device=device)
    return RememberedText(embeddings, load, vocabulary=vocabulary, device=device)


def _assemble(config: Config, clip: Clip, device: torch.device) -> Trained:
    return Trained(
        config=config,
        model=build_model(_without_weights(config), clip).to(device).eval(),
        text_tower=clip.text_tower,
        fingerprint=clip.fingerprint,
    )


def _without_weights(config: Config) -> ModelConfig:
    """Return a model whose encoder begins at random, so that nothing is fetched to be replaced."""
    return replace(config.model, student=replace(config.model.student, weights=None))
