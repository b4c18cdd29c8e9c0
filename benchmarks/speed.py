"""Everything that is compared in speed and memory, on a CPU, in one report.

    python benchmarks/speed.py --json speed.json

Each comparison stands in ``benchmarks/comparisons`` with a plain, obviously correct version as the
opponent. Take ratios within one report: seconds depend on the machine, and on what else it does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zegment.files import atomic_write_text

COMPARISONS = {
    # name: rounds of each work
    "loss": 1,
    "loading": 2,
    "students": 3,
    "two_stage": 2,
    "training_step": 1,
    "prediction": 1,
}


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].split(":", 1)[1].strip() if models else cpu
    return {
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def run(names: list[str]) -> dict[str, Any]:
    """Return the report of some comparisons; print each when it is done."""
    report: dict[str, Any] = {"machine": machine(), "comparisons": {}}
    for name in names:
        start = time.perf_counter()
        found = importlib.import_module(f"comparisons.{name}").compare(rounds=COMPARISONS[name])
        found["took_seconds"] = time.perf_counter() - start
        report["comparisons"][name] = found
        show(name, found)
    return report


def show(name: str, found: dict[str, Any]) -> None:
    """Print rows and targets."""
    print(f"\n{name}, {found['took_seconds']:.0f} s")
    for row in found["rows"]:
        print("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
    for one in found.get("targets", []):
        verdict = "holds" if one["holds"] else "MISSED"
        measured = _short(one["measured"])
        print(f"  {verdict}: {one['target']} {measured}, wanted {one['wanted']}", flush=True)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the report")
    parser.add_argument("--only", choices=COMPARISONS, nargs="+", default=list(COMPARISONS))
    arguments = parser.parse_args()
    if arguments.json and arguments.json.exists():
        parser.error(f"{arguments.json} exists; give another name")
    report = run(arguments.only)
    if arguments.json:
        atomic_write_text(arguments.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
