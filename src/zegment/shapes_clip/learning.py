"""One phase of contrastive learning: the loss, the optimiser, the schedule and the loop.

B batch; D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from zegment.data.transforms import normalize
from zegment.precision import is_native
from zegment.shapes_clip.batches import CaptionedBatches
from zegment.shapes_clip.recipe import (
    LEARNING_RATE,
    MEAN,
    STD,
    WEIGHT_DECAY,
    Phase,
)

LOG_STEPS = 20
"""Steps between two rows of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a training stands.

    Attributes:
        size: Side of the images of the phase in pixels.
        step: Of the phase, from 1.
        steps: Of the phase.
        images: Seen so far, those of earlier phases included.
        total: Images of the whole training; the last batch of each phase is filled up beyond it.
        loss: Of this step.
        scale: What cosines are multiplied by.
    """

    size: int
    step: int
    steps: int
    images: int
    total: int
    loss: float
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The learning rate of a phase: a cosine over the whole budget, warmed up in each phase.

    Attributes:
        before: Images of the phases before it.
        total: Images of all phases.
        warmup: Steps at the beginning of the phase.
    """

    before: int
    total: int
    warmup: int

    def learning_rate(self, step: int, images: int) -> float:
        """Return the rate of a step of the phase, from 0, when so many images have been seen."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, images / self.total))
        return LEARNING_RATE * min(1.0, (step + 1) / self.warmup) * (0.02 + 0.98 * cosine)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true_of: Tensor) -> Tensor:
    """Return the symmetric contrastive loss without false negatives, a scalar.

    Args:
        images: Unit rows, float (B, D).
        texts: Unit rows of the images' captions, float (B, D).
        scale: What cosines are multiplied by, a scalar.
        true_of: Whether caption j is true of image i, bool (B, B).
    """
    others = true_of & ~torch.eye(len(images), dtype=torch.bool, device=true_of.device)
    logits = (scale * images @ texts.T).masked_fill(others, -torch.inf)
    target = torch.arange(len(images), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only, and never the token embedding.

    The rows of words that no caption contains get no gradient; decay would shrink them all to
    zero, and unknown words would then be the same word.
    """
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (keep if parameter.ndim < 2 or "embedding" in name else decay).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decay}, {"params": keep, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True
    )


def _loss(model: open_clip.CLIP, images: Tensor, tokens: Tensor, true_of: Tensor) -> Tensor:
    """Return the loss of a batch, a scalar."""
    # Half the time where the processor has it; a hundred times as long where it does not.
    short = is_native(torch.bfloat16, images.device)
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=short):
        image_rows = model.encode_image(normalize(images, MEAN, STD))
        text_rows = model.encode_text(tokens)
    return contrastive_loss(
        F.normalize(image_rows.float(), dim=-1),
        F.normalize(text_rows.float(), dim=-1),
        model.logit_scale.exp(),
        true_of,
    )


def train_phase(
    model: open_clip.CLIP,
    phase: Phase,
    *,
    seed: int,
    schedule: Schedule,
    device: torch.device,
    on_step: Callable[[Step], object] | None = None,
) -> list[dict[str, float]]:
    """Train in place through one phase and return its log, one row every 20 steps.

    Args:
        model: For images of the phase's size.
        phase: How many scenes of which kind.
        seed: Number of the world that they are drawn from.
        schedule: Of its learning rate.
        device: Where the model is.
        on_step: Called after each step.
    """
    batches = CaptionedBatches(phase, seed)
    # The one worker draws the next scenes while this process computes gradients.
    loader = DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4)
    optimizer = build_optimizer(model)
    model.train()
    rows: list[dict[str, float]] = []
    recent: list[float] = []
    for number, (images, tokens, true_of) in enumerate(loader):
        seen = schedule.before + number * phase.batch_size
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(number, seen)
        loss = _loss(model, images.to(device), tokens.to(device), true_of.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        recent.append(loss.item())
        seen += phase.batch_size
        if (number + 1) % LOG_STEPS == 0 or number + 1 == len(batches):
            rows.append({"images": seen, "loss": round(fmean(recent), 4)})
            recent.clear()
        if on_step is not None:
            on_step(
                Step(
                    size=phase.size,
                    step=number + 1,
                    steps=len(batches),
                    images=seen,
                    total=schedule.total,
                    loss=loss.item(),
                    scale=model.logit_scale.exp().item(),
                )
            )
    return rows
