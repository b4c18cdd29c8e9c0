"""The long versions of what tests do shortly: kills, hostile input, load, two writers, no network.

    python benchmarks/soak.py --json soak.json

Each part stands in ``benchmarks/soaks`` and works with the generators of the tests. It counts what
it did and lists what went wrong; a failure can be had again from the seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from speed import machine

from zegment.files import atomic_write_text

PARTS = (
    "kills", "images", "files", "fuzzing", "properties", "server", "writers", "determinism",
    "network",
)  # fmt: skip
"""Modules of ``benchmarks/soaks``, each with a function ``soak(*, amount, seed)``."""

# What is done to the product stands with the tests, which do less of it.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def run(names: list[str], *, amount: float, seed: int) -> dict[str, Any]:
    """Return the report of some parts; print each when it is done."""
    report: dict[str, Any] = {"machine": machine(), "amount": amount, "seed": seed, "parts": {}}
    for name in names:
        start = time.perf_counter()
        found = importlib.import_module(f"soaks.{name}").soak(amount=amount, seed=seed)
        found["took_seconds"] = round(time.perf_counter() - start, 1)
        report["parts"][name] = found
        print(f"\n{name}\n{json.dumps(found, indent=2, ensure_ascii=False)}", flush=True)
    return report


def main() -> None:
    """Soak, print and write; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--amount", type=float, default=1.0, help="of the published size")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    arguments = parser.parse_args()
    if arguments.json and arguments.json.exists():
        parser.error(f"{arguments.json} exists; give another name")
    report = run(arguments.only, amount=arguments.amount, seed=arguments.seed)
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    sys.exit(any(part["failures"] for part in report["parts"].values()))


if __name__ == "__main__":
    main()
