"""What each part of a CLIP-ZSS training step costs, on random weights.

    python benchmarks/teaching_cost.py --rounds 5 --json cost.json

One step at 512 × 512 pixels with CLIP ViT-B/16 as teacher: 1,024 tokens of 512 dimensions. Parts
take turns, and medians are printed. "Remembered" is the step when the teacher's tokens come from
the cache on disk.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from comparisons.students import DIM, VIT_B16, student
from torch.nn import functional as F

from zegment.clip import ImageTower
from zegment.clip_zss import ClipZss
from zegment.data import IGNORE_INDEX
from zegment.files import atomic_write_text
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD
from zegment.models.dense_clip import ValuePath
from zegment.objectives import NonMutuallyExclusive, SoftmaxCrossEntropy
from zegment.teaching.global_learning import GlobalLearning
from zegment.teaching.pixel_learning import PixelLearning
from zegment.teaching.synthesizer import Synthesizer
from zegment.teaching.teacher import Teacher, Tokens
from zegment.teaching.token_cache import TokenCache

STUDENTS = {
    "SegFormer-B0": student("segformer", "mit_b0"),
    "SegNeXt-B": student("segnext", "b"),
}
SEEN = 15


def scenes(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels of blocks, half of them not annotated."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 2 * SEEN, (batch, 1, 4, 4), generator=generator).float()
    label = F.interpolate(blocks, size=(size, size))[:, 0].long()
    colours = torch.randn(2 * SEEN, 3, generator=generator)[label].permute(0, 3, 1, 2)
    image = colours + 0.3 * torch.randn(batch, 3, size, size, generator=generator)
    return image, label.where(label < SEEN, IGNORE_INDEX)


def objective(teacher: Callable[[torch.Tensor], Tokens], pixels: PixelLearning) -> ClipZss:
    """Return the whole method for fifteen seen classes."""
    return ClipZss(
        F.normalize(torch.randn(SEEN, DIM), dim=1),
        seen=list(range(SEEN)),
        teacher=teacher,
        mask_losses=[NonMutuallyExclusive(ignored_are_negatives=False), SoftmaxCrossEntropy()],
        global_learning=GlobalLearning(DIM),
        pixel_learning=pixels,
        synthesizer=Synthesizer(DIM),
    )


def measure(name: str, batch: int, size: int, rounds: int, cache: Path) -> dict[str, float]:
    """Return median seconds of each part, and their shares."""
    torch.manual_seed(0)
    image, label = scenes(batch, size)
    model = STUDENTS[name]().train()
    normal = {"student_mean": IMAGENET_MEAN, "student_std": IMAGENET_STD}
    teacher = Teacher(
        ImageTower(VIT_B16), ValuePath(), mean=IMAGENET_MEAN, std=IMAGENET_STD, **normal
    )
    pixels = PixelLearning()
    whole = objective(teacher, pixels)
    remembering = objective(TokenCache(teacher, cache), pixels)
    optimizer = torch.optim.AdamW([*model.parameters(), *whole.synthesizer.parameters()], lr=1e-5)
    tokens, unannotated = teacher(image).patch_tokens, label == IGNORE_INDEX

    def step(setting: ClipZss) -> None:
        losses = setting(model, setting.prepare(image, label))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    parts = {
        "step": lambda: step(whole),
        "remembered": lambda: step(remembering),
        "teacher": lambda: teacher(image),
        "pixel learning": lambda: pixels(tokens, unannotated),
    }
    seconds: dict[str, list[float]] = {part: [] for part in parts}
    for turn in range(rounds + 1):
        for part, run in parts.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms up, and fills the cache
                seconds[part].append(time.perf_counter() - start)
    row = {part: median(values) for part, values in seconds.items()}
    row["groups"] = float(pixels(tokens, unannotated).present.sum(dim=1).float().mean())
    row["share of pixel learning"] = row["pixel learning"] / row["step"]
    row["gain of remembering"] = row["step"] / row["remembered"]
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in STUDENTS:
            rows[name] = measure(
                name, arguments.batch, arguments.size, arguments.rounds, Path(cache)
            )
            print(name, *(f"{key} {value:.3f}" for key, value in rows[name].items()), sep="\n  ")
    if arguments.json:
        report = {"threads": torch.get_num_threads(), **vars(arguments), "students": rows}
        atomic_write_text(arguments.json, json.dumps(report, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
