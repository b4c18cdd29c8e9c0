"""Text embeddings kept on disk, so that no sentence is encoded twice by the same text tower.

One SQLite file holds the rows of all towers. Its locks let several processes share it; a file that
is locked or cannot be written to is as good as an empty one, and never an error; a damaged one is
made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MOST_ROWS = 200_000
"""About 400 MB at 512 dimensions; beyond it the oldest go."""

_FILE = "text-embeddings.sqlite"
_ROWS_AT_A_TIME = 500
_NO_CACHE = (sqlite3.Error, OSError, ValueError)


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
        keys: dict[bytes, tuple[str, ...]] = {}
        try:
            with closing(self._open()) as database:
                keys = {self._key(group): group for group in groups}
                for part in _parts(list(keys)):
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, row FROM rows WHERE key IN ({marks})"  # noqa: S608
                    for key, row in database.execute(query, part):
                        values = np.frombuffer(row, dtype="<f4")
                        # A row that is not at length one was not written by us.
                        if abs(float(np.linalg.norm(values)) - 1) < 1e-3:
                            found[keys[key]] = torch.from_numpy(values.copy())
        except _NO_CACHE:
            return found
        return found

    def write(self, rows: Mapping[tuple[str, ...], Tensor]) -> None:
        """Keep the rows of some groups of sentences, float (D,) each."""
        try:
            with closing(self._open()) as database:
                values = [
                    (self._key(group), row.cpu().numpy().astype("<f4").tobytes())
                    for group, row in rows.items()
                ]
                database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
                (last,) = database.execute("SELECT coalesce(max(rowid), 0) FROM rows").fetchone()
                database.execute("DELETE FROM rows WHERE rowid <= ?", (last - MOST_ROWS,))
                database.commit()
        except _NO_CACHE:
            return

    def _key(self, group: tuple[str, ...]) -> bytes:
        return hashlib.sha256(json.dumps([self._identity, *group]).encode()).digest()

    def _open(self) -> sqlite3.Connection:
        if self.folder is None:
            raise OSError("nothing is kept")
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / _FILE
        try:
            return _connect(file)
        except sqlite3.OperationalError:  # locked, or no place for it
            raise
        except sqlite3.DatabaseError:  # damaged: it holds nothing that cannot be made again
            file.unlink()
            return _connect(file)


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=10)
    try:
        database.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, row BLOB)")
    except sqlite3.Error:
        database.close()
        raise
    return database


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
