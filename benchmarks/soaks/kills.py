"""Training that is killed, stopped or refused at drawn moments, and must end as if it never was.

Published size: twelve kinds of runs are killed and gone on with until each is finished, one of
them also before each change that its saves make on disk; others are told to stop, alone and under
the launchers that people use, or find the disk full or read-only. Whatever is left on disk after
each life is compared with the same run undisturbed, and in the end every file of it, to the byte.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from killing import KINDS, QUIET, Fate, Runner
from survival import (
    RESUME,
    STOPPED,
    Trial,
    Uninterrupted,
    differences,
    refused,
    stopped,
    uninterrupted,
)

ANY_TIME = "any time"
ROUND = (ANY_TIME, "step", "checkpoint", ANY_TIME, "validation", "state", "log", "start", "end")
"""Where kills fall, one after the other."""

KILLS_PER_KIND, STOPS, REFUSALS = 6, 16, 16
SIGNALS = {"term": signal.SIGTERM, "term twice": signal.SIGTERM, "interrupt": signal.SIGINT}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
COMMANDS = (
    ("inductive", (sys.executable,), signal.SIGTERM),
    ("workers", (sys.executable,), signal.SIGINT),
    ("inductive", ("timeout", "600", sys.executable), signal.SIGTERM),  # which signals twice
    ("two processes", TORCHRUN, signal.SIGTERM),
    ("two processes", TORCHRUN, signal.SIGINT),
)
"""Kinds, what starts them, and the signal that this is sent; Ctrl-C goes to all of a terminal."""


@dataclass(kw_only=True)
class Soak:
    """What is drawn and found in one soak.

    Attributes:
        runner: Starts runs.
        folder: Where they write.
        seed: Of every draw.
        found: What was done and found so far.
        failures: What did not hold.
    """

    runner: Runner
    folder: Path
    seed: int
    found: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _expected: dict[str, Uninterrupted] = field(default_factory=dict)

    def expected(self, kind: str) -> Uninterrupted:
        """Return the undisturbed run of a kind."""
        if kind not in self._expected:
            folder = self.folder / kind / "undisturbed"
            self._expected[kind] = uninterrupted(self.runner, KINDS[kind], folder)
        return self._expected[kind]

    def trial(self, kind: str, name: str, *, save_every: int) -> Trial:
        """Return a run that has not begun."""
        return Trial(
            self.runner,
            KINDS[kind],
            self.expected(kind),
            self.folder / kind / name,
            save_every=save_every,
        )

    def close(self, name: str, trial: Trial) -> None:
        """Let a run go on to its end, and count what befell it."""
        self.failures += [f"seed {self.seed}, {name}: {what}" for what in trial.finish()]
        self.found["runs"] += 1
        self.found["lives"] += trial.lives
        for phase in trial.kills:
            self.found[f"killed: {phase}"] += 1

    def kill(self, kind: str, count: int) -> None:
        """Kill runs of a kind in all phases and at any time, several times each."""
        draw = draws(self.seed, "kill", kind)
        phases = _round(draw.randrange(len(ROUND)))
        done = number = 0
        while done < count and number < count:
            name = f"{kind}, kill {number}"
            trial = self.trial(kind, f"kill {number}", save_every=draw.randint(1, 4))
            while not trial.finished and len(trial.kills) < min(4, count - done):
                kill_once(trial, next(phases), draw)
            done += len(trial.kills)
            number += 1
            self.close(name, trial)

    def kill_while_saving(self, kind: str, share: float) -> None:
        """Kill a run before each change that its saves make on disk, and within their writes."""
        draw = draws(self.seed, "save", kind)
        expected = self.expected(kind)
        for phase, saves in (("checkpoint", len(expected.checkpoints)), ("state", 5)):
            trial = self.trial(kind, f"saving {phase}", save_every=1)
            # Two saves: into a place that is empty, and into one that is not.
            most = min(-(-2 * expected.moments[phase] // saves), expected.moments[phase])
            for moment in range(1, most + 1):
                if not trial.finished and draw.random() < share:
                    trial.live(Fate(deed="kill", phase=phase, moment=moment))
            self.close(f"{kind}, saving {phase}", trial)
        trial = self.trial(kind, "torn", save_every=1)
        for limit in limits(expected, draw, max(1, round(6 * share))):
            trial.live(Fate(deed="kill", limit=limit))
        self.close(f"{kind}, torn", trial)

    def stop(self, kind: str, count: int) -> None:
        """Ask runs of a kind to stop, by either signal, at drawn moments or times."""
        draw = draws(self.seed, "stop", kind)
        ranks = KINDS[kind].ranks
        trial = self.trial(kind, "stop", save_every=0)
        for number in range(count):
            if trial.finished:
                self.close(f"{kind}, stop", trial)
                trial = self.trial(kind, f"stop {number}", save_every=0)
            deed = draw.choice(tuple(SIGNALS))
            status = 128 + SIGNALS[deed]
            if draw.random() < 0.3:
                ended = trial.live(
                    after=(draw.uniform(0.2, 1) * trial.expected.seconds, SIGNALS[deed])
                )
            else:
                moment = draw.randint(1, trial.expected.moments["step"] // 2)
                meant = (draw.randrange(ranks),) if draw.random() < 0.7 else tuple(range(ranks))
                ended = trial.live(Fate(deed=deed, phase="step", moment=moment, ranks=meant))
            trial.failures += [f"{deed}: {what}" for what in stopped(trial, ended, status)]
            self.found[f"asked to stop: {deed}"] += 1
        self.close(f"{kind}, stop", trial)

    def refuse(self, kind: str, count: int) -> None:
        """Let runs of a kind find the disk full or read-only while they write."""
        draw = draws(self.seed, "refuse", kind)
        trial = self.trial(kind, "refuse", save_every=2)
        for number in range(count):
            if trial.finished:
                self.close(f"{kind}, refuse", trial)
                trial = self.trial(kind, f"refuse {number}", save_every=2)
            refuse_once(trial, draw)
            self.found["refused"] += 1
        self.close(f"{kind}, refuse", trial)

    def command(self, kind: str, launcher: tuple[str, ...], number: int) -> None:
        """Ask the command line itself to stop after its first step, and let it go on."""
        place = self.folder / f"command {self.found['commands stopped']}"
        place.mkdir()
        log, environment = place / "run" / "log.jsonl", {**os.environ, **QUIET}
        start = [*launcher, "-m", "zegment"]
        with subprocess.Popen(  # noqa: S603 - our own command
            [*start, *KINDS[kind].command(0)], cwd=place, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            while process.poll() is None and not (log.is_file() and "loss" in log.read_text()):
                time.sleep(0.01)
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            _, said = process.communicate(timeout=120)
        self.found["commands stopped"] += 1
        problems = [] if STOPPED.search(said) else [f"said {said[-1000:]}"]
        done = subprocess.run(  # noqa: S603
            [*start, *RESUME], cwd=place, env=environment, check=False, capture_output=True
        )
        problems += [] if done.returncode == 0 else [f"went on: {done.stderr.decode()[-1000:]}"]
        problems += differences(place / "run", self.expected(kind).run)
        self.failures += [f"{kind}, {' '.join(launcher)}, {number}: {what}" for what in problems]


def draws(*seed: object) -> random.Random:
    """Return draws that depend on nothing but what is given."""
    return random.Random(" ".join(map(str, seed)))  # noqa: S311 - no secret


def kill_once(trial: Trial, phase: str, draw: random.Random) -> None:
    """Kill a run in a phase, or at any time; it may come to its end before."""
    if phase == ANY_TIME:
        trial.live(after=(draw.uniform(0, trial.expected.seconds), signal.SIGKILL))
        return
    most = trial.expected.moments[phase]
    if phase == "state":  # which the undisturbed run saved at every step
        most //= max(trial.save_every, 1)
    moment, alone = draw.randint(1, max(most // 2, 1)), trial.kind.alone
    if trial.kind.ranks > 1 and draw.random() < 0.5:  # one machine of several
        alone = True
    ranks = (draw.randrange(trial.kind.ranks) if phase in ("step", "validation") else 0,)
    deed = "kill alone" if alone else "kill"
    trial.live(Fate(deed=deed, phase=phase, moment=moment, ranks=ranks))


def refuse_once(trial: Trial, draw: random.Random) -> None:
    """Refuse a run what it writes from a drawn moment on, or files beyond a drawn size."""
    deed = draw.choice(("full", "full", "read-only"))
    if draw.random() < 0.3:
        fate = Fate(deed="full", limit=next(limits(trial.expected, draw, 1)))
    else:
        phase = draw.choice(("checkpoint", "state", "log", "checkpoint", "state", "start"))
        most = max(trial.expected.moments[phase] // 4, 1)
        fate = Fate(deed=deed, phase=phase, moment=draw.randint(1, most))
    ended = trial.live(fate)
    if not trial.finished:
        trial.failures += [f"{fate}: {what}" for what in refused(trial, ended)]


def limits(expected: Uninterrupted, draw: random.Random, count: int) -> Iterator[int]:
    """Yield sizes that a checkpoint's weights, or at least a saved state, are beyond."""
    size = (expected.run / "last" / "model.safetensors").stat().st_size
    for _ in range(count):
        yield int(draw.uniform(0.05, 1.9) * size)


