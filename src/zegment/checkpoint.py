"""A trained model as a folder: weights, configuration, vocabulary, preprocessing, metrics.

Weights that training did not change are CLIP's own and are not stored again. The checkpoint
names its CLIP together with a fingerprint of those weights, and refuses to be joined to others.
A model whose image tower is no CLIP's own brings that tower and its text embeddings along.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import zegment
from zegment.clip import Clip, ImageTower, tower_from_state
from zegment.clip_loading import asset, load_clip
from zegment.config import Config, ModelConfig, WindowConfig
from zegment.config_loading import config_from_dict, config_to_dict
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from zegment.files import atomic_folder
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model, build_student
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText, TextTower
from zegment.vocabulary import TEMPLATES, Vocabulary

FORMAT = 1
WEIGHTS, CONFIG, TEXT = "model.safetensors", "config.json", "text.safetensors"
VOCABULARY, PREPROCESSING, METRICS = "vocabulary.json", "preprocessing.json", "metrics.json"

SAME_EMBEDDING = 0.999
"""Cosine from which on two embeddings of a class are of one text tower."""


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
        own_tower: The image tower, if no CLIP has the same one, so that a checkpoint must hold it;
            None if it is the CLIP's.
    """

    config: Config
    model: SegmentationModel
    text_tower: TextTower
    fingerprint: str
    vocabulary: Vocabulary | None = None
    seen: tuple[str, ...] = ()
    own_tower: ImageTower | None = None

    @property
    def needs_clip(self) -> bool:
        """Return whether a checkpoint must be joined to a CLIP's image tower."""
        return self.model.runs_clip and self.own_tower is None

    def state(self) -> dict[str, Tensor]:
        """Return the weights that a checkpoint holds, by name."""
        return self.model.trained_state() if self.own_tower is None else self.model.state_dict()


def save_checkpoint(
    folder: Path,
    trained: Trained,
    *,
    metrics: Mapping[str, Any] | None = None,
    replace: bool = True,
) -> None:
    """Write a checkpoint folder, replacing an earlier one only once the new one is complete.

    Args:
        folder: Where; its parent exists or can be made.
        trained: The model and what belongs to it.
        metrics: Anything JSON can hold, for example an evaluation report.
        replace: Whether a folder with content gives way.

    Raises:
        OutputError: If the folder cannot be written, or has content and may not be replaced.
    """
    weights = {key: value.detach().cpu().contiguous() for key, value in trained.state().items()}
    vocabulary = trained.vocabulary
    embeddings: dict[str, Tensor] = {}
    if vocabulary is not None and not trained.needs_clip:
        sentences = [s for group in vocabulary.sentences() for s in group]
        rows = trained.text_tower(sentences).cpu()
        embeddings = dict(zip(sentences, rows, strict=True))
    parts: dict[str, Any] = {
        CONFIG: {
            "format": FORMAT,
            "zegment": zegment.__version__,
            "clip_fingerprint": trained.fingerprint,
            **_tower_table(trained.own_tower),
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
            "seen_penalty": trained.config.seen_penalty,
            "windows": asdict(trained.config.windows),
        },
        METRICS: metrics,
    }
    with atomic_folder(folder, replace=replace) as unfinished:
        # Through bytes, because save_file makes a file that only its owner can read.
        (unfinished / WEIGHTS).write_bytes(save(weights))
        if embeddings:
            (unfinished / TEXT).write_bytes(save(embeddings))
        for name, content in parts.items():
            if content is not None:
                text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
                (unfinished / name).write_text(text, encoding="utf-8")


