"""Images of a data set in batches, shared by the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from zegment.data import SegmentationDataset
from zegment.data.stream import read_items
from zegment.distributed import process_share

Batch: TypeAlias = tuple[list[int], Tensor, Tensor]
"""Items of a data set, their images (B, 3, H, W) and their labels (B, H, W)."""


def same_size_batches(
    dataset: SegmentationDataset,
    batch_size: int,
    *,
    apart: bool = False,
    on_image: Callable[[int], object] | None = None,
) -> Iterator[Batch]:
    """Yield this process's images in batches, in order; neighbours of one size come together.

    Args:
        dataset: Whose images.
        batch_size: Most images of a batch.
        apart: Whether each image comes by itself.
        on_image: Called with the number of images done so far, when the next batch is asked for.
    """
    done = 0
    for batch in _batches(dataset, 1 if apart else batch_size):
        yield batch
        done += len(batch[0])
        if on_image is not None:
            on_image(done)


def _batches(dataset: SegmentationDataset, size: int) -> Iterator[Batch]:
    batch: list[tuple[int, Tensor, Tensor]] = []
    own = process_share(len(dataset))
    for start in range(0, len(own), size):
        items = own[start : start + size]
        for item, (image, label) in zip(items, read_items(dataset, items), strict=True):
            if batch and (len(batch) == size or image.shape != batch[0][1].shape):
                yield _stack(batch)
                batch = []
            batch.append((item, image, label))
    if batch:
        yield _stack(batch)


def _stack(batch: list[tuple[int, Tensor, Tensor]]) -> Batch:
    items, images, labels = zip(*batch, strict=True)
    return list(items), torch.stack(images), torch.stack(labels)
