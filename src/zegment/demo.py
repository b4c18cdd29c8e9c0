"""The main job in minutes: ZegCLIP trained on Shapes while you watch, against its rivals."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from io import BytesIO
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
from zegment.config_loading import load_config
from zegment.data.shapes import STUFF, THINGS, UNSEEN, ShapesDataset
from zegment.errors import OutputError
from zegment.evaluation import Evaluation, evaluate
from zegment.figures import comparison_figure
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.progress import TrainingProgress, percent
from zegment.segmenter import Segmenter
from zegment.training import Trainer

RESULTS, PICTURE, RUN = "results.json", "comparison.png", "zegclip"
TITLES = {
    "dense_clip": "training-free CLIP",
    "one_stage": "one-stage baseline",
    "zegclip": "ZegCLIP",
}
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
        folder: Where table, picture and the trained run go.
        seed: Of the training.
        quick: Whether a few steps and scenes are enough.
        console: Where to show progress and the table.
    """

    def __init__(self, folder: Path, *, seed: int, quick: bool, console: Console) -> None:
        self.folder, self.console = folder, console
        config = load_config(preset="shapes-zegclip", overrides=[f"seed={seed}"])
        data = config.data
        if quick:
            data = replace(data, val_length=32, test_length=64)
            config = replace(config, optim=replace(config.optim, steps=20, warmup_steps=5))
        self.config, self.quick = replace(config, data=data), quick
        self.test = ShapesDataset("test", length=data.test_length, size=data.image_size)

    def run(self) -> None:
        """Train, compare, and write ``results.json`` and ``comparison.png``."""
        self.console.print(
            f"Shapes: {len(THINGS)} things and {len(STUFF)} stuff classes; without a mask in "
            f"training: {', '.join(UNSEEN)}."
        )
        started = time.perf_counter()
        run = self.folder / RUN
        description = f"training ZegCLIP ({self.config.data.train_length} scenes)"
        with TrainingProgress(self.console, self.config.optim.steps, description) as observer:
            Trainer(self.config, run, observer=observer).run()
        seconds = time.perf_counter() - started

        segmenters = {
            "dense_clip": _dense_clip(),
            "one_stage": Segmenter.of(load_trained("shapes-one-stage")),
            "zegclip": Segmenter.of(load_trained(str(run))),
        }
        evaluations = {}
        for name, segmenter in segmenters.items():
            with self.console.status(f"evaluating {TITLES[name]} on {len(self.test)} scenes"):
                evaluations[name] = evaluate(segmenter, self.test)
        self._write(segmenters, evaluations, seconds)
        self._print(evaluations, seconds)

    def _write(
        self,
        segmenters: dict[str, Segmenter],
        evaluations: dict[str, Evaluation],
        seconds: float,
    ) -> None:
        methods = {name: _row(evaluation) for name, evaluation in evaluations.items()}
        methods["one_stage"]["weights"] = "packaged checkpoint shapes-one-stage"
        methods["zegclip"]["weights"] = "trained by this demo"
        methods["zegclip"]["training_seconds"] = seconds
        results = {
            "data": "shapes/test",
            "seed": self.config.seed,
            "shortened": self.quick,
            "seen_penalty": self.config.model.zegclip.seen_penalty,
            "methods": methods,
        }
        atomic_write_text(self.folder / RESULTS, json.dumps(results, indent=2) + "\n")
        picture = BytesIO()
        comparison(segmenters, self.test).save(picture, format="PNG")
        atomic_write_bytes(self.folder / PICTURE, picture.getvalue())

    def _print(self, evaluations: dict[str, Evaluation], seconds: float) -> None:
        table = Table(title=f"Shapes, {len(self.test)} test scenes; percent")
        for column in ("method", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "images/s"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for name, evaluation in evaluations.items():
            s = evaluation.scores
            values = [percent(x) for x in (s.pAcc, s.mIoU_seen, s.mIoU_unseen, s.hIoU)]
            table.add_row(TITLES[name], *values, f"{evaluation.images_per_second:.0f}")
        self.console.print(table)
        note = " This was the shortened demo: twenty steps train nothing." if self.quick else ""
        self.console.print(
            f"ZegCLIP trained for {seconds:.0f} s just now.{note} Picture: "
            f"{self.folder / PICTURE}\nSegment with it: zegment predict IMAGE --model "
            f'{self.folder / RUN} --classes "moon, kite, water" --out results',
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
        rows.append([image.permute(1, 2, 0).numpy(), *(paint(m, len(colours)) for m in maps)])
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
