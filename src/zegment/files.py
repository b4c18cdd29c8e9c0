"""Files and folders that are either whole or not there.

Everything is written under a temporary name beside its target and renamed into place, so that
an interrupted run leaves the earlier content, never half of the new one.
"""

import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from zegment.errors import OutputError


def atomic_write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file whole, replacing an earlier one; missing parent folders are made.

    Args:
        path: The file; a link is followed.
        data: Its new content.

    Raises:
        OutputError: If the place is a folder or a device.
        OutputError: If the place cannot be written to.
    """
    with atomic_stream(path) as stream:
        stream.write(data)


@contextmanager
def atomic_stream(path: str | Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes its final name only if the block succeeds.

    Args:
        path: The file; a link is followed, an earlier file is replaced, missing parent folders are
            made.

    Yields:
        The temporary file, open for writing; it can be rewound and read.

    Raises:
        OutputError: If the place is a folder or a device.
        OutputError: If the place cannot be written to.
    """
    with as_output_error(path):
        target = Path(path).resolve()
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it is not a file; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = _sibling(target)
        try:
            with stage.open("x+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            stage.replace(target)
        finally:
            stage.unlink(missing_ok=True)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file whole, replacing an earlier one; missing parent folders are made.

    Args:
        path: The file; a link is followed.
        text: Its new content; line ends are kept as given.

    Raises:
        OutputError: If the place is a folder or a device.
        OutputError: If the place cannot be written to.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a folder to fill, which takes its final name only if the block succeeds.

    After an exception in the block the target is as it was and the temporary folder is gone.

    Args:
        path: The folder; missing parents are made. One that exists and is empty is filled where
            it stands, for it may be a mount point or somebody's working directory.
        replace: Whether a folder with content gives way. It is moved aside first and removed
            only when the new one is in place.

    Yields:
        The temporary folder.

    Raises:
        OutputError: If the folder has content and ``replace`` is false.
        OutputError: If a file has that name.
        OutputError: If the place cannot be written to.
    """
    with as_output_error(path):
        target = Path(path).resolve()
        _check_free(target, replace=replace)
        stage = _sibling(target)
        if target.is_dir() and _is_empty(target):
            stage = target / stage.name
        stage.mkdir(parents=True)
    try:
        yield stage
        with as_output_error(path):
            if stage.parent == target:
                _empty_into(target, stage)
            else:
                _check_free(target, replace=replace)
                _swap(target, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_foreign_content(folder: str | Path, known: Collection[str], *, made_by: str) -> None:
    """Refuse to replace a folder that holds anything but what we once wrote.

    Args:
        folder: Need not exist.
        known: Names of the files that we write.
        made_by: What writes them.

    Raises:
        OutputError: If something else is in the folder.
    """
    target = Path(folder)
    names = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    others = [name for name in names if name not in known]
    if others:
        raise OutputError(
            f"'{folder}' holds '{others[0]}', which {made_by} did not write, and would lose it; "
            "give another folder"
        )


@contextmanager
def as_output_error(path: str | Path) -> Iterator[None]:
    """Turn what the operating system refuses into an `OutputError` that names ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; "
            "choose a place that you can write to and that has room"
        ) from error


def _sibling(target: Path) -> Path:
    """Return a new hidden name in the folder of ``target``, on the same file system."""
    return target.with_name(f".zegment-{uuid.uuid4().hex[:12]}.partial")


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _check_free(target: Path, *, replace: bool) -> None:
    """Refuse a target that is a file, or that has content which may not be replaced."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"cannot make the folder {target}: a file has that name; choose another")
    if target.exists() and not replace and not _is_empty(target):
        raise OutputError(
            f"{target} already has content; choose a new folder, or ask for it to be replaced"
        )


def _empty_into(target: Path, stage: Path) -> None:
    """Move what ``stage`` holds up into ``target``, the folder around it."""
    if any(child != stage for child in target.iterdir()):
        raise OutputError(f"{target} was filled by another program meanwhile; choose a new folder")
    for child in stage.iterdir():
        child.rename(target / child.name)


def _swap(target: Path, stage: Path) -> None:
    """Give ``stage`` the name ``target``; what had that name goes only afterwards."""
    if not target.exists():
        stage.rename(target)
        return
    old = _sibling(target)
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
