"""Turns a released ZegCLIP checkpoint, with the options that it needs, into a trained model.

Letters: K classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from zegment.clip import fingerprint
from zegment.config import (
    Config,
    DataConfig,
    ModelConfig,
    Setting,
    SplitFiles,
    TextConfig,
    WindowConfig,
    ZegClipConfig,
)
from zegment.config.fields import FieldError
from zegment.errors import CheckpointError, ConfigError, VocabularyError
from zegment.models.zegclip import DeepPrompts, ZegCLIP
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText, TextTower
from zegment.trained import Trained, training_vocabulary
from zegment.vocabulary import Vocabulary
from zegment.zegclip_layout import EMPTY_WEIGHT, import_zegclip
from zegment.zegclip_released import Released, read_released, read_text_embeddings

RELEASED_STRIDE = 426 / 512
"""Stride of the windows at test time, as a share of their size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a released checkpoint does not say of itself.

    Attributes:
        class_names: Names in the order of the labels; None takes those that the file holds.
        unseen: Those of them that had no masks.
        setting: How it was trained.
        text: NumPy file with the text embedding of each class, float (K, D); None lets ``clip``
            embed the names.
        clip: The CLIP whose text tower embeds whatever the file's authors have not embedded.
        templates: The sentences that names are put into, by the name of their set.
        heads: Attention heads of the image tower; None is one for every 64 of its width.
        decoder_heads: Attention heads of the mask decoder; 8 as released.
        short_side: Length that the shorter side of an image is resized to; None is the size that
            the positional embeddings are for, as released.
        window: Side of the windows, None likewise.
        stride: From window to window; None is the released share of the window, 426 of 512.
    """

    class_names: tuple[str, ...] | None = None
    unseen: tuple[str, ...] | None = None
    setting: Setting = "inductive"
    text: Path | None = None
    clip: str = "ViT-B-16/openai"
    templates: str = "single"
    heads: int | None = None
    decoder_heads: int = 8
    short_side: int | None = None
    window: int | None = None
    stride: int | None = None


def import_checkpoint(path: Path, options: ImportOptions) -> Trained:
    """Return the model of a released checkpoint, with everything that predictions depend on.

    Args:
        path: The ``.pth`` file, of mmcv or a bare state dict. Nothing in it is executed.
        options: What it does not say.

    Returns:
        A model that is independent of any CLIP's image tower: the positional embeddings of the
        file are resized, so its tower is no CLIP's own.

    Raises:
        ModelNotFoundError: If the file, the embeddings or the CLIP do not exist.
        CheckpointError: If the file is damaged, could run code, or is no ZegCLIP checkpoint.
        CheckpointError: If it was trained for another number of classes, or the embeddings are
            not one row for each.
        ConfigError: If an option is wrong, or one is needed.
        VocabularyError: If the class names cannot be used.
    """
    released = read_released(path)
    model = import_zegclip(
        released.state,
        heads=options.heads,
        decoder_heads=options.decoder_heads,
        source=str(path),
    )
    names = _class_names(path, released, options)
    vocabulary = training_vocabulary(names, options.templates)
    unseen = _unseen(path, options)
    data = _data(names, unseen)
    _check_classes(path, released.state, names, unseen, options.setting)
    supervised = options.setting == "supervised"
    return Trained(
        config=Config(
            setting=options.setting,
            data=data,
            text=TextConfig(templates=options.templates),
            model=ModelConfig(
                kind="zegclip",
                clip=options.clip,
                normalization="imagenet",
                zegclip=_model_config(model, options),
            ),
            windows=_windows(model, options),
        ),
        model=model.eval(),
        text_tower=_text_tower(path, vocabulary, model.tower.shape.embed_dim, options),
        fingerprint=fingerprint(model.tower),
        vocabulary=vocabulary,
        seen=tuple(name for name in names if supervised or name not in unseen),
        own_tower=model.tower,
    )


def _class_names(path: Path, released: Released, options: ImportOptions) -> tuple[str, ...]:
    names = options.class_names or released.class_names
    if names is None:
        raise ConfigError(
            f"{path} does not name its classes; give them in the order of its labels: "
            '--classes "cat, sofa", or --class-set'
        )
    return names


def _unseen(path: Path, options: ImportOptions) -> tuple[str, ...]:
    unseen = options.unseen or ()
    if not unseen and options.setting != "supervised":
        raise ConfigError(
            f"{path} does not tell which classes had no masks in training; name them with "
            "--unseen, give --class-set, or --setting supervised if all had masks"
        )
    return unseen


def _data(names: tuple[str, ...], unseen: tuple[str, ...]) -> DataConfig:
    """Return the classes as a data set whose files are not known; evaluation asks for them."""
    try:
        return DataConfig(
            source="folder",
            classes=names,
            unseen=unseen,
            train=SplitFiles(images="train/images", masks="train/masks"),
        )
    except FieldError as error:
        raise ConfigError(f"--{error.key.replace('_', '-')}: {error.reason}") from error


def _check_classes(
    path: Path,
    state: Mapping[str, Tensor],
    names: tuple[str, ...],
    unseen: tuple[str, ...],
    setting: Setting,
) -> None:
    """Hold the classes against the one tensor that counts those of training, if it is there."""
    counted = state.get(EMPTY_WEIGHT)
    expected = len(names) - len(unseen) if setting == "inductive" else len(names)
    if counted is not None and tuple(counted.shape) != (expected + 1,):
        raise CheckpointError(
            f"{path} was trained for {counted.numel() - 1} classes (its tensor '{EMPTY_WEIGHT}'), "
            f"but {setting} training with {len(names)} classes, {len(unseen)} of them unseen, is "
            f"for {expected}; check --setting, --classes or --class-set, and --unseen"
        )


def _model_config(model: ZegCLIP, options: ImportOptions) -> ZegClipConfig:
    assert isinstance(model.prompts, DeepPrompts)  # noqa: S101 - released files have no others
    return ZegClipConfig(
        prompt_tokens=model.prompts.embeddings.shape[1],
        decoder_layers=len(model.decoder.layers),
        decoder_heads=options.decoder_heads,
        prompt_norm=not isinstance(model.prompt_norm, torch.nn.Identity),
    )


def _windows(model: ZegCLIP, options: ImportOptions) -> WindowConfig:
    own = model.tower.shape.grid[0] * model.patch_size
    window = own if options.window is None else options.window
    stride = round(RELEASED_STRIDE * window) if options.stride is None else options.stride
    short_side = own if options.short_side is None else options.short_side
    try:
        return WindowConfig(short_side=short_side, size=window, stride=stride)
    except FieldError as error:
        option = {"short_side": "short-side", "size": "window"}.get(error.key, error.key)
        raise ConfigError(f"--{option}: {error.reason}") from error


def _text_tower(path: Path, vocabulary: Vocabulary, dim: int, options: ImportOptions) -> TextTower:
    """Return what embeds the sentences of a vocabulary."""
    if options.text is not None:
        rows = read_text_embeddings(options.text, (len(vocabulary.class_names), dim))
        load = partial(load_text_tower, options.clip)
        return RememberedText(_by_sentence(vocabulary, rows), load, vocabulary=vocabulary)
    tower = load_text_tower(options.clip)
    found = vocabulary.embed(tower).shape[1]
    if found != dim:
        raise ConfigError(
            f"--clip: the text embeddings of '{options.clip}' have {found} dimensions, and {path} "
            f"works with {dim}; give the CLIP that it was trained on"
        )
    return tower


def _by_sentence(vocabulary: Vocabulary, rows: Tensor) -> dict[str, Tensor]:
    """Return the embedding of each class under all its sentences, so that their mean is it.

    Raises:
        VocabularyError: If two classes share a sentence.
    """
    embeddings: dict[str, Tensor] = {}
    for sentences, row in zip(vocabulary.sentences(), rows, strict=True):
        for sentence in sentences:
            if sentence in embeddings:
                raise VocabularyError(
                    f"two classes are both put into words as “{sentence}”, so one embedding "
                    "cannot stand for each; rename one, or leave out --text"
                )
            embeddings[sentence] = row
    return embeddings
