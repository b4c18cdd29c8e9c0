"""What a model card is written from: the facts that the files of a checkpoint tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zegment.checkpoint_files import (
    CONFIG,
    METRICS,
    ONNX,
    PREPROCESSING,
    VOCABULARY,
    read_json,
)
from zegment.config.model import TRAINING_FREE
from zegment.hub.card_text import last_part, without_places

METRIC_TITLES = {
    "pAcc": ("pixel accuracy", "accuracy"),
    "mIoU": ("mean IoU of all classes", "mean_iou"),
    "mIoU_seen": ("mean IoU of the seen classes", "mean_iou_seen"),
    "mIoU_unseen": ("mean IoU of the unseen classes", "mean_iou_unseen"),
    "hIoU": ("harmonic mean of the two", "harmonic_mean_iou"),
    "DSC": ("mean Dice coefficient", "dice"),
}
"""Of each score that a card tells: its title, and its name for the Hub's index of results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a model card is written from.

    Attributes:
        repo_id: ``USER/NAME`` on the Hub.
        licence: Of the weights; None if unknown.
        data_licence: Of the training data; None if unknown.
        header: The table of ``config.json``.
        vocabulary: That of ``vocabulary.json``; empty if the model was not trained for classes.
        preprocessing: That of ``preprocessing.json``.
        metrics: That of ``metrics.json``; empty if nothing was measured.
        exported: Whether the model is an ONNX file.
    """

    repo_id: str
    licence: str | None
    data_licence: str | None
    header: Mapping[str, Any]
    vocabulary: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    metrics: Mapping[str, Any]
    exported: bool

    @classmethod
    def read(
        cls, folder: Path, *, repo_id: str, licence: str | None, data_licence: str | None
    ) -> CardFacts:
        """Return what the files of a checkpoint tell, without any place on this machine."""

        def table(name: str) -> dict[str, Any]:
            path = folder / name
            return without_places(read_json(path)) if path.is_file() else {}

        return cls(
            repo_id=repo_id,
            licence=licence,
            data_licence=data_licence,
            header=without_places(read_json(folder / CONFIG)),
            # Class names and sentences are never places.
            vocabulary=read_json(folder / VOCABULARY) if (folder / VOCABULARY).is_file() else {},
            preprocessing=table(PREPROCESSING),
            metrics=table(METRICS),
            exported=(folder / ONNX).is_file(),
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of the run."""
        config: Mapping[str, Any] = self.header.get("config", {})
        return config

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's part of it."""
        model: Mapping[str, Any] = self.config.get("model", {})
        return model

    @property
    def trained(self) -> bool:
        """Whether there was a training, and not only a CLIP."""
        return bool(self.vocabulary) and self.model.get("kind") not in TRAINING_FREE

    @property
    def data_title(self) -> str | None:
        """What the training data are called; None if the checkpoint does not tell."""
        data = self.config.get("data", {})
        if data.get("source", "shapes") == "shapes":
            return "shapes" if self.trained else None
        for key in ("benchmark", "root"):
            value = str(data.get(key, "none"))
            if value not in ("none", ".", ""):
                return value if data.get("source") == "huggingface" else last_part(value)
        return None

    def measured(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each evaluation that is on record, with the data that it was made on."""
        tables = {"evaluation": self.metrics} if "mIoU" in self.metrics else self.metrics
        for key, scores in tables.items():
            if not isinstance(scores, Mapping) or not any(True for _ in told(scores)):
                continue
            own = f"the {key} split of the training data"
            if key == "validation" and self.data_title is not None:
                own = f"{self.data_title}/val"
            yield str(scores.get("data", own)), scores


def told(scores: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the scores of an evaluation that a card tells and that were measured."""
    for key in METRIC_TITLES:
        if is_number(scores.get(key)):
            yield key, float(scores[key])


def is_number(value: object) -> bool:
    """Return whether JSON holds a number here that can be printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
