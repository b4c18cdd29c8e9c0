"""Files and folders that are either whole or not there.

Everything is written under a temporary name beside its target, forced to the disk, and renamed into
place. An interrupted run, a killed process or a power cut leaves the earlier content or the new
one, never half of it.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zegment.errors import OutputError, ZegmentError
from zegment.leftovers import is_temporary, temporary_name
from zegment.locks import lock, locked_folder

_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the system says of a place that cannot take what is written."""

_EXCHANGE, _FROM_HERE = 2, -100  # RENAME_EXCHANGE and AT_FDCWD of Linux


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

    Of two processes that write one file at once, the one that ends last has it.

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
        target = whole_path(path)
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {path}: it is not a file; choose another name")
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = target.with_name(temporary_name())
        try:
            with stage.open("x+b") as stream:
                lock(stream.fileno())  # it is not abandoned
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
    Of two processes that write one folder at once, the first to end has it if ``replace`` is false
    and the other is refused; otherwise the last has it. The folder is never a mixture.

    Args:
        path: The folder; missing parents are made. One that exists and is empty is filled where
            it stands, for it may be a mount point or somebody's working directory; then alone its
            files appear one after the other.
        replace: Whether a folder with content gives way. On Linux both change names in one step,
            so that a reader always finds one of them; elsewhere the old one is first moved aside.

    Yields:
        The temporary folder.

    Raises:
        OutputError: If the folder has content and ``replace`` is false.
        OutputError: If a file has that name.
        OutputError: If the place cannot be written to.
    """
    with as_output_error(path):
        target = whole_path(path)
        _restore(target)
        _check_free(target, replace=replace)
        stage = target.with_name(temporary_name())
        if target.is_dir() and is_empty(target):
            stage = target / stage.name
        stage.mkdir(parents=True)
    try:
        with locked_folder(stage):  # it is not abandoned
            with _no_room_as_output_error(path, stage):
                yield stage
            with as_output_error(path):
                _force_to_disk(stage)
                if stage.parent == target:
                    _empty_into(target, stage)
                elif replace:
                    _check_free(target, replace=True)
                    _swap(target, stage)
                else:
                    _rename_into_place(target, stage)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_path(path: str | Path) -> Path:
    """Return the absolute path of what a path means, behind all links.

    Raises:
        OSError: If links lead in a circle.
    """
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # as Python before 3.13 calls it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but what others are writing, or have left.

    One that is replaced while it is listed has content: its files may be on their way out already.
    """
    before = folder.stat()
    nothing = all(is_temporary(child.name) for child in folder.iterdir())
    return nothing and os.path.samestat(before, folder.stat())


def try_writing(folder: Path) -> None:
    """Write something into a folder, and leave everything as it was.

    Args:
        folder: Need not exist.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    with as_output_error(folder):
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as stream:
                stream.write(b"x")
        finally:
            for place in missing:
                with suppress(OSError):  # not made, or somebody else is using it already
                    place.rmdir()


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
    others = [name for name in names if name not in known and not is_temporary(name)]
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
    except ZegmentError:  # some are errors of the system too, and say what they are about
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; "
            "choose a place that you can write to and that has room"
        ) from error


@contextmanager
def _no_room_as_output_error(path: str | Path, stage: Path) -> Iterator[None]:
    """Turn errors of writing below ``stage`` into an `OutputError`; those of reading stay."""
    try:
        yield
    except OSError as error:
        inside = str(error.filename or "").startswith(str(stage))
        if not inside and error.errno not in _NO_PLACE:
            raise
        with as_output_error(path):
            raise


def _check_free(target: Path, *, replace: bool) -> None:
    """Refuse a target that is a file, or that has content which may not be replaced."""
    if target.exists() and not target.is_dir():
        raise OutputError(f"cannot make the folder {target}: a file has that name; choose another")
    if target.exists() and not replace and not is_empty(target):
        raise OutputError(
            f"{target} already has content; choose a new folder, or ask for it to be replaced"
        )


def _force_to_disk(stage: Path) -> None:
    """Wait until the content of a folder would survive a power cut, so that its name may."""
    if os.name == "nt":  # where only what is open for writing can be waited for
        return
    for place, _, names in os.walk(stage):
        for path in (*(Path(place, name) for name in names), Path(place)):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _empty_into(target: Path, stage: Path) -> None:
    """Move what ``stage`` holds up into ``target``, the folder around it."""
    with locked_folder(target) as ours:
        if ours is False or not is_empty(target):
            raise OutputError(
                f"{target} was filled by another program meanwhile; choose a new folder"
            )
        for child in stage.iterdir():
            child.rename(target / child.name)


def _rename_into_place(target: Path, stage: Path) -> None:
    """Give ``stage`` the name ``target``, which nothing with content may have."""
    _check_free(target, replace=False)
    try:
        stage.rename(target)
    except OSError:
        _check_free(target, replace=False)  # another process was quicker
        raise


def _swap(target: Path, stage: Path) -> None:
    """Give ``stage`` the name ``target``; what had that name goes only afterwards."""
    if not target.exists():
        try:
            stage.rename(target)
        except OSError:
            if not target.exists():  # or else another process was quicker
                raise
        else:
            return
    if _exchange(target, stage):  # the old one is in the stage now, and goes with it
        return
    old = _moved_aside(target)
    target.rename(old)
    try:
        stage.rename(target)
    except OSError:
        with suppress(OSError):  # another process was quicker, and its content stays
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where the system cannot do it."""
    import ctypes  # noqa: PLC0415 - a few milliseconds that most commands save

    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or an old one
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_FROM_HERE, names[0], _FROM_HERE, names[1], _EXCHANGE) == 0)


def _moved_aside(target: Path) -> Path:
    """Return where a folder waits until the new one is in place; nobody sweeps it away."""
    short = hashlib.blake2s(os.fsencode(target.name), digest_size=6).hexdigest()
    return target.with_name(f".zegment-{short}.old")


def _restore(target: Path) -> None:
    """Bring a folder back, or remove it, if a process was killed while it was aside."""
    old = _moved_aside(target)
    if old.is_dir() and target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir():
        old.rename(target)
