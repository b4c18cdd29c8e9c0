"""What each process of a launch does in `test_distributed`; also run by one process alone."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from zegment.config import Config
from zegment.config.loading import load_config
from zegment.data import checked_dataset
from zegment.distributed import join_processes
from zegment.errors import ZegmentError
from zegment.evaluation import evaluate
from zegment.metrics import ConfusionMatrix
from zegment.segmenter import Segmenter, load
from zegment.training import Trainer

EPS = {"student": 0.1}
"""Of Adam, by kind of model. With its usual one, a gradient that is rounding alone moves a weight
by a whole step in either direction. A student has so many of these, before its batch norms, that no
two ways to add up agree; with this one gradients count as they are, also their scale."""

STEPS = 10
BATCH = 4
QUICK = [
    "data.image_size=32",
    "data.train_length=11",  # epochs end within a batch
    "data.val_length=5",
    "data.test_length=7",
    "data.unannotated_share=0.3",
    f"optim.steps={STEPS}",
    f"optim.batch_size={BATCH}",
    "optim.warmup_steps=0",
    "windows.size=32",
    "windows.stride=16",
]
DROPLESS = ["model.zegclip.prompt_dropout=0.0", "model.zegclip.decoder_dropout=0.0"]
ZEGCLIP = ["model.zegclip.prompt_tokens=2", "model.zegclip.decoder_heads=2"]
VARIANT = [
    "model.zegclip.tower=fine_tuned",
    "model.zegclip.prompt_layers=1",
    "model.zegclip.auxiliary_losses=true",
]
STUDENT = [
    "teaching.pseudo_classes=synthesizer",
    "teaching.synthesizer_heads=2",
    "teaching.bank_size=6",
]

RUNS = {
    "inductive": ("shapes-zegclip", [*ZEGCLIP, *DROPLESS, "optim.max_grad_norm=0.5"]),
    "transductive": ("shapes-zegclip", [*ZEGCLIP, *DROPLESS, "setting=transductive"]),
    "variant": ("shapes-zegclip", [*ZEGCLIP, *DROPLESS, *VARIANT, "setting=transductive"]),
    "dropping": ("shapes-zegclip", ZEGCLIP),
    "one-stage": ("shapes-one-stage", []),
    # Batches with fewer masks than there are processes.
    "unannotated": ("shapes-zegclip", [*ZEGCLIP, *DROPLESS, "data.unannotated_share=1.0"]),
    "student": ("shapes-clip-zss", STUDENT),
}
"""Presets and settings; nothing but ``dropping`` draws dropout."""


def config(run: str, clip: Path, *settings: str) -> Config:
    preset, own = RUNS[run]
    return load_config(preset=preset, overrides=[f"model.clip={clip}", *QUICK, *own, *settings])


def train(config: Config, out: Path) -> dict[str, Any]:
    """Return what a process knows after a run: losses, weights, the bank, and evaluations."""
    losses: list[dict[str, float]] = []

    class Listener:
        def step(self, step: int, given: dict[str, float]) -> None:
            losses.append(given)

        def validated(self, step: int, evaluation: object) -> None:
            pass

    adam = partial(torch.optim.AdamW, eps=EPS.get(config.model.kind, 1e-8))
    with patch.object(torch.optim, "AdamW", adam):
        trainer = Trainer(config, out)
        draw = torch.get_rng_state()
        trainer.run(Listener())
    learning = getattr(trainer.current.objective, "global_learning", None)
    segmenter = Segmenter.of(trainer.trained)
    return {
        "losses": losses,
        "moments": moments(trainer.current.optimizer),
        "draws": draw,
        "weights": {k: v.clone() for k, v in trainer.trained.state().items()},
        "bank": None if learning is None else learning.bank.tokens,
        "evaluations": {size: counts(segmenter, config, size) for size in (2, 3)},
    }


def moments(optimizer: torch.optim.Optimizer) -> int:
    """Return how many numbers of Adam's moments this process holds."""
    tensors = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    return sum(getattr(value, "_local_tensor", value).numel() for value in tensors)


def counts(segmenter: Segmenter, config: Config, batch_size: int) -> dict[str, Any]:
    """Return the confusion matrix and Dice of the seven test images, and the images it took."""
    kept: list[ConfusionMatrix] = []
    original = ConfusionMatrix.__init__

    def remember(self: ConfusionMatrix, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        kept.append(self)

    own: list[int] = []
    ConfusionMatrix.__init__ = remember
    try:
        evaluation = evaluate(
            segmenter,
            checked_dataset(config.data, "test"),
            batch_size=batch_size,
            on_image=own.append,
        )
    finally:
        ConfusionMatrix.__init__ = original
    return {
        "matrix": kept[0].state,
        "dice": evaluation.dice.state,
        "own": max(own, default=0),
        "images": evaluation.images,
    }


def work(folder: Path, clip: Path, runs: list[str]) -> None:
    """Train and evaluate, and save what this process saw."""
    found = {run: train(config(run, clip), folder / run) for run in runs}
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


def judge(folder: Path, clip: Path) -> None:
    """Evaluate a checkpoint; then let the second process alone find that its CLIP is missing."""
    join_processes()
    segmenter, asked = load("shapes-zegclip"), config("inductive", clip)
    found = {size: counts(segmenter, asked, size) for size in (2, 3)}
    torch.save(found, folder / f"{os.environ['RANK']}.pt")
    place = clip / "nowhere" if os.environ["RANK"] == "1" else clip
    try:
        Trainer(config("inductive", place, "optim.batch_size=3"), folder / "run")
    except ZegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def fill(folder: Path, clip: Path) -> None:
    """Train until the log has no more room."""

    class Filling:
        def step(self, step: int, losses: dict[str, float]) -> None:
            if step == 3:
                trainer.log.path = Path("/dev/full")

        def validated(self, step: int, evaluation: object) -> None:
            pass

    trainer = Trainer(config("inductive", clip), folder / "run")
    try:
        trainer.run(Filling())
    except ZegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    task, folder, clip, *runs = sys.argv[1:]
    if task == "train":
        work(Path(folder), Path(clip), runs)
    elif task == "fill":
        fill(Path(folder), Path(clip))
    else:
        judge(Path(folder), Path(clip))
