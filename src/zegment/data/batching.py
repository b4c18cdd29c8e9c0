"""Images of a data set in batches, shared by the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zegment.data import SegmentationDataset
from zegment.data.stream import read_items
from zegment.distributed import process_share


def same_size_batches(
    dataset: SegmentationDataset, batch_size: int, apart: bool = False
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield this process's items, images (B, 3, H, W) and labels (B, H, W), in order.

    Neighbours of one size come together, unless each is asked for by itself (``apart``).
    """
    size = 1 if apart else batch_size
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


def _stack(batch: list[tuple[int, Tensor, Tensor]]) -> tuple[list[int], Tensor, Tensor]:
    items, images, labels = zip(*batch, strict=True)
    return list(items), torch.stack(images), torch.stack(labels)
