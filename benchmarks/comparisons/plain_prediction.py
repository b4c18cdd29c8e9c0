"""Prediction as one would write it down first: all classes at all pixels, then the largest.

The oracle that Zegment's prediction equals, and the opponent that it is timed against. Windows as
ZegCLIP's released code takes them: scores of every window at full size, their average, resized to
the picture, less the penalty of seen classes, argmax.

Letters: B images, K classes, D embedding, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.models.base import SegmentationModel

Resize = Callable[[Tensor, tuple[int, int]], Tensor]


def bilinear(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return planes (B, K, h, w) at another size."""
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def starts(length: int, size: int, stride: int) -> list[int]:
    """Return where the windows of a side begin; the last one ends with the side."""
    places = list(range(0, max(length - size, 0) + 1, stride))
    if places[-1] + size < length:
        places.append(length - size)
    return places


@torch.inference_mode()
def plain_scores(
    model: SegmentationModel,
    image: Tensor,
    texts: Tensor,
    windows: WindowConfig,
    resize: Resize = bilinear,
    *,
    whole_maps: bool = False,
) -> Tensor:
    """Return the scores of all classes at all pixels of normalised images, (B, K, H, W).

    With ``whole_maps`` those of each window are padded to the size of the image and added whole,
    as the framework of the released code (mmsegmentation) does.
    """
    height, width = image.shape[-2:]
    size = windows.size or max(height, width)
    total = torch.zeros(len(image), len(texts), height, width)
    count = torch.zeros(height, width)
    for top in starts(height, size, windows.stride or size):
        for left in starts(width, size, windows.stride or size):
            rows, columns = slice(top, top + size), slice(left, left + size)
            window = image[..., rows, columns]
            patch, (h, w) = model.patch_size, window.shape[-2:]
            padded = F.pad(window, (0, -w % patch, 0, -h % patch))
            logits = model(padded, texts).float()
            full = resize(logits, (padded.shape[-2], padded.shape[-1]))[..., :h, :w]
            scores = model.scores(full)
            if whole_maps:
                total += F.pad(scores, (left, width - left - w, top, height - top - h))
            else:
                total[..., rows, columns] += scores
            count[rows, columns] += 1
    return total / count


@torch.inference_mode()
def plain_labels(  # noqa: PLR0913 - what decides about a label
    model: SegmentationModel,
    image: Tensor,
    texts: Tensor,
    windows: WindowConfig,
    *,
    seen: Tensor,
    margin: float,
    size: tuple[int, int] | None = None,
    resize: Resize = bilinear,
    whole_maps: bool = False,
) -> Tensor:
    """Return the class of every pixel, int64 (B, H, W); see `plain_scores`."""
    scores = plain_scores(model, image, texts, windows, resize, whole_maps=whole_maps)
    if size is not None and size != tuple(scores.shape[-2:]):
        scores = resize(scores, size)
    return (scores - margin * seen.float()[:, None, None]).argmax(dim=1)
