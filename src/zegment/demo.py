"""The main job in minutes: both methods trained on Shapes while you watch, against rivals."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from zegment.checkpoint import load_trained
from zegment.colours import class_colours, paint
from zegment.config import Config
from zegment.config.loading import load_config
from zegment.data.shapes import STUFF, THINGS, UNSEEN, ShapesDataset
from zegment.errors import OutputError
from zegment.evaluation import Evaluation, evaluate
from zegment.figures import comparison_figure
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.formats.streams import png_bytes
from zegment.progress import TrainingProgress, percent
from zegment.segmenter import Segmenter
from zegment.text_files import json_text
from zegment.training import Trainer

RESULTS, PICTURE = "results.json", "comparison.png"
TITLES = {
    "dense_clip": "training-free CLIP",
    "one_stage": "one-stage baseline",
    "zegclip": "ZegCLIP",
    "clip_zss": "CLIP-ZSS",
}
TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {
    "zegclip": ("shapes-zegclip", ()),
    "clip_zss": ("shapes-clip-zss", ("optim.steps=400",)),
}
"""Preset of each method that is trained on the spot, and what is changed in it.

The student takes two thirds of its steps, so that all ends within five minutes on two cores.
"""

QUICK = ("optim.steps=20", "optim.warmup_steps=5", "data.val_length=32", "data.test_length=64")
ROWS = 5
"""Scenes in the picture."""


DEFAULT_FOLDER = "zegment-demo"


def free_folder(out: Path | None) -> Path:
    """Return where a demo may write: ``out``, or by default a folder that is not there yet.

    Raises:
        OutputError: If ``out`` exists and is not an empty folder.
    """
    if out is None:
        numbers = (f"-{n}" if n > 1 else "" for n in count(1))
        return next(p for n in numbers if not (p := Path(DEFAULT_FOLDER + n)).exists())
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"'{out}' is in use; give another --out")
    return out


class Demo:
    """The comparison on Shapes' test split.

    Args:
        folder: Where table, picture and the trained runs go.
        seed: Of the trainings.
        quick: Whether a few steps and scenes are enough.
        console: Where to show progress and the table.
    """

    def __init__(self, folder: Path, *, seed: int, quick: bool, console: Console) -> None:
        self.folder, self.console, self.seed, self.quick = folder, console, seed, quick
        self.configs = {
            name: load_config(
                preset=preset, overrides=[f"seed={seed}", *changes, *(QUICK if quick else ())]
            )
            for name, (preset, changes) in TRAINED.items()
        }
        data = next(iter(self.configs.values())).data
        self.test = ShapesDataset("test", length=data.test_length, size=data.image_size)

    def run(self) -> None:
        """Train, compare, and write ``results.json`` and ``comparison.png``."""
        self.console.print(
            f"Shapes: {len(THINGS)} things and {len(STUFF)} stuff classes; without a mask in "
            f"training: {', '.join(UNSEEN)}."
        )
        seconds = {name: self._train(name, config) for name, config in self.configs.items()}
        segmenters = {
            "dense_clip": _dense_clip(),
            "one_stage": Segmenter.of(load_trained("shapes-one-stage")),
            **{name: Segmenter.of(load_trained(str(self.folder / name))) for name in TRAINED},
        }
        evaluations = {}
        for name, segmenter in segmenters.items():
            with self.console.status(f"evaluating {TITLES[name]} on {len(self.test)} scenes"):
                evaluations[name] = evaluate(segmenter, self.test)
        self._write(segmenters, evaluations, seconds)
        self._print(evaluations, seconds)

    def _train(self, name: str, config: Config) -> float:
        """Train one method into its run folder, and return the seconds that it took."""
        started = time.perf_counter()
        description = f"training {TITLES[name]} ({config.data.train_length} scenes)"
        with TrainingProgress(self.console, config.optim.steps, description) as observer:
            Trainer(config, self.folder / name).run(observer)
        return time.perf_counter() - started

    def _write(
        self,
        segmenters: dict[str, Segmenter],
        evaluations: dict[str, Evaluation],
        seconds: dict[str, float],
    ) -> None:
        methods = {name: _row(evaluation) for name, evaluation in evaluations.items()}
        methods["one_stage"]["weights"] = "packaged checkpoint shapes-one-stage"
        for name, time_taken in seconds.items():
            methods[name]["weights"] = "trained by this demo"
            methods[name]["training_seconds"] = time_taken
            methods[name]["training_steps"] = self.configs[name].optim.steps
        results = {
            "data": "shapes/test",
            "seed": self.seed,
            "shortened": self.quick,
            "seen_penalty": self.configs["zegclip"].seen_penalty,
            "methods": methods,
        }
        atomic_write_text(self.folder / RESULTS, json_text(results))
        picture = png_bytes(comparison(segmenters, self.test))
        atomic_write_bytes(self.folder / PICTURE, picture)

    def _print(self, evaluations: dict[str, Evaluation], seconds: dict[str, float]) -> None:
        table = Table(title=f"Shapes, {len(self.test)} test scenes; percent")
        for column in ("method", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "images/s"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for name, evaluation in evaluations.items():
            s = evaluation.scores
            values = [percent(x) for x in (s.pAcc, s.mIoU_seen, s.mIoU_unseen, s.hIoU)]
            table.add_row(TITLES[name], *values, f"{evaluation.images_per_second:.0f}")
        self.console.print(table)
        times = " and ".join(f"{TITLES[name]} for {t:.0f} s" for name, t in seconds.items())
        note = " This was the shortened demo: twenty steps train nothing." if self.quick else ""
        self.console.print(
            f"Just now trained: {times}.{note} Picture: {self.folder / PICTURE}\n"
            f"Segment with it: zegment predict IMAGE --model {self.folder / 'clip_zss'} "
            '--classes "moon, kite, water" --out results',
            highlight=False,
            soft_wrap=True,
        )


def comparison(segmenters: dict[str, Segmenter], scenes: ShapesDataset) -> Image.Image:
    """Return the picture: scenes, truth and the map of each method, with a legend."""
    chosen = _scenes_with_unseen(scenes)
    colours = class_colours(len(scenes.class_names))
    rows: list[list[NDArray[np.uint8]]] = []
    for index in chosen:
        image, label = scenes[index]
        maps = [label.numpy()]
        for segmenter in segmenters.values():
            prediction, _ = segmenter.label(image[None], segmenter.query(scenes.class_names))
            maps.append(prediction[0].cpu().numpy())
        rows.append([image.permute(1, 2, 0).numpy(), *(paint(m, colours) for m in maps)])
    return comparison_figure(
        rows,
        ["image", "truth", *(TITLES[name] for name in segmenters)],
        legend=dict(zip(scenes.class_names, colours, strict=True)),
        unseen=UNSEEN,
    )


def _scenes_with_unseen(scenes: ShapesDataset) -> list[int]:
    """Return the first scenes that together show every unseen class, then the next ones."""
    missing, chosen = set(UNSEEN), []
    for index in range(len(scenes)):
        label = scenes[index][1]
        present = {scenes.class_names[i] for i in torch.unique(label).tolist()}
        if missing & present:
            chosen.append(index)
            missing -= present
        if len(chosen) == ROWS or not missing:
            break
    return chosen


def _dense_clip() -> Segmenter:
    config: Config = load_config(preset="shapes-dense-clip")
    return Segmenter.of(load_trained(config.model.clip, config=config))


def _row(evaluation: Evaluation) -> dict[str, Any]:
    scores = evaluation.scores
    return {
        **evaluation.to_dict(),
        "mIoU_things": scores.subset_miou(THINGS),
        "mIoU_stuff": scores.subset_miou(STUFF),
        "mIoU_unseen_things": scores.subset_miou([n for n in THINGS if n in UNSEEN]),
        "mIoU_unseen_stuff": scores.subset_miou([n for n in STUFF if n in UNSEEN]),
    }
