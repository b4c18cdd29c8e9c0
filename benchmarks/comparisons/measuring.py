"""Time and memory of things that are compared: in turn, and each in a process of its own.

What else the machine does falls on all alike when they take turns, so the ratio of two medians says
more than either of them.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

Work = Callable[[], object]
"""Does once what is measured."""


def in_turn(
    works: Mapping[str, Work], *, rounds: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of every round of every work; they take turns.

    Args:
        works: By name.
        rounds: How often each is done.
        warm_up: Whether each is first done once unmeasured.
    """
    if warm_up:
        for work in works.values():
            work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a work took in a process of its own.

    Attributes:
        seconds: From its begin to its end.
        mib: By how many MiB the process grew at most meanwhile.
        result: What it returned.
    """

    seconds: float
    mib: float
    result: Any


def apart(prepare: Callable[..., Work], **arguments: object) -> Measured:
    """Do a work once in a fresh process, and return what it took; on Linux.

    Args:
        prepare: A function of a module; builds in the fresh process what the work needs, such as a
            model, which is not counted, and returns the work.
        arguments: Of ``prepare``.
    """
    # Its processes are as fresh as spawned ones, but need not import all of torch again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "zegment.segmenter"])
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(partial(_measure, prepare, arguments)).result()


def apart_in_turn(
    prepare: Callable[..., Work], cases: Mapping[str, Mapping[str, object]], *, rounds: int
) -> dict[str, list[Measured]]:
    """Return what every round of every case took; they take turns, each in a fresh process.

    Args:
        prepare: See `apart`.
        cases: Arguments of ``prepare``, by name.
        rounds: How often each is done.
    """
    found: dict[str, list[Measured]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, arguments in cases.items():
            found[name].append(apart(prepare, **arguments))
    return found


def peak_mib(prepare: Callable[..., Work], **arguments: object) -> float:
    """Return by how many MiB a fresh process grows at most during a work; see `apart`."""
    return apart(prepare, **arguments).mib


def _measure(prepare: Callable[..., Work], arguments: Mapping[str, object]) -> Measured:
    work = prepare(**arguments)
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what was freed would serve the work and seem to cost nothing
        libc.malloc_trim(0)
    # The peak counts from here: what building took and gave back is not the work's.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = _status("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    return Measured(seconds=seconds, mib=_status("VmHWM") - before, result=result)


def _status(field: str) -> float:
    """Return a size of this process in MiB.

    ``getrusage`` would do elsewhere, but its peak is handed down from the parent process.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split(f"{field}:")[1].split()[0]) / 1024


def times_faster(seconds: Mapping[str, list[float]], name: str, *, than: str) -> float:
    """Return the ratio of medians: how many times faster ``name`` is ``than`` another."""
    return median(seconds[than]) / median(seconds[name])


def target(
    name: str, measured: float, *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """Return a target beside what was measured, for the report."""
    holds = (at_least is None or measured >= at_least) and (at_most is None or measured <= at_most)
    wanted = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}"
    return {"target": name, "wanted": wanted, "measured": measured, "holds": holds}
