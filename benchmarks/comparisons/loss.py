"""Focal and Dice loss with their gradient: a few planes at a time against all at full size.

Both are given logits on a grid of 32 × 32 and labels of 512 × 512 with six classes an image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from comparisons.measuring import Work, apart_in_turn, target, times_faster
from comparisons.plain_loss import plain_mask_losses
from torch import Tensor

from zegment.objectives import NonMutuallyExclusive

GRID, SIDE, CLASSES_IN_AN_IMAGE = 32, 512, 6

CASES = ((156, 2), (156, 4), (20, 2))
"""Classes K and images B."""

Loss = Callable[[Tensor, Tensor], dict[str, Tensor]]
LOSSES: dict[str, Loss] = {"plain": plain_mask_losses, "by parts": NonMutuallyExclusive()}


def make_case(classes: int, images: int) -> tuple[Tensor, Tensor]:
    """Return logits (B, K, 32, 32), of which few are positive, and labels (B, 512, 512)."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, classes, GRID, GRID, generator=generator) - 2
    present = torch.stack([torch.randperm(classes, generator=generator) for _ in range(images)])[
        :, :CLASSES_IN_AN_IMAGE
    ]
    tiles = torch.randint(0, CLASSES_IN_AN_IMAGE, (images, 64), generator=generator)
    label = present.gather(1, tiles).reshape(images, 8, 8)
    return logits, label.repeat_interleave(SIDE // 8, 1).repeat_interleave(SIDE // 8, 2)


def step(loss: Loss, logits: Tensor, label: Tensor) -> Tensor:
    """Return the gradient of a loss by the logits."""
    leaf = logits.detach().requires_grad_()
    torch.stack(list(loss(leaf, label).values())).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def prepare(*, name: str, classes: int, images: int) -> Work:
    """Return one forward and backward pass of a loss."""
    # What the first call of all loads and keeps is no cost of a step.
    step(LOSSES[name], *(part[..., :8, :8] for part in make_case(CLASSES_IN_AN_IMAGE, 1)))
    return partial(step, LOSSES[name], *make_case(classes, images))


def compare(*, rounds: int) -> dict[str, Any]:
    """Return seconds and MiB of forward and backward passes, and targets for them."""
    rows, targets = [], []
    for classes, images in CASES:
        case = f"K = {classes}, B = {images}"
        own = {"classes": classes, "images": images}
        runs = apart_in_turn(prepare, {n: {"name": n, **own} for n in LOSSES}, rounds=rounds)
        seconds = {n: [run.seconds for run in found] for n, found in runs.items()}
        mib = {n: max(run.mib for run in found) for n, found in runs.items()}
        rows += [
            {"case": case, "loss": n, "seconds": median(seconds[n]), "peak MiB": mib[n]}
            for n in LOSSES
        ]
        faster = times_faster(seconds, "by parts", than="plain")
        many = classes > 100
        targets.append(
            target(f"{case}: times faster than plain", faster, at_least=2 if many else 1)
        )
        if many:
            share = mib["by parts"] / mib["plain"]
            targets.append(target(f"{case}: share of plain's memory", share, at_most=0.25))
    return {"rows": rows, "targets": targets}
