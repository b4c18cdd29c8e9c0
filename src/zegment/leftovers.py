"""What is half-written: what it is called, how it is known to be abandoned, and its removal.

Whoever writes holds a lock on the temporary file or folder. A killed process holds none, so what it
left is told from what another process is writing at this moment.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path

from zegment.locks import lock

_NAME = re.compile(r"\.zegment-[0-9a-f]{12}\.partial")
_SETTLED = 10  # seconds after which a writer has locked what it made
_ABANDONED = 3600  # seconds after which nobody still writes, where locks cannot tell


def temporary_name() -> str:
    """Return a new hidden name."""
    return f".zegment-{uuid.uuid4().hex[:12]}.partial"


def is_temporary(name: str) -> bool:
    """Return whether a name is one of `temporary_name`."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(folder: Path, *, deep: bool = False) -> None:
    """Remove what killed processes left half-written in a folder, and nothing else.

    What cannot be removed stays: it is in nobody's way.

    Args:
        folder: Need not exist.
        deep: Whether folders inside are looked into as well.
    """
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *names) if is_temporary(name)):
            with suppress(OSError):  # of another user, or gone by now
                if not path.is_symlink() and _is_abandoned(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        folders[:] = [name for name in folders if deep and not is_temporary(name)]


def _is_abandoned(path: Path) -> bool:
    age = time.time() - _last_written(path)
    if age < _SETTLED:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        free = lock(descriptor)
    finally:
        os.close(descriptor)
    return age > _ABANDONED if free is None else free


def _last_written(path: Path) -> float:
    """Return when something was last written to a file or within a folder."""
    inside = path.rglob("*") if path.is_dir() else ()
    times: list[float] = [each.lstat().st_mtime for each in (path, *inside)]
    return max(times)
