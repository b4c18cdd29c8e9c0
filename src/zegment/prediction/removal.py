"""What is taken away: results that no longer hold, and what a killed run left half-written.

Only files that a run wrote are removed: a picture's results go if its label map carries a mark,
and of those only the kinds that the run's record names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from zegment.files import as_output_error
from zegment.formats import KINDS
from zegment.formats.fiftyone import check_own
from zegment.formats.per_image import MASK_FILE
from zegment.prediction.earlier import RECORD
from zegment.prediction.files import FORMAT_FILES, NOTE, mark_of, result_path

_LABELS = ".labels.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a run writes of each picture.

    Attributes:
        kinds: Some of `zegment.formats.KINDS`.
        formats: Names of formats that were written at its end.
    """

    kinds: tuple[str, ...]
    formats: tuple[str, ...]

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Return what a ``run.json`` says; names that nothing is known by are passed over."""
        kinds, formats = (
            value if isinstance(value := record.get(name), list) else []
            for name in ("save", "formats")
        )
        return cls(
            kinds=tuple(kind for kind in KINDS if kind in kinds),
            formats=tuple(name for name in FORMAT_FILES if name in formats),
        )

    def paths(self, out: Path, stem: str) -> Iterator[Path]:
        """Yield what belongs to one picture but for its label map."""
        yield from (result_path(out, stem, kind) for kind in self.kinds if kind != "labels")
        for name in self.formats:
            yield from (out / file.format(stem) for file in FORMAT_FILES[name] if "{}" in file)


def remove_results(out: Path, stem: str, *, written: Written, keep: str | None = None) -> None:
    """Remove the results of one picture, its label map last; without a mark nothing is removed.

    Args:
        out: Folder of the run.
        stem: Of the picture.
        written: What the run wrote of it.
        keep: A mark of results that stay.

    Raises:
        OutputError: If a file cannot be removed.
    """
    labels = result_path(out, stem, "labels")
    mark = mark_of(labels)
    if mark is None or mark == keep:
        return
    for path in written.paths(out, stem):
        _remove(path)
    if written.formats:
        _remove_frame_picture(out, stem)
    _remove(labels)


def remove_frames(folder: Path, *, written: Written, keep: str | None = None) -> None:
    """Remove the results of a video's frames, its overlays and its note.

    Args:
        folder: Of the frames.
        written: What the run wrote of each.
        keep: A mark of results that stay.

    Raises:
        OutputError: If a file cannot be removed.
    """
    mark = mark_of_note(folder)
    if keep is not None and mark == keep:
        return
    if mark is not None:
        _remove(folder.with_name(f"{folder.name}.overlay.mp4"))
    for labels in sorted(folder.glob(f"frame_*{_LABELS}")):
        stem = labels.name.removesuffix(_LABELS)
        remove_results(folder, stem, written=written, keep=keep)
    if mark is not None:  # last, for it tells pictures of frames from other pictures
        _remove(folder / NOTE)


def mark_of_note(folder: Path) -> str | None:
    """Return the mark in the note of a finished video, or None if there is no such note."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    mark = note.get("mark") if isinstance(note, dict) else None
    return mark if isinstance(mark, str) else None


def remove_run(out: Path, written: Written, *, files: Sequence[str]) -> None:
    """Remove what an earlier run wrote, and nothing else; its ``run.json`` stays.

    Folders inside that hold a run of their own are not looked into.

    Args:
        out: Folder of the run.
        written: From its record.
        files: Names of further files of the run.

    Raises:
        OutputError: If something cannot be removed.
        OutputError: If a folder of a format holds something else.
    """
    _remove_formats(out, written.formats)
    held_files: dict[Path, bool] = {}
    for place, folders, names in os.walk(out):
        folder = Path(place)
        held_files[folder] = bool(names)
        folders[:] = sorted(name for name in folders if not (folder / name / RECORD).exists())
        if NOTE in names:
            remove_frames(folder, written=written)
        for name in sorted(names):
            if name.endswith(_LABELS):
                remove_results(folder, name.removesuffix(_LABELS), written=written)
    for name in files:
        _remove(out / name)
    held_files.pop(out, None)
    for folder, held in reversed(held_files.items()):
        if held and _remove_empty(folder) and folder.parent in held_files:
            held_files[folder.parent] = True


def _remove_formats(out: Path, formats: Sequence[str]) -> None:
    """Remove what formats have written for the whole run."""
    for name in formats:
        for path in (out / file for file in FORMAT_FILES[name] if "{}" not in file):
            if path.is_dir():
                check_own(path)
                with as_output_error(path):
                    shutil.rmtree(path)
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or of a folder the masks and then the folder if it is empty."""
    with as_output_error(path):
        if path.is_dir() and not path.is_symlink():
            for mask in path.iterdir():
                if MASK_FILE.fullmatch(mask.name):
                    mask.unlink()
            _remove_empty(path)
        else:
            path.unlink(missing_ok=True)


def _remove_frame_picture(out: Path, stem: str) -> None:
    """Remove the picture of a frame that formats refer to."""
    folder, name = (out / stem).parent, (out / stem).name
    if re.fullmatch(r"frame_\d{6,}", name) and mark_of_note(folder) is not None:
        _remove(folder / f"{name}.png")


def _remove_empty(folder: Path) -> bool:
    """Remove a folder if nothing is in it; return whether it is gone."""
    with as_output_error(folder):
        if folder.is_dir() and next(folder.iterdir(), None) is None:
            folder.rmdir()
    return not folder.exists()
