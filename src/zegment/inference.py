"""Windows over an image of any size, their average, and the argmax over classes.

Letters: B images, K classes, N their names, D embedding, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.models.base import SegmentationModel, penalize_seen

CLASS_CHUNK = 32
"""How many classes are brought to full size at a time."""

LONGEST = 4
"""How many times the short side the long side of an image may be when it is resized."""

WINDOW_BATCH = 4
"""How many windows go through the model at a time."""


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows along one side begin; the last one is moved back to fit.

    Args:
        length: Pixels along the side.
        size: Pixels of a window.
        stride: Pixels between windows.
    """
    count = max(length - size + stride - 1, 0) // stride + 1
    return [min(i * stride, max(length - size, 0)) for i in range(count)]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return normalised images (B, 3, H, W) padded at right and bottom with the mean colour."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


def window_scores(
    model: SegmentationModel,
    image: Tensor,
    text_embeddings: Tensor,
    owners: Sequence[int] | None = None,
) -> Tensor:
    """Return a model's scores at the pixels of a window, float (B, K, H, W).

    Args:
        model: In evaluation mode.
        image: Normalised windows of any size, float (B, 3, H, W).
        text_embeddings: Unit rows, float (N, D).
        owners: The class that each row speaks for, N places below K; None if each is a class.
    """
    height, width = image.shape[-2:]
    padded = pad_to_multiple(image, model.patch_size)
    logits = best_name(model(padded, text_embeddings).float(), owners)
    size = tuple(padded.shape[-2:])
    logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return model.scores(logits[..., :height, :width])


def best_name(logits: Tensor, owners: Sequence[int] | None) -> Tensor:
    """Return the highest logit among the names of each class.

    Args:
        logits: One plane per name, float (B, N, h, w).
        owners: The class of each name, N places below K; None returns ``logits``.

    Returns:
        One plane per class, float (B, K, h, w).
    """
    if owners is None:
        return logits
    size = (len(logits), max(owners) + 1, *logits.shape[-2:])
    places = torch.tensor(owners, device=logits.device)[:, None, None].expand_as(logits)
    lowest = logits.new_full(size, float("-inf"))
    return lowest.scatter_reduce(1, places, logits, reduce="amax")


@torch.inference_mode()
def image_scores(
    model: SegmentationModel,
    image: Tensor,
    text_embeddings: Tensor,
    windows: WindowConfig,
    owners: Sequence[int] | None = None,
) -> Tensor:
    """Return scores averaged over overlapping windows, float (B, K, H, W), not calibrated.

    Args:
        model: In evaluation mode.
        image: Normalised images, float (B, 3, H, W).
        text_embeddings: Unit rows, float (N, D).
        windows: Size and stride; without a size the whole image is one window.
        owners: The class that each row speaks for, N places below K; None if each is a class.

    Source:
        ZegCLIP released code (sliding-window test), window scores after the sigmoid.
    """
    if windows.size is None:
        return window_scores(model, image, text_embeddings, owners)
    n, _, height, width = image.shape
    classes = len(text_embeddings) if owners is None else max(owners) + 1
    total = image.new_zeros(n, classes, height, width)
    count = image.new_zeros(1, 1, height, width)
    for batch in _batches(list(_places(height, width, windows)), WINDOW_BATCH):
        crops = torch.cat([image[..., rows, columns] for rows, columns in batch])
        scores = window_scores(model, crops, text_embeddings, owners).split(n)
        for (rows, columns), window in zip(batch, scores, strict=True):
            total[..., rows, columns] += window
            count[..., rows, columns] += 1
    return total / count


def _places(height: int, width: int, windows: WindowConfig) -> Iterator[tuple[slice, slice]]:
    size = windows.size or max(height, width)
    stride = windows.stride or size
    for top in window_starts(height, size, stride):
        for left in window_starts(width, size, stride):
            yield slice(top, min(top + size, height)), slice(left, min(left + size, width))


def _batches(places: list[tuple[slice, slice]], size: int) -> Iterator[list[tuple[slice, slice]]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


@torch.inference_mode()
def best_class(
    scores: Tensor, seen: Tensor, *, margin: float, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the winning class and its calibrated score at every pixel.

    Classes are brought to full size a chunk at a time under a running argmax, so memory does
    not grow with classes × pixels. Resizing may round the last bit differently for another number
    of classes, so classes within that of each other can change places against one argmax over all.

    Args:
        scores: Averaged scores, float (B, K, h, w).
        seen: Which classes had masks in training, bool (K,).
        margin: Taken from the scores of seen classes.
        size: Height and width of the result in pixels.

    Returns:
        Class indices, int64 (B, H, W), and their scores, float (B, H, W).
    """
    best_score: Tensor | None = None
    best = torch.empty(0)
    for start in range(0, scores.shape[1], CLASS_CHUNK):
        chunk = scores[:, start : start + CLASS_CHUNK]
        if tuple(chunk.shape[-2:]) != size:
            chunk = F.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        chunk = penalize_seen(chunk, seen[start : start + CLASS_CHUNK], margin=margin)
        score, index = chunk.max(dim=1)
        if best_score is None:
            best_score, best = score, index + start
        else:
            # Strictly greater: a tie belongs to the class that comes first.
            better = score > best_score
            best = torch.where(better, index + start, best)
            best_score = torch.where(better, score, best_score)
    if best_score is None:
        raise ValueError("no class to choose from")
    return best, best_score


@torch.inference_mode()
def entropy(scores: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Return how undecided the scores are at every pixel, float (B, H, W).

    Args:
        scores: Averaged scores that are not negative, float (B, K, h, w).
        size: Height and width of the result in pixels.

    Returns:
        Shannon's entropy of the scores divided by their sum, over that of K equal scores: 0 where
        one class has it all, 1 where all have the same. A single class is never undecided.
    """
    total, weighted = scores.new_zeros(len(scores), *size), scores.new_zeros(len(scores), *size)
    for start in range(0, scores.shape[1], CLASS_CHUNK):
        chunk = scores[:, start : start + CLASS_CHUNK]
        if tuple(chunk.shape[-2:]) != size:
            chunk = F.interpolate(chunk, size=size, mode="bilinear", align_corners=False)
        total += chunk.sum(dim=1)
        weighted += torch.special.entr(chunk).sum(dim=1)  # -s log s
    if scores.shape[1] == 1:
        return torch.zeros_like(total)
    # H(s / S) = log S + (-Σ s log s) / S
    nats = total.log() + weighted / total
    return torch.where(total > 0, nats / math.log(scores.shape[1]), 1.0).clamp(0, 1)


def working_size(height: int, width: int, windows: WindowConfig) -> tuple[int, int]:
    """Return the size an image is brought to before windows are cut, keeping its proportions.

    The long side is at most `LONGEST` times the short side that is asked for, so that the cost of
    an image does not grow with its proportions.

    Source:
        ZegCLIP released code: the scale (2048, 512) bounds the long and the short side.
    """
    if windows.short_side is None:
        return height, width
    scale = min(
        windows.short_side / min(height, width),
        LONGEST * windows.short_side / max(height, width),
    )
    # Half a pixel is rounded up, as the released pipeline does.
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
