"""What is measured of a trained run, on Shapes' test split unless a measure says otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zegment.calibration_choice import Blind, ByMasks, Chooser
from zegment.calibration_sweep import CalibrationSweep, sweep_calibration
from zegment.clip_loading import load_clip
from zegment.clip_zss import ClipZss
from zegment.data import IGNORE_INDEX, SegmentationDataset, Split, checked_dataset
from zegment.data.batching import same_size_batches
from zegment.data.classes import class_set, natural_name
from zegment.data.shapes import STUFF, THINGS
from zegment.evaluation import BATCH_SIZE, evaluate
from zegment.metrics import UNKNOWN, ConfusionMatrix, Scores, report
from zegment.models.student import Student
from zegment.segmenter import Segmenter
from zegment.study.plan import Measure
from zegment.teaching.purity import measure_purity
from zegment.trained import Trained, training_vocabulary
from zegment.training.settings import build_objective

DISTRACTORS = (20, 100, 500)
"""How many names are asked for that no scene shows."""

_SPEED_ROUNDS, _SPEED_SCENES = 5, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A trained run and the data that it is measured on.

    Attributes:
        trained: The model with its configuration.
        segmenter: The same, ready to label.
        seed: Of the run.
    """

    trained: Trained
    segmenter: Segmenter
    seed: int

    @classmethod
    def of(cls, trained: Trained, seed: int) -> Subject:
        """Return a run made ready."""
        return cls(trained=trained, segmenter=Segmenter.of(trained), seed=seed)

    def split(self, name: Split) -> SegmentationDataset:
        """Return a split of its data, with its own unseen classes."""
        return checked_dataset(self.trained.config.data, name)


def scores(subject: Subject) -> dict[str, Any]:
    """Return the scores of the test split, also of things and stuff, seen and unseen apart."""
    data = subject.split("test")
    evaluation = evaluate(subject.segmenter, data)
    return {**evaluation.to_dict(), **_groups(evaluation.scores, data)}


def _groups(result: Scores, data: SegmentationDataset) -> dict[str, float | None]:
    unseen = set(data.unseen)
    return {
        f"mIoU_{kind}_{group}": result.subset_miou([n for n in names if (n in unseen) == new])
        for kind, new in (("seen", False), ("unseen", True))
        for group, names in (("things", THINGS), ("stuff", STUFF))
    }


def penalties(subject: Subject) -> dict[str, Any]:
    """Return the curve of the seen penalty on the test split, and what the ways to choose it give.

    ``released`` is what the released code takes; ``validation`` has the best hIoU on the validation
    split, for which it needs masks of unseen classes; ``blind`` needs none, see
    `zegment.calibration_choice.Blind`.
    """
    curve = _sweep(subject, "test", ByMasks()).to_dict()["curve"]
    choices = {
        "released": subject.trained.config.seen_penalty,
        "validation": _sweep(subject, "val", ByMasks()).chosen.seen_penalty,
        "blind": _sweep(subject, "val", Blind()).chosen.seen_penalty,
    }
    # Every choice is on the curve, which equals an evaluation at each of its penalties.
    points = {point["seen_penalty"]: point for point in curve}
    return {"curve": curve, "choices": {name: points[value] for name, value in choices.items()}}


def _sweep(subject: Subject, split: Split, chooser: Chooser[Any]) -> CalibrationSweep:
    data = subject.split(split)
    return sweep_calibration(subject.segmenter, data, data=f"shapes/{split}", chooser=chooser)


def distractors(subject: Subject) -> dict[str, Any]:
    """Return the scores when names are asked for that no scene shows, by their number.

    The names are those of ADE20K's 847 classes that Shapes lacks, in an order that the seed draws.
    A pixel that gets one of them is wrong.
    """
    data = subject.split("test")
    own = {natural_name(name) for name in data.class_names}
    known = dict.fromkeys(map(natural_name, class_set("ade847").names))
    strangers = [name for name in known if name not in own]
    order = np.random.default_rng((subject.seed, 3)).permutation(len(strangers))
    found = {0: evaluate(subject.segmenter, data).scores}
    for count in DISTRACTORS:
        names = (*data.class_names, *(strangers[i] for i in order[:count]))
        found[count] = _among(subject, data, names)
    return {
        str(count): {
            "mIoU_seen": s.mIoU_seen,
            "mIoU_unseen": s.mIoU_unseen,
            "hIoU": s.hIoU,
            "pAcc": s.pAcc,
        }
        for count, s in found.items()
    }


def _among(subject: Subject, data: SegmentationDataset, names: tuple[str, ...]) -> Scores:
    """Return the scores when more names are asked for than the data has."""
    own = data.class_names
    matrix = ConfusionMatrix(len(own), ignore_index=IGNORE_INDEX)
    query = subject.segmenter.query(names)
    for _, images, labels in same_size_batches(data, BATCH_SIZE):
        found = subject.segmenter.label(images, query)[0].cpu()
        matrix.update(found.masked_fill(found >= len(own), UNKNOWN), labels)
    return report(matrix, own, seen=[name not in data.unseen for name in own])


def groups(subject: Subject) -> dict[str, Any]:
    """Return how pure the groups are that the run's teacher finds in the validation scenes."""
    trained, data = subject.trained, subject.split("val")
    clip, names = load_clip(trained.config.model.clip), data.class_names
    seen = [names.index(name) for name in trained.seen]
    own = training_vocabulary(trained.seen, trained.config.text.templates)
    embeddings = own.embed(clip.text_tower)
    objective = build_objective(trained.config, clip, trained.model, embeddings, seen)
    assert isinstance(objective, ClipZss)  # noqa: S101 - of a student, which is trained so
    assert isinstance(trained.model, Student)  # noqa: S101
    return measure_purity(objective, trained.model, data).to_dict(names, data.unseen)


def speed(subject: Subject) -> dict[str, float]:
    """Return the fastest seconds per scene of several rounds, one scene at a time, one thread.

    They are seconds of the processor: runs side by side do not slow each other down in them.
    """
    data = subject.split("test")
    scenes = [data[i][0][None] for i in range(min(_SPEED_SCENES, len(data)))]
    query = subject.segmenter.query(data.class_names)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = [_seconds(subject.segmenter, scenes, query) for _ in range(_SPEED_ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return {"seconds_per_scene": min(rounds) / len(scenes)}


def _seconds(segmenter: Segmenter, scenes: list[Any], query: Any) -> float:  # noqa: ANN401
    start = time.thread_time()
    for scene in scenes:
        segmenter.label(scene, query)
    return time.thread_time() - start


MEASURES: Mapping[Measure, Callable[[Subject], dict[str, Any]]] = {
    "penalties": penalties,
    "distractors": distractors,
    "groups": groups,
    "speed": speed,
}
