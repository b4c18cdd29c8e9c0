"""Tables of shards on disk: written whole, recognised, counted and taken away."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from zegment.files import as_output_error, atomic_stream
from zegment.large_scale.rows import schema
from zegment.optional import optional

#: Folder of the tables within that of the run, so that it can be read as one table.
PARTS = "parts"

#: Rows that are held in memory; they become one row group.
_GROUP = 64
_MARK = b"zegment"
_PART = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How many pictures a table has.

    Attributes:
        done: With labels.
        damaged: That are no whole pictures.
        failed: That could not be read.
    """

    done: int = 0
    damaged: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """Return the number of rows."""
        return self.done + self.damaged + self.failed

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            done=self.done + other.done,
            damaged=self.damaged + other.damaged,
            failed=self.failed + other.failed,
        )


def write_part(path: Path, rows: Iterable[dict[str, Any]], *, mark: str) -> None:
    """Write a table, row group by row group; it has its name only when it is whole.

    Args:
        path: The file; one that is there is replaced.
        rows: From `zegment.large_scale.rows.row_of`.
        mark: From `zegment.prediction.record.RunRecord.mark`, kept in the file's metadata.

    Raises:
        OutputError: If it cannot be written.
    """
    pa, parquet = _arrow()
    columns = schema().with_metadata({_MARK: mark.encode()})
    remaining = iter(rows)
    with (
        atomic_stream(path) as stream,
        parquet.ParquetWriter(stream, columns, compression="zstd") as writer,
    ):
        while group := list(islice(remaining, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=columns))


def remove_part(path: Path) -> None:
    """Remove a table that is not whole or of other pictures, so that nobody reads it.

    Raises:
        OutputError: If it cannot be removed.
    """
    with as_output_error(path):
        path.unlink(missing_ok=True)


def count_part(path: Path, *, mark: str) -> Counted | None:
    """Return how many pictures a table has, or None if it is not whole or was made otherwise."""
    pa, parquet = _arrow()
    try:
        with parquet.ParquetFile(path) as file:
            if (file.schema_arrow.metadata or {}).get(_MARK) != mark.encode():
                return None
            status = file.read(columns=["status"])["status"].to_pylist()
    except (OSError, pa.ArrowException):  # missing, cut off, or something else
        return None
    return Counted(**{kind: status.count(kind) for kind in ("done", "damaged", "failed")})


def errors_in(path: Path) -> Iterator[dict[str, str]]:
    """Yield ``source`` and ``reason`` of every picture of a table that has no labels."""
    _, parquet = _arrow()
    table = parquet.read_table(path, columns=["source", "member", "error"])
    for row in table.filter(table["error"].is_valid()).to_pylist():
        member = f": {row['member']}" if row["member"] else ""
        yield {"source": f"{row['source']}{member}", "reason": row["error"]}


def count_attempt(path: Path) -> int:
    """Note that the work on a table is begun, and return for which time.

    Raises:
        OutputError: If the note cannot be written.
    """
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.write(b".")
            stream.flush()
            os.fsync(stream.fileno())  # this process may be killed
            return stream.tell()


def remove_attempts(folder: Path) -> None:
    """Forget how often the work on tables was begun.

    Raises:
        OutputError: If a note cannot be removed.
    """
    for path in folder.glob(".part-*.begun"):
        with as_output_error(path):
            path.unlink(missing_ok=True)


def remove_parts(folder: Path, *, first: int = 0) -> None:
    """Remove the tables that a run wrote, from a number on, and nothing else.

    Raises:
        OutputError: If one cannot be removed.
    """
    for path in sorted(folder.glob("part-*.parquet")):
        match = _PART.fullmatch(path.name)
        if match and int(match[1]) >= first and _is_ours(path):
            with as_output_error(path):
                path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    pa, parquet = _arrow()
    try:
        return _MARK in (parquet.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def _arrow() -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet."""
    return tuple(
        optional(name, extra="ray", purpose="a table of masks")
        for name in ("pyarrow", "pyarrow.parquet")
    )
