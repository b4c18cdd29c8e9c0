"""A training step of ZegCLIP against the one of its released code, on random weights of ViT-B/16.

Two images of 512 × 512 pixels, forward, backward and optimizer. Beside seconds stands the memory
that the step takes above the model, each in a process of its own. Ours is also timed in mixed
precision and with gradient checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from comparisons.measuring import Work, apart_in_turn, target, times_faster
from comparisons.plain_zegclip import plain_step
from torch import Tensor
from torch.nn import functional as F

from zegment.clip import ImageTower, TowerShape
from zegment.config import OptimConfig
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP
from zegment.objectives import InductiveObjective, NonMutuallyExclusive
from zegment.precision import is_native
from zegment.training.optimization import parameter_groups

SHORT = torch.bfloat16
SIDE, IMAGES, CLASSES_IN_AN_IMAGE = 512, 2, 6

SHAPE = TowerShape(
    width=768, layers=12, heads=12, patch_size=16, grid=(32, 32), embed_dim=512, hidden=3072
)

RELEASED = {"VOC": {"seconds": 9.3, "GB": 2.3}, "COCO": {"seconds": 21.5, "GB": 6.3}}
"""What the released modules took on two cores, for 20 and 156 classes: not measured here."""

MOST_ROUNDS = 2
"""A step takes seconds; more rounds than this would take minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A training setting of the paper: how many classes are seen, how many prompts per layer."""

    classes: int
    prompts: int


SETTINGS = {"VOC": Setting(classes=15, prompts=10), "COCO": Setting(classes=156, prompts=100)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a step is taken."""

    plain: bool = False
    mixed: bool = False
    checkpoints: bool = False


PLAIN, OURS = "released way", "ours"
WAYS = {
    PLAIN: Way(plain=True),
    OURS: Way(),
    "ours, gradient checkpointing": Way(checkpoints=True),
    "ours, bf16": Way(mixed=True),
}


def make_model(setting: Setting) -> ZegCLIP:
    """Return a model as training starts with."""
    torch.manual_seed(0)
    prompts = DeepPrompts(
        layers=SHAPE.layers,
        tokens=setting.prompts,
        width=SHAPE.width,
        patch_size=SHAPE.patch_size,
    )
    decoder = MaskDecoder(SHAPE.embed_dim)
    model = ZegCLIP(ImageTower(SHAPE), prompts, decoder, mean=(0, 0, 0), std=(1, 1, 1))
    return model.train()


def make_batch(setting: Setting) -> tuple[Tensor, Tensor]:
    """Return images (B, 3, H, W) and labels (B, H, W) of large blocks of a few classes."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator)
    present = torch.randperm(setting.classes, generator=generator)[:CLASSES_IN_AN_IMAGE]
    tiles = torch.randint(0, CLASSES_IN_AN_IMAGE, (IMAGES, 8, 8), generator=generator)
    label = present[tiles].repeat_interleave(SIDE // 8, 1).repeat_interleave(SIDE // 8, 2)
    return image, label


def our_step(
    model: ZegCLIP, text_embeddings: Tensor, *, seen: int, mixed: bool = False
) -> Callable[[Tensor, Tensor], None]:
    """Return an optimizer step on images and their labels, as the trainer takes it."""
    objective = InductiveObjective(text_embeddings, seen=range(seen), loss=NonMutuallyExclusive())
    optim = replace(OptimConfig(), lr=2e-4, weight_decay=0.01)
    optimizer = torch.optim.AdamW(parameter_groups(model, objective, optim), lr=optim.lr)

    def step(image: Tensor, label: Tensor) -> None:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=mixed):
            losses = objective(model, objective.prepare(image, label))
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def prepare(*, setting: Setting, way: Way) -> Work:
    """Return a training step; it is built in a process of its own."""
    model = make_model(setting)
    if way.checkpoints:
        model.use_gradient_checkpointing()
    generator = torch.Generator().manual_seed(1)
    text = F.normalize(torch.randn(setting.classes, SHAPE.embed_dim, generator=generator), dim=-1)
    make_step = plain_step if way.plain else our_step
    step = make_step(model, text, seen=setting.classes, mixed=way.mixed)
    return partial(step, *make_batch(setting))


def compare(*, rounds: int) -> dict[str, Any]:
    """Return seconds and MiB of a step in every setting and way, and targets for them.

    No more than `MOST_ROUNDS` rounds are taken, and the first is not a warm-up. A processor that
    only imitates bfloat16 is not timed in it: a step would take an hour.
    """
    rounds = min(rounds, MOST_ROUNDS)
    rows, targets = [], []
    for name, setting in SETTINGS.items():
        timed = {w: how for w, how in WAYS.items() if not how.mixed or is_native(SHORT, "cpu")}
        cases = {way: {"setting": setting, "way": how} for way, how in timed.items()}
        runs = apart_in_turn(prepare, cases, rounds=rounds)
        seconds = {way: [run.seconds for run in found] for way, found in runs.items()}
        mib = {way: max(run.mib for run in found) for way, found in runs.items()}
        rows += [
            {
                "setting": f"{name}, K = {setting.classes}, P = {setting.prompts}",
                "way": way,
                "rounds": rounds,
                "seconds": median(seconds[way]),
                "times faster": times_faster(seconds, way, than=PLAIN),
                "peak MiB": mib[way],
            }
            for way in timed
        ]
        many = setting.classes > 100
        faster, share = times_faster(seconds, OURS, than=PLAIN), mib[OURS] / mib[PLAIN]
        targets += [
            target(f"{name}: times faster than released", faster, at_least=1.8 if many else 1),
            target(f"{name}: share of its memory", share, at_most=0.5 if many else 1),
        ]
    return {"rows": rows, "targets": targets, "released modules, recorded": RELEASED}
