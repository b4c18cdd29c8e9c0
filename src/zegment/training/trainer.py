"""The training loop: plain, counted in optimizer steps, and fit to be stopped at any of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from zegment.checkpoint_files import RUN_CONFIG, save_checkpoint
from zegment.claims import claimed
from zegment.config import Config
from zegment.config.loading import config_to_toml, located
from zegment.distributed import failing_together, gather_objects, join_processes
from zegment.errors import DatasetError, NotFiniteError, ZegmentError
from zegment.evaluation import Evaluation, evaluate
from zegment.files import atomic_write_text
from zegment.segmenter import Segmenter
from zegment.training.launch import Launch
from zegment.training.log import RunLog
from zegment.training.preparation import prepare
from zegment.training.randomness import random_state
from zegment.training.resuming import recipe_digest, resumed_config
from zegment.training.run_folder import check_free, check_unfinished
from zegment.training.saved_state import saved_state
from zegment.training.stage_run import StageRun
from zegment.training.state import STATE, Progress, RunState, write_state
from zegment.training.stopping import Stopping, TrainingStopped
from zegment.training.wording import advice, told


class Observer(Protocol):
    """Watches a run; the command line draws a progress bar with it."""

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Be told the losses of a finished optimizer step, counted from 1."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Be told the scores on the validation split after a step."""


class Silent:
    """An observer that does nothing."""

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Ignore a step."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Ignore a validation."""


