"""Where pictures lie: this machine's folders, and what fsspec reaches by an address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from glob import has_magic, iglob
from pathlib import Path
from typing import Any

import fsspec

from zegment.errors import ConfigError, ImageError
from zegment.prediction.earlier import without_results

_MAGIC = re.compile(r"[*?[]")


class Local:
    """A file, folder or pattern of this machine; links to folders are not followed."""

    def __init__(self, given: str) -> None:
        self.given = given
        path = os.path.abspath(given)  # noqa: PTH100 - Path.resolve would follow links
        self.is_folder = os.path.isdir(path)  # noqa: PTH112
        self._pattern = path if has_magic(path) and not os.path.lexists(path) else None
        if self._pattern is not None:
            path = _without_pattern(path)
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
            if path.lower().endswith(".png") and not without_results([Path(path)]):
                continue
            if not os.path.isdir(path):  # noqa: PTH112
                yield path[len(self.root) :], _size(path)

    def _walk(self) -> Iterator[str]:
        for folder, inside, names in os.walk(self.root):
            inside[:] = [name for name in inside if not name.startswith(".")]
            yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118


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
        """Yield name below the root and bytes of each file."""
        try:
            for path, facts in self._facts():
                if facts["type"] == "file":
                    yield path[self._cut :], int(facts.get("size") or 0)
        except Exception as error:
            raise _refused(self.given, error) from error

    def _facts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._pattern is not None:
            yield from self._system.glob(self._pattern, detail=True).items()
        elif self.is_folder:
            for folder, _, files in self._system.walk(self._path, detail=True):
                yield from (
                    (f"{folder.rstrip('/')}/{name}", facts) for name, facts in files.items()
                )
        else:
            yield self._path, self._system.info(self._path)


def _without_pattern(path: str) -> str:
    """Return the folders of a pattern that come before its first wildcard."""
    return _MAGIC.split(path, maxsplit=1)[0].rpartition("/")[0]


def _refused(given: str, error: Exception) -> ConfigError:
    reason = str(error) or type(error).__name__
    return ConfigError(
        f"cannot list {given} ({reason}); check the address, its rights, and that the package of "
        "its file system is installed, such as s3fs or gcsfs"
    )
