"""Labels of large pictures: Zegment against the plain computation, on random weights.

ZegCLIP on ViT-B/16 by windows of 512 pixels with 426 between them. Each computation runs in a
process of its own, after one window to warm up; memory is what the process grows by, above the
model. The plain one is `comparisons.plain_prediction`: with our modules, whose labels ours must
equal, and in the released way: with the modules of `comparisons.plain_zegclip`, which compute what
the released ones do, and every window padded to the size of the picture before it is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from comparisons.measuring import Measured, Work, apart, apart_in_turn, target
from comparisons.plain_prediction import plain_labels
from comparisons.plain_zegclip import plain_logits
from comparisons.students import DIM, zegclip
from torch import Tensor

from zegment.clip import ImageTower, TowerShape
from zegment.config import WindowConfig
from zegment.data.transforms import normalize
from zegment.inference.decisions import best_class
from zegment.inference.fields import WindowedScores
from zegment.inference.image import WorkingImage
from zegment.inference.running import Execution, Precision, Runner
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP
from zegment.precision import is_native

WINDOWS = WindowConfig(size=512, stride=426)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is labelled, and where.

    The released way adds every window to the whole map, so that a window of a larger picture costs
    it more, and ours the same.

    Attributes:
        classes: How many there are.
        size: Of the picture that is timed, (H, W).
        labels_size: Of the one whose labels are compared with those of the plain version.
        times: How often each way is timed.
    """

    classes: int
    size: tuple[int, int]
    labels_size: tuple[int, int]
    times: int = 1


SMALL, WHOLE = (512, 1024), (1024, 2048)
CASES = (
    Case(classes=20, size=SMALL, labels_size=SMALL, times=3),
    Case(classes=171, size=WHOLE, labels_size=WHOLE, times=2),
    Case(classes=847, size=WHOLE, labels_size=SMALL),
)

LARGEST = (8192, 8192)

LIMIT = 150.0
"""Seconds after which the released way is stopped: some machines take many minutes to find the
15 GB that it needs for 847 classes. How many times faster ours is, is then a lower bound.
"""

TARGETS = {
    # classes: least speed-up in float32 and bfloat16, most memory, against the released way
    20: (1.0, 1.6, None),
    171: (1.7, 3.0, 1 / 4),
    847: (4.0, None, 1 / 10),
}


