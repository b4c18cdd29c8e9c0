"""Processes that write one place at the same instant, while others read it or are killed.

Published size: 300 rounds of each kind of place that several processes write into at once, 400
writers killed at a drawn moment, and what `writers_caches` and `writers_commands` say.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from soaks.at_once import REFUSED, Reader, Rounds, Writer, in_rounds, is_whole, stamped

from zegment import files, leftovers
from zegment.claims import claimed
from zegment.files import atomic_folder, atomic_write_bytes

NAMES = ("a.bin", "b.bin", "c.bin")
"""Files of a folder that is written as a whole."""


def write_file(path: Path, place: int, draw: random.Random) -> str:
    """Replace a file several times."""
    for _ in range(4):
        atomic_write_bytes(path, stamped(draw))
    return "done"


def read_file(path: Path) -> str | None:
    """Find the file whole, or not yet."""
    try:
        return None if is_whole(path.read_bytes()) else f"{path} is not whole"
    except FileNotFoundError:
        return None


def fill(folder: Path, data: bytes, *, replace: bool) -> None:
    """Write a folder of files that belong together: all hold the same."""
    with atomic_folder(folder, replace=replace) as stage:
        for name in NAMES:
            (stage / name).write_bytes(data)


def replace_folder(path: Path, place: int, draw: random.Random) -> str:
    """Replace a folder several times."""
    for _ in range(4):
        fill(path, stamped(draw, most=1 << 12), replace=True)
    return "done"


def replace_without_exchange(path: Path, place: int, draw: random.Random) -> str:
    """Replace a folder several times where two names cannot be exchanged, as outside of Linux."""
    files._exchange = lambda *_: False
    return replace_folder(path, place, draw)


def make_folder(path: Path, place: int, draw: random.Random) -> str:
    """Write a folder that must not be there yet."""
    fill(path, stamped(draw, most=1 << 12), replace=False)
    return "done"


def fill_empty_folder(path: Path, place: int, draw: random.Random) -> str:
    """Write a folder that is there and empty."""
    path.mkdir(exist_ok=True)
    return make_folder(path, place, draw)


def read_folder(path: Path) -> str | None:
    """Find the folder whole, or not there; its files are those of one writer."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        contents = {_read_in(opened, name) for name in NAMES}
    except FileNotFoundError:  # replaced, and on its way out
        return None
    finally:
        os.close(opened)
    (content, *others) = contents
    return f"{path} is a mixture" if others or not is_whole(content) else None


def read_standing_folder(path: Path) -> str | None:
    """Find the folder whole, and always there once it was."""
    seen = path.with_suffix(".seen")
    if path.is_dir():
        seen.touch()
    elif seen.exists():
        return f"{path} is missing"
    return read_folder(path)


def _read_in(folder: int, name: str) -> bytes:
    with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as stream:
        return stream.read()


def claim(path: Path, place: int, draw: random.Random) -> str:
    """Claim a folder, and find a file there that only one at a time may make."""
    with claimed(path, purpose="write"):
        mark = path / "busy"
        mark.touch(exist_ok=False)
        time.sleep(draw.uniform(0, 0.003))
        mark.unlink()
    return "done"


def one_at_least(answers: list[str]) -> bool:
    """Return whether one writer came through and the others were refused, at worst."""
    return "done" in answers and set(answers) <= {"done", REFUSED}


def one_alone(answers: list[str]) -> bool:
    """Return whether one writer came through and all others were refused."""
    return sorted(answers) == ["done", *[REFUSED] * (len(answers) - 1)]


def all_done(answers: list[str]) -> bool:
    """Return whether every writer came through."""
    return set(answers) == {"done"}


SCENES: dict[str, tuple[Writer, Reader | None, Callable[[list[str]], bool]]] = {
    "a file replaced": (write_file, read_file, all_done),
    "a folder replaced": (replace_folder, read_standing_folder, all_done),
    "a folder moved aside": (replace_without_exchange, read_folder, one_at_least),
    "a new folder": (make_folder, read_folder, one_alone),
    "an empty folder": (fill_empty_folder, None, one_alone),
    "a claimed folder": (claim, None, one_at_least),
}
"""Who writes what, who looks on, and what must have become of the writers."""


