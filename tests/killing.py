"""Runs that are killed, stopped or refused and gone on with, and what they must then equal.

A `Kind` is a training run of a few seconds; a `Trial` is one such run with whatever befalls it.
Nothing here is random: callers draw phases and moments, and give them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

PHASES = ("start", "step", "validation", "checkpoint", "state", "log", "end")

QUICK = (
    "data.image_size=32",
    "data.train_length=11",  # epochs end within a batch
    "data.val_length=3",
    "optim.steps=6",
    "optim.batch_size=4",
    "optim.warmup_steps=1",
    "validate_every=3",
    "windows.short_side=32",
)
WINDOWS = ("windows.size=32", "windows.stride=32")
STUDENT = (
    "teaching.pseudo_classes=synthesizer",
    "teaching.synthesizer_heads=2",
    "teaching.bank_size=6",
)
SEGNEXT = ("model.student.architecture=segnext", "model.student.encoder=t", "data.image_size=64")
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ZEGMENT_CACHE": "off"}
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A training run.

    Attributes:
        preset: What it starts from.
        settings: What it sets beyond `QUICK`.
        ranks: Processes that train together.
        environment: Variables that they have.
        alone: Whether a kill meets the process itself and not those that load its data.
    """

    preset: str = "shapes-zegclip"
    settings: tuple[str, ...] = WINDOWS
    ranks: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    alone: bool = False

    def command(self, save_every: int) -> list[str]:
        """Return the arguments that begin it."""
        settings = [*QUICK, *self.settings, f"save_every={save_every}"]
        return ["train", "--preset", self.preset, "--out", "run"] + [
            argument for setting in settings for argument in ("--set", setting)
        ]


KINDS = {
    "inductive": Kind(),
    "one-stage": Kind(preset="shapes-one-stage"),
    "transductive": Kind(settings=(*WINDOWS, "setting=transductive", "validate_every=2")),
    "student": Kind(preset="shapes-clip-zss", settings=STUDENT),
    "segnext": Kind(preset="shapes-clip-zss", settings=(*STUDENT, *SEGNEXT)),
    "cached": Kind(preset="shapes-clip-zss", settings=(*STUDENT, "teaching.cache=cache")),
    "micro-batches": Kind(settings=(*WINDOWS, "optim.micro_batch_size=1")),
    "bfloat16": Kind(settings=(*WINDOWS, "optim.precision=bf16")),
    "workers": Kind(settings=(*WINDOWS, "workers=2"), alone=True),
    "two processes": Kind(ranks=2),
    "two students": Kind(preset="shapes-clip-zss", settings=STUDENT, ranks=2),
    "two shares": Kind(ranks=2, environment=FSDP),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What befalls a run, and when.

    Attributes:
        deed: ``kill``, ``kill alone``, ``term``, ``term twice``, ``interrupt``,
            ``interrupt twice``, ``full`` or ``read-only``; see `killed_process.Moments`.
        moment: Number of the moment, from 1.
        phase: One of `PHASES`, in which moments are counted; None counts all.
        limit: Instead of a moment, bytes that a file may have: what goes on is refused, or killed.
        ranks: Whom it meets.
    """

    deed: str
    moment: int = 0
    phase: str | None = None
    limit: int | None = None
    ranks: tuple[int, ...] = (0,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How processes ended.

    Attributes:
        statuses: Of each rank: its exit status, or minus the signal that ended it.
        moments: What the first one did, ``phase|what``.
        out: What they printed.
        err: What they printed as errors.
        seconds: How long it took.
    """

    statuses: tuple[int, ...]
    moments: tuple[str, ...]
    out: str
    err: str
    seconds: float

    @property
    def phase(self) -> str:
        """Return the phase of the last moment, or that in which it was struck."""
        before = self.moments
        struck = [i for i, moment in enumerate(before) if moment.startswith("struck|")]
        last = before[struck[0] - 1] if struck else (before or ("start|",))[-1]
        return last.partition("|")[0]

    @property
    def struck(self) -> bool:
        """Return whether the moment of its fate came."""
        return any(moment.startswith("struck|") for moment in self.moments)

    def states(self) -> dict[int, str]:
        """Return a digest of each state that was saved, by step."""
        found = {}
        for moment in self.moments:
            words = moment.split()
            if moment.startswith("state|os.rename state.safetensors"):
                found[int(words[-2])] = words[-1]
        return found


class Runner:
    """A process that begins runs without importing anew; a context manager."""

    def __enter__(self) -> Self:
        """Start it; it is ready when the first order has been answered."""
        program = Path(__file__).with_name("killed_process.py")
        self._process = subprocess.Popen(
            [sys.executable, "-u", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0,
            env={**os.environ, **QUIET, "COLUMNS": "200", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        assert self._answer(300) == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def run(
        self,
        folder: Path,
        arguments: list[str],
        *,
        kind: Kind,
        fate: Fate | None = None,
        after: tuple[float, int] | None = None,
        limit: float = 120,
    ) -> Ended:
        """Run a command in a folder, to its end.

        Args:
            folder: Its working directory, in which ``run`` is its run folder.
            arguments: Of the command line.
            kind: How many processes it has.
            fate: What befalls it.
            after: Seconds after which a signal meets all of them, and that signal.
            limit: Seconds after which it counts as hanging.

        Raises:
            TimeoutError: If it hangs.
        """
        for name in ("out.txt", "err.txt", "moments.txt"):
            (folder / name).unlink(missing_ok=True)
        order = {
            "folder": str(folder), "arguments": arguments, "ranks": kind.ranks,
            "environment": kind.environment, "ranks_meant": fate.ranks if fate else (),
            "fate": {k: v for k, v in asdict(fate).items() if v is not None or k == "phase"}
            if fate else {},
        }  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(order) + "\n").encode())
        start = time.perf_counter()
        processes = json.loads(self._answer(30))
        answer = None
        if after is not None:
            answer = self._answer(after[0], wanted=False)
            if answer is None:
                for process in processes:
                    os.kill(process, after[1])
        statuses = json.loads(answer or self._answer(limit, group=processes[0]))
        seconds = time.perf_counter() - start
        if not kind.alone:  # nobody may be left that loads data
            with suppress(ProcessLookupError):
                os.killpg(processes[0], signal.SIGKILL)
        lines = _text(folder / "moments.txt").splitlines()
        return Ended(
            statuses=tuple(statuses), moments=tuple(lines), seconds=seconds,
            out=_text(folder / "out.txt"), err=_text(folder / "err.txt"),
        )  # fmt: skip

    def _answer(self, limit: float, *, wanted: bool = True, group: int | None = None) -> str | None:
        """Return a line of the process, within some seconds."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limit)[0]:
            if not wanted:
                return None
            if group is not None:
                os.killpg(group, signal.SIGKILL)
                self._process.stdout.readline()
            raise TimeoutError(f"hangs for {limit} s")
        return self._process.stdout.readline().decode().strip()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
