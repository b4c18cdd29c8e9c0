"""Smooth pictures, which lossy formats keep, and how many of each kind are made."""

from __future__ import annotations

import numpy as np


def times(count: int, amount: float) -> range:
    """Return how often a kind is made; at least twice."""
    return range(max(2, round(count * amount)))


def scene(rng, height=None, width=None):
    """Return a smooth picture, which lossy formats keep, uint8 (H, W, 3)."""
    height = int(rng.integers(9, 40)) if height is None else height
    width = int(rng.integers(9, 40)) if width is None else width
    y, x = np.mgrid[:height, :width]
    slopes = rng.uniform(0.5, 3, (3, 2))
    planes = [20 + dy * y + dx * x + rng.uniform(0, 60) for dy, dx in slopes]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)
