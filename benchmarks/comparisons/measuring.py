"""Time and memory of things that are compared: in turn, and each in a process of its own.

What else the machine does falls on all alike when they take turns, so the ratio of two medians says
more than either of them.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
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
        finished: Whether it came to its end; otherwise it was stopped for taking too long, and
            would have taken more seconds than these, and no less memory.
    """

    seconds: float
    mib: float
    result: Any
    finished: bool = True


def apart(
    prepare: Callable[..., Work], *, limit: float | None = None, **arguments: object
) -> Measured:
    """Do a work once in a fresh process, and return what it took; on Linux.

    Args:
        prepare: A function of a module; builds in the fresh process what the work needs, such as a
            model, which is not counted, and returns the work.
        limit: After how many seconds the work is stopped.
        arguments: Of ``prepare``.

    Raises:
        RuntimeError: If the process ends without a result; what went wrong stands in its output.
    """
    # Its processes are as fresh as spawned ones, but need not import all of torch again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "zegment.segmenter"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(there, prepare, arguments))
    process.start()
    there.close()
    try:
        before = here.recv()
        if here.poll(limit):
            found: Measured = pickle.loads(here.recv_bytes())  # noqa: S301 - of our own process
            return found
        assert limit is not None
        peak = _status("VmHWM", process.pid)
        return Measured(seconds=limit, mib=peak - before, result=None, finished=False)
    except EOFError as error:
        raise RuntimeError("a measured process ended without a result") from error
    finally:
        process.kill()
        process.join()


def apart_in_turn(
    prepare: Callable[..., Work], cases: Mapping[str, Mapping[str, Any]], *, rounds: int
) -> dict[str, list[Measured]]:
    """Return what every round of every case took; they take turns, each in a fresh process.

    Args:
        prepare: See `apart`.
        cases: Arguments of ``prepare``, and a ``limit`` where there is one, by name.
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


def _measure(
    told: Connection, prepare: Callable[..., Work], arguments: Mapping[str, object]
) -> None:
    work = prepare(**arguments)
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what was freed would serve the work and seem to cost nothing
        libc.malloc_trim(0)
    # The peak counts from here: what building took and gave back is not the work's.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    told.send(before)
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    found = Measured(seconds=seconds, mib=_status("VmHWM") - before, result=result)
    # Tensors by value: those that `send` shares would end with this process.
    told.send_bytes(pickle.dumps(found))


def _status(field: str, process: int | None = None) -> float:
    """Return a size of a process, this one unless another is named, in MiB.

    ``getrusage`` would do elsewhere, but its peak is handed down from the parent process.
    """
    status = Path(f"/proc/{process or 'self'}/status").read_text(encoding="ascii")
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
