"""The comparison on Shapes' test split over several seeds, as a Markdown table.

    python benchmarks/shapes_table.py --seeds 0 1 2 --out runs/table

trains the one-stage baseline, ZegCLIP, and CLIP-ZSS part by part once per seed (runs that are
already there are not repeated), evaluates them and training-free CLIP, prints mean ± standard
deviation in percent, and writes every number to ``table.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from zegment.checkpoint import load_trained
from zegment.config.loading import load_config
from zegment.data.shapes import STUFF, THINGS, UNSEEN, ShapesDataset
from zegment.evaluation import evaluate
from zegment.files import atomic_write_text
from zegment.segmenter import Segmenter
from zegment.training import Trainer

METHODS: dict[str, tuple[str, list[str]]] = {
    "one-stage baseline": ("shapes-one-stage", []),
    "ZegCLIP": ("shapes-zegclip", []),
    "student, seen masks only": (
        "shapes-clip-zss",
        ["teaching.global_weight=0", "teaching.pseudo_classes=none"],
    ),
    "+ GLM": ("shapes-clip-zss", ["teaching.pseudo_classes=none"]),
    "+ GLM + PLM labels": ("shapes-clip-zss", ["teaching.pseudo_classes=centroids"]),
    "+ synthesizer": ("shapes-clip-zss", ["teaching.pseudo_classes=synthesizer"]),
}
"""Each row's preset and what is changed in it."""

GROUPS = {
    "seen things": [n for n in THINGS if n not in UNSEEN],
    "seen stuff": [n for n in STUFF if n not in UNSEEN],
    "unseen things": [n for n in THINGS if n in UNSEEN],
    "unseen stuff": [n for n in STUFF if n in UNSEEN],
}
COLUMNS = ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU", *GROUPS, "seconds", "images_per_second")
FRACTIONS = COLUMNS[:-2]


def measure(segmenter: Segmenter, seconds: float) -> dict[str, Any]:
    """Return one row of numbers on the test split."""
    evaluation = evaluate(segmenter, ShapesDataset("test"))
    groups = {name: evaluation.scores.subset_miou(names) for name, names in GROUPS.items()}
    return {**evaluation.to_dict(), **groups, "seconds": seconds}


def train_and_measure(method: str, seed: int, out: Path) -> dict[str, Any]:
    """Train with one seed, unless that was done before, and measure the last checkpoint."""
    preset, changes = METHODS[method]
    run = out / f"{method.replace(' ', '-').replace(',', '')}-{seed}"
    done = run / "test.json"
    if not done.is_file():
        started = time.perf_counter()
        config = load_config(preset=preset, overrides=[f"seed={seed}", *changes])
        Trainer(config, run).run()
        seconds = time.perf_counter() - started
        row = measure(Segmenter.of(load_trained(str(run))), seconds)
        atomic_write_text(done, json.dumps(row, indent=2) + "\n")
    return dict(json.loads(done.read_text(encoding="utf-8")))


def training_free() -> dict[str, Any]:
    """Measure dense CLIP as its preset says; there is nothing to repeat."""
    config = load_config(preset="shapes-dense-clip")
    return measure(Segmenter.of(load_trained(config.model.clip, config=config)), 0.0)


def cell(values: list[float], scale: float) -> str:
    """Return mean ± standard deviation."""
    numbers = [scale * value for value in values]
    spread = f" ± {stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.1f}{spread}"


def main() -> None:
    """Train, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    table = {"training-free CLIP": [training_free()]}
    for method in arguments.methods:
        table[method] = [train_and_measure(method, s, arguments.out) for s in arguments.seeds]
    print("| method | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for method, rows in table.items():
        cells = [cell([r[c] for r in rows], 100 if c in FRACTIONS else 1) for c in COLUMNS]
        print(f"| {method} | " + " | ".join(cells) + " |")
    atomic_write_text(arguments.out / "table.json", json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