def scene(name: str, *, rounds: int, seed: int, folder: Path) -> tuple[Rounds, list[str]]:
    """Play one of `SCENES`, and return what it gave and what must not have been."""
    write, read, right = SCENES[name]
    found = in_rounds(write, folder, rounds=rounds, seed=seed, read=read)
    wrong = [f"{name}: {problem}" for problem in found.problems]
    for number, answers in enumerate(found.answers):
        place = folder / f"{number}"
        if not right(answers):
            wrong.append(f"{name}, round {number}: {answers}")
        if read is not None and (problem := read(place)):
            wrong.append(f"{name}, in the end: {problem}")
        if place.is_dir() and not {path.name for path in place.iterdir()} <= set(NAMES):
            wrong.append(f"{name}, round {number}: something is left in {place}")
    left = [path.name for path in folder.iterdir() if leftovers.is_temporary(path.name)]
    return found, wrong + [f"{name}: {name_left} is left" for name_left in left]


def kills(*, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill writers of one file and one folder at drawn moments; what is there stays whole."""
    context = get_context("spawn")
    queue: Any = context.SimpleQueue()
    process = context.Process(target=_kill_writers, args=(count, seed, folder, queue))
    process.start()
    found: dict[str, Any] = queue.get()
    process.join()
    return found


def _kill_writers(count: int, seed: int, folder: Path, queue: Any) -> None:  # noqa: ANN401
    """Do it, in a process that has no other threads and can be forked."""
    leftovers._SETTLED = 0  # nobody else writes there
    draw = random.Random(f"{seed} kills")  # noqa: S311
    wrong, half_written = [], 0
    for number in range(count):
        child = os.fork()
        if child == 0:
            _write_for_ever(folder, random.Random(f"{seed} {number}"))  # noqa: S311
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        half_written += sum(leftovers.is_temporary(path.name) for path in folder.iterdir())
        for problem in (read_file(folder / "file"), read_standing_folder(folder / "folder")):
            if problem:
                wrong.append(f"kill {number}: {problem}")
        with claimed(folder, purpose="look"):
            pass
        if any(leftovers.is_temporary(path.name) for path in folder.iterdir()):
            wrong.append(f"kill {number}: what was half-written was not removed")
    queue.put({"kills": count, "left half-written": half_written, "failures": wrong})


def _write_for_ever(folder: Path, draw: random.Random) -> None:
    with suppress(BaseException):
        while True:
            atomic_write_bytes(folder / "file", stamped(draw, most=1 << 20))
            fill(folder / "folder", stamped(draw), replace=True)
    os._exit(1)


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Play everything, and return what was done and what must not have been."""
    from soaks.writers_caches import caches  # noqa: PLC0415 - loads torch
    from soaks.writers_commands import commands  # noqa: PLC0415

    started, failures = time.perf_counter(), []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for place, title in enumerate(SCENES):
            folder = Path(name, f"{place}")
            folder.mkdir()
            rounds = max(2, round(300 * amount))
            found, wrong = scene(title, rounds=rounds, seed=seed, folder=folder)
            figures[title] = {"rounds": rounds, "writers": 3, "looks": found.looks}
            failures += wrong
        for title, part in (
            ("killed writers", _killed),
            ("caches", caches),
            ("commands", commands),
        ):
            folder = Path(name, title)
            folder.mkdir()
            figures[title] = part(amount=amount, seed=seed, folder=folder)
            failures += figures[title].pop("failures")
    seconds = round(time.perf_counter() - started, 1)
    return {
        **figures,
        "seconds": seconds,
        "failures": [f"seed {seed}: {what}" for what in failures],
    }


def _killed(*, amount: float, seed: int, folder: Path) -> dict[str, Any]:
    return kills(count=max(3, round(400 * amount)), seed=seed, folder=folder)
