"""Folders, patterns, lists, archives and addresses as the pictures that they stand for.

Local paths are listed by the system, addresses such as ``s3://bucket/photos`` by fsspec.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from zegment.errors import ConfigError, ImageError
from zegment.images import IMAGE_SUFFIXES
from zegment.large_scale.places import Local, Remote
from zegment.large_scale.shards import ARCHIVE_SUFFIXES, Found

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def find(given: Sequence[str]) -> list[Found]:
    """Return what the arguments of a command stand for, each picture and archive once.

    Args:
        given: Each one is a picture; a tar archive; a folder, for all pictures in it and in the
            folders inside; a pattern such as ``photos/**/*.jpg``; a range such as
            ``part-{000..009}.tar``; or ``@list.txt`` with one of these per line, no folders. All
            but the list may be an address that fsspec opens.

    Raises:
        ImageError: If something does not exist, or holds no picture.
        ConfigError: If fsspec cannot open an address.
    """
    seen: set[str] = set()
    groups = (group for argument in given for group in _expand(str(argument)))
    found = [rest for group in groups if (rest := _unseen(group, seen)) is not None]
    if not found:
        raise ImageError("there is no picture to read; give files, a folder, a pattern or archives")
    return found


def _unseen(group: Found, seen: set[str]) -> Found | None:
    """Return a group without what was found before."""
    if not group.names:
        new = group.root not in seen
        seen.add(group.root)
        return group if new else None
    kept = []
    for name, size in zip(group.names, group.sizes, strict=True):
        if (source := group.root + name) not in seen:
            seen.add(source)
            kept.append((name, size))
    return _group(group.root, kept) if kept else None


def _expand(argument: str) -> Iterator[Found]:
    if argument.startswith("@"):
        yield from _of_list(Path(argument[1:]))
        return
    if argument == "-" or "::" in argument:
        raise ConfigError(
            f"--engine ray cannot read {argument!r}: every process reads for itself; give files, "
            "folders, patterns, archives or plain addresses"
        )
    local = argument.removeprefix("file://")
    for one in [argument] if os.path.lexists(local) else _ranged(argument):
        place = Remote(one) if _is_remote(one) else Local(one.removeprefix("file://"))
        yield from _found(place, place.files())


def _ranged(argument: str) -> list[str]:
    """Return the names that a range such as ``{000..009}`` stands for, in webdataset's notation."""
    if (match := _RANGE.search(argument)) is None:
        return [argument]
    first, last = match.groups()
    width = len(first) if first.startswith("0") else 1
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in _ranged(
            f"{argument[: match.start()]}{number:0{width}d}{argument[match.end() :]}"
        )
    ]


def _found(place: Local | Remote, files: Iterable[tuple[str, int]]) -> Iterator[Found]:
    """Yield an argument's pictures, then its archives; refuse what has neither."""
    listed = sorted(files)
    pictures = [(name, size) for name, size in listed if name.lower().endswith(IMAGE_SUFFIXES)]
    archives = [(name, size) for name, size in listed if name.lower().endswith(ARCHIVE_SUFFIXES)]
    if place.is_folder and not pictures and archives:
        raise ImageError(
            f"'{place.given}' holds archives but no pictures; give {place.given.rstrip('/')}/*.tar"
        )
    if place.is_folder:
        archives = []
    if not pictures and not archives:
        kinds = ", ".join(sorted((*IMAGE_SUFFIXES, *ARCHIVE_SUFFIXES)))
        raise ImageError(f"'{place.given}' stands for no picture or archive ({kinds}); check it")
    if pictures:
        yield _group(place.root, pictures)
    for name, size in archives:
        yield Found(root=place.root + name, sizes=(size,))


def _group(root: str, pictures: Sequence[tuple[str, int]]) -> Found:
    names, sizes = zip(*pictures, strict=True)
    return Found(root=root, names=names, sizes=sizes)


def _of_list(path: Path) -> list[Found]:
    """Return what a list names, by name alone: a million addresses are not asked for one by one."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"cannot read the list {path}: {error}; check the path") from error
    # Names may have line ends and spaces of other kinds in them.
    stripped = (line.strip(" \t\r") for line in lines)
    entries = [line for line in stripped if line and not line.startswith("#")]
    if any(entry.startswith("memory://") for entry in entries):
        raise ConfigError(
            f"the list {path} names memory://, which is of one process alone; give what all of "
            "them can read"
        )
    names = [
        name if _is_remote(name) else str(Path(os.path.abspath(path.parent / name)))  # noqa: PTH100
        for entry in entries
        for name in _ranged(entry.removeprefix("file://"))
    ]
    pictures = [(name, 0) for name in names if not name.lower().endswith(ARCHIVE_SUFFIXES)]
    archives = [Found(root=name) for name in names if name.lower().endswith(ARCHIVE_SUFFIXES)]
    return [*([_group("", pictures)] if pictures else []), *archives]


def _is_remote(argument: str) -> bool:
    return "://" in argument and not argument.startswith("file://")
