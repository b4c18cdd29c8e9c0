"""Means and standard deviations of red, green and blue, in [0, 1], as a stranger may write them."""

from typing import TypeAlias

Channels: TypeAlias = tuple[float, float, float]

_MOST, _LEAST_DEVIATION = 1000, 1e-6


def channels(values: object) -> Channels | None:
    """Return three numbers that could be the means of colours; None if they could not."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    if not all(type(value) in (int, float) and abs(value) <= _MOST for value in values):
        return None  # NaN is no such number either
    red, green, blue = values
    return red, green, blue


def deviations(values: object) -> Channels | None:
    """Return three numbers that could be standard deviations of colours; None if not."""
    found = channels(values)
    return found if found is not None and min(found) >= _LEAST_DEVIATION else None
