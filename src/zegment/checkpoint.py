"""A trained model as a folder: weights, configuration, vocabulary, preprocessing, metrics.

Weights that training did not change are CLIP's own and are not stored again. The checkpoint
names its CLIP together with a fingerprint of those weights, and refuses to be joined to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import zegment
from zegment.clip import Clip
from zegment.clip_loading import asset, load_clip
from zegment.config import Config, ModelConfig, WindowConfig
from zegment.config_loading import config_from_dict, config_to_dict
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError
from zegment.files import atomic_folder
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model, build_student
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText, TextTower
from zegment.vocabulary import TEMPLATES, Vocabulary

FORMAT = 1
WEIGHTS, CONFIG, TEXT = "model.safetensors", "config.json", "text.safetensors"
VOCABULARY, PREPROCESSING, METRICS = "vocabulary.json", "preprocessing.json", "metrics.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model together with everything that its predictions depend on.

    Attributes:
        config: The resolved configuration of its run.
        model: The model, in evaluation mode.
        text_tower: The text side of its CLIP.
        fingerprint: Of the image tower before training, see `zegment.clip.fingerprint`; of the
            one that taught it, for a student.
        vocabulary: The classes it was trained for; None if it was not trained.
        seen: Those of them that had masks.
    """

    config: Config
    model: SegmentationModel
    text_tower: TextTower
    fingerprint: str
    vocabulary: Vocabulary | None = None
    seen: tuple[str, ...] = ()


def save_checkpoint(
    folder: Path, trained: Trained, *, metrics: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint folder, replacing an earlier one only once the new one is complete.

    Args:
        folder: Where; its parent exists or can be made.
        trained: The model and what belongs to it.
        metrics: Anything JSON can hold, for example an evaluation report.

    Raises:
        OutputError: If the folder cannot be written.
    """
    weights = {
        key: value.detach().cpu().contiguous()
        for key, value in trained.model.trained_state().items()
    }
    vocabulary = trained.vocabulary
    embeddings: dict[str, Tensor] = {}
    if vocabulary is not None and not trained.model.runs_clip:
        sentences = [s for group in vocabulary.sentences() for s in group]
        rows = trained.text_tower(sentences).cpu()
        embeddings = dict(zip(sentences, rows, strict=True))
    parts: dict[str, Any] = {
        CONFIG: {
            "format": FORMAT,
            "zegment": zegment.__version__,
            "clip_fingerprint": trained.fingerprint,
            "config": config_to_dict(trained.config),
        },
        VOCABULARY: None
        if vocabulary is None
        else {
            "class_names": vocabulary.class_names,
            "seen": trained.seen,
            "templates": vocabulary.templates,
        },
        PREPROCESSING: {
            "mean": [round(x, 8) for x in trained.model.mean.tolist()],
            "std": [round(x, 8) for x in trained.model.std.tolist()],
            "patch_size": trained.model.patch_size,
            "seen_penalty": trained.model.seen_penalty,
            "windows": asdict(trained.config.windows),
        },
        METRICS: metrics,
    }
    with atomic_folder(folder, replace=True) as unfinished:
        # Through bytes, because save_file makes a file that only its owner can read.
        (unfinished / WEIGHTS).write_bytes(save(weights))
        if embeddings:
            (unfinished / TEXT).write_bytes(save(embeddings))
        for name, content in parts.items():
            if content is not None:
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (unfinished / name).write_text(text, encoding="utf-8")


def load_trained(
    name: str, *, device: str | torch.device | None = None, config: Config | None = None
) -> Trained:
    """Return a trained model, or a CLIP made ready for training-free prediction.

    Args:
        name: A run or checkpoint folder, a packaged checkpoint, or a CLIP (see
            `zegment.clip_loading.load_clip`).
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
    if folder is not None:
        return _read(folder, device)
    clip = load_clip(name, device=device)
    if config is None or config.model.kind != "dense_clip":
        model = ModelConfig(kind="dense_clip", clip=name)
        config = Config(model=model, windows=dense_windows(clip))
    return _assemble(config, clip, device)


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device that can compute here; None takes a GPU if there is one.

    Raises:
        ConfigError: If no device has that name, or this machine or its PyTorch lacks it.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device} cannot be used: {reason}; give cpu") from error
    return torch.device(device)


