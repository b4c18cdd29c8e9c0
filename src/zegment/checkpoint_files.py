"""The files of a checkpoint folder: weights, configuration, vocabulary, preprocessing, metrics.

Weights that training did not change are CLIP's own and are not stored again. The folder names its
CLIP together with a fingerprint of those weights. A model that needs no CLIP's image tower brings
its text embeddings along, and a tower of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

import zegment
from zegment.clip import ImageTower
from zegment.clip_loading import asset
from zegment.config import Config
from zegment.config.loading import config_from_dict, config_to_dict
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError
from zegment.files import atomic_folder
from zegment.text_files import parse_json, read_text
from zegment.trained import Trained
from zegment.wording import brief, printable

FORMAT = 1
WEIGHTS, CONFIG, TEXT = "model.safetensors", "config.json", "text.safetensors"
RUN_CONFIG = "config.toml"  # of the run folder around checkpoints

GRAPH, DIGESTS = "graph", "sha256"
"""Keys of the header: of a graph's digest, and of those of the files with tensors, by name."""

VOCABULARY, PREPROCESSING, METRICS = "vocabulary.json", "preprocessing.json", "metrics.json"
ONNX = "model.onnx"
FILES = (CONFIG, VOCABULARY, PREPROCESSING, METRICS, WEIGHTS, TEXT, ONNX)
"""Every file that a checkpoint may hold; none of them can hold code."""


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
    tensors = {WEIGHTS: save(weights)} | ({TEXT: save(embeddings)} if embeddings else {})
    parts: dict[str, Any] = {
        CONFIG: {
            "format": FORMAT,
            "zegment": zegment.__version__,
            DIGESTS: {name: hashlib.sha256(data).hexdigest() for name, data in tensors.items()},
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
        for name, data in tensors.items():
            (unfinished / name).write_bytes(data)
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


def checkpoint_folder(name: str) -> Path | None:
    """Return the checkpoint folder on this machine that a name stands for, or None.

    What has none may be a CLIP, or a model of the Hub (see `zegment.hub.download.hub_model`).

    Raises:
        ModelNotFoundError: If nothing can have such a name.
        ModelNotFoundError: If the name is a folder that holds no model of any kind, or a file
            apart from the checkpoint that it belongs to.
    """
    folder = _possible_place(name)
    if folder.suffix == ".onnx" and folder.is_file():
        # The file alone does not say how images are prepared, or which words it was made for.
        if folder.name != ONNX or not (folder.parent / CONFIG).is_file():
            raise ModelNotFoundError(
                f"'{name}' lies in no exported model: that is a folder with {ONNX}, {CONFIG} and "
                "what else `zegment export` wrote; give that folder"
            )
        folder = folder.parent
    # A run keeps its last and best checkpoint in folders of their own.
    for candidate in (folder, folder / "last"):
        if (candidate / WEIGHTS).is_file() or (candidate / CONFIG).is_file():
            return candidate
    if (folder / RUN_CONFIG).is_file() and not (folder / "open_clip_config.json").is_file():
        raise ModelNotFoundError(
            f"the run in '{name}' has no checkpoint yet; go on with it: zegment train --resume "
            f"{name}"
        )
    if folder.is_dir() and not (folder / "open_clip_config.json").is_file():
        raise ModelNotFoundError(
            f"no model in folder '{name}': it has neither {CONFIG} of a Zegment checkpoint nor "
            "open_clip_config.json of a CLIP; give the folder that `zegment train --out` made"
        )
    return None


def _possible_place(name: str) -> Path:
    """Return where a model of that name would be, packaged or not.

    Raises:
        ModelNotFoundError: If no file or folder can have the name, or it cannot be looked at.
    """
    try:
        folder = asset(name) or Path(name)
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not name.isprintable():
            raise ModelNotFoundError(
                f"no model is called '{printable(name)}'; give the folder of a model, or the name "
                "of one"
            ) from None
        return Path(name)
    except (OSError, ValueError) as error:  # too long, a loop of links, a NUL, no permission
        raise ModelNotFoundError(
            f"no model can be at '{printable(name)}' ({printable(str(error))}); give the folder "
            "of a model, or the name of one"
        ) from error
    return folder


def missing_files(folder: Path) -> list[str]:
    """Return which files a checkpoint folder lacks, judged by what its configuration needs.

    Raises:
        CheckpointError: If its configuration is there and cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return [CONFIG]
    needed, header = [PREPROCESSING], read_json(folder / CONFIG)
    if GRAPH in header:
        needed.append(ONNX)
    else:
        needed += [VOCABULARY, WEIGHTS]
        kind = _table(_table(header, "config"), "model").get("kind")
        if "tower" in header or kind == "student":
            needed.append(TEXT)
    if (folder / VOCABULARY).is_file() and GRAPH in header:
        needed.append(TEXT)
    return [name for name in needed if not (folder / name).is_file()]


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a table inside a table; an empty one if it is missing or no table."""
    inner = table.get(key)
    return inner if isinstance(inner, Mapping) else {}


def copy_again(error: Exception) -> str:
    """Return what to do about a file of a checkpoint that cannot be read."""
    missing = isinstance(error, FileNotFoundError)
    return f"{'the folder is incomplete' if missing else 'it is damaged'}, copy all of it again"


def read_json(path: Path) -> dict[str, Any]:
    """Return the table that a JSON file of a checkpoint holds.

    Raises:
        CheckpointError: If it cannot be read, or holds anything else.
    """
    try:
        content = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; {copy_again(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it should hold a JSON object")
    return content


def read_header(folder: Path) -> tuple[dict[str, Any], Config]:
    """Return the header of a checkpoint folder, and the configuration in it.

    Raises:
        CheckpointError: If it cannot be read, or is of another format.
    """
    header = read_json(folder / CONFIG)
    if header.get("format") != FORMAT:
        maker = printable(str(header.get("zegment", "?")), most=20)
        raise CheckpointError(
            f"{folder / CONFIG}: checkpoint format {brief(header.get('format'))}, but this version "
            f"of Zegment reads format {FORMAT}; load it with zegment {maker}"
        )
    if not isinstance(header.get("clip_fingerprint", ""), str):
        raise CheckpointError(
            f"{folder / CONFIG} is damaged: clip_fingerprint is "
            f"{brief(header['clip_fingerprint'])}, not text; copy the whole folder again"
        )
    try:
        return header, config_from_dict(header["config"])
    except (KeyError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error}") from error
