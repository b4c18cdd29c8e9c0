"""What decides between penalties: masks of all classes, or only what inductive training has.

Letters: K classes, B images, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import harmonic_mean
from typing import ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from zegment.data import IGNORE_INDEX
from zegment.errors import ConfigError
from zegment.metrics import ConfusionMatrix, Scores, report
from zegment.objectives import SeenLabels
from zegment.progress import percent

ScoresT = TypeVar("ScoresT")

Guard: TypeAlias = Callable[[Tensor], Tensor]
"""Labels of a data set, int64 (B, H, W), to those that may be looked at."""


class Line(NamedTuple):
    """A curve of a sweep: what it is called, which value of a point, its colour and its style."""

    name: str
    key: str
    colour: str
    style: str


class Chooser(ABC, Generic[ScoresT]):
    """What a penalty is judged by, and what may be looked at for it."""

    chosen_by: ClassVar[str | None]
    """How the choice is recorded."""

    title: ClassVar[str]
    """What is drawn above the curves, after the data."""

    lines: ClassVar[tuple[Line, ...]]

    @abstractmethod
    def guard(self, seen: Sequence[bool]) -> Guard:
        """Return what stands between the data set's labels and everything that is computed."""

    @abstractmethod
    def matrix(self, num_classes: int) -> ConfusionMatrix:
        """Return an empty matrix for guarded labels and predictions of K classes."""

    @abstractmethod
    def scores(
        self, matrix: ConfusionMatrix, class_names: Sequence[str], seen: Sequence[bool]
    ) -> ScoresT:
        """Return the scores at one penalty.

        Raises:
            ConfigError: If there is nothing to choose by.
        """

    @abstractmethod
    def value(self, scores: ScoresT) -> float:
        """Return what is to be as large as possible."""

    @abstractmethod
    def point(self, scores: ScoresT) -> dict[str, float | None]:
        """Return a point of the curve as JSON can hold it, with the keys of `lines`."""

    @abstractmethod
    def describe(self, scores: ScoresT) -> str:
        """Return the scores in words."""

    def warning(self, scores: ScoresT) -> str | None:
        """Return why a choice with these scores may be wrong, or None."""
        del scores
        return None


