"""The log of a run: one JSON object per line, for steps, validations and what was left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zegment.files import as_output_error, atomic_write_text


class RunLog:
    """A file that grows by lines.

    Args:
        run: The run folder; it need not exist.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "log.jsonl"

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry.

        Raises:
            OutputError: If the file cannot be written to.
        """
        with as_output_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return all whole entries; a process that was killed may have left half of one."""
        if not self.path.is_file():
            return []
        entries = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                entries.append(entry)
        return entries

    def keep(self, step: int) -> None:
        """Drop what was written after a step, which will be taken again."""
        kept = [entry for entry in self.read() if entry.get("step", 0) <= step]
        atomic_write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in kept))

    @property
    def finished(self) -> bool:
        """Return whether the run has come to its end."""
        return any(entry.get("finished") is True for entry in self.read())
