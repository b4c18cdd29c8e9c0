"""Where pictures lie: this machine's folders, and what fsspec reaches by an address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from glob import escape, has_magic, iglob
from pathlib import Path
from typing import Any, NoReturn

import fsspec

from zegment.errors import ConfigError, ImageError
from zegment.images import IMAGE_SUFFIXES
from zegment.prediction.earlier import without_results

_MAGIC = re.compile(r"[*?[]")


class Local:
    """A file, folder or pattern of this machine; links to folders are not followed."""

    def __init__(self, given: str) -> None:
        self.given = given
        path = os.path.abspath(given)  # noqa: PTH100 - Path.resolve would follow links
        self.is_folder = os.path.isdir(path)  # noqa: PTH112
        self._pattern: str | None = None
        if has_magic(given) and not os.path.lexists(path):
            before = _without_pattern(given)
            path = os.path.abspath(before or ("/" if given.startswith("/") else "."))  # noqa: PTH100
            # The folder that we are in may have brackets in its name; they are no pattern.
            below = os.path.normpath(given[len(before) :].lstrip("/"))
            self._pattern = os.path.join(escape(path), below)  # noqa: PTH118
        elif not self.is_folder:
            if not os.path.lexists(path):
                raise ImageError(f"no image at {given}; check the path")
            self._file = os.path.basename(path)  # noqa: PTH119
            path = os.path.dirname(path)  # noqa: PTH120
        self.root = path.rstrip("/") + "/"

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name below the root and bytes of each file, but for results of earlier runs."""
        paths = (
            iglob(self._pattern, recursive=True)  # noqa: PTH207 - of any number, as text
            if self._pattern is not None
            else self._walk()
            if self.is_folder
            else iter([self.root + self._file])
        )
        for path in paths:
            if path.lower().endswith(IMAGE_SUFFIXES) and not without_results([Path(path)]):
                continue
            if not os.path.isdir(path):  # noqa: PTH112
                yield path[len(self.root) :], _size(path)

    def _walk(self) -> Iterator[str]:
        for folder, inside, names in os.walk(self.root, onerror=_refuse_folder):
            inside[:] = [name for name in inside if not _is_hidden(name)]
            shown = (name for name in names if not _is_hidden(name))
            yield from (os.path.join(folder, name) for name in shown)  # noqa: PTH118


def _refuse_folder(error: OSError) -> NoReturn:
    raise ImageError(
        f"cannot read the folder {error.filename}: {error.strerror}; check its rights, or give the "
        "pictures of the other folders by a pattern or a list"
    ) from error


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:  # it becomes a row with an error when its turn comes
        return 0


class Remote:
    """A file, folder or pattern behind an address that fsspec opens."""

    def __init__(self, given: str) -> None:
        self.given = given
        try:
            self._system, path = fsspec.core.url_to_fs(given)
            self._pattern = path if has_magic(path) and not self._system.exists(path) else None
            self.is_folder = self._pattern is None and self._system.isdir(path)
        except Exception as error:  # each file system has exceptions of its own
            raise _refused(given, error) from error
        self._path = path
        if self._pattern is not None:
            path = f"{_without_pattern(path)}/"
        folder = path.rstrip("/") if self.is_folder else path.rpartition("/")[0]
        self._cut = len(folder) + 1
        self.root = self._system.unstrip_protocol(folder).rstrip("/") + "/"

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name below the root and bytes of each file, but for hidden ones."""
        named = not self.is_folder and "/." in (self._pattern or self._path)
        try:
            for path, facts in self._facts():
                name = path[self._cut :]
                if facts["type"] == "file" and (named or not _is_hidden(name)):
                    yield name, int(facts.get("size") or 0)
        except Exception as error:
            raise _refused(self.given, error) from error

    def _facts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._pattern is not None:
            yield from self._system.glob(self._pattern, detail=True).items()
        elif self.is_folder:
            for folder, _, files in self._system.walk(self._path, detail=True, on_error="raise"):
                yield from (
                    (f"{folder.rstrip('/')}/{name}", facts) for name, facts in files.items()
                )
        else:
            yield self._path, self._system.info(self._path)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


def _without_pattern(path: str) -> str:
    """Return the folders of a pattern that come before its first wildcard."""
    return _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]


def _refused(given: str, error: Exception) -> ConfigError:
    reason = str(error) or type(error).__name__
    return ConfigError(
        f"cannot list {given} ({reason}); check the address, its rights, and that the package of "
        "its file system is installed, such as s3fs or gcsfs"
    )
