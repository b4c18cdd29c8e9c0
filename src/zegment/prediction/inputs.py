"""What a user names on the command line, as the pictures and videos to read, each with its stem.

Results are called after a stem; two sources never share one, and none leads out of the folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape, has_magic
from itertools import count
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from zegment.errors import ImageError
from zegment.image_bytes import MOST_BYTES, read_file
from zegment.images import IMAGE_SUFFIXES, open_image, read_image
from zegment.prediction.earlier import folders_left_out, without_results
from zegment.prediction.names import VIDEO_SUFFIXES, Found, below_common, identity, stems_of
from zegment.prediction.patterns import fitting

STDIN = "stdin"
_STDIN_NAME = "standard input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One picture or video, and what the files made from it are called.

    Attributes:
        content: The file, or the bytes of a picture that came through standard input.
        stem: Relative path without suffix; parts are joined by ``/`` on every system.
    """

    content: Path | bytes
    stem: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return _STDIN_NAME if isinstance(self.content, bytes) else str(self.content)

    @property
    def is_video(self) -> bool:
        """Whether it is read frame by frame."""
        return not isinstance(self.content, bytes) and _has_suffix(self.content, VIDEO_SUFFIXES)

    def read_bytes(self) -> bytes:
        """Return what the file holds.

        Raises:
            ImageError: If it cannot be read.
        """
        return self.content if isinstance(self.content, bytes) else read_file(self.content)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Return the picture that `read_bytes` returned the bytes of, RGB, uint8 (H, W, 3).

        Raises:
            ImageError: If it is no picture, is damaged, or is too large to be safe, or for the
                memory that is free.
        """
        try:
            with open_image(data, self.name) as picture:
                return read_image(picture)
        except MemoryError as error:  # one picture must not end the run
            raise ImageError(
                f"{self.name} is too large for the memory that is free; shrink it, or cut it into "
                "tiles"
            ) from error


def expand(given: Sequence[str | Path], *, stdin: BinaryIO) -> list[Source]:
    """Return the sources that the arguments of a command stand for, in their order.

    Args:
        given: Each one is a picture or video; a folder, for its pictures in the order of their
            names; a pattern such as ``photos/**/*.jpg``, if no file has that very name;
            ``@list.txt`` or ``list.txt``, with one path per line, relative to the list's folder,
            and comments after ``#`` at the start of a line; or ``-``.
        stdin: Where ``-`` reads the bytes of one picture, or paths separated by line ends or NUL.

    Returns:
        One source per file, however often it was given. The stem is the file's name without
        suffix, below the folders that a pattern or list tells apart; where two would be equal,
        both keep their suffix, and if that is not enough, their folders too.

    Raises:
        ImageError: If a path does not exist or is an address.
        ImageError: If a folder holds no picture, a pattern fits no file, or a list is empty.
        ImageError: If a list is not text, or standard input is neither a picture nor a list.
    """
    files: list[Found] = []
    picture: bytes | None = None
    for argument in dict.fromkeys(map(str, given)):
        if argument != "-":
            files += _expand_one(argument)
        elif _is_picture(data := _read_stdin(stdin)):
            picture = data
        else:
            files += _of_list(data, Path(), name=_STDIN_NAME)
    first = {identity(found.path): found for found in reversed(files)}
    files = [found for found in files if first[identity(found.path)] is found]
    own = set(without_results([found.path for found in files]))
    if files and not own and picture is None:
        raise ImageError(
            f"{files[0].path} and all others given are results of an earlier run; give pictures"
        )
    files = [found for found in files if found.path in own]
    stems = stems_of(files)
    sources = [Source(content=f.path, stem=s) for f, s in zip(files, stems, strict=True)]
    if picture is not None:
        free = (STDIN + "_" * n for n in count() if STDIN + "_" * n not in stems)
        sources.append(Source(content=picture, stem=next(free)))
    if not sources:
        raise ImageError("there is no picture to read; give files, a folder or a pattern")
    return sources


def left_out(given: Sequence[str | Path]) -> list[str]:
    """Return for each folder given how many folders with pictures in it were not looked into."""
    notes = []
    for folder in dict.fromkeys(map(str, given)):
        if Path(folder).is_dir() and (number := folders_left_out(Path(folder))):
            notes.append(
                f"{number} {'folder' if number == 1 else 'folders'} with pictures in '{folder}' "
                f"{'was' if number == 1 else 'were'} not looked into; give "
                f"{pattern_below(folder)} for all of them"
            )
    return notes


def pattern_below(folder: str | Path) -> str:
    """Return the pattern for all files in a folder and those inside it, in quotes for a shell."""
    return shlex.quote(str(Path(escape(str(folder)), "**", "*")))


def _expand_one(argument: str) -> list[Found]:
    if argument.startswith(("http://", "https://")):
        read_image(argument)  # refuses it, and says what to do instead
    path = Path(argument)
    if _exists(path):
        if path.is_dir():
            return [Found(path=file, below=PurePath(file.name)) for file in _pictures_in(path)]
        if _has_suffix(path, (".txt",)):
            return _read_list(path)
        return [Found(path=path, below=PurePath(path.name))]
    if argument.startswith("@"):
        return _read_list(Path(argument[1:]))
    if has_magic(argument):
        return _of_pattern(argument)
    remedy = "give --engine ray, which reads addresses" if "://" in argument else "check the path"
    raise ImageError(f"no image at {argument}; {remedy}")


def _pictures_in(folder: Path) -> list[Path]:
    try:
        found = sorted(
            path
            for path in folder.iterdir()
            if _has_suffix(path, IMAGE_SUFFIXES) and not path.is_dir()
        )
    except OSError as error:
        raise ImageError(f"cannot read folder '{folder}': {error.strerror or error}") from error
    if not found:
        raise ImageError(
            f"folder '{folder}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); give image "
            f"files, another folder, or {pattern_below(folder)} for folders inside"
        )
    return found


def _of_pattern(pattern: str) -> list[Found]:
    """Return the files that a pattern fits, below the part of it that has no wildcard.

    That part, not what the files found today have in common, so that a new sub-folder does not
    rename the results of the others.
    """
    files = sorted(path for path in map(Path, fitting(pattern)) if not path.is_dir())
    known = [path for path in files if _has_suffix(path, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))]
    if not files:
        raise ImageError(f"no file fits the pattern {pattern}; check it, and quote it")
    parts = Path(pattern).parts
    first = next(place for place, part in enumerate(parts) if has_magic(part))
    if ".." in parts[first:]:
        return below_common(known or files)
    base = Path(*parts[:first])
    return [Found(path=path, below=path.relative_to(base)) for path in known or files]


def _read_list(path: Path) -> list[Found]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(
            f"cannot read the list {path}: {error.strerror or error}; check the path"
        ) from error
    return _of_list(data, path.parent, name=str(path))


def _of_list(data: bytes, folder: Path, *, name: str) -> list[Found]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(
            f"{name} is neither a picture nor a list of paths in UTF-8; give one of them"
        ) from error
    entries = [line.strip() for line in text.split("\n")]
    entries = ["" if line.startswith("#") else line for line in entries]
    if "\0" in text:  # as find -print0 writes them: any other character may belong to the name
        entries = text.split("\0")
    paths = [(place, folder / entry) for place, entry in enumerate(entries, start=1) if entry]
    if paths and not any(_exists(path) for _, path in paths):
        place, path = paths[0]  # hardly a list of paths at all
        raise ImageError(f"{name}, entry {place}: no image at {path}; correct the path")
    files: list[Path] = []
    for _, path in paths:  # one that is missing fails when its turn comes, as a damaged one does
        files += _pictures_in(path) if path.is_dir() else [path]
    files = without_results(files) or files  # they would count in what the files have in common
    if not files:
        raise ImageError(f"{name} names no picture; write one path per line")
    return below_common(files)


def _read_stdin(stdin: BinaryIO) -> bytes:
    if stdin.isatty():
        raise ImageError(
            f"'-' reads {_STDIN_NAME}, but nothing is piped into it; write for example "
            "find photos -name '*.jpg' | zegment predict - ..."
        )
    data = stdin.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ImageError(
            f"more than {MOST_BYTES} bytes are piped into '-'; pipe one picture, or paths of files"
        )
    return data


def _is_picture(data: bytes) -> bool:
    """Return whether Pillow knows the format; a damaged picture still counts as one."""
    try:
        open_image(data, _STDIN_NAME).close()
    except ImageError:
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be one, as when something else was piped in
        return False


def _has_suffix(path: Path, suffixes: Iterable[str]) -> bool:
    return path.suffix.lower() in suffixes
