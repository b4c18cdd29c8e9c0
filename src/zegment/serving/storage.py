"""Where the server keeps uploads and downloads: one temporary folder, swept by age."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

_VARIABLE: Final = "GRADIO_TEMP_DIR"
_SWEEP_SECONDS: Final = 30.0

#: Beside the newest, those before it that a browser may be fetching.
_NEWEST: Final = 3


@contextlib.contextmanager
def stored_files() -> Iterator[Path]:
    """Yield the folder in which Gradio stores everything; it is removed afterwards.

    Note:
        Gradio reads the place from the environment, so a process runs one server at a time.
    """
    earlier = os.environ.get(_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="zegment-serve-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ[_VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            if earlier is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = earlier


@contextlib.contextmanager
def swept(folder: Path, keep_seconds: float) -> Iterator[None]:
    """Delete files when they are old, all the time; what is there at the beginning stays.

    Args:
        folder: Swept with its sub-folders.
        keep_seconds: Age at which a file goes.
    """
    lasting = frozenset(path for path in folder.rglob("*") if path.is_file())
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(min(_SWEEP_SECONDS, keep_seconds)):
            sweep(folder, keep_seconds, lasting=lasting)

    thread = threading.Thread(target=work, name="zegment-sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def sweep(folder: Path, keep_seconds: float, *, lasting: Collection[Path] = ()) -> None:
    """Delete files older than ``keep_seconds``, except ``lasting`` ones, and folders left empty."""
    oldest = time.time() - keep_seconds
    # Children come before their parents, so that a folder is empty when its turn comes.
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # in use, or deleted by another
            if path.is_dir():
                if path.stat().st_mtime < oldest:
                    path.rmdir()
            elif path not in lasting and path.stat().st_mtime < oldest:
                path.unlink()


class VisitorFiles:
    """Files made for visitors, of which the newest of each kind stay.

    Safe to use from several threads.

    Args:
        folder: Where they are stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[str, dict[str, list[Path]]] = {}
        self._lock = threading.Lock()

    def new_folder(self, visitor: str, kind: str) -> Path:
        """Return an empty folder for the next files of a kind; those of earlier ones go."""
        made = Path(tempfile.mkdtemp(dir=self.folder))
        with self._lock:
            folders = self._made.setdefault(visitor, {}).setdefault(kind, [])
            folders.append(made)
            outdated, folders[:] = folders[:-_NEWEST], folders[-_NEWEST:]
        _remove(outdated)
        return made

    def drop(self, visitor: str) -> None:
        """Delete all files of a visitor."""
        with self._lock:
            kinds = self._made.pop(visitor, {})
        _remove([folder for folders in kinds.values() for folder in folders])


def _remove(folders: Collection[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
