"""The numbers of the tiny CLIP: its towers, its preprocessing, and how much it sees when."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from zegment.errors import ConfigError

CONTEXT_LENGTH = 32
PATCH_SIZE = 8
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
PROMPT = "a photo of a {}"
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 40
"""At the beginning of each phase, on the budget of the packaged weights."""

FIRST_SEED = 1000
"""Well away from the seeds of the data set's splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training on ``images`` scenes of one size, in pixels."""

    size: int
    batch_size: int
    images: int
    max_things: int


PHASES = (
    Phase(size=48, batch_size=192, images=54_000, max_things=1),
    Phase(size=64, batch_size=160, images=66_000, max_things=4),
    Phase(size=96, batch_size=128, images=25_000, max_things=4),
)
"""Of the packaged weights."""


def shared_phases(share: float) -> tuple[Phase, ...]:
    """Return the phases with a share of their images, at least one batch each.

    Raises:
        ConfigError: If the share leaves a phase without an image, or is no number.
    """
    smallest = 1 / min(phase.images for phase in PHASES)
    if not smallest <= share < math.inf:
        raise ConfigError(
            f"share of the images is {share}; expected a number of at least {smallest:g}, 1 for "
            "the budget of the packaged weights"
        )
    return tuple(replace(phase, images=round(phase.images * share)) for phase in PHASES)


def warmup_steps(share: float) -> int:
    """Return the steps in which the learning rate of each phase rises.

    A smaller budget has as many fewer, so that its schedule has the same shape; on a twentieth,
    40 steps would be more than a phase has. A larger budget needs no more.
    """
    return max(1, round(WARMUP_STEPS * min(1.0, share)))


def model_config(size: int) -> dict[str, Any]:
    """Return the arguments of ``open_clip.CLIP``, as they also stand in the saved config.

    Args:
        size: Side of the images in pixels.
    """
    return {
        "embed_dim": 128,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": size,
            "layers": 5,
            "width": 160,
            "head_width": 32,
            "patch_size": PATCH_SIZE,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": 49408,
            "width": 96,
            "heads": 3,
            "layers": 2,
        },
    }
