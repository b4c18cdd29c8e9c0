"""Speed, memory and size of CLIP-ZSS students against ZegCLIP, on random weights.

Every model labels the same image, one at a time, for the same classes. Memory is the growth of a
process's peak from before the model is built to after its last image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from comparisons.measuring import Work, in_turn, peak_mib

from zegment.clip import ImageTower, TowerShape
from zegment.config import WindowConfig
from zegment.config.model import StudentConfig
from zegment.inference.decisions import best_class
from zegment.inference.fields import WindowedScores
from zegment.inference.image import WorkingImage
from zegment.inference.running import Runner
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.build import build_student
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP

DIM, SIZE, CLASSES = 512, 512, 20
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


def prepare(*, name: str) -> Work:
    """Return what labels one image with a model that is not there before."""
    image, texts = inputs(SIZE, CLASSES)

    def build_and_label() -> None:
        model = MODELS[name]().eval()
        for _ in range(2):
            label(model, image, texts)

    return build_and_label


def compare(*, rounds: int) -> dict[str, Any]:
    """Return one row per model, the first of which is ZegCLIP."""
    image, texts = inputs(SIZE, CLASSES)
    models = {name: build().eval() for name, build in MODELS.items()}
    works = {name: partial(label, model, image, texts) for name, model in models.items()}
    seconds = in_turn(works, rounds=rounds)
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "seconds": median(seconds[name]),
            "fastest": min(seconds[name]),
            "slowest": max(seconds[name]),
            "peak_mib": peak_mib(prepare, name=name),
        }
        for name, model in models.items()
    ]
    for row in rows:
        row["speed_ratio"] = rows[0]["seconds"] / row["seconds"]
        row["memory_ratio"] = row["peak_mib"] / rows[0]["peak_mib"]
    return {"size": SIZE, "classes": CLASSES, "rows": rows, "targets": []}
