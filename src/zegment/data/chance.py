"""Random choices drawn from a generator that is passed in."""

import torch
from torch import Generator


def uniform(generator: Generator, low: float, high: float) -> float:
    """Return a number from ``low`` up to, but not including, ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def chance(generator: Generator, probability: float) -> bool:
    """Return True in the given share of cases."""
    return uniform(generator, 0, 1) < probability