class Trainer:
    """One run: everything is made and checked here, before the first step.

    Several processes that a launcher started train together. A mistake that one of them finds here
    ends all of them, see `zegment.distributed.failing_together`.

    Args:
        config: What to train, on what, how.
        out: Run folder; it must not exist or be empty, unless its run is gone on with.
        resume: Whether to go on with the run in that folder from where it was last saved, which
            ends as if it had never been stopped; ``config`` is its own, see
            `zegment.training.resuming.resumed_config`.

    Raises:
        ConfigError: If the configuration asks for something that cannot be trained.
        OutputError: If the run folder is in use, or its run is finished.
        CheckpointError: If the saved state or the log is damaged, or of another run.
        DatasetNotFoundError: If files are missing.
        DatasetError: If images, masks and class names do not fit together.
        ModelNotFoundError: If there is no run to go on with.
        ModelNotFoundError: If the CLIP cannot be found or downloaded.
    """

    def __init__(self, config: Config, out: Path, *, resume: bool = False) -> None:
        join_processes()
        self.config, self.out, self.log = located(config), out, RunLog(out)
        self.resume = resume
        with failing_together():
            self._check_place()
            self.launch = Launch(config.optim.precision)
            self.prepared = prepare(self.config, self.launch)
            self.trained, self.stages = self.prepared.trained, self.prepared.stages
            state = saved_state(out, self.log, self.stages, self._facts()) if resume else None
            first = self.stages[0]
            begun = Progress(step=first.first, stage=first.name, best=None)
            self.progress = begun if state is None else state.progress
        stage = next(stage for stage in self.stages if stage.name == self.progress.stage)
        self.current = StageRun(self.config, stage, self.prepared, self.launch, state)

    def _check_place(self) -> None:
        """Check that there is a place for the run."""
        if self.resume:
            check_unfinished(self.out, self.log)
        else:
            check_free(self.out)

    def _facts(self) -> dict[str, Any]:
        """Return what must not change while a run is stopped."""
        assert self.trained.vocabulary is not None  # noqa: S101 - whatever is trained has one
        facts: dict[str, Any] = {
            "processes": self.launch.processes,
            "images": len(self.prepared.train_data),
            "classes": list(self.trained.vocabulary.class_names),
            "CLIP": self.trained.fingerprint,
            f"{RUN_CONFIG} of digest": recipe_digest(self.config),
        }
        for objective in self.prepared.objectives.values():
            facts |= objective.facts()
        return facts

    def run(self, observer: Observer | None = None) -> Evaluation | None:
        """Train to the end, save ``last`` and ``best``, and return the last validation.

        The observer is told about every step and validation.

        ``best`` is the checkpoint of the last stage with the highest mIoU of *seen* classes on the
        validation split: masks of unseen classes choose nothing. A stage before the last one
        leaves its model as ``half``.

        Raises:
            TrainingStopped: If SIGINT or SIGTERM came; the run is saved and can be gone on with.
            NotFiniteError: If a loss or a gradient is not finite; saved as before that step.
            OutputError: If something cannot be written, or another process trains there.
        """
        self.observer: Observer = observer or Silent()
        with Stopping() as stopping, ExitStack() as stack:
            with failing_together():
                if self.launch.is_main:
                    stack.enter_context(claimed(self.out, purpose="train"))
                    self._begin()
            with self._ending():
                return self._run(stopping)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Let processes that load data end with whatever ends the run, and say how to go on."""
        go_on = f"zegment train --resume {self.out}"
        try:
            yield
        except BaseException as error:
            # What they load for is in these frames. A process waits for them when it ends, and
            # they hear no signal, see `keep_loading`.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, ZegmentError) and not isinstance(error, NotFiniteError):
                raise type(error)(f"{told(error)}. Then go on with: {go_on}") from error
            if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
                raise DatasetError(
                    "a process that loads data was killed, most often because there is too little "
                    f"memory; go on with fewer of them: {go_on} --set workers=1"
                ) from error
            raise

    def _begin(self) -> None:
        """Write what a run begins with, or put away what will be done again."""
        self._check_place()  # another process may have been there meanwhile
        if not self.resume:
            self._write_config()
        self.log.keep(self.progress.step)
        # Only now: what is in the log was saved as often as the earlier one says.
        if self.resume and resumed_config(self.out) != self.config:
            self._write_config()

    def _write_config(self) -> None:
        atomic_write_text(self.out / RUN_CONFIG, config_to_toml(self.config))

    def _run(self, stopping: Stopping) -> Evaluation | None:
        self._started = time.perf_counter() - self.progress.seconds
        evaluation = None
        for stage in self.stages[self.stages.index(self.current.stage) :]:
            if stage is not self.current.stage:
                self.current = StageRun(self.config, stage, self.prepared, self.launch)
            for step, batch in enumerate(self.current.batches(), start=self.progress.step + 1):
                self._take(step, *batch)
                evaluation = self._after(step) or evaluation
                self._keep(step, stopping)
        self.launch.release()
        self._log({"step": self.config.optim.steps, "finished": True})
        if self.launch.is_main:
            (self.out / STATE).unlink(missing_ok=True)
        return evaluation

    def _take(self, step: int, *batch: Tensor) -> None:
        """Take a step; one whose numbers have gone bad is left out, or ends the run."""
        stage = self.current.stage
        entry: dict[str, Any] = {"step": step, "stage": stage.name}
        try:
            losses = self.current.step(step - 1 - stage.first, *batch)
        except NotFiniteError as error:
            skipped, images = self.progress.skipped + 1, self.current.images(step)
            allowed = self.config.optim.skip_nonfinite
            if skipped > allowed:
                self._save_state()
                with failing_together():
                    raise NotFiniteError(advice(step, error, images, allowed, self.out)) from error
            self.progress = replace(self.progress, skipped=skipped)
            self._log(entry | {"skipped": str(error), "images": images})
            return
        self.progress = replace(self.progress, skipped=0)
        self.observer.step(step, losses)
        self._log(entry | {"seconds": time.perf_counter() - self._started, **losses})

    def _after(self, step: int) -> Evaluation | None:
        """Save checkpoints and validate if that is due after a step."""
        stage, evaluation = self.current.stage, None
        last = stage is self.stages[-1]
        if step == stage.first + stage.steps and not last:
            with self.launch.whole():
                self._save("half", None)
        if self._due(step):
            with self.launch.whole():
                evaluation = self._validate(step)
                self._save("last", evaluation)
                if last and evaluation is not None:
                    self._choose(evaluation)
        return evaluation

    def _due(self, step: int) -> bool:
        every = self.config.validate_every
        return step == self.config.optim.steps or bool(every and step % every == 0)

    def _validate(self, step: int) -> Evaluation | None:
        if self.prepared.val_data is None:
            return None
        evaluation = evaluate(
            Segmenter.of(self.trained, name=str(self.out)), self.prepared.val_data
        )
        self.observer.validated(step, evaluation)
        scores, seconds = evaluation.to_dict(speed=False), evaluation.seconds
        self._log({"step": step, "seconds": seconds, "validation": scores})
        return evaluation

    def _choose(self, evaluation: Evaluation) -> None:
        """Keep the model as the best one if it is."""
        score, best = evaluation.scores.mIoU_seen or 0.0, self.progress.best
        if best is None or score > best:
            self._save("best", evaluation)
            self.progress = replace(self.progress, best=score)

    def _save(self, name: str, evaluation: Evaluation | None) -> None:
        metrics = None if evaluation is None else {"validation": evaluation.to_dict(speed=False)}
        with failing_together():
            if self.launch.is_main:
                save_checkpoint(self.out / name, self.trained, metrics=metrics)

    def _keep(self, step: int, stopping: Stopping) -> None:
        """Save the run if that is due after a step, or if it is to stop there."""
        self.progress = replace(self.progress, step=step)
        every, steps = self.config.save_every, self.config.optim.steps
        stop = self.launch.anywhere(flag=stopping.signal is not None)
        if step == steps:
            return
        if stop or self._due(step) or (every and step % every == 0):
            self._save_state()
        if stop:
            raise TrainingStopped(step, steps, stopping.status)

    def _save_state(self) -> None:
        """Save all that the run needs to go on after the last step that counts."""
        stage, seconds = self.current.stage.name, time.perf_counter() - self._started
        random = tuple(gather_objects(random_state(self.launch.device)))
        with self.launch.whole():
            state = RunState(
                progress=replace(self.progress, stage=stage, seconds=seconds),
                facts=self._facts(),
                random=random,
                **self.current.tensors(),
            )
            with failing_together():
                if self.launch.is_main:
                    write_state(self.out / STATE, state)

    def _log(self, entry: dict[str, Any]) -> None:
        with failing_together():
            if self.launch.is_main:
                self.log.write(entry)
