"""Downloaded archives, unpacked so that a data set is either whole or as it was before.

A member goes into a hidden folder below the root first, and into place by renaming once every one
of them is there. What already lies in place, at the size the archive says, stays. The hidden folder
goes if the archive is damaged; after an interruption it stays, for the next call to go on with.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, cast

from zegment.claims import claimed
from zegment.errors import DatasetError, DatasetNotFoundError, OutputError, ZegmentError

if TYPE_CHECKING:
    from zegment.data.preparing.report import Report

#: What the readers of archives raise on damaged files.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile,
    NotImplementedError, UnicodeDecodeError, ValueError,
)  # fmt: skip

#: What some systems put into archives without being asked.
_CLUTTER = ("__MACOSX", ".DS_Store", "Thumbs.db")

_BLOCK = 512
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive.

    Attributes:
        name: Its path there, with slashes.
        size: Its length in bytes.
    """

    name: str
    size: int


def unpack(archive: Path, root: Path, anchors: Sequence[str], *, report: Report) -> int:
    """Unpack what belongs to a data set, so that it lies as the data set expects.

    Archives differ in the folders around their content. An anchor is a folder that the data set
    has below its root, such as ``annotations/training``: the folder of the archive that contains
    it becomes the root. An anchor that ends in ``/*SUFFIX`` stands for files and may be found by
    its last folders alone: ``images/val2017/*.jpg`` puts ``val2017/1.jpg`` there.

    Args:
        archive: A .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz file.
        root: Root of the data set; made if missing.
        anchors: What tells where its files belong; the first that is found decides.
        report: Told of each file.

    Returns:
        The number of files that were put into place.

    Raises:
        DatasetNotFoundError: If there is no such archive.
        DatasetError: If it is damaged or cut off, is no archive, or holds nothing of the data set.
        DatasetError: If a member would be written outside the root, or is a link or a device.
        OutputError: If the root cannot be written to or has no room.
    """
    if not archive.is_file():
        raise DatasetNotFoundError(f"no archive {archive}; download it, or correct its path")
    # Two processes that unpacked one archive into one root would write the same hidden files.
    with (
        _damage_explained(archive),
        claimed(root, purpose="unpack"),
        _opened(archive) as (members, content),
    ):
        targets = _targets(archive, members, anchors)
        todo = {
            member.name: (member, targets[member.name])
            for member in members
            if member.name in targets and not _is_there(root / targets[member.name], member)
        }
        stage = root / f".zegment-{archive.name}.unpacking"
        report.start(f"unpack {archive.name}", len(todo))
        try:
            with _writing(root):
                _check_room(root, archive, (member for member, _ in todo.values()))
                for name, stream in content(frozenset(todo)):
                    member, target = todo[name]
                    _stage(stream, member, stage / target)
                    report.advance()
                for _, target in todo.values():
                    (root / target).parent.mkdir(parents=True, exist_ok=True)
                    (stage / target).replace(root / target)
        except (DatasetError, *_DAMAGE):
            shutil.rmtree(stage, ignore_errors=True)
            raise
        shutil.rmtree(stage, ignore_errors=True)
    return len(todo)


def inspect(archive: Path, anchors: Sequence[str]) -> None:
    """Read an archive to its end and raise what `unpack` would; nothing is written."""
    with _damage_explained(archive), _opened(archive) as (members, _):
        _targets(archive, members, anchors)


@contextmanager
def _damage_explained(archive: Path) -> Iterator[None]:
    """Turn what the readers of archives raise into a `DatasetError` that names the file."""
    try:
        yield
    except ZegmentError:
        raise
    except (*_DAMAGE, OSError, RuntimeError) as error:  # zipfile raises the latter on passwords
        raise DatasetError(
            f"{archive} is damaged or cut off ({error}); download it again. Nothing was put into "
            "place"
        ) from error


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an `OutputError` that names the root."""
    try:
        yield
    except (*_DAMAGE, OutputError):
        raise
    except OSError as error:
        raise OutputError(
            f"cannot unpack into {root}: {error.strerror or error}; choose a place that you can "
            "write to and that has room, then give the same command again: it goes on where it was"
        ) from error


Content = Callable[[frozenset[str]], Iterator[tuple[str, IO[bytes]]]]


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[Member], Content]]:
    """Yield the files of an archive, and what iterates over the content of some of them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield _zip_members(archive, packed), lambda names: _zip_content(packed, names)
        return
    with _uncompressed(archive) as stream:
        yield _tar_members(archive, stream), lambda names: _tar_content(stream, names)


def _uncompressed(archive: Path) -> IO[bytes]:
    """Return the bytes of a tar file, whatever it is compressed with."""
    with archive.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"PK"):
        raise zipfile.BadZipFile("its table of contents, at the end, is missing")
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(archive))
    if start.startswith(b"BZh"):
        return bz2.open(archive)
    if start == b"\xfd7zXZ\x00":
        return lzma.open(archive)
    return archive.open("rb")


def _zip_members(archive: Path, packed: zipfile.ZipFile) -> list[Member]:
    members = []
    for info in packed.infolist():
        if info.is_dir():
            continue
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DatasetError(_refusal(archive, info.filename, "is a link"))
        members.append(Member(info.filename, info.file_size))
    return members


def _zip_content(packed: zipfile.ZipFile, names: frozenset[str]) -> Iterator[tuple[str, IO[bytes]]]:
    for info in packed.infolist():
        if info.filename in names:
            with packed.open(info) as stream:
                yield info.filename, stream