def small_zegclip() -> SegmentationModel:
    """Return ZegCLIP on a tower of two narrow layers, whose time is that of everything else."""
    shape = TowerShape(
        width=64, layers=2, heads=2, patch_size=16, grid=(14, 14), embed_dim=64, hidden=128
    )
    return ZegCLIP(
        ImageTower(shape),
        DeepPrompts(layers=2, tokens=10, width=64, patch_size=16),
        MaskDecoder(64, layers=1, heads=2),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def picture(size: tuple[int, int]) -> Tensor:
    """Return a picture with large and small structures, uint8 (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp_(0, 1)
    return smooth.mul_(255).to(torch.uint8)


def texts(classes: int, dim: int) -> Tensor:
    """Return unit text embeddings."""
    rows = torch.randn(classes, dim, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(rows, dim=1)


def seen(classes: int) -> Tensor:
    """Return that every second class had masks."""
    return torch.arange(classes) % 2 == 0


def ours(
    model: Callable[[], SegmentationModel],
    *,
    dim: int,
    classes: int,
    size: tuple[int, int],
    precision: Precision = "float32",
) -> Work:
    """Return what labels a picture as Zegment does."""
    torch.manual_seed(0)
    runner = Runner(model().eval(), Execution(precision=precision))
    image, rows, had_masks = picture(size), texts(classes, dim), seen(classes)

    def label(pixels: Tensor) -> np.ndarray:
        working = WorkingImage(pixels, runner.model.mean, runner.model.std, WINDOWS)
        field = WindowedScores(runner, working, rows, WINDOWS)
        winners, _ = best_class(field, had_masks, margin=0.1, size=working.size)
        return winners[0].to(torch.int16).numpy()

    label(image[..., :512, :512])
    return lambda: label(image)


class Released:
    """A ZegCLIP that computes in the released way; what prediction asks of a model."""

    def __init__(self, model: SegmentationModel) -> None:
        self.model, self.patch_size, self.scores = model, model.patch_size, model.scores
        self.mean, self.std = model.mean, model.std

    def __call__(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        return plain_logits(self.model, image, text_embeddings)


def plain(
    model: Callable[[], SegmentationModel],
    *,
    dim: int,
    classes: int,
    size: tuple[int, int],
    released: bool = False,
) -> Work:
    """Return what labels a picture plainly."""
    torch.manual_seed(0)
    network = Released(model().eval()) if released else model().eval()
    image, rows, had_masks = picture(size), texts(classes, dim), seen(classes)

    def label(pixels: Tensor) -> np.ndarray:
        normalized = normalize(pixels, network.mean, network.std)
        decided = {"seen": had_masks, "margin": 0.1, "whole_maps": released}
        labels = plain_labels(network, normalized, rows, WINDOWS, **decided)
        return labels[0].to(torch.int16).numpy()

    label(image[..., :512, :512])
    return lambda: label(image)


def _timed(
    ways: dict[str, Callable[..., Work]], *, rounds: int, **same: object
) -> dict[str, list[Measured]]:
    """Return what each way took, all given the same; they take turns."""
    cases = {name: {"way": way, **same} for name, way in ways.items()}
    return apart_in_turn(by_way, cases, rounds=rounds)


def by_way(*, way: Callable[..., Work], **same: object) -> Work:
    """Return what labels a picture in one of several ways, all given the same."""
    return way(**same)


def compare(*, rounds: int = 1) -> dict[str, Any]:
    """Return rows and targets; seven to nine minutes a round on two cores.

    A processor that only imitates bfloat16 is not timed in it: a picture would take an hour.
    """
    rows, targets = [], []
    formats = ["float32"] + ["bfloat16"] * is_native(torch.bfloat16, "cpu")
    for case in CASES:
        same = {"model": zegclip, "dim": DIM, "classes": case.classes}
        ways: dict[str, Callable[..., Work]] = {"released way": partial(plain, released=True)}
        our_ways = {name: partial(ours, precision=name) for name in formats}
        found = _timed(
            ways | our_ways, rounds=rounds * case.times, size=case.size, limit=LIMIT, **same
        )
        oracle = apart(plain, size=case.labels_size, **same)
        if case.labels_size == case.size:
            compared = found
            found["plain"] = [oracle]
        else:
            compared = _timed(our_ways, rounds=1, size=case.labels_size, **same)
        of_case = {name: _row(name, case, runs) for name, runs in found.items()}
        for name in formats:
            same_labels = (np.equal(run.result, oracle.result).mean() for run in compared[name])
            of_case[name]["labels_equal"] = float(min(same_labels))
        rows += of_case.values()
        targets += _targets(case.classes, of_case)
    largest = apart(ours, model=small_zegclip, dim=64, classes=847, size=LARGEST)
    name = f"MiB for {LARGEST[0]} × {LARGEST[1]} pixels and 847 classes"
    targets.append(target(name, largest.mib, at_most=2048))
    rows.append(
        {
            "name": "small tower, 8192 × 8192",
            "classes": 847,
            "size": LARGEST,
            "seconds": largest.seconds,
            "mib": largest.mib,
        }
    )
    return {"rows": rows, "targets": targets}


def _row(name: str, case: Case, runs: list[Measured]) -> dict[str, Any]:
    return {
        "name": name,
        "classes": case.classes,
        "size": case.size,
        # The fastest: what else the machine does only ever adds.
        "seconds": min(run.seconds for run in runs),
        "all_seconds": [run.seconds for run in runs],
        "finished": all(run.finished for run in runs),
        "mib": max(run.mib for run in runs),
    }


def _targets(classes: int, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    faster, faster_short, memory = TARGETS[classes]
    slow, exact, short = rows["released way"], rows["float32"], rows.get("bfloat16")
    found = [
        target(
            f"{classes} classes, float32: times faster than {slow['name']}",
            slow["seconds"] / exact["seconds"],
            at_least=faster,
        ),
        target(f"{classes} classes, float32: labels equal", exact["labels_equal"], at_least=1.0),
    ]
    if short is not None:
        name = f"{classes} classes, bfloat16: labels equal"
        found.append(target(name, short["labels_equal"], at_least=0.995))
    if short is not None and faster_short is not None:
        ratio = slow["seconds"] / short["seconds"]
        name = f"{classes} classes, bfloat16: times faster than {slow['name']}"
        found.append(target(name, ratio, at_least=faster_short))
    if memory is not None:
        ratio = exact["mib"] / slow["mib"]
        found.append(target(f"{classes} classes, float32: memory", ratio, at_most=memory))
    return found
