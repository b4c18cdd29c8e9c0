"""One run of the study: trained, measured, recorded; gone on with where it was stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from zegment.checkpoint import load_trained
from zegment.checkpoint_files import RUN_CONFIG
from zegment.config import Config
from zegment.config.loading import config_to_dict, load_config, located
from zegment.data.shapes import CLASS_NAMES
from zegment.errors import OutputError
from zegment.shapes_clip import train_shapes_clip
from zegment.study.measures import MEASURES, Subject, scores
from zegment.study.plan import Arm
from zegment.study.records import Record, recipe_of
from zegment.trained import Trained
from zegment.training import Observer, Trainer
from zegment.training.log import RunLog
from zegment.training.resuming import resumed_config

RUNS, CLIPS = "runs", "clips"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An arm with a seed, and where it is done.

    Attributes:
        arm: What is trained.
        seed: Of everything that is drawn.
        out: Folder of the study.
        keep: Whether its checkpoints stay when it has been measured.
    """

    arm: Arm
    seed: int
    out: Path
    keep: bool = False

    @property
    def name(self) -> str:
        """Return what to call it."""
        return f"{self.arm.name}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Return its run folder."""
        return self.out / RUNS / self.name

    @property
    def checkpoint(self) -> Path:
        """Return the checkpoint that others start from."""
        return self.folder / "last"

    def config(self) -> Config:
        """Return its resolved configuration."""
        settings = self.arm.filled(self._places())
        return load_config(preset=self.arm.preset, overrides=[*settings, f"seed={self.seed}"])

    def _places(self) -> dict[str, str]:
        """Return what stands for each placeholder in its settings."""
        return {f"{kind}:{name}": self._place(kind, name) for kind, name in self.arm.placeholders()}

    def _place(self, kind: str, name: str) -> str:
        if kind == "run":
            return str(replace(self, arm=replace(self.arm, name=name)).checkpoint)
        if kind == "clip":
            return str(clip_folder(self.out, float(name)))
        return json.dumps(unseen_classes(self.seed, int(name)))

    def perform(self, observer: Observer | None = None) -> Record:
        """Train what is left to train, measure, write the record, and return it.

        Raises:
            OutputError: If its folder holds a run with another configuration.
            TrainingStopped: If it was asked to stop; it goes on from there next time.
        """
        config = self.config()
        trained, seconds = self._trained(config, observer)
        subject = Subject.of(trained, self.seed)
        trains = self.arm.trained
        record = Record(
            arm=self.arm.name,
            seed=self.seed,
            recipe=recipe_of(self.arm),
            config=config_to_dict(config),
            seconds=seconds,
            parameters=_count(trained) if trains else 0,
            scores=scores(subject),
            measured={name: MEASURES[name](subject) for name in self.arm.measures},
            versions={name: version(name) for name in ("zegment", "torch", "open_clip_torch")},
        )
        record.save(self.out)
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        return record

    def _trained(self, config: Config, observer: Observer | None) -> tuple[Trained, float]:
        """Return the trained model, and how many seconds that took in all."""
        if not self.arm.trained:
            return load_trained(config.model.clip, config=config), 0.0
        log = RunLog(self.folder)
        begun = (self.folder / RUN_CONFIG).exists()
        if begun and resumed_config(self.folder) != located(config):
            raise OutputError(
                f"'{self.folder}' holds a run with another configuration than the study's; "
                "remove it, or take another --out"
            )
        if not log.finished:
            Trainer(config, self.folder, resume=begun).run(observer)
        steps = [e["seconds"] for e in log.read() if {"stage", "seconds"} <= e.keys()]
        return load_trained(str(self.folder)), float(steps[-1])


def _count(trained: Trained) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in trained.model.trained_parameters().values())


def unseen_classes(seed: int, count: int) -> list[str]:
    """Return as many classes of Shapes, in the order of their ids; more contain fewer."""
    order = np.random.default_rng((seed, 5)).permutation(len(CLASS_NAMES))
    return [CLASS_NAMES[i] for i in sorted(order[:count])]


def clip_folder(out: Path, share: float) -> Path:
    """Return where the CLIP lies that saw a share of the packaged one's images."""
    return out / CLIPS / f"share-{share:g}"


def make_clip(out: Path, share: float) -> None:
    """Train such a CLIP, unless it is there."""
    folder = clip_folder(out, share)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        train_shapes_clip(folder, share=share)
