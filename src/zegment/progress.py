"""What a person sees while something runs: bars with loss, scores and time left."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from zegment.evaluation import Evaluation


def progress_bar(console: Console) -> Progress:
    """Return a bar with count, elapsed and remaining time, and a free text field ``note``."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class TrainingProgress:
    """An observer that draws a bar; a context manager, so that the terminal is given back.

    Args:
        console: Where to draw.
        steps: Optimizer steps of the run.
        description: What is being trained.
        done: Steps that were taken before.
    """

    def __init__(self, console: Console, steps: int, description: str, *, done: int = 0) -> None:
        self._console = console
        self._progress = progress_bar(console)
        self._task = self._progress.add_task(description, total=steps, completed=done, note="")
        self._smooth: float | None = None

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Show the running mean of the loss."""
        total = sum(losses.values())
        self._smooth = total if self._smooth is None else 0.95 * self._smooth + 0.05 * total
        self._progress.update(self._task, completed=step, note=f"loss {self._smooth:.3f}")

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Print the validation scores above the bar."""
        self._console.print(f"step {step}: {summary(evaluation)}")


def percent(value: float | None) -> str:
    """Return a fraction as a percentage with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def summary(evaluation: Evaluation) -> str:
    """Return the four numbers of the benchmarks in one line."""
    scores = evaluation.scores
    return (
        f"pAcc {percent(scores.pAcc)}  mIoU {percent(scores.mIoU)}  "
        f"mIoU(S) {percent(scores.mIoU_seen)}  mIoU(U) {percent(scores.mIoU_unseen)}  "
        f"hIoU {percent(scores.hIoU)}"
    )


def circumstances(evaluation: Evaluation) -> str:
    """Return in one line what the numbers depend on beside the model."""
    taken, policy = evaluation.calibration, f"; background: {evaluation.background}"
    if evaluation.overlap is None:
        return f"taken from seen classes: {taken.seen_penalty:g} ({taken.chosen_on}){policy}"
    met, total = evaluation.overlap, len(evaluation.scores.per_class)
    names = f" ({', '.join(met)})" if met else ""
    return (
        f"other data than the model's own: {len(met)} of {total} classes had masks in its "
        f"training{names}; mIoU(S) is over these, and nothing is taken from them{policy}"
    )
