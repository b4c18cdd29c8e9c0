"""The training settings on Shapes' test split over several seeds, as a Markdown table.

    python benchmarks/settings_table.py --seeds 0 1 2 --out runs/settings

trains ZegCLIP inductively, transductively and supervised, once with every pixel of a seen class
annotated and once with a quarter of the classes in each scene left out; and the student with
pseudo labels of training-free CLIP alone. Runs that are already there are not repeated. Prints
mean ± standard deviation in percent and writes every number to ``table.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from zegment.config.loading import load_config
from zegment.evaluation import evaluate_named
from zegment.files import atomic_write_text
from zegment.training import Trainer

LEFT_OUT = "data.unannotated_share=0.25"
TRANSDUCTIVE = "setting=transductive"
ORACLE = "self_training.region=oracle"
MASKCLIP_PLUS = ("self_training.start_share=0", "self_training.guide=clip")
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ZegCLIP, inductive": ("shapes-zegclip", ()),
    "ZegCLIP, transductive": ("shapes-zegclip", (TRANSDUCTIVE,)),
    "ZegCLIP, supervised": ("shapes-zegclip", ("setting=supervised",)),
    "a quarter left out: inductive": ("shapes-zegclip", (LEFT_OUT,)),
    "a quarter left out: transductive, unlabelled": ("shapes-zegclip", (LEFT_OUT, TRANSDUCTIVE)),
    "a quarter left out: transductive, oracle": (
        "shapes-zegclip",
        (LEFT_OUT, TRANSDUCTIVE, ORACLE),
    ),
    "a quarter left out: supervised": ("shapes-zegclip", (LEFT_OUT, "setting=supervised")),
    "student, MaskCLIP+": ("shapes-clip-zss", (TRANSDUCTIVE, *MASKCLIP_PLUS)),
    "student, supervised": (
        "shapes-clip-zss",
        ("setting=supervised", "teaching.global_weight=0", "teaching.pseudo_classes=none"),
    ),
}
"""Each row's preset and what is changed in it."""

COLUMNS = ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU")


def train_and_measure(row: str, seed: int, out: Path) -> dict[str, Any]:
    """Train with one seed, unless that was done before, and measure the last checkpoint."""
    preset, changes = ROWS[row]
    folder = out / f"{row.replace(':', '').replace(',', '').replace(' ', '-')}-{seed}"
    result = folder / "test.json"
    if not result.exists():
        config = load_config(preset=preset, overrides=[*changes, f"seed={seed}"])
        Trainer(config, folder).run()
        scores = evaluate_named(str(folder)).to_dict()
        atomic_write_text(result, json.dumps(scores, indent=2) + "\n")
    measured: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return measured


def cell(values: list[float]) -> str:
    """Return mean ± standard deviation in percent."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table: dict[str, list[dict[str, Any]]] = {row: [] for row in options.rows}
    for seed in options.seeds:
        for row in options.rows:
            table[row].append(train_and_measure(row, seed, options.out))
            print(row, seed, *(f"{100 * table[row][-1][c]:.1f}" for c in COLUMNS), flush=True)
    print("| training | " + " | ".join(COLUMNS) + " | mIoU_unseen of each seed |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for row, runs in table.items():
        cells = [cell([run[column] for run in runs]) for column in COLUMNS]
        seeds = ", ".join(f"{100 * run['mIoU_unseen']:.1f}" for run in runs)
        print(f"| {row} | " + " | ".join(cells) + f" | {seeds} |")
    atomic_write_text(options.out / "table.json", json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
