"""A shard's pictures one after another, decoded a few ahead of the model."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, Self, TypeAlias

import fsspec
import numpy as np
from numpy.typing import NDArray

from zegment.errors import ImageError
from zegment.image_bytes import refuse_special
from zegment.images import IMAGE_SUFFIXES, open_image, read_image
from zegment.large_scale.shards import Shard

Status: TypeAlias = Literal["done", "damaged", "failed"]
"""Damaged: what was read is no whole picture, and never will be. Failed: it could not be read or
segmented, which may go well another time."""

#: Pictures that are decoded at once, and that wait for the model, whatever the shard holds.
_THREADS = 4
_AHEAD = 4

_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt; twice as long before the third

_GZIP = b"\x1f\x8b"
_CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was read, or why it was not.

    Attributes:
        source: Path or address of its file, or of its archive.
        member: Its name in the archive; None for a file.
        name: What it is called below the shard's root.
        status: What became of it so far.
        error: Why it is not "done".
        pixels: RGB, uint8 (H, W, 3); None if it is not "done".
        repeated: Whether the archive has another member of the name before this one.
    """

    source: str
    member: str | None
    name: str
    status: Status = "done"
    error: str | None = None
    pixels: NDArray[np.uint8] | None = None
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    source: str
    member: str | None
    name: str
    read: Callable[[], bytes]


class _NoPictureError(Exception):
    """What was read will never be a picture, however often it is tried."""


class _Member(tarfile.TarInfo):
    """A member of an archive that may be damaged.

    `tarfile` takes a header that it cannot read for the end of the archive, after the first.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        """Read the next header.

        Raises:
            tarfile.ReadError: If it is cut off or damaged, or the archive ends without its mark.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the mark at its end
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error}; it is damaged or cut off") from error


def read_pictures(shard: Shard) -> Iterator[Picture]:
    """Yield the pictures of a shard in their order, readable or not.

    Of an archive those are the members with the ending of a picture. It is read as a stream, so
    its size does not matter. If it breaks off, the last thing yielded is an error without a member.
    """
    waiting: deque[Future[Picture]] = deque()
    pool = ThreadPoolExecutor(max_workers=_THREADS)
    try:
        for entry in _members(shard.root) if shard.is_archive else _files(shard):
            waiting.append(pool.submit(_decoded, entry))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _files(shard: Shard) -> Iterator[_Entry]:
    for name in shard.names:
        source = shard.root + name
        read = partial(_patiently, partial(_read_file, source))
        yield _Entry(source=source, member=None, name=name, read=read)


def _members(archive: str) -> Iterator[_Entry]:
    try:
        # Opening is tried again; a stream that breaks off is not, for its beginning is gone.
        with (
            _patiently(partial(_open, archive)) as stream,
            tarfile.open(fileobj=_unpacked(stream), mode="r|*", tarinfo=_Member) as members,
        ):
            for info in members:
                if info.name.lower().endswith(IMAGE_SUFFIXES) and not info.isdir():
                    read = _reading(members, info)
                    yield _Entry(source=archive, member=info.name, name=info.name, read=read)
            _refuse_more(members)
    except Exception as error:
        reason = f"the archive cannot be read to its end: {error or type(error).__name__}"
        yield _Entry(source=archive, member=None, name="", read=partial(_raise, ImageError(reason)))


def _unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Return what is in a stream; unlike `tarfile`, check that packed bytes are whole."""
    buffered: Any = io.BufferedReader(stream)
    if buffered.peek(len(_GZIP)).startswith(_GZIP):
        buffered = gzip.GzipFile(fileobj=buffered)
    unpacked: IO[bytes] = buffered
    return unpacked


def _reading(members: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], bytes]:
    """Return what gives the bytes of the member at which an archive is, or says why it cannot.

    Raises:
        tarfile.ReadError: If the archive ends within it.
    """
    if info.islnk() or info.issym():
        reason = f"it is a link to {info.linkname}, which a stream cannot follow; store the picture"
        return partial(_raise, _NoPictureError(reason))
    file = members.extractfile(info) if info.isfile() else None
    if file is None:
        return partial(_raise, _NoPictureError("it is no file; store the picture"))
    data = file.read()
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return partial(bytes, data)


def _refuse_more(members: tarfile.TarFile) -> None:
    """Read a stream to its end, where packed ones have their checksum.

    Raises:
        tarfile.ReadError: If there is more than padding: the mark was no end.
    """
    stream: Any = members.fileobj
    while chunk := stream.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise tarfile.ReadError(
                "there is more after the mark at its end; it is damaged, or two archives in one"
            )


def _raise(error: Exception) -> NoReturn:
    raise error


def _decoded(entry: _Entry) -> Picture:
    whole = entry.source if entry.member is None else f"{entry.source}: {entry.member}"
    made = partial(Picture, source=entry.source, member=entry.member, name=entry.name)
    try:
        data = entry.read()
    except _NoPictureError as error:
        return made(status="damaged", error=f"{whole}: {error}")
    except Exception as error:
        return made(status="failed", error=str(error) or type(error).__name__)
    try:
        with open_image(data, whole) as picture:
            pixels = read_image(picture)
    except ImageError as error:
        return made(status="damaged", error=str(error))
    except MemoryError:
        return made(status="failed", error=f"{whole} is too large for the memory that is free")
    except Exception as error:  # one picture must not end the run
        return made(status="damaged", error=f"{whole}: {type(error).__name__}: {error}")
    return made(pixels=pixels)


def _patiently(read: Callable[[], Any]) -> Any:  # noqa: ANN401 - what is read
    """Return what a function returns, which is tried again: networks fail for a moment."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return read()
        except (FileNotFoundError, PermissionError, IsADirectoryError, ImageError, ImportError):
            raise
        except Exception:
            time.sleep(_PAUSE * attempt)
    return read()


def _read_file(source: str) -> bytes:
    with _open(source) as stream:
        return stream.read()


def _open(source: str) -> IO[bytes]:
    if "://" in source:
        stream: IO[bytes] = fsspec.open(source, "rb").open()
        return stream
    path = Path(source)
    refuse_special(path)
    return path.open("rb")
