"""The folder of a run, which may have come from anywhere: looked at before anything in it is used.

Whoever goes on with a run writes to it. A link in it would lead that elsewhere, and a pipe would
never end.
"""

from __future__ import annotations

import stat
from pathlib import Path

from zegment.checkpoint_files import RUN_CONFIG
from zegment.distributed import is_main_process
from zegment.errors import CheckpointError, ModelNotFoundError, OutputError
from zegment.files import as_output_error, is_empty, try_writing, whole_path
from zegment.training.log import LOG, RunLog
from zegment.training.state import STATE

FILES = (RUN_CONFIG, LOG, STATE)
CHECKPOINTS = ("last", "best", "half")


def check_run_folder(run: Path) -> None:
    """Check that what a run has written is there itself: files that are files, and folders.

    Args:
        run: The folder, or a link to it.

    Raises:
        ModelNotFoundError: If there is no such folder.
        CheckpointError: If a file or folder of the run is a link, or is something else.
    """
    try:
        there = stat.S_ISDIR(run.stat().st_mode)
    except OSError as error:
        raise _no_run(run, error.strerror or str(error)) from error
    if not there:
        raise _no_run(run, "it is not a folder")
    for name in (*FILES, *CHECKPOINTS):
        _check_entry(run / name, folder=name in CHECKPOINTS)


def _no_run(run: Path, reason: str) -> ModelNotFoundError:
    return ModelNotFoundError(f"no run in '{run}': {reason}; give the --out of a `zegment train`")


def _check_entry(path: Path, *, folder: bool) -> None:
    """Refuse what a run did not write by that name; it may be missing."""
    kind = "folder" if folder else "file"
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if stat.S_ISLNK(mode):
        raise CheckpointError(
            f"{path} is a link, and a run that goes on would write to where it leads; put the "
            f"{kind} itself there"
        )
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        raise CheckpointError(
            f"{path} is not a {kind}, as a run writes it; put the {kind} there, or train anew into "
            "another folder"
        )


def check_free(out: Path) -> None:
    """Check that a run can begin in a folder, which is empty or not there yet.

    Raises:
        OutputError: If it is in use, or no folder.
    """
    with as_output_error(out):
        place = whole_path(out)
        if place.exists() and not place.is_dir():
            raise OutputError(f"cannot train into '{out}': it is not a folder; choose a folder")
        empty = not place.exists() or is_empty(place)
    if not empty:
        raise OutputError(
            f"run folder '{out}' is in use; give another --out, remove it, or go on with "
            f"the run in it: zegment train --resume {out}"
        )


def check_unfinished(run: Path, log: RunLog) -> None:
    """Check that a run can go on in its folder, which is the only place for it.

    Raises:
        ModelNotFoundError: If there is no such folder.
        CheckpointError: If something in it is not what a run writes.
        OutputError: If the run is finished, or the folder cannot be written to.
    """
    check_run_folder(run)
    if log.finished:
        raise OutputError(f"the run in '{run}' is finished; train anew into another folder")
    if not is_main_process():
        return
    try:
        try_writing(run)
    except OutputError as error:
        raise OutputError(
            "--resume goes on in the folder of the run, and it cannot be written to "
            f"({getattr(error.__cause__, 'strerror', None) or error}); make '{run}' "
            "writable, or copy it and go on with the copy"
        ) from error
