"""The log of a run: one JSON object per line, for steps, validations and what was left out."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from zegment.errors import CheckpointError
from zegment.files import as_output_error, atomic_write_text
from zegment.text_files import check_is_file, parse_json

LOG = "log.jsonl"
"""Name of the file in a run folder."""

MOST_BYTES = 1 << 30
"""Of a log: several million steps."""


class RunLog:
    """A file that grows by lines.

    Args:
        run: The run folder; it need not exist.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / LOG

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry.

        Raises:
            OutputError: If the file cannot be written to.
        """
        with as_output_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all entries; a process that was killed may have left half of one at the end.

        Raises:
            CheckpointError: If the file cannot be read, or another line of it is no entry.
        """
        *lines, torn = self._content().split(b"\n")
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(_entry(line))
            except ValueError as error:
                raise CheckpointError(
                    f"line {number} of {self.path} is none of the log of a run: {error}; copy the "
                    "file again, or remove the line to go on without it"
                ) from error
        with suppress(ValueError):
            entries.append(_entry(torn))
        return entries

    def _content(self) -> bytes:
        try:
            check_is_file(self.path)
            if self.path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB, so it is no such file")
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self.path}: {error}; copy it again") from error

    def keep(self, step: int) -> None:
        """Drop what was written after a step, which will be taken again.

        Raises:
            CheckpointError: If the file cannot be read; it is then as it was.
            OutputError: If it cannot be written.
        """
        kept = [entry for entry in self.read() if entry["step"] <= step]
        atomic_write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    @property
    def finished(self) -> bool:
        """Return whether the run has come to its end."""
        return any(entry.get("finished") is True for entry in self.read())


def _entry(line: bytes) -> dict[str, Any]:
    """Return what a line says of a step.

    Raises:
        ValueError: If it says nothing of one.
    """
    entry = parse_json(line.decode("utf-8"))
    if not isinstance(entry, dict) or type(entry.get("step")) is not int:
        raise ValueError("it is of no step")
    return entry
