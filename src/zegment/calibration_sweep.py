"""Seen against unseen classes over a range of penalties, and the penalty that a split chooses.

Letters: B images, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zegment.calibration import Calibration
from zegment.calibration_choice import ByMasks, Chooser
from zegment.data import SegmentationDataset
from zegment.data.batching import same_size_batches
from zegment.distributed import sum_over_processes
from zegment.errors import ConfigError
from zegment.evaluation import BATCH_SIZE, OWN_DATA_ONLY, Judge
from zegment.files import atomic_folder
from zegment.inference.decisions import best_class
from zegment.inference.fields import HeldScores
from zegment.query import Query
from zegment.segmenter import Segmenter
from zegment.text_files import json_text

PENALTIES = tuple(i / 40 for i in range(21))
"""0 to 0.5 in steps of 0.025."""

CURVE, RECORD = "calibration.png", "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSweep:
    """Scores at every penalty.

    Attributes:
        data: The data and split that they are of, such as ``"shapes/val"``.
        penalties: What was taken from the scores of seen classes.
        scores: What came out, one for each, of the kind that the chooser makes.
        used: The penalty that the model came with.
        chooser: What decides between them.
    """

    data: str
    penalties: tuple[float, ...]
    scores: tuple[Any, ...]
    used: float
    chooser: Chooser[Any]

    @property
    def chosen(self) -> Calibration:
        """Return the penalty that the chooser likes best, the smaller one of equals."""
        return Calibration(
            seen_penalty=self.penalties[self._best],
            chosen_on=self.data,
            chosen_by=self.chooser.chosen_by,
        )

    @property
    def best(self) -> Any:  # noqa: ANN401 - see `scores`
        """Return the scores at the chosen penalty."""
        return self.scores[self._best]

    @property
    def warnings(self) -> list[str]:
        """Return why the choice may be wrong."""
        reasons = [self.chosen.to_dict().get("warning"), self.chooser.warning(self.best)]
        return [reason for reason in reasons if reason is not None]

    @property
    def _best(self) -> int:
        values = [self.chooser.value(score) for score in self.scores]
        return values.index(max(values))

    def to_dict(self) -> dict[str, Any]:
        """Return the curve and the choice as JSON can hold them."""
        doubt = self.chooser.warning(self.best)
        return {
            "chosen": self.chosen.to_dict(),
            **({} if doubt is None else {"warning": doubt}),
            "used_before": self.used,
            "data": self.data,
            "curve": [
                {"seen_penalty": penalty, **self.chooser.point(score)}
                for penalty, score in zip(self.penalties, self.scores, strict=True)
            ],
        }

    def save(self, folder: Path) -> None:
        """Write ``calibration.json`` and the picture ``calibration.png`` into a new folder.

        Raises:
            OutputError: If the folder has content, or cannot be written.
        """
        with atomic_folder(folder) as unfinished:
            (unfinished / RECORD).write_text(json_text(self.to_dict()), encoding="utf-8")
            (unfinished / CURVE).write_bytes(self.picture())

    def picture(self) -> bytes:
        """Return the three curves and the choice as a PNG."""
        # Here, because it takes a second to import. No pyplot: that would look for a display.
        from matplotlib.figure import Figure  # noqa: PLC0415

        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        points = [self.chooser.point(score) for score in self.scores]
        for line in self.chooser.lines:
            values = [100 * (point[line.key] or 0.0) for point in points]
            axes.plot(
                self.penalties, values, label=line.name, color=line.colour, linestyle=line.style
            )
        best = self.chosen.seen_penalty
        axes.axvline(best, color="#009E73", linewidth=1)
        axes.annotate(
            f"{best:g}", (best, 1), xycoords=("data", "axes fraction"), xytext=(4, -12),
            textcoords="offset points", color="#009E73",
        )  # fmt: skip
        axes.axvline(self.used, color="#999999", linewidth=1, linestyle=":")
        axes.set(
            xlabel="taken from the scores of seen classes",
            ylabel="percent",
            ylim=(0, 100),
            title=f"Calibration, chosen on {self.data}{self.chooser.title}",
        )
        axes.legend(frameon=False)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
        return picture.getvalue()


def sweep_calibration(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    data: str,
    chooser: Chooser[Any] | None = None,
    penalties: Sequence[float] = PENALTIES,
    batch_size: int = BATCH_SIZE,
    on_image: Callable[[int], object] | None = None,
) -> CalibrationSweep:
    """Return the scores of a segmenter at every penalty, from one pass over the images.

    Args:
        segmenter: Any; its own penalty is left out.
        dataset: With classes of both kinds.
        data: What to call the data and its split.
        chooser: What decides between penalties; None takes `ByMasks`.
        penalties: In [0, 1], in the unit of the scores.
        batch_size: Most images of one size that are segmented together.
        on_image: Called with the number of images done so far, by this process.

    Raises:
        ConfigError: If the data has other classes than the model was trained for.
        ConfigError: If the classes are all seen or all unseen, so that a penalty changes nothing.
        ConfigError: If the chooser finds nothing to choose by.
    """
    names, judge = dataset.class_names, Judge(segmenter, dataset)
    if judge.overlap is not None:
        raise ConfigError(OWN_DATA_ONLY.format(data=data))
    query = segmenter.query(names)
    if not query.seen.any():
        raise ConfigError(
            f"the classes of {data} all had masks in training, or none had, so no penalty can be "
            "chosen on it; give a model and data with seen and unseen classes"
        )
    chooser = chooser or ByMasks()
    guard, matrices = chooser.guard(judge.seen), [chooser.matrix(len(names)) for _ in penalties]
    for _, images, true in same_size_batches(dataset, batch_size, on_image=on_image):
        labels = guard(true)
        rivals = Rivals(segmenter, images, query)
        for matrix, penalty in zip(matrices, penalties, strict=True):
            matrix.update(rivals.labels(penalty).cpu(), labels)
    for matrix in matrices:
        sum_over_processes(matrix.state)
    return CalibrationSweep(
        data=data,
        penalties=tuple(penalties),
        scores=tuple(chooser.scores(matrix, names, judge.seen) for matrix in matrices),
        used=segmenter.calibration.seen_penalty,
        chooser=chooser,
    )


class Rivals:
    """The best seen and the best unseen class of every pixel; a penalty decides between them.

    Args:
        segmenter: Whose scores.
        images: RGB, uint8 (B, 3, H, W).
        query: With classes of both kinds.
    """

    def __init__(self, segmenter: Segmenter, images: Tensor, query: Query) -> None:
        size = (images.shape[-2], images.shape[-1])
        scores = segmenter.scores(images, query)
        self._best = {}
        for kind in (True, False):
            ids = (query.seen == kind).nonzero().flatten()
            flags = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
            label, score = best_class(HeldScores(scores[:, ids]), flags, margin=0.0, size=size)
            self._best[kind] = ids[label], score

    def labels(self, penalty: float) -> Tensor:
        """Return the winning class of every pixel, int64 (B, H, W)."""
        (seen, seen_score), (unseen, unseen_score) = self._best[True], self._best[False]
        lead = (seen_score - penalty) - unseen_score
        # A tie belongs to the class that comes first, as without penalties.
        return torch.where((lead > 0) | ((lead == 0) & (seen < unseen)), seen, unseen)
