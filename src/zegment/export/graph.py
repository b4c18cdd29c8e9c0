"""An exported graph: what its file says about itself, and how onnxruntime opens it.

Letters: B images, K classes, D embedding, h w feature grid.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from zegment.errors import CheckpointError, ConfigError

IMAGE, TEXT_EMBEDDINGS, LOGITS = "image", "text_embeddings", "logits"
"""Names of the graph's inputs and output."""

SCORES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": partial(torch.softmax, dim=1),
}
"""How logits, float (B, K, h, w), become scores in [0, 1], by the name that files use."""

PREFIX = "zegment."
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What an exported file says about itself, so that it can be used alone.

    Attributes:
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        patch_size: Image sides are multiples of this many pixels.
        embed_dim: D.
        scores: One of `SCORES`.
        precision: ``"float32"``, or ``"int8"`` for quantised weights.
        class_names: Of each channel of the logits, if the vocabulary is a part of the graph; empty
            if text embeddings are an input. A class that occurs twice has the score of its
            better channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    patch_size: int
    embed_dim: int
    scores: str
    precision: str = "float32"
    class_names: tuple[str, ...] = ()

    @property
    def frozen(self) -> bool:
        """Return whether the vocabulary is a part of the graph."""
        return bool(self.class_names)

    def check(self) -> None:
        """Look at every number.

        Raises:
            ValueError: If one cannot be.
        """
        for name in ("mean", "std"):
            channels = getattr(self, name)
            if len(channels) != 3 or not all(math.isfinite(value) for value in channels):
                raise ValueError(f"{name} is {list(channels)}, not three numbers")
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}, not above 0")
        for name in ("patch_size", "embed_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, not a whole number above 0")

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as a file holds them: JSON by prefixed name."""
        facts = {"format": FORMAT, **asdict(self)}
        return {PREFIX + k: json.dumps(facts[k], ensure_ascii=False) for k in sorted(facts)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Return the facts that a file holds.

        Raises:
            CheckpointError: If they are missing, damaged or of another format.
        """
        if f"{PREFIX}format" not in metadata:
            raise CheckpointError(
                "this ONNX file was not made by Zegment: its metadata do not say how images are "
                "normalised; make one with `zegment export`"
            )
        try:
            own = {k: json.loads(v) for k, v in metadata.items() if k.startswith(PREFIX)}
            facts = {key.removeprefix(PREFIX): value for key, value in own.items()}
            known = {field.name: facts[field.name] for field in fields(cls)}
            lists = {key: tuple(known[key]) for key in ("mean", "std", "class_names")}
            made = cls(**(known | lists))
            SCORES[made.scores]
            made.check()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"the metadata of this ONNX file are damaged ({error}); export the model again"
            ) from error
        if facts["format"] != FORMAT:
            raise CheckpointError(
                f"this ONNX file has format {facts['format']}, but this version of Zegment reads "
                f"format {FORMAT}; export the model again"
            )
        return made


def import_onnxruntime() -> Any:  # noqa: ANN401 - it has no types
    """Return onnxruntime, kept from telemetry unless the user's own setting says otherwise.

    Version 1.32 leaves a number for the machine and a log of events in the user's folder as it is
    imported.

    Raises:
        ConfigError: If it is not installed.
    """
    quiet = os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1") == "1"
    try:
        # Here, because most programs run no exported model.
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            'an exported model needs onnxruntime: pip install "zegment[onnx]"'
        ) from error
    if quiet:
        # The variable comes too late for one that somebody else has imported.
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def open_session(path: Path, device: torch.device) -> tuple[Any, GraphFacts]:
    """Return onnxruntime's session of an exported file, and what the file says about itself.

    Args:
        path: The file.
        device: Where to compute. On a GPU this takes onnxruntime's build for it; without that, the
            processor computes.

    Raises:
        ConfigError: If onnxruntime is not installed.
        CheckpointError: If the file is missing or damaged, or not one that Zegment exported.
    """
    onnxruntime = import_onnxruntime()
    if not path.is_file():
        raise CheckpointError(f"no exported model at '{path}'; copy its whole folder again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone: they are raised, and warnings help nobody
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    there = onnxruntime.get_available_providers()
    providers = [*(name for name in wanted if name in there), "CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # its errors have no base of their own
        raise CheckpointError(
            f"cannot read {path}: onnxruntime finds it damaged, or too new for itself; copy or "
            "export it again"
        ) from error
    try:
        facts = GraphFacts.from_metadata(session.get_modelmeta().custom_metadata_map)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return session, facts