def _tar_members(archive: Path, stream: IO[bytes]) -> list[Member]:
    """Return the files after reading to the end, which is the only way to see a cut."""
    members = []
    try:
        with tarfile.open(fileobj=stream, mode="r:") as packed:
            for info in packed:
                if info.isfile():
                    members.append(Member(info.name, info.size))
                elif not info.isdir():
                    raise DatasetError(_refusal(archive, info.name, "is a link or a device"))
            end = packed.offset
    except tarfile.ReadError as error:
        if not members:
            raise DatasetError(
                f"{archive} is no .zip or .tar archive, or is damaged ({error}); download it again"
            ) from error
        raise
    # The module takes a file that ends after some member for a whole one.
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("it ends before its end mark")
    while stream.read(_CHUNK):  # compares the checksum of a compressed file
        pass
    return members


def _tar_content(stream: IO[bytes], names: frozenset[str]) -> Iterator[tuple[str, IO[bytes]]]:
    if not names:
        return
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as packed:
        for info in packed:
            if info.isfile() and info.name in names:
                content = packed.extractfile(info)
                if content is not None:
                    yield info.name, content


def _targets(archive: Path, members: Iterable[Member], anchors: Sequence[str]) -> dict[str, str]:
    """Return where each file of the archive belongs, below the root."""
    paths: dict[str, tuple[str, ...]] = {}
    for member in members:
        parts = _safe_parts(archive, member.name)
        if parts and not any(part in _CLUTTER or part.startswith("._") for part in parts):
            paths[member.name] = parts
    for anchor in anchors:
        targets = _by_files(paths, anchor, anchors) if "*" in anchor else _by_folder(paths, anchor)
        if targets:
            return targets
    top = sorted({parts[0] for parts in paths.values()})
    raise DatasetError(
        f"{archive} holds nothing that this data set has: expected {', '.join(anchors)} in it, "
        f"found {', '.join(top[:5]) or 'no file'}; give the archives that its publishers offer "
        "(see zegment data list)"
    )


def _by_folder(paths: dict[str, tuple[str, ...]], anchor: str) -> dict[str, str]:
    """Return the places of all files beside the first folder called ``anchor``, and in it."""
    wanted = PurePosixPath(anchor).parts
    for parts in sorted(paths.values(), key=len):
        above = _find(parts[:-1], wanted)
        if above is not None:
            outer = parts[:above]
            return {
                name: "/".join(own[above:]) for name, own in paths.items() if own[:above] == outer
            }
    return {}


def _by_files(
    paths: dict[str, tuple[str, ...]], anchor: str, anchors: Sequence[str]
) -> dict[str, str]:
    """Return the places of files in folders called like ``anchor`` or its last folders."""
    folder, _, ending = anchor.rpartition("/*")
    wanted = PurePosixPath(folder).parts
    for missing in range(len(wanted)):
        for name, parts in paths.items():
            above = _find(parts[:-1], wanted[missing:]) if name.endswith(ending) else None
            if above is None:
                continue
            if missing == 0:
                return _by_folder(paths, folder)
            return _of_all(paths, anchors, head=wanted[:missing], outer=parts[:above])
    return {}


def _of_all(
    paths: dict[str, tuple[str, ...]],
    anchors: Sequence[str],
    *,
    head: tuple[str, ...],
    outer: tuple[str, ...],
) -> dict[str, str]:
    """Return the places of files that match an anchor when put into the folders ``head``."""
    found = {}
    for name, parts in paths.items():
        if parts[: len(outer)] != outer:
            continue
        place = "/".join((*head, *parts[len(outer) :]))
        for anchor in anchors:
            folder, star, ending = anchor.rpartition("/*")
            if star and place.startswith(f"{folder}/") and place.endswith(ending):
                found[name] = place
    return found


def _find(parts: tuple[str, ...], wanted: tuple[str, ...]) -> int | None:
    """Return how many parts stand above the first occurrence of ``wanted``."""
    for start in range(len(parts) - len(wanted) + 1):
        if parts[start : start + len(wanted)] == wanted:
            return start
    return None


def _safe_parts(archive: Path, name: str) -> tuple[str, ...]:
    """Return the folders and the file of a member, which may not lead out of the root."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root:
        raise DatasetError(_refusal(archive, name, "is an absolute path"))
    if ".." in path.parts or ".." in windows.parts:
        raise DatasetError(_refusal(archive, name, "leads out of the folder"))
    return tuple(part for part in path.parts if part != ".")


def _refusal(archive: Path, name: str, what: str) -> str:
    return (
        f'{archive}: its member "{name}" {what}, which no data set needs; the archive is not the '
        "publishers' own: download it from them. Nothing was unpacked"
    )


def _is_there(path: Path, member: Member) -> bool:
    return path.is_file() and path.stat().st_size == member.size


def _stage(stream: IO[bytes], member: Member, path: Path) -> None:
    """Write one member into the hidden folder, unless an interrupted run left it there."""
    if _is_there(path, member):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, _CHUNK)
    if path.stat().st_size != member.size:
        raise EOFError(f"{member.name} has {path.stat().st_size} of {member.size} bytes")


def _check_room(root: Path, archive: Path, members: Iterable[Member]) -> None:
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    needed, free = sum(member.size for member in members), shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"{archive} unpacks to {needed / 1e9:.1f} GB, but {place} has {free / 1e9:.1f} GB "
            "free; make room or choose another root"
        )
