"""Strangers' pictures and masks: cut off, altered, forged, immense, or no files at all.

Published size: more than 2,000 pictures of fourteen kinds, each read as `read_image` reads a path;
a third of them also as ``zegment predict`` reads bytes, and one in ten by the command itself; paths
that are pipes, devices, loops or sparse files, by both ways; more than 300 pairs of image and mask
as training reads them; and pictures just as large as is allowed. Every file is read in a process
that is watched, so that a crash or a hang is counted as that file's. A file fails if what it gives
is not what it shows, if its error names no file and remedy, if it takes more than
`hostile_running.SECONDS` of the processor or makes the process grow by more than
`hostile_running.MIB`, or if there is a traceback or a warning.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hostile_builders as build
import numpy as np
from hostile_doors import by_bytes, by_command, by_path
from hostile_images import Case, bad_images
from hostile_masks import bad_masks, by_dataset, laid
from hostile_paths import strange_paths
from hostile_running import MIB, SECONDS, Found, apart

#: Files of one run of the command; a run is one task, and may take as long as its model needs.
_FILES_PER_COMMAND = 60

#: One side of the largest square that Pillow takes, and one beyond which it warns.
_LARGEST, _LARGE = 13_377, 9_459


@dataclass(kw_only=True)
class Examined:
    """What became of files.

    Attributes:
        outcomes: How many files had which outcome, by way and kind.
        failures: What did not hold.
        seconds: The most that a file took of the processor.
        mib: The most that a process grew by because of one file.
    """

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    mib: float = 0.0

    def add(self, way: str, kind: str, name: str, found: Found) -> None:
        """Count one file."""
        self.outcomes[way, kind, found.outcome] += 1
        self.seconds, self.mib = max(self.seconds, found.seconds), max(self.mib, found.mib)
        problems = []
        if found.outcome not in ("right", "refused"):
            problems.append(f"{found.outcome}: {found.message}")
        if found.seconds > SECONDS:
            problems.append(f"took {found.seconds:.1f} s")
        if found.mib > MIB:
            problems.append(f"took {found.mib:.0f} MiB")
        if is_noise(found.noise):
            problems.append(f"wrote {found.noise[:200]!r}")
        self.failures += [f"{way}, {kind}, {name}: {problem}" for problem in problems]

    def of(self, way: str) -> dict[str, int]:
        """Return how many files had which outcome by one way."""
        counts: Counter[str] = Counter()
        for (known, _, outcome), count in self.outcomes.items():
            counts[outcome] += count if known == way else 0
        return dict(sorted((+counts).items()))


def is_noise(text: str) -> bool:
    """Return whether something but one of libtiff's own lines was written."""
    lines = text.splitlines()
    return len(lines) > 3 or any("Warning" in line or "Traceback" in line for line in lines)


def written(cases: Sequence[Case], folder: Path) -> list[tuple[str, str, Any, int]]:
    """Write cases into a folder; return the tasks of `hostile_doors.by_path`."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / case.name).write_bytes(case.data)
    return [
        (str(folder / case.name), case.verdict, case.expected, case.tolerance) for case in cases
    ]


def examine_images(
    cases: Sequence[Case],
    folder: Path,
    examined: Examined,
    *,
    way: str = "path",
    read: Callable[..., tuple[str, str, Any]] = by_path,
) -> None:
    """Read every case, and count what became of it."""
    for case, found in zip(cases, apart(read, written(cases, folder)), strict=True):
        examined.add(way, case.kind, case.name, found)


def examine_paths(folder: Path, examined: Examined, *, seed: int) -> None:
    """Read what is no file, or has an odd name, by both ways."""
    tasks = strange_paths(folder, np.random.default_rng(seed))
    for read in (by_path, by_bytes):
        for task, found in zip(tasks, apart(read, tasks), strict=True):
            examined.add("strange paths", "path", repr(Path(task[0]).name), found)


def examine_masks(folder: Path, examined: Examined, *, amount: float, seed: int) -> None:
    """Read pairs of image and mask as training does."""
    pairs = bad_masks(amount=amount, seed=seed)
    tasks = laid(pairs, folder)
    for pair, task, found in zip(pairs, tasks, apart(by_dataset, tasks), strict=True):
        examined.add("data set", pair.kind, Path(task[0]).name, found)


def examine_command(cases: Sequence[Case], folder: Path, examined: Examined) -> tuple[int, int]:
    """Segment cases with the command; return how many were segmented and refused."""
    done = refused = 0
    for start in range(0, len(cases), _FILES_PER_COMMAND):
        some, place = cases[start : start + _FILES_PER_COMMAND], folder / f"run-{start}"
        written(some, place)
        task = str(place), str(place / "out"), {case.name: case.verdict for case in some}
        (found,) = apart(by_command, [task])
        if found.outcome != "right" or is_noise(found.noise.replace("\n", " ")):
            examined.failures.append(f"command, {place.name}: {found.message} {found.noise[:200]}")
        done, refused = done + (found.value or (0, 0))[0], refused + (found.value or (0, 0))[1]
    return done, refused


def largest(folder: Path) -> dict[str, dict[str, float]]:
    """Return seconds and MiB of reading square pictures as large as is allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for side in (_LARGE, _LARGEST):
        for name, colour, channels in (("grey", 0, 1), ("RGB", 2, 3), ("RGBA", 6, 4)):
            data = build.png(side, side, build.zeros((side * channels + 1) * side), colour=colour)
            path = folder / f"{name} {side}.png"
            path.write_bytes(data)
            tasks[path.stem] = (str(path), "right", None, 0)
    found = zip(tasks, apart(by_path, list(tasks.values())), strict=True)
    return {
        name: {"seconds": round(f.seconds, 2), "mib": round(f.mib)}
        if f.outcome == "right"
        else {"failed": 1.0}
        for name, f in found
    }


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Return what became of all of them."""
    start, examined = time.perf_counter(), Examined()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        cases = bad_images(amount=amount, seed=seed)
        examine_images(cases, folder / "all", examined)
        examine_images(cases[::3], folder / "third", examined, way="bytes", read=by_bytes)
        some = [case for case in cases[::10] if case.kind != "long and thin"]
        segmented, refused = examine_command(some, folder / "command", examined)
        examine_paths(folder / "paths", examined, seed=seed)
        examine_masks(folder / "masks", examined, amount=amount, seed=seed)
        sizes = largest(folder / "largest") if amount >= 1 else {}
    ways = ("path", "bytes", "strange paths", "data set")
    return {
        "images": len(cases),
        "kinds": dict(Counter(case.kind for case in cases)),
        **{way: examined.of(way) for way in ways},
        "command": {"segmented": segmented, "refused": refused},
        "most_seconds_of_a_file": round(examined.seconds, 2),
        "most_mib_of_a_file": round(examined.mib),
        "largest_pictures": sizes,
        "seconds": round(time.perf_counter() - start, 1),
        "failures": examined.failures,
    }
