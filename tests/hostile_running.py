"""Work on files that may crash, hang or fill the memory: in a process of its own, one by one."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: What no file may take, of the processor's time and of memory beyond what the process had.
SECONDS = 5.0
MIB = 1024.0

#: A hang takes no processor's time; the machine may be busy with others.
_PATIENCE = 60.0
_ADDRESS_SPACE = 8 * 2**30


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one file.

    Attributes:
        outcome: ``right``, ``refused``, ``wrong``, ``raised``, ``crashed`` or ``hung``.
        message: Of the error, or what is wrong.
        seconds: Of the processor.
        mib: By how many MiB the process grew at most.
        noise: What was written to standard error.
        value: What the work returned.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0
    mib: float = 0.0
    noise: str = ""
    value: Any = None


def apart(work: Callable[[Any], tuple[str, str, Any]], tasks: Sequence[Any]) -> Iterator[Found]:
    """Yield what became of each task, done one after the other in another process.

    Args:
        work: A function of a module; returns outcome, message and value.
        tasks: Its arguments.
    """
    child = None
    try:
        for task in tasks:
            child = child if child is not None and child.alive else _Child(work)
            yield child.do(task)
    finally:
        if child is not None:
            child.end()


class _Child:
    """A process that does tasks until one ends it."""

    def __init__(self, work: Callable[[Any], tuple[str, str, Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()  # it has imported what it needs
        self.alive = True

    def do(self, task: Any) -> Found:
        self._pipe.send(task)
        if not self._pipe.poll(_PATIENCE):
            self.end()
            return Found(outcome="hung", message=f"no answer within {_PATIENCE:g} s")
        try:
            found: Found = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.alive = False
            return Found(outcome="crashed", message=f"ended with {code}")
        return found

    def end(self) -> None:
        self.alive = False
        self._process.kill()
        self._process.join()


def _serve(work: Callable[[Any], tuple[str, str, Any]], pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryFile() as noise:
        os.dup2(noise.fileno(), 2)
        gc.freeze()  # what was imported need not be looked through before every file
        pipe.send("ready")
        while True:
            try:
                task = pipe.recv()
            except EOFError:
                return
            pipe.send(_measured(work, task, noise.fileno()))


def _measured(work: Callable[[Any], tuple[str, str, Any]], task: Any, noise: int) -> Found:
    os.ftruncate(noise, 0)
    os.lseek(noise, 0, os.SEEK_SET)
    gc.collect()
    _trim()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before, start = _status("VmRSS"), time.process_time()
    value = None
    try:
        outcome, message, value = work(task)
    except BaseException as error:
        outcome, message = "raised", f"{type(error).__name__}: {error}"
    seconds, peak = time.process_time() - start, _status("VmHWM")
    sys.stderr.flush()
    written = os.pread(noise, 2000, 0).decode(errors="replace")
    return Found(
        outcome=outcome, message=message, seconds=seconds, mib=peak - before, noise=written,
        value=value,
    )  # fmt: skip


def _trim() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # what was freed would serve the next file and cost nothing
        libc.malloc_trim(0)


def _status(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return float(status.split(f"{field}:")[1].split()[0]) / 1024
