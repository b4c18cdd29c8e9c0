"""Properties that hold of every example, checked on as many as there is time for.

What is promised about classes, windows, scores, files, settings and training targets is stated
once, as a check with strategies for its arguments; the tests take a few examples of each.

Published size: as many examples of each property as it states itself, see
`soaks.property_running.Property`.
"""

from __future__ import annotations

import time
from typing import Any

from soaks import (
    properties_decisions,
    properties_files,
    properties_flip,
    properties_labels,
    properties_learning,
    properties_metrics,
    properties_settings,
    properties_windows,
)
from soaks.property_running import Property

PROPERTIES: tuple[Property, ...] = (
    *properties_labels.PROPERTIES,
    *properties_flip.PROPERTIES,
    *properties_windows.PROPERTIES,
    *properties_decisions.PROPERTIES,
    *properties_metrics.PROPERTIES,
    *properties_files.PROPERTIES,
    *properties_settings.PROPERTIES,
    *properties_learning.PROPERTIES,
)


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Return how many examples of each property were checked, in which time, and what failed.

    Args:
        amount: Share of the published number of examples.
        seed: The same seed draws the same examples.
    """
    found, failures = [], []
    start = time.perf_counter()
    for one in PROPERTIES:
        began = time.perf_counter()
        checked, problem = _check(one, examples=max(1, round(amount * one.published)), seed=seed)
        row: dict[str, Any] = {"property": one.name, "examples": checked}
        found.append(row | {"seconds": round(time.perf_counter() - began, 1)})
        if problem:
            failures.append(f"{one.name} (seed {seed}): {problem}")
    return {
        "what": "generated examples of properties",
        "properties": len(found),
        "examples": sum(row["examples"] for row in found),
        "seconds": round(time.perf_counter() - start, 1),
        "failures": failures,
        "by_property": found,
    }


def _check(one: Property, *, examples: int, seed: int) -> tuple[int, str]:
    """Return how many examples held, and what went wrong; nothing if none did."""
    if one.missing:
        return 0, f"not checked, because {', '.join(one.missing)} is not installed"
    try:
        return one.hold(examples=examples, seed=seed), ""
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        return 0, " ".join([f"{type(error).__name__}: {error}", *notes])
