"""What a stopped run goes on from, held against what the run is and what its log tells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zegment.distributed import is_main_process
from zegment.errors import CheckpointError
from zegment.training.log import RunLog
from zegment.training.resuming import resumed_config
from zegment.training.settings import Stage
from zegment.training.state import STATE, RunState, read_state


def saved_state(
    run: Path, log: RunLog, stages: Sequence[Stage], facts: Mapping[str, Any]
) -> RunState | None:
    """Return what a run goes on from; None if nothing had been saved yet.

    Warns of steps that the log lacks.

    Args:
        run: Its folder.
        log: Its log.
        stages: Of which it consists.
        facts: What must not change while a run is stopped.

    Raises:
        CheckpointError: If it is damaged, of another run, or missing although it was saved.
    """
    path, first = run / STATE, stages[0].first
    if not path.exists():
        _check_never_saved(run, log, first)
        return None
    state = read_state(path)
    state.check(facts, path)
    step = state.progress.step
    stage = {stage.name: stage for stage in stages}.get(state.progress.stage)
    if stage is None or not 0 <= step - stage.first <= stage.steps:
        raise CheckpointError(
            f"{path} stands at step {step} of stage '{state.progress.stage}', which this run does "
            "not have; go on with the configuration that it began with"
        )
    logged = {entry["step"] for entry in log.read() if "stage" in entry}
    lost = len(set(range(first + 1, step + 1)) - logged)
    if lost and is_main_process():
        warnings.warn(
            f"{log.path} lacks {lost} of the {step} steps that were taken; "
            "what it told of them is lost unless you copy the file again",
            RuntimeWarning,
            stacklevel=2,
        )
    return state


def _check_never_saved(run: Path, log: RunLog, first: int) -> None:
    """Check that a run without a state was ended before its first save, as its log tells."""
    config = resumed_config(run)
    logged = max((entry["step"] for entry in log.read()), default=first)
    # A step is logged only after the state that was due with the step before is on the disk.
    saves = [every for every in (config.save_every, config.validate_every) if every]
    saved = max(((logged - 1) // every * every for every in saves), default=0)
    if saved > first:
        raise CheckpointError(
            f"{run / STATE} is missing, in which this run was saved after step {saved}; "
            "copy it back, or train anew into another folder"
        )
