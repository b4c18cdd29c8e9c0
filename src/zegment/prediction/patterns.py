"""Files that a pattern fits, also where a link leads back to a folder around it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import escape, glob
from pathlib import Path


def fitting(pattern: str) -> list[str]:
    """Return the paths that a pattern fits, each once, in no order.

    What `glob.glob` finds with ``recursive=True``, but for folders that are reached through one of
    their own: two links to a folder in itself would keep it busy for ever.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return glob(pattern)  # noqa: PTH207 - Path.glob takes no absolute pattern
    place = parts.index("**")
    rest = parts[place + 1 :] or ("*",)
    starts = fitting(str(Path(*parts[:place]))) if place else ["."]
    folders = dict.fromkeys(folder for start in starts for folder in _folders(Path(start)))
    inside = (fitting(str(Path(escape(str(folder)), *rest))) for folder in folders)
    return list(dict.fromkeys(path for found in inside for path in found))


def _folders(start: Path) -> Iterator[Path]:
    """Yield a folder and those inside it, but for hidden ones and those that it lies in itself."""
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(start, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as entries:
                inside = [e.name for e in entries if e.name[:1] != "." and e.is_dir()]
        except OSError:  # no folder, or one that may not be looked into
            continue
        own = status.st_dev, status.st_ino
        if own not in above:
            yield folder
            waiting += [(folder / name, above | {own}) for name in inside]
