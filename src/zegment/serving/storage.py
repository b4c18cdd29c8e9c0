"""Where the server keeps uploads and downloads: one temporary folder, swept by age and size."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from zegment.errors import OutputError
from zegment.serving.limits import mebibytes

if TYPE_CHECKING:
    from zegment.serving.limits import Limits

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NO_ROOM: Final = "the disk of the server is full, nothing more can be stored; try again later"
"""What visitors are told."""

#: What the system says where there is no room, or no more for this user.
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_PREFIX: Final = "zegment-serve-"
_STARTING: Final = "zegment-starting-"
_VARIABLE: Final = "GRADIO_TEMP_DIR"
_SWEEP_SECONDS: Final = 30.0
_STARTING_SECONDS: Final = 60.0

#: Beside the newest, those before it that a browser may be fetching.
_NEWEST: Final = 3

#: What one request may leave behind: overlay and label map without compression, and more files on
#: the page.
_BYTES_PER_PIXEL: Final = 4
_FILES_PER_REQUEST: Final = 5

#: Each removal may wait for the disk, and thousands one after the other took twenty seconds.
_REMOVED_AT_ONCE: Final = 8

#: A folder without files may be about to get one.
_EMPTY_SECONDS: Final = 60.0

_log = logging.getLogger(__name__)


def is_full(error: BaseException) -> bool:
    """Return whether something could not be written because there was no room for it."""
    return any(isinstance(one, OSError) and one.errno in _FULL for one in (error, error.__cause__))


@contextlib.contextmanager
def stored_files() -> Iterator[Path]:
    """Yield the folder in which Gradio stores everything; it is removed afterwards.

    Folders of servers that were killed are removed first.

    Note:
        Gradio reads the place from the environment, so a process runs one server at a time.
    """
    parent = Path(tempfile.gettempdir()).resolve()
    remove_abandoned(parent)
    made = Path(tempfile.mkdtemp(prefix=_STARTING, dir=parent))
    folder = made.with_name(_PREFIX + made.name.removeprefix(_STARTING))
    earlier = os.environ.get(_VARIABLE)
    with _claimed(made):
        made.rename(folder)  # from now on whoever finds it without a lock may remove it
        os.environ[_VARIABLE] = str(folder)
        try:
            yield folder
        finally:
            _remove_all(folder)
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
    for folder in [*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_STARTING}*")]:
        with contextlib.suppress(OSError):  # of another user, in use, or gone by now
            number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                about = os.fstat(number)
                # A server that is starting has made its folder and not yet locked it.
                starting = (
                    folder.name.startswith(_STARTING)
                    and about.st_mtime > time.time() - _STARTING_SECONDS
                )
                if about.st_uid == os.getuid() and not starting:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_all(folder)
            finally:
                os.close(number)


def _remove_all(folder: Path) -> None:
    """Remove a folder of stored files, which lie in folders of their own."""
    with contextlib.suppress(OSError), ThreadPoolExecutor(_REMOVED_AT_ONCE) as removers:
        list(removers.map(partial(shutil.rmtree, ignore_errors=True), folder.iterdir()))
    shutil.rmtree(folder, ignore_errors=True)


class Store:
    """The stored files, within bounds on their age, number and size.

    Safe to use from several threads.

    Args:
        folder: With its sub-folders.
        limits: The bounds.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._lasting: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._uses_left = 0
        self._full = False

    @contextlib.contextmanager
    def swept(self) -> Iterator[None]:
        """Delete files when they are old, all the time; what is there at the beginning stays."""
        self._lasting = frozenset(path for _, _, path in self._files())
        ended = threading.Event()

        def work() -> None:
            while not ended.wait(min(_SWEEP_SECONDS, self.limits.keep_seconds)):
                self.sweep()

        thread = threading.Thread(target=work, name="zegment-sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def new_folder(self) -> Path:
        """Return an empty folder for files that a visitor may fetch; room is made for them.

        Nobody else can guess its name, which is a part of their address.

        Raises:
            OutputError: If the disk is full.
        """
        if not self.make_room():
            raise OutputError(NO_ROOM)
        made = self.folder / secrets.token_urlsafe()
        made.mkdir(mode=0o700)
        return made

    def make_room(self) -> bool:
        """Delete the oldest files until those of another request fit.

        So nobody can shut others out, neither by uploads nor by asking again and again.

        Returns:
            Whether the disk has room for an upload, too.
        """
        with self._lock:  # whoever comes meanwhile would delete the same
            self._uses_left -= 1
            if self._uses_left < 0:
                self._uses_left = self._make_room()
            free = shutil.disk_usage(self.folder).free
            was_full, self._full = self._full, free < self.limits.max_upload_bytes
        if self._full and not was_full:  # whoever keeps asking writes no log
            _log.warning(
                "the disk of %s has %s left, too little for an upload; visitors are turned away "
                "until there is room", self.folder, mebibytes(free),
            )  # fmt: skip
        return not self._full

    @property
    def _most_bytes(self) -> int:
        """Return what the files of one request may take."""
        return max(self.limits.max_upload_bytes, _BYTES_PER_PIXEL * self.limits.max_pixels)

    def _make_room(self) -> int:
        """Delete what is too much, and return for how many requests there is room then."""
        # Some more than needed go, so that a full store is not looked through at every request.
        most_files = self.limits.max_stored_files * 9 // 10
        most = self.limits.max_stored_bytes - self.limits.max_upload_bytes
        size = count = 0
        full = False
        for _, bytes_, path in sorted(self._files(), reverse=True):
            full = full or size + bytes_ > most or count >= most_files
            if full:
                with contextlib.suppress(OSError):  # in use, or deleted by another
                    Path(path).unlink()
            else:
                size, count = size + bytes_, count + 1
        spare_files = self.limits.max_stored_files - count
        return min(spare_files // _FILES_PER_REQUEST, (most - size) // self._most_bytes)

    def sweep(self) -> None:
        """Delete what is old: files, uploads that were broken off, and folders left empty."""
        now, top = time.time(), str(self.folder)
        for changed, _, path in list(self._files()):
            # Uploads lie at the top until they are complete.
            under_way = os.path.dirname(path) == top  # noqa: PTH120 - see _files
            keep = self.limits.upload_seconds if under_way else self.limits.keep_seconds
            if changed < now - keep:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
        for name, folders, files in os.walk(top, topdown=False):
            if not folders and not files and name != top:
                with contextlib.suppress(OSError):
                    if Path(name).stat().st_mtime < now - _EMPTY_SECONDS:  # or it will be filled
                        Path(name).rmdir()

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yield time, size and path of each file that may go.

        Paths of pathlib would put every name, each time, into a table of Python's that grows with
        all names that there ever were, and moves.
        """
        for folder, _, names in os.walk(str(self.folder)):
            for name in names:
                path = f"{folder}{os.sep}{name}"
                with contextlib.suppress(OSError):  # deleted by another
                    if path not in self._lasting:
                        about = os.lstat(path)
                        yield about.st_mtime, about.st_size, path


class VisitorFiles:
    """Files made for visitors, of which the newest of each kind stay.

    Safe to use from several threads.

    Args:
        store: Where they are kept.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._made: dict[str, dict[str, list[Path]]] = {}
        self._lock = threading.Lock()

    def new_folder(self, visitor: str, kind: str) -> Path:
        """Return an empty folder for the next files of a kind; those of earlier ones go."""
        made = self.store.new_folder()
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
