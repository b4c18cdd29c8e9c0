"""The losses of segmentation as their equations are written: on logits at the labels' full size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.losses import count_masks, cross_entropy, non_mutually_exclusive_loss


def full_size(logits: Tensor, label: Tensor) -> Tensor:
    """Return logits (B, K, h, w) resized to labels (B, H, W), float (B, K, H, W)."""
    return F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False)


def plain_mask_losses(
    logits: Tensor, label: Tensor, *, count: Tensor | None = None, **options: object
) -> dict[str, Tensor]:
    """Return ZegCLIP's mask losses; the options are `non_mutually_exclusive_loss`'s."""
    if count is None:
        count = count_masks(label, logits.shape[1]).clamp(min=1)
    return non_mutually_exclusive_loss(full_size(logits, label), label, n_masks=count, **options)


def plain_cross_entropy(
    logits: Tensor, label: Tensor, *, count: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the baseline's loss, divided by 1 unless told otherwise."""
    count = torch.ones(()) if count is None else count
    return {"loss_ce": cross_entropy(full_size(logits, label), label, n_pixels=count)}
