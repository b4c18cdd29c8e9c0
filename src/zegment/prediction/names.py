"""What results are called: stems that no two sources share, and that every file system takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path, PurePath, PurePosixPath

#: Names of files that are read frame by frame; an animated GIF counts as a picture.
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

#: Bytes of the last part of a stem: with the longest ending, ``.confidence.png``, it makes 255.
_LONGEST = 255 - len(".confidence.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file, and its path below the folder, glob or list that named it."""

    path: Path
    below: PurePath


def below_common(files: Sequence[Path]) -> list[Found]:
    """Return files below the deepest folder that holds them all."""
    return [
        Found(path=path, below=below) for path, below in zip(files, _shortened(files), strict=True)
    ]


def stems_of(files: Sequence[Found]) -> list[str]:
    """Return a stem for each file: the shortest of four that no other file has.

    Case is ignored in the comparison, for some file systems do so. A name that would be too long
    with the endings of results is cut.
    """
    choices = [
        [*_with_and_without_suffix(found.below), *_with_and_without_suffix(whole)]
        for found, whole in zip(files, _shortened([f.path for f in files]), strict=True)
    ]
    levels = [0] * len(files)
    while True:
        stems = [names[level] for names, level in zip(choices, levels, strict=True)]
        counts = Counter(stem.casefold() for stem in stems)
        folders = {str(p).casefold() for s in stems for p in PurePosixPath(s).parents}
        clashes = [
            level < 3
            and (
                counts[stem.casefold()] > 1
                # The frames of a video lie in a folder that is called after it.
                or (stem.casefold() in folders and found.path.suffix.lower() in VIDEO_SUFFIXES)
            )
            for stem, level, found in zip(stems, levels, files, strict=True)
        ]
        if not any(clashes):
            return [_fitting(stem) for stem in stems]
        levels = [level + clash for level, clash in zip(levels, clashes, strict=True)]


def _with_and_without_suffix(below: PurePath) -> tuple[str, str]:
    return below.with_suffix("").as_posix(), below.as_posix()


def _shortened(files: Sequence[Path]) -> list[PurePath]:
    """Return paths without what they have in common, none of them with ``..``."""
    whole = [Path(identity(path)) for path in files]
    if len({path.anchor for path in whole}) > 1:  # two drives have no folder in common
        return [PurePath(path.drive.strip(":\\/"), *path.parts[1:]) for path in whole]
    base = os.path.commonpath([path.parent for path in whole]) if whole else ""
    return [path.relative_to(base) for path in whole]


def identity(path: Path) -> str:
    """Return what two ways to name one file have in common; a link is a file of its own."""
    return str(path.parent.resolve() / path.name)


def _fitting(stem: str) -> str:
    """Return a stem whose last part leaves room for every ending in a file name of 255 bytes.

    The same stem is always cut in the same way, so that a later run finds the results.
    """
    folders, slash, last = stem.rpartition("/")
    data = os.fsencode(last)
    if len(data) <= _LONGEST:
        return stem
    digest = blake2s(data, digest_size=6).hexdigest()
    kept = data[: _LONGEST - len(digest) - 1].decode("utf-8", "ignore")
    return f"{folders}{slash}{kept}-{digest}"