def _tower_table(tower: ImageTower | None) -> dict[str, Any]:
    """Return what the weights of a model's own tower do not tell, as a table for its header."""
    if tower is None:
        return {}
    shape = tower.shape
    return {"tower": {"heads": shape.heads, "activation": shape.activation, "grid": shape.grid}}


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
    names = _json(folder / VOCABULARY)
    assert trained.vocabulary is not None  # noqa: S101 - whatever is trained has one
    given = (names["class_names"], names["templates"], names["seen"])
    wanted = (trained.vocabulary.class_names, trained.vocabulary.templates, trained.seen)
    for what, theirs, ours in zip(
        ("classes", "templates", "seen classes"), given, wanted, strict=True
    ):
        if list(theirs) != list(ours):
            raise CheckpointError(
                f"{folder} was trained with other {what} ({', '.join(theirs)}) than are asked for "
                f"({', '.join(ours)}); start from a checkpoint of the same data"
            )
    if _json(folder / CONFIG).get("clip_fingerprint") != trained.fingerprint:
        raise CheckpointError(
            f"{folder} was trained on another CLIP; use the one it was trained on"
        )
    _load_weights(trained, folder / WEIGHTS)


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
    # What brings its image tower along, or runs none, brings its text embeddings too.
    if "tower" in header:
        trained = _self_contained(folder, config, device, header, vocabulary)
    elif (folder / TEXT).is_file():
        trained = _student(folder, config, device, header.get("clip_fingerprint", ""))
    else:
        trained = _on_clip(folder, config, device, header.get("clip_fingerprint"))
    trained = replace(trained, vocabulary=vocabulary, seen=tuple(names["seen"]))
    _load_weights(trained, folder / WEIGHTS)
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


def _self_contained(
    folder: Path,
    config: Config,
    device: torch.device,
    header: Mapping[str, Any],
    vocabulary: Vocabulary,
) -> Trained:
    """Return the model of a checkpoint on the image tower that it brings along."""
    weights = _tensors(folder / WEIGHTS)
    state = {k.removeprefix("tower."): v for k, v in weights.items() if k.startswith("tower.")}
    preprocessing, table = _json(folder / PREPROCESSING), header["tower"]
    try:
        height, width = table["grid"]
        tower = tower_from_state(
            state, heads=table["heads"], activation=table["activation"], grid=(height, width)
        )
        mean, std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
    except (KeyError, TypeError, ValueError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"{folder} is damaged: its image tower cannot be built ({error}); copy or import it "
            "again"
        ) from error
    name, embeddings = config.model.clip, _tensors(folder / TEXT)
    for sentence in (s for group in vocabulary.sentences() for s in group):
        if sentence not in embeddings:
            raise CheckpointError(
                f"{folder / TEXT} is damaged: it has no embedding of “{sentence}”; copy or import "
                "it again"
            )
    text_tower = RememberedClasses(
        embeddings,
        partial(load_text_tower, name, device=device),
        vocabulary=vocabulary,
        device=device,
    )
    clip = Clip(
        name=name,
        image_tower=tower,
        text_tower=text_tower,
        mean=mean,
        std=std,
        fingerprint=header.get("clip_fingerprint", ""),
    )
    return replace(_assemble(config, clip, device), own_tower=tower)


class RememberedClasses(RememberedText):
    """Embeddings of a vocabulary's sentences, of which only the mean per class may be true.

    An embedding that was published for a class stands for each of its sentences, so a tower is
    compared with the mean over the sentences of a class, not with one of them.

    Args:
        embeddings: Unit embedding (D,) of each sentence of the vocabulary.
        load: Returns the tower that the classes' embeddings came from.
        vocabulary: Whose sentences they are.
        device: Where the embeddings are wanted.

    Raises:
        CheckpointError: On the first unknown sentence, if the tower embeds the first class
            differently.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Tensor],
        load: Callable[[], TextTower],
        *,
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(embeddings, load, device=device)
        self._first = replace(vocabulary, class_names=vocabulary.class_names[:1])

    def _embed(self, sentences: list[str]) -> Tensor:
        if self._tower is None:
            tower = self._load()
            ours, theirs = self._first.embed(self), self._first.embed(tower)
            # Published embeddings were computed in half precision, so a cosine decides.
            if ours.shape != theirs.shape or (ours * theirs).sum() < SAME_EMBEDDING:
                raise CheckpointError(
                    f"this CLIP's text tower embeds “{self._first.class_names[0]}” differently "
                    "from the one that the model was trained with; use the CLIP it was trained "
                    "with, or only the words it was trained for"
                )
            self._tower = tower
        return self._tower(sentences)


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


def _load_weights(trained: Trained, path: Path) -> None:
    """Load trained weights strictly: the same names, the same shapes, all finite."""
    weights = _tensors(path)
    parameters = trained.state()
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
