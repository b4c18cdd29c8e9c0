"""A segmenter against a data set: one confusion matrix over the joint label space."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zegment.checkpoint import load_trained
from zegment.config import Config
from zegment.data import SegmentationDataset, Split, checked_dataset
from zegment.data.stream import read_items
from zegment.metrics import ConfusionMatrix, Scores, report
from zegment.segmenter import Segmenter

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores and the circumstances they were obtained in.

    Attributes:
        scores: Metrics over the joint label space.
        images: How many images were segmented.
        seconds: Time spent on prediction, reading excluded.
        seen_penalty: What calibration took from the scores of seen classes.
    """

    scores: Scores
    images: int
    seconds: float
    seen_penalty: float

    @property
    def images_per_second(self) -> float:
        """Return the speed of prediction on this machine."""
        return self.images / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; metrics are fractions."""
        return {
            **self.scores.to_dict(),
            "images": self.images,
            "images_per_second": self.images_per_second,
            "seen_penalty": self.seen_penalty,
        }


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    on_image: Callable[[int], object] | None = None,
) -> Evaluation:
    """Return the scores of a segmenter that chooses among all classes of a data set.

    Args:
        segmenter: Any; its own preprocessing, windows and calibration are used.
        dataset: Images, labels, class names, and which of them are unseen.
        on_image: Called with the number of images done so far.

    Raises:
        VocabularyError: If the class names cannot be encoded.
    """
    query = segmenter.query(dataset.class_names)
    matrix = ConfusionMatrix(len(dataset.class_names))
    seconds, done = 0.0, 0
    for images, labels in same_size_batches(dataset, BATCH_SIZE):
        start = time.perf_counter()
        prediction, _ = segmenter.label(images, query)
        prediction = prediction.cpu()
        seconds += time.perf_counter() - start
        matrix.update(prediction, labels)
        done += len(images)
        if on_image is not None:
            on_image(done)
    seen = [name not in dataset.unseen for name in dataset.class_names]
    return Evaluation(
        scores=report(matrix, dataset.class_names, seen=seen),
        images=done,
        seconds=seconds,
        seen_penalty=segmenter.model.seen_penalty,
    )


def evaluate_named(
    name: str,
    *,
    split: Split = "test",
    other: Config | None = None,
    device: str | None = None,
    on_image: Callable[[int, int], object] | None = None,
) -> Evaluation:
    """Return the scores of a model, given by name, on a split of its own or another data set.

    Args:
        name: See `zegment.segmenter.load`.
        split: Of that data set.
        other: Describes other data; for an untrained CLIP also its model and windows.
        device: Where to compute; None takes a GPU if there is one.
        on_image: Called with the number of images done and their total.

    Raises:
        ConfigError: If the split is not configured.
        ModelNotFoundError: If nothing answers to the name.
        DatasetError: If images, masks and class names do not fit together.
    """
    if other is not None:
        checked_dataset(other.data, split)
    trained = load_trained(name, device=device, config=other)
    dataset = checked_dataset((other or trained.config).data, split)
    total = len(dataset)
    report_progress = None if on_image is None else (lambda done: on_image(done, total))
    return evaluate(Segmenter.of(trained, name=name), dataset, on_image=report_progress)


def same_size_batches(
    dataset: SegmentationDataset, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, 3, H, W) and labels (B, H, W) in order; neighbours of one size together."""
    batch: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(dataset), batch_size):
        items = range(start, min(start + batch_size, len(dataset)))
        for pair in read_items(dataset, items):
            if batch and (len(batch) == batch_size or pair[0].shape != batch[0][0].shape):
                yield _stack(batch)
                batch = []
            batch.append(pair)
    if batch:
        yield _stack(batch)


def _stack(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), torch.stack(labels)
