"""What earlier runs wrote, told from the pictures of a user."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from zegment.images import IMAGE_SUFFIXES
from zegment.prediction.files import NOTE

RECORD = "run.json"

_RESULTS = (
    ".labels.png", ".overlay.png", ".confidence.png", ".entropy.png", ".margin.png", ".overlay.mp4",
)  # fmt: skip
_OF_FIFTYONE = (("fiftyone", "data"), ("fiftyone", "labels"))
_FRAME = re.compile(r"frame_\d{6,}\.png")


def without_results(paths: Sequence[Path]) -> list[Path]:
    """Return the files that no run wrote: those that lie in no folder of results, or before it.

    A folder of results is known by its ``run.json``, so that pictures of another origin whose
    names merely look like results are kept.
    """
    is_run_folder = cache(_is_run_folder)

    def is_result(path: Path) -> bool:
        if not _looks_like_result(path):
            return False
        folder = Path(os.path.realpath(path.parent))  # Path.resolve stumbles over circular links
        return any(is_run_folder(parent) for parent in (folder, *folder.parents))

    return [path for path in paths if not is_result(path)]


def folders_left_out(folder: Path) -> int:
    """Return how many folders inside hold pictures, at whatever depth, that no run wrote."""
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return 0
    return sum(_holds_picture(path) for path in inside if not path.name.startswith("."))


def _holds_picture(folder: Path) -> bool:
    for place, folders, files in os.walk(folder):
        if RECORD in files and _is_run_folder(Path(place)):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        pictures = [Path(place, name) for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
        if without_results(pictures):
            return True
    return False


def _looks_like_result(path: Path) -> bool:
    folders = path.parent.parts
    return (
        path.name.endswith(_RESULTS)
        or path.parent.name.endswith(".masks")
        or (_FRAME.fullmatch(path.name) is not None and (path.parent / NOTE).exists())
        or any(pair in pairwise(folders) for pair in _OF_FIFTYONE)
    )


def _is_run_folder(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"vocabulary", "save"} <= record.keys()
