"""Speed, memory and size of CLIP-ZSS students against ZegCLIP, on random weights.

    python benchmarks/speed.py --rounds 7 --json speed.json

Every model labels the same image, one at a time, for the same classes. Models take turns, so what
else the machine does falls on all alike; the ratio is that of medians. Memory is the growth of a
process's peak from before the model is built to after its last image, each model in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from zegment.clip import ImageTower, TowerShape
from zegment.config import WindowConfig
from zegment.config.model import StudentConfig
from zegment.files import atomic_write_text
from zegment.inference.decisions import best_class
from zegment.inference.fields import WindowedScores
from zegment.inference.image import WorkingImage
from zegment.inference.running import Runner
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.build import build_student
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP

DIM = 512
VIT_B16 = TowerShape(
    width=768, layers=12, heads=12, patch_size=16, grid=(14, 14), embed_dim=DIM, hidden=3072
)


def zegclip() -> SegmentationModel:
    """Return ZegCLIP on ViT-B/16 as released, with 10 prompts."""
    return ZegCLIP(
        ImageTower(VIT_B16),
        DeepPrompts(layers=12, tokens=10, width=768, patch_size=16),
        MaskDecoder(DIM, layers=3, heads=8, dropout=0.1),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def student(architecture: str, encoder: str) -> Callable[[], SegmentationModel]:
    """Return what builds a student."""
    config = StudentConfig(architecture=architecture, encoder=encoder)
    return lambda: build_student(config, embed_dim=DIM, mean=IMAGENET_MEAN, std=IMAGENET_STD)


MODELS: dict[str, Callable[[], SegmentationModel]] = {
    "ZegCLIP, ViT-B/16": zegclip,
    "DeepLabV3+, MobileNetV3-S": student("deeplabv3plus", "tu-mobilenetv3_small_100"),
    "SegFormer-B0": student("segformer", "mit_b0"),
    "SegNeXt-T": student("segnext", "t"),
    "SegNeXt-B": student("segnext", "b"),
    "UPerNet, Swin-T": student("upernet", "tu-swin_tiny_patch4_window7_224"),
}


@torch.inference_mode()
def label(model: SegmentationModel, image: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return a label map of the image's size, as prediction computes it."""
    windows, seen = WindowConfig(), torch.ones(len(texts), dtype=torch.bool)
    working = WorkingImage(image, model.mean, model.std, windows)
    field = WindowedScores(Runner(model), working, texts, windows)
    return best_class(field, seen, margin=0.0, size=working.size)[0]


def inputs(size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one image and unit text embeddings."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(classes, DIM, generator=generator)
    image = torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
    return image, torch.nn.functional.normalize(texts, dim=1)


def high_water() -> float:
    """Return the peak of this process's memory in MiB, on Linux.

    ``getrusage`` would do elsewhere, but its peak is handed down from the parent process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_memory(name: str, size: int, classes: int) -> float:
    """Return by how many MiB this process grows at most when it uses a model."""
    image, texts = inputs(size, classes)
    before = high_water()
    model = MODELS[name]().eval()
    for _ in range(2):
        label(model, image, texts)
    return high_water() - before


def times(size: int, classes: int, rounds: int) -> dict[str, list[float]]:
    """Return seconds per image, all models in turn."""
    image, texts = inputs(size, classes)
    models = {name: build().eval() for name, build in MODELS.items()}
    for model in models.values():
        label(model, image, texts)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            label(model, image, texts)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def measure(size: int, classes: int, rounds: int) -> list[dict[str, Any]]:
    """Return one row per model."""
    seconds = times(size, classes, rounds)
    rows = []
    for name, build in MODELS.items():
        command = [sys.executable, __file__, "--peak", name, "--size", str(size)]
        peak = subprocess.run(  # noqa: S603 - this very program
            [*command, "--classes", str(classes)], capture_output=True, text=True, check=True
        )
        rows.append(
            {
                "model": name,
                "parameters": sum(p.numel() for p in build().parameters()),
                "seconds": median(seconds[name]),
                "fastest": min(seconds[name]),
                "slowest": max(seconds[name]),
                "peak_mib": float(peak.stdout),
            }
        )
    for row in rows:
        row["speed_ratio"] = rows[0]["seconds"] / row["seconds"]
        row["memory_ratio"] = row["peak_mib"] / rows[0]["peak_mib"]
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", choices=MODELS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_memory(arguments.peak, arguments.size, arguments.classes))
        return
    rows = measure(arguments.size, arguments.classes, arguments.rounds)
    print("| model | parameters | images/s | × ZegCLIP | peak MiB | × ZegCLIP |")
    print("|---" * 6 + "|")
    for row in rows:
        print(
            f"| {row['model']} | {row['parameters'] / 1e6:.1f} M | {1 / row['seconds']:.2f} | "
            f"{row['speed_ratio']:.1f} | {row['peak_mib']:.0f} | {row['memory_ratio']:.2f} |"
        )
    if arguments.json:
        report = {"threads": torch.get_num_threads(), "size": arguments.size, "rows": rows}
        atomic_write_text(arguments.json, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
