"""Means over seeds, and differences between arms seed by seed.

Scores of one seed share the scenes, their order and the random start, so the difference of two arms
varies less than either: it is taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

#: Two-sided 95 % quantiles of Student's t for 1, 2, 3 … degrees of freedom.
_QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Values of several seeds.

    Attributes:
        mean: Over the seeds.
        sd: Sample standard deviation; None for a single seed.
        count: How many there are.
    """

    mean: float
    sd: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return mean and standard deviation of at least one value."""
        sd = stdev(values) if len(values) > 1 else None
        return cls(mean=fmean(values), sd=sd, count=len(values))

    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the mean by Student's t; None for one value."""
        if self.sd is None:
            return None
        half = quantile(self.count - 1) * self.sd / math.sqrt(self.count)
        return self.mean - half, self.mean + half


def quantile(freedom: int) -> float:
    """Return the two-sided 95 % quantile of Student's t.

    Args:
        freedom: Degrees of freedom, at least 1.

    Raises:
        ValueError: If there are none.

    Source:
        Beyond ten degrees the expansion in 1 / freedom of Abramowitz and Stegun, 26.7.5, good to
        four digits there.
    """
    if freedom < 1:
        raise ValueError(f"no quantile with {freedom} degrees of freedom")
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Return the differences of the seeds that both have; None if there is no such seed.

    Args:
        ours: Value of each seed.
        theirs: What is taken from it.
    """
    shared = [seed for seed in ours if seed in theirs]
    return Spread.of([ours[seed] - theirs[seed] for seed in shared]) if shared else None
