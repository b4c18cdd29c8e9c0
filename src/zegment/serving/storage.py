"""Where the server keeps uploads and downloads: one temporary folder, swept by age and size."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from zegment.serving.limits import Limits

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PREFIX: Final = "zegment-serve-"
_VARIABLE: Final = "GRADIO_TEMP_DIR"
_SWEEP_SECONDS: Final = 30.0
_STARTING_SECONDS: Final = 60.0

#: Beside the newest, those before it that a browser may be fetching.
_NEWEST: Final = 3


@contextlib.contextmanager
def stored_files() -> Iterator[Path]:
    """Yield the folder in which Gradio stores everything; it is removed afterwards.

    Folders of servers that were killed are removed first.

    Note:
        Gradio reads the place from the environment, so a process runs one server at a time.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    earlier = os.environ.get(_VARIABLE)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        os.environ[_VARIABLE] = str(folder)
        try:
            with _claimed(folder):
                yield folder
        finally:
            if earlier is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = earlier


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which goes with the process however that ends."""
    if fcntl is None:
        yield
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_SH)
        yield
    finally:
        os.close(number)


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of servers that are gone; only where a process can lock a folder.

    Args:
        parent: Where servers make their folders.
    """
    if fcntl is None:
        return
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # of another user, in use, or gone by now
            number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                about = os.fstat(number)
                # A server that is starting has made its folder and not yet locked it.
                if about.st_uid == os.getuid() and about.st_mtime < time.time() - _STARTING_SECONDS:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(number)


class Store:
    """The stored files, within bounds on their age, number and size.

    Args:
        folder: With its sub-folders.
        limits: The bounds.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lasting: frozenset[Path] = frozenset()

    @contextlib.contextmanager
    def swept(self) -> Iterator[None]:
        """Delete files when they are old, all the time; what is there at the beginning stays."""
        self._lasting = frozenset(path for path in self.folder.rglob("*") if path.is_file())
        keep, ended = self.limits.keep_seconds, threading.Event()

        def work() -> None:
            while not ended.wait(min(_SWEEP_SECONDS, keep)):
                sweep(self.folder, keep, lasting=self._lasting)

        thread = threading.Thread(target=work, name="zegment-sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def make_room(self) -> None:
        """Delete the oldest files until another upload fits, so that nobody can shut others out."""
        files = sorted(self._files(), reverse=True)
        room = self.limits.max_stored_bytes - self.limits.max_upload_bytes
        size = 0
        for count, (_, bytes_, path) in enumerate(files, start=1):
            size += bytes_
            if size > room or count >= self.limits.max_stored_files:
                with contextlib.suppress(OSError):  # in use, or deleted by another
                    path.unlink()

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time, size and path of each file that may go."""
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # deleted by another
                if path not in self._lasting and path.is_file():
                    about = path.stat()
                    yield about.st_mtime, about.st_size, path


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