def dense_windows(clip: Clip) -> WindowConfig:
    """Return windows of the size that a CLIP was trained on, half overlapping.

    Source:
        The protocol of SCLIP, ClearCLIP and NACLIP: short side 336, windows 224, stride 112.
    """
    shape = clip.image_tower.shape
    size = min(shape.grid) * shape.patch_size
    return WindowConfig(short_side=size * 3 // 2, size=size, stride=size // 2)


def checkpoint_folder(name: str) -> Path | None:
    """Return the checkpoint folder that a name stands for, or None if it must be a CLIP.

    Raises:
        ModelNotFoundError: If the name is a folder that holds no model of any kind.
    """
    folder = asset(name) or Path(name)
    # A run keeps its last and best checkpoint in folders of their own.
    for candidate in (folder, folder / "last"):
        if (candidate / WEIGHTS).is_file() or (candidate / CONFIG).is_file():
            return candidate
    if folder.is_dir() and not (folder / "open_clip_config.json").is_file():
        raise ModelNotFoundError(
            f"no model in folder '{name}': it has neither {CONFIG} of a Zegment checkpoint nor "
            "open_clip_config.json of a CLIP; give the folder that `zegment train --out` made"
        )
    return None


def _read(folder: Path, device: torch.device) -> Trained:
    header = _json(folder / CONFIG)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG}: checkpoint format {header.get('format')!r}, but this version of "
            f"Zegment reads format {FORMAT}; load it with zegment {header.get('zegment', '?')}"
        )
    try:
        config = config_from_dict(header["config"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error}") from error
    names = _json(folder / VOCABULARY)
    vocabulary = Vocabulary(
        class_names=tuple(names["class_names"]), templates=tuple(names["templates"])
    )
    # What runs no image tower brings its text embeddings along, and needs no CLIP.
    if (folder / TEXT).is_file():
        trained = _student(folder, config, device, header.get("clip_fingerprint", ""))
    else:
        trained = _on_clip(folder, config, device, header.get("clip_fingerprint"))
    trained = replace(trained, vocabulary=vocabulary, seen=tuple(names["seen"]))
    _load_weights(trained.model, folder / WEIGHTS)
    return trained


def _on_clip(folder: Path, config: Config, device: torch.device, fingerprint: object) -> Trained:
    """Return the model of a checkpoint, still untrained, on top of the CLIP that it names."""
    clip = load_clip(config.model.clip, device=device)
    if clip.fingerprint != fingerprint:
        raise CheckpointError(
            f"{folder} was trained on another '{config.model.clip}' than the one found here "
            f"(weights {fingerprint}, found {clip.fingerprint}); use the CLIP "
            "it was trained on"
        )
    return _assemble(config, clip, device)


def _student(folder: Path, config: Config, device: torch.device, fingerprint: str) -> Trained:
    """Return the student of a checkpoint, still untrained, with the embeddings it came with."""
    sentences = _tensors(folder / TEXT)
    preprocessing = _json(folder / PREPROCESSING)
    try:
        model = build_student(
            replace(config.model.student, weights=None),
            embed_dim=next(iter(sentences.values())).shape[0],
            mean=preprocessing["mean"],
            std=preprocessing["std"],
        )
    except (KeyError, StopIteration) as error:
        raise CheckpointError(
            f"{folder} is damaged: {error} is missing; copy or train it again"
        ) from error
    name = config.model.clip
    text_tower = RememberedText(
        sentences, partial(load_text_tower, name, device=device), device=device
    )
    return Trained(
        config=config,
        model=model.to(device).eval(),
        text_tower=text_tower,
        fingerprint=fingerprint,
    )


def _assemble(config: Config, clip: Clip, device: torch.device) -> Trained:
    return Trained(
        config=config,
        model=build_model(config.model, clip).to(device).eval(),
        text_tower=clip.text_tower,
        fingerprint=clip.fingerprint,
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; the checkpoint is incomplete, copy or train it again"
        ) from error


def _load_weights(model: SegmentationModel, path: Path) -> None:
    """Load trained weights strictly: the same names, the same shapes, all finite."""
    weights = _tensors(path)
    parameters = model.trained_state()
    for key in sorted(parameters.keys() ^ weights.keys()):
        side = "has no" if key in parameters else "has an unknown"
        raise CheckpointError(f"{path} is a checkpoint of another model: it {side} tensor '{key}'")
    with torch.no_grad():
        for key, parameter in parameters.items():
            value = weights[key]
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"{path} is a checkpoint of another model: tensor '{key}' has shape "
                    f"{tuple(value.shape)}, expected {tuple(parameter.shape)}"
                )
            if not value.isfinite().all():
                raise CheckpointError(f"{path} is damaged: tensor '{key}' holds NaN or infinity")
            parameter.copy_(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; the checkpoint is incomplete, copy or train it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it should hold a JSON object")
    return content


def training_vocabulary(class_names: tuple[str, ...], templates: str) -> Vocabulary:
    """Return the vocabulary of a data set in the sentences that a configuration names.

    Raises:
        ConfigError: If no set of templates has that name.
    """
    if templates not in TEMPLATES:
        raise ConfigError(
            f"text.templates: no set of templates is called '{templates}'; "
            f"there are {', '.join(TEMPLATES)}"
        )
    return Vocabulary(class_names=class_names, templates=TEMPLATES[templates])
