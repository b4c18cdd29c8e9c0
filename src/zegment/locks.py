"""Locks of the operating system on open files and folders, which end with the process."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_held: set[int] = set()
"""Descriptors of the folders that this process holds open."""


def lock(descriptor: int) -> bool | None:
    """Lock what a descriptor stands for, without waiting; closing it ends the lock.

    Args:
        descriptor: Of an open file or folder.

    Returns:
        Whether the lock is ours; None where there are none, as on Windows and on some network file
        systems.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[bool | None]:
    """Hold the lock of a folder while the block runs, if it is free; nothing is written for it.

    Yields:
        Whether the lock is ours, see `lock`; False also if the folder is not there, or was replaced
        while it was being locked.
    """
    descriptor, ours = _opened(folder)
    try:
        yield ours
    finally:
        if descriptor in _held:  # and not in a forked process, which has closed it
            _held.discard(descriptor)
            os.close(descriptor)


def _opened(folder: Path) -> tuple[int, bool | None]:
    """Return a descriptor of a folder, or -1, and whether it is locked."""
    if fcntl is None:
        return -1, None
    _let_children_go()
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return -1, False
    except OSError:
        return -1, None
    _held.add(descriptor)
    ours = lock(descriptor)
    try:
        there = os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        there = False
    return descriptor, ours and there


@functools.cache
def _let_children_go() -> None:
    """Have forked processes close what they inherit: the locks are not theirs.

    A process that loads data may outlive by seconds a parent that was killed, and nobody could go
    on with its work meanwhile.
    """
    os.register_at_fork(after_in_child=_close_inherited)


def _close_inherited() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()
