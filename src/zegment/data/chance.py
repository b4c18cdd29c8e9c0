"""Random choices that depend on a seed and a number, and on nothing else."""

import numpy as np
import torch
from torch import Generator


def seeded(seed: int, *numbers: int) -> Generator:
    """Return a generator for one purpose; other numbers give one that is unrelated.

    Args:
        seed: At least 0.
        numbers: What the choices are for, such as a draw; each at least 0.

    Returns:
        A generator on the CPU.

    Raises:
        ValueError: If a number is negative.
    """
    state = np.random.SeedSequence((seed, *numbers)).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0]))


def uniform(generator: Generator, low: float, high: float) -> float:
    """Return a number from ``low`` up to, but not including, ``high``."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def chance(generator: Generator, probability: float) -> bool:
    """Return True in the given share of cases."""
    return uniform(generator, 0, 1) < probability
