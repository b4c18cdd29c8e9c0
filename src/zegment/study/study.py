"""All runs of a plan, several side by side, and the report of those that are done."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from zegment.claims import claimed
from zegment.study.plan import Arm, Plan
from zegment.study.records import Record, read_record
from zegment.study.report import write_report
from zegment.study.running import Run, clip_folder, make_clip
from zegment.study.workers import begin_worker, perform

Told: TypeAlias = Callable[[str, Record | None], object]
"""Is told the name of what has just been finished, and its record if it was a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A plan and the folder that it is carried out in.

    A run that is recorded is never done again; one that was stopped or killed goes on from where
    it was last saved.

    Attributes:
        plan: What to train and compare.
        out: Folder of records, checkpoints and the report.
        jobs: How many runs stand side by side, one thread each.
        keep: Whether all checkpoints stay; otherwise only those that others start from.
    """

    plan: Plan
    out: Path
    jobs: int = 1
    keep: bool = False

    def left(self) -> list[tuple[Arm, int]]:
        """Return the runs that are not recorded yet, in the order in which they are begun.

        Raises:
            OutputError: If a record is of another recipe, or cannot be read.
        """
        runs = self.plan.runs()
        missing = [(arm, seed) for arm, seed in runs if read_record(self.out, arm, seed) is None]
        needed = {(name, seed) for arm, seed in missing for name in arm.runs_before}
        return [
            (arm, seed)
            for arm, seed in runs
            if (arm, seed) in missing
            or ((arm.name, seed) in needed and not self._run(arm, seed).checkpoint.exists())
        ]

    def run(self, told: Told) -> None:
        """Do what is left, and write the report.

        Args:
            told: Is told of everything that is finished, in this process.

        Raises:
            OutputError: If another process works in the folder, or it holds another study.
            KeyboardInterrupt: If it was asked to stop; what was begun goes on from there.
        """
        with claimed(self.out, purpose="study"):
            left = self.left()
            with self._workers() as pool:
                self._do(left, pool, told)
            write_report(self.plan, self.out)

    def _run(self, arm: Arm, seed: int) -> Run:
        keep = self.keep or arm.name in self.plan.needed_by_others()
        return Run(arm=arm, seed=seed, out=self.out, keep=keep)

    @contextmanager
    def _workers(self) -> Iterator[ProcessPoolExecutor]:
        # Each process has its own interpreter: threads of a fork would be those of its parent.
        pool = ProcessPoolExecutor(
            self.jobs, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker
        )
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    def _do(self, left: list[tuple[Arm, int]], pool: ProcessPoolExecutor, told: Told) -> None:
        """Begin each run as soon as what it needs is there."""
        shares = {share for arm, _ in left for share in arm.clips}
        clips = {s for s in shares if not clip_folder(self.out, s).exists()}
        begun: dict[Future[Any], str] = {}
        for share in sorted(clips):
            begun[pool.submit(make_clip, self.out, share)] = f"clip-{share:g}"
        waiting = [self._run(arm, seed) for arm, seed in left]
        open_ = {run.name for run in waiting} | set(begun.values())
        while waiting or begun:
            for run in [*waiting]:
                needs = {f"{name}-{run.seed}" for name in run.arm.runs_before}
                needs |= {f"clip-{share:g}" for share in run.arm.clips}
                if not needs & open_:
                    waiting.remove(run)
                    begun[pool.submit(perform, run)] = run.name
            finished, _ = wait(begun, return_when=FIRST_COMPLETED)
            for future in finished:
                name, result = begun.pop(future), future.result()
                open_.discard(name)
                told(name, result)