class ByMasks(Chooser[Scores]):
    """The highest hIoU; needs masks of unseen classes."""

    chosen_by = None
    title = ""
    lines = (
        Line("mIoU(S)", "mIoU_seen", "#0072B2", "--"),
        Line("mIoU(U)", "mIoU_unseen", "#D55E00", "-."),
        Line("hIoU", "hIoU", "#000000", "-"),
    )

    def guard(self, seen: Sequence[bool]) -> Guard:
        """Let every label through; see `Chooser`."""
        del seen
        return lambda labels: labels

    def matrix(self, num_classes: int) -> ConfusionMatrix:
        """Return a matrix of the classes; see `Chooser`."""
        return ConfusionMatrix(num_classes, ignore_index=IGNORE_INDEX)

    def scores(
        self, matrix: ConfusionMatrix, class_names: Sequence[str], seen: Sequence[bool]
    ) -> Scores:
        """Return the scores of an evaluation; see `Chooser`."""
        return report(matrix, class_names, seen=seen)

    def value(self, scores: Scores) -> float:
        """Return hIoU, 0 where it is not defined."""
        return scores.hIoU or 0.0

    def point(self, scores: Scores) -> dict[str, float | None]:
        """Return the means and the accuracy; see `Chooser`."""
        keys = ("mIoU_seen", "mIoU_unseen", "hIoU", "pAcc")
        return {key: getattr(scores, key) for key in keys}

    def describe(self, scores: Scores) -> str:
        """Return the three means in words."""
        return (
            f"mIoU(S) {percent(scores.mIoU_seen)}  mIoU(U) {percent(scores.mIoU_unseen)}  "
            f"hIoU {percent(scores.hIoU)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlindScores:
    """What can be told of a penalty without a label of an unseen class, fractions in [0, 1].

    Attributes:
        mAcc_seen: Mean over seen classes of correct pixels over annotated ones, where all classes
            compete; an unseen name is wrong there.
        named_unseen: Share of the unannotated pixels that get an unseen name.
        unannotated: Share of all pixels that are unannotated.
        expected: Share of all classes that are unseen.
    """

    mAcc_seen: float  # noqa: N815  the papers' name
    named_unseen: float
    unannotated: float
    expected: float

    @property
    def balance(self) -> float:
        """Return the harmonic mean of the first two."""
        return harmonic_mean([self.mAcc_seen, self.named_unseen])


class Blind(Chooser[BlindScores]):
    """The best balance of what annotated pixels lose and unannotated ones gain.

    Only what an inductive training set holds is looked at: masks of seen classes, and which pixels
    have none. It takes for granted that most of the unannotated pixels show unseen classes.

    Note:
        Both sides of the balance are shares of pixels that get a right kind of name. With mIoU(S)
        in the place of mAcc(S), and with other pairs, the choice came out further from that of
        masks; see ``docs/settings.md``.
    """

    chosen_by = "blind"
    title = ", blind"
    lines = (
        Line("mAcc(S), annotated pixels", "mAcc_seen", "#0072B2", "--"),
        Line("unannotated pixels with an unseen name", "named_unseen", "#D55E00", "-."),
        Line("harmonic mean", "balance", "#000000", "-"),
    )

    def guard(self, seen: Sequence[bool]) -> Guard:
        """Turn all that is no seen class into K, the row of the unannotated; see `Chooser`."""
        ids = torch.tensor([k for k, flag in enumerate(seen) if flag])
        ranks, unannotated = SeenLabels(ids.tolist()), len(seen)
        back = torch.cat([ids, ids.new_tensor([unannotated])])

        def hide(labels: Tensor) -> Tensor:
            return back[ranks(labels).clamp(max=len(ids))]

        return hide

    def matrix(self, num_classes: int) -> ConfusionMatrix:
        """Return a matrix with a further row for unannotated pixels; see `Chooser`."""
        return ConfusionMatrix(num_classes + 1, ignore_index=IGNORE_INDEX)

    def scores(
        self, matrix: ConfusionMatrix, class_names: Sequence[str], seen: Sequence[bool]
    ) -> BlindScores:
        """Return what annotated and unannotated pixels say; see `Chooser`."""
        classes = len(class_names)
        annotated = ConfusionMatrix(classes, ignore_index=IGNORE_INDEX)
        annotated.state += matrix.state[:classes, [*range(classes), classes + 1]]
        # Classes without an annotated pixel, as the unseen ones, are in no mean of accuracies.
        seen_mean = report(annotated, class_names, seen=seen).mAcc
        free = matrix.state[classes].tolist()
        if seen_mean is None or not sum(free):
            kind = "annotated" if seen_mean is None else "unannotated"
            raise ConfigError(
                f"no pixel is {kind}, and a blind choice weighs annotated against unannotated ones;"
                " choose on other data"
            )
        return BlindScores(
            mAcc_seen=seen_mean,
            named_unseen=sum(n for n, flag in zip(free, seen, strict=False) if not flag)
            / sum(free),
            unannotated=sum(free) / int(matrix.state.sum()),
            expected=seen.count(False) / classes,
        )

    def value(self, scores: BlindScores) -> float:
        """Return the balance."""
        return scores.balance

    def point(self, scores: BlindScores) -> dict[str, float | None]:
        """Return both shares and their balance; see `Chooser`."""
        return {key: getattr(scores, key) for key in ("mAcc_seen", "named_unseen", "balance")}

    def describe(self, scores: BlindScores) -> str:
        """Return both shares in words."""
        return (
            f"mAcc(S) over annotated pixels {percent(scores.mAcc_seen)}  unannotated pixels with "
            f"an unseen name {percent(scores.named_unseen)}"
        )

    def warning(self, scores: BlindScores) -> str | None:
        """Return that most pixels are unannotated, unless that many classes are unseen."""
        if scores.unannotated <= max(0.5, 2 * scores.expected):
            return None
        return (
            f"{percent(scores.unannotated)} % of the pixels are unannotated and only "
            f"{percent(scores.expected)} % of the classes are unseen: most of these pixels seem to "
            "show something else, such as a background, and then the penalty is too large"
        )
