"""A shard's pictures one after another, decoded a few ahead of the model."""

from __future__ import annotations

import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, TypeAlias

import fsspec
import numpy as np
from numpy.typing import NDArray

from zegment.errors import ImageError
from zegment.images import IMAGE_SUFFIXES, open_image, read_image
from zegment.large_scale.shards import Shard
from zegment.prediction.inputs import refuse_special

Status: TypeAlias = Literal["done", "damaged", "failed"]
"""Damaged: what was read is no whole picture, and never will be. Failed: it could not be read or
segmented, which may go well another time."""

#: Pictures that are decoded at once, and that wait for the model, whatever the shard holds.
_THREADS = 4
_AHEAD = 4

_ATTEMPTS = 3
_PAUSE = 1.0  # seconds before the second attempt; twice as long before the third


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
            tarfile.open(fileobj=stream, mode="r|*") as members,
        ):
            for info in members:
                if info.isfile() and info.name.lower().endswith(IMAGE_SUFFIXES):
                    file = members.extractfile(info)
                    data = file.read() if file else b""
                    if len(data) < info.size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield _Entry(
                        source=archive, member=info.name, name=info.name, read=partial(bytes, data)
                    )
    except Exception as error:
        reason = f"the archive cannot be read to its end: {error or type(error).__name__}"
        yield _Entry(source=archive, member=None, name="", read=partial(_raise, reason))


def _raise(reason: str) -> NoReturn:
    raise ImageError(reason)


def _decoded(entry: _Entry) -> Picture:
    source, member, name = entry.source, entry.member, entry.name
    whole = source if member is None else f"{source}: {member}"
    try:
        data = entry.read()
    except Exception as error:
        reason = str(error) or type(error).__name__
        return Picture(source=source, member=member, name=name, status="failed", error=reason)
    try:
        with open_image(data, whole) as picture:
            pixels = read_image(picture)
    except ImageError as error:
        return Picture(source=source, member=member, name=name, status="damaged", error=str(error))
    return Picture(source=source, member=member, name=name, pixels=pixels)


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
