"""Text embeddings kept on disk, so that no sentence is encoded twice by the same text tower.

One SQLite file holds the rows of all towers. Its locks let several processes share it; a file that
is locked or cannot be written to is as good as an empty one, and never an error; a damaged one is
made anew. Each row carries a checksum, so that a damaged row is no row.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zegment.locks import locked_folder

MOST_ROWS = 200_000
"""About 400 MB at 512 dimensions; beyond it the oldest go."""

_FILE = "text-embeddings.sqlite"
_ROWS_AT_A_TIME = 500


def cache_folder() -> Path | None:
    """Return where embeddings are kept: ``ZEGMENT_CACHE``, by default in the user's cache.

    None if ``ZEGMENT_CACHE`` is ``off``.
    """
    chosen = os.environ.get("ZEGMENT_CACHE")
    if chosen == "off":
        return None
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "zegment"
    return Path(chosen or usual).expanduser()


class TextCache:
    """The rows of one text tower, by the sentences that they are the mean of.

    Args:
        identity: Tells the tower from all others; called when the first row is looked for.
        folder: Where the file is; None keeps nothing.
    """

    def __init__(self, identity: Callable[[], str], folder: Path | None) -> None:
        self._make_identity = identity
        self.folder = folder

    @cached_property
    def _identity(self) -> str:
        return self._make_identity()

    def read(self, groups: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Tensor]:
        """Return what is kept of some groups of sentences, float (D,) each."""
        found: dict[tuple[str, ...], Tensor] = {}

        def look(database: sqlite3.Connection) -> None:
            keys = {self._key(group): group for group in groups}
            for part in _parts(list(keys)):
                marks = ",".join("?" * len(part))
                query = f"SELECT key, row FROM rows WHERE key IN ({marks})"  # noqa: S608
                for key, sealed in database.execute(query, part):
                    row = _opened(key, sealed)
                    if row is not None:
                        found[keys[key]] = row

        self._use(look)
        return found

    def write(self, rows: Mapping[tuple[str, ...], Tensor]) -> None:
        """Keep the rows of some groups of sentences, float (D,) each."""

        def add(database: sqlite3.Connection) -> None:
            keyed = ((self._key(group), row) for group, row in rows.items())
            values = [(key, _sealed(key, row)) for key, row in keyed]
            database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
            (last,) = database.execute("SELECT coalesce(max(rowid), 0) FROM rows").fetchone()
            database.execute("DELETE FROM rows WHERE rowid <= ?", (last - MOST_ROWS,))
            database.commit()

        self._use(add)

    def _key(self, group: tuple[str, ...]) -> bytes:
        return hashlib.sha256(json.dumps([self._identity, *group]).encode()).digest()

    def _use(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do something with the database, if it can be used; twice if it is found to be damaged."""
        if self.folder is None:
            return
        file = self.folder / _FILE
        with suppress(sqlite3.Error, OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                _with_database(file, work)
            except sqlite3.OperationalError:  # locked, or no place for it
                return
            except sqlite3.DatabaseError:  # damaged: it holds nothing that cannot be made again
                _remove_damaged(file)
                _with_database(file, work)


def _with_database(file: Path, work: Callable[[sqlite3.Connection], None]) -> None:
    with closing(sqlite3.connect(file, timeout=10)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB)")
        work(database)


def _remove_damaged(file: Path) -> None:
    """Remove a damaged file, unless another process is at it or has just made it anew."""
    with locked_folder(file.parent) as ours:
        if ours is not False and not _is_sound(file):
            file.unlink(missing_ok=True)
            file.with_name(f"{_FILE}-journal").unlink(missing_ok=True)


def _is_sound(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file, timeout=10)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:  # in use
        return True
    except sqlite3.DatabaseError:
        return False


def _sealed(key: bytes, row: Tensor) -> bytes:
    """Return a row as it is kept: its numbers, and a checksum of them and of what they are for."""
    data = row.cpu().numpy().astype("<f4").tobytes()
    return data + _checksum(key, data)


def _opened(key: bytes, sealed: object) -> Tensor | None:
    """Return a row that was kept, float (D,); None if it is not as it was written."""
    if not isinstance(sealed, bytes) or len(sealed) % 4 or len(sealed) < 8:
        return None
    data = sealed[:-4]
    if sealed[-4:] != _checksum(key, data):
        return None
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").copy())


def _checksum(key: bytes, data: bytes) -> bytes:
    return zlib.crc32(key + data).to_bytes(4, "little")


def tower_identity(transformer: nn.Module, *details: object) -> str:
    """Return a text that changes with any weight of a text tower, and with any of ``details``.

    Args:
        transformer: The text side of a CLIP; whatever prefix its weights carry.
        details: What else its embeddings depend on.
    """
    digest = hashlib.sha256(repr(details).encode())
    for key, value in sorted(
        (key.removeprefix("text."), value)
        for key, value in transformer.state_dict().items()
        if not key.startswith(("visual.", "logit_"))
    ):
        digest.update(key.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parts(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), _ROWS_AT_A_TIME):
        yield keys[start : start + _ROWS_AT_A_TIME]
