"""Softmax cross-entropy at the size of the labels, from logits on the feature grid.

A stripe of a few rows at a time is resized and turned into its loss and gradient, for the reason
that `zegment.grid_losses` gives. The equation is `zegment.losses.cross_entropy`.

Letters: B images, K classes, H W pixels, h w feature grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zegment.bilinear import Bilinear
from zegment.by_parts import map_parts, numbers_at_a_time, with_gradients
from zegment.data import IGNORE_INDEX
from zegment.losses import check_labels


def summed_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Return the softmax cross-entropy summed over annotated pixels; it has no second derivative.

    Args:
        logits: Class logits, which are resized bilinearly, float (B, K, h, w).
        label: Class ids or `IGNORE_INDEX`, int (B, H, W).

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.
    """
    check_labels(label, logits.shape[1])
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    grid, (height, width) = logits.detach(), label.shape[1:]
    resize = Bilinear.between(grid, (height, width))
    differentiable = torch.is_grad_enabled() and logits.requires_grad
    gradient = torch.zeros_like(grid) if differentiable else None

    def stripe(part: tuple[int, slice]) -> tuple[Tensor, slice, Tensor | None]:
        image, rows = part
        reach, resize_stripe = resize.stripe(rows)
        scores = resize_stripe(grid[image, :, reach])
        loss, slope = _stripe(scores, label[image, rows], with_slope=differentiable)
        return loss, reach, None if slope is None else resize_stripe.transposed(slope)

    step = max(1, numbers_at_a_time(grid.device) // (grid.shape[1] * width))
    parts = [(i, slice(y, y + step)) for i in range(len(grid)) for y in range(0, height, step)]
    numbers = grid.shape[1] * label.numel()
    found = map_parts(stripe, parts, numbers=numbers, device=grid.device)
    total = grid.new_zeros(1)
    for (image, _), (loss, reach, own) in zip(parts, found, strict=True):
        total += loss
        if gradient is not None and own is not None:
            gradient[image, :, reach] += own  # neighbouring stripes share rows of the grid
    return with_gradients(logits, total, None if gradient is None else gradient[None])[0]


def _stripe(logits: Tensor, label: Tensor, *, with_slope: bool) -> tuple[Tensor, Tensor | None]:
    """Return the summed loss, float (), of logits (K, H, W) and labels (H, W), and its slopes."""
    known = label != IGNORE_INDEX
    target = label.long().masked_fill(~known, 0)[None]
    log_probability = logits.log_softmax(dim=0)
    loss = -log_probability.gather(0, target)[0].masked_fill(~known, 0).sum()
    if not with_slope:
        return loss, None
    slope = log_probability.exp_()
    slope.scatter_add_(0, target, torch.full_like(slope[:1], -1))
    return loss, slope.mul_(known)
