"""Hostile configurations, vocabularies, legends and checkpoints: each read, none believed.

Published size: 2,218 cases, some of each kind of `hostile_files` and `hostile_checkpoints`, made
from the seed. A case succeeds, or ends in one line that names the file or option, within five
seconds of processor time and a gibibyte of memory; none may execute anything or wait without end.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

PARTS = {
    "overrides": 400,
    "configurations": 300,
    "vocabularies": 200,
    "legends": 300,
    "places": 36,
    "tables": 300,
    "tensors": 200,
    "programs": 117,
    "weight_places": 117,
    "clips": 200,
    "names": 48,
}
"""Cases of each kind."""


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Return how many cases of each kind were read, how long that took, and what went wrong."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
    import hostile_checkpoints  # noqa: PLC0415 - found only now
    import hostile_files  # noqa: PLC0415

    kinds = hostile_files.KINDS | hostile_checkpoints.KINDS
    report: dict[str, Any] = {"cases": {}, "failures": []}
    started = time.perf_counter()
    for name, most in PARTS.items():
        count = max(1, round(most * amount))
        cases = kinds[name](random.Random(f"{seed} {name}"))  # noqa: S311 - not a secret
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(count):
                problem = hostile_files.judged(next(cases), Path(folder, str(number)))
                if problem is not None:
                    report["failures"].append(f"{name} {number}: {problem}")
        report["cases"][name] = count
    report["seconds"] = round(time.perf_counter() - started, 1)
    return report
