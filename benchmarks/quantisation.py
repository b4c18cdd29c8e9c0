"""What an export and 8-bit weights do to a model: scores, size and speed on Shapes.

    python benchmarks/quantisation.py --rounds 200 --json quantisation.json

The model runs in PyTorch, as an ONNX graph, and as one with 8-bit weights. Scores are of the whole
test split. For speed, the three label one scene at a time and take turns, so that what else the
machine does falls on all alike; the ratio is that of medians. The size is that of the weights: of
``model.safetensors`` or ``model.onnx``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from zegment.checkpoint_files import ONNX, WEIGHTS, checkpoint_folder
from zegment.data.shapes import ShapesDataset
from zegment.evaluation import evaluate
from zegment.export.folder import export
from zegment.files import atomic_write_text
from zegment.segmenter import Segmenter, load

PYTORCH, FLOAT, INT8 = "PyTorch, float32", "ONNX, float32", "ONNX, int8"


def variants(name: str, folder: Path) -> dict[str, tuple[Segmenter, int]]:
    """Return the model in its three forms, each with the bytes of its weights."""
    checkpoint = checkpoint_folder(name)
    assert checkpoint is not None, f"'{name}' is no checkpoint"
    made = {PYTORCH: (load(name, device="cpu"), (checkpoint / WEIGHTS).stat().st_size)}
    for title, quantise in ((FLOAT, False), (INT8, True)):
        out = folder / title
        export(name, out, quantise=quantise)
        made[title] = (load(out, device="cpu"), (out / ONNX).stat().st_size)
    return made


def times(segmenters: dict[str, Segmenter], scenes: ShapesDataset, rounds: int) -> dict[str, float]:
    """Return the median seconds for one scene, all models in turn."""
    queries = {name: s.query(scenes.class_names) for name, s in segmenters.items()}
    seconds: dict[str, list[float]] = {name: [] for name in segmenters}
    for i in range(rounds + 1):
        image = scenes[i % len(scenes)][0][None]
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            segmenter.label(image, queries[name])
            seconds[name].append(time.perf_counter() - start)
    return {name: median(taken[1:]) for name, taken in seconds.items()}  # the first one warms up


def measure(name: str, *, length: int, rounds: int) -> list[dict[str, Any]]:
    """Return one row per form of the model."""
    with tempfile.TemporaryDirectory() as folder:
        made = variants(name, Path(folder))
        segmenters = {title: segmenter for title, (segmenter, _) in made.items()}
        scenes = ShapesDataset("test", length=length, size=96)
        taken = times(segmenters, scenes, rounds)
        rows = []
        for title, (segmenter, size) in made.items():
            scores = evaluate(segmenter, scenes).scores
            rows.append(
                {
                    "form": title,
                    "mIoU": scores.mIoU,
                    "mIoU_seen": scores.mIoU_seen,
                    "mIoU_unseen": scores.mIoU_unseen,
                    "hIoU": scores.hIoU,
                    "bytes": size,
                    "seconds": taken[title],
                    "speed_ratio": taken[PYTORCH] / taken[title],
                }
            )
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapes-clip-zss")
    parser.add_argument("--length", type=int, default=400, help="scenes of the test split")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.model, length=arguments.length, rounds=arguments.rounds)
    print("| form | mIoU | mIoU(S) | mIoU(U) | hIoU | MB | images/s | × PyTorch |")
    print("|---" * 8 + "|")
    for row in rows:
        scores = [row[key] for key in ("mIoU", "mIoU_seen", "mIoU_unseen", "hIoU")]
        print(
            f"| {row['form']} | {' | '.join(f'{100 * score:.2f}' for score in scores)} | "
            f"{row['bytes'] / 1e6:.2f} | {1 / row['seconds']:.0f} | {row['speed_ratio']:.2f} |"
        )
    if arguments.json:
        report = {
            "model": arguments.model,
            "scenes": arguments.length,
            "threads": torch.get_num_threads(),
            "rows": rows,
        }
        atomic_write_text(arguments.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