def _round(start: int) -> Iterator[str]:
    while True:
        yield ROUND[start % len(ROUND)]
        start += 1


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Do it all, and return what was done and what did not hold.

    Args:
        amount: 1.0 is the published size.
        seed: Of every draw.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Runner() as runner:
        run = Soak(runner=runner, folder=Path(folder).resolve(), seed=seed)
        kinds = list(KINDS)[: max(1, round(len(KINDS) * amount))]
        for kind in kinds:
            run.kill(kind, max(1, round(KILLS_PER_KIND * amount)))
        run.kill_while_saving("inductive", min(1.0, amount))
        for kind in ("inductive", "workers", "two processes"):
            if kind in kinds:
                run.stop(kind, max(1, round(STOPS * amount / 3)))
        for kind in ("inductive", "workers"):
            if kind in kinds:
                run.refuse(kind, max(1, round(REFUSALS * amount / 2)))
        for kind, launcher, number in COMMANDS[: max(1, round(len(COMMANDS) * amount))]:
            run.command(kind, launcher, number)
    kills = {name: n for name, n in run.found.items() if name.startswith("killed")}
    return {
        "kinds": kinds,
        "kills": sum(kills.values()),
        **dict(sorted(run.found.items())),
        "seconds": round(time.perf_counter() - start, 1),
        "failures": run.failures,
    }
