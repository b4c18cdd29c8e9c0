"""What must hold of a run after whatever befell it, and what it must be in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killed_process import checkpoint_digest, digest
from killing import Ended, Fate, Kind, Runner

from zegment.checkpoint_files import missing_files

CHECKPOINTS = ("last", "best", "half")
STATE = "state.safetensors"
TIME = "seconds"
"""What differs between two runs by nature."""

RESUME = ["train", "--resume", "run"]
STOPPED = re.compile(
    r"^stopped after step (\d+) of 6; go on with: zegment train --resume run$", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Uninterrupted:
    """A run that nothing befell, saved at every step.

    Attributes:
        run: Its folder.
        states: Digest of what was saved after each step.
        checkpoints: Name and digest of every checkpoint that it wrote.
        moments: How many moments each phase had.
        seconds: How long it took.
    """

    run: Path
    states: dict[int, str]
    checkpoints: frozenset[tuple[str, str]]
    moments: Counter[str]
    seconds: float


def uninterrupted(runner: Runner, kind: Kind, folder: Path) -> Uninterrupted:
    """Train to the end, and remember what there was on the way."""
    folder.mkdir(parents=True)
    ended = runner.run(folder, kind.command(1), kind=kind)
    assert not any(ended.statuses), ended.err
    lines = "\n".join(ended.moments)
    written = re.findall(r"^checkpoint\|save_checkpoint done (\w+) (\w+)$", lines, re.MULTILINE)
    return Uninterrupted(
        run=folder / "run",
        states=ended.states(),
        checkpoints=frozenset(written),
        moments=Counter(moment.partition("|")[0] for moment in ended.moments),
        seconds=ended.seconds,
    )


class Trial:
    """A run of which things befall, life after life, until it is finished.

    Args:
        runner: Starts it.
        kind: What is trained.
        expected: The same run, undisturbed.
        folder: Made for it.
        save_every: Steps between saves.

    Attributes:
        failures: What did not hold, in words.
        kills: Phases in which it was killed.
        lives: How often it was started.
        finished: Whether it has come to its end.
    """

    def __init__(
        self,
        runner: Runner,
        kind: Kind,
        expected: Uninterrupted,
        folder: Path,
        *,
        save_every: int = 2,
    ) -> None:
        folder.mkdir(parents=True)
        self.runner, self.kind, self.expected = runner, kind, expected
        self.folder, self.run, self.save_every = folder, folder / "run", save_every
        self.failures: list[str] = []
        self.kills: list[str] = []
        self.lives, self.finished = 0, False
        self._seen: set[str] = set()

    def live(self, fate: Fate | None = None, after: tuple[float, int] | None = None) -> Ended:
        """Begin the run, or go on with it, and see what becomes of it."""
        self._pass_time()
        begun = (self.run / "config.toml").is_file()
        arguments = RESUME if begun else self.kind.command(self.save_every)
        self.lives += 1
        ended = self.runner.run(self.folder, arguments, kind=self.kind, fate=fate, after=after)
        told = f"life {self.lives} ({fate or after or 'undisturbed'})"
        killed = self.was_killed(ended)
        if killed:
            self.kills.append("writing" if fate and fate.limit else ended.phase)
        elif ended.statuses == (0,) * self.kind.ranks or "is finished" in ended.out + ended.err:
            self.finished = True
        if "Traceback" in ended.err and not (killed and self.kind.ranks > 1):
            self.failures.append(f"{told}: {ended.err[-2000:]}")
        if fate is None and after is None and not self.finished:
            self.failures.append(f"{told}: ended with {ended.statuses}: {ended.err[-500:]}")
        self.failures += [f"{told}: {problem}" for problem in self._problems(ended)]
        return ended

    def finish(self) -> list[str]:
        """Go on undisturbed to the end, and return all that is wrong."""
        if not self.finished:
            self.live()
        if self.finished:
            self.failures += differences(self.run, self.expected.run)
        return self.failures

    def _pass_time(self) -> None:
        """Let what was left half-written look as old as it is when people come back to a run."""
        for path in self.folder.rglob(".zegment-*.partial"):
            for part in (path, *path.rglob("*")):
                os.utime(part, (time.time() - 60,) * 2)

    @staticmethod
    def was_killed(ended: Ended) -> bool:
        """Return whether any of its processes was killed without warning."""
        return any(status in (-signal.SIGKILL, -signal.SIGXFSZ) for status in ended.statuses)

    def _problems(self, ended: Ended) -> Iterator[str]:
        """Yield what is not whole, or not as in the undisturbed run."""
        for step, found in ended.states().items():
            if self.expected.states.get(step) != found:
                yield f"what was saved after step {step} is not what the undisturbed run saved"
        if (self.run / STATE).is_file():
            step, _, found = digest(self.run / STATE).partition(" ")
            if self.expected.states.get(int(step)) != found:
                yield f"{STATE} is not what the undisturbed run saved after step {step}"
        for name in CHECKPOINTS:
            place = self.run / name
            if not place.is_dir():
                if name in self._seen:
                    yield f"{name} was there and is not any more"
                continue
            self._seen.add(name)
            if missing_files(place):
                yield f"{name} lacks {missing_files(place)}"
            elif (name, checkpoint_digest(place)) not in self.expected.checkpoints:
                yield f"{name} is none of the checkpoints of the undisturbed run"


def stopped(trial: Trial, ended: Ended, status: int) -> list[str]:
    """Return what is wrong with a run that was asked to stop.

    Args:
        trial: The run.
        ended: How it ended.
        status: What it ends with when it could save.
    """
    if ended.statuses == (0,) * trial.kind.ranks:
        return []  # it came with the last step
    if ended.phase == "start" and not trial.was_killed(ended):
        return []  # no step was taken
    match = STOPPED.search(ended.out + ended.err)
    if match is None or ended.statuses[0] != status:
        return [f"ended with {ended.statuses} and said: {ended.out[-300:]}{ended.err[-2000:]}"]
    if not (trial.run / STATE).is_file():
        return [f"said {match[0]!r} and saved nothing"]
    step = digest(trial.run / STATE).partition(" ")[0]
    return [] if step == match[1] else [f"said {match[0]!r} and saved step {step}"]


def refused(trial: Trial, ended: Ended) -> list[str]:
    """Return what is wrong with how a run ended that could not write."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if ended.statuses[0] != 2 or len(lines) != 1 or not lines[0].startswith("error: "):
        return [f"ended with {ended.statuses} and said: {ended.err[-2000:]}"]
    wrong = [] if "run" in lines[0] else ["the place is not named"]
    if ended.phase != "start" and "--resume run" not in lines[0]:
        wrong.append("it is not said how to go on")
    return [f"{problem}: {lines[0]}" for problem in wrong]


def differences(run: Path, expected: Path) -> list[str]:
    """Return in what a finished run is not the undisturbed one, to the byte."""
    ours, theirs = _files(run), _files(expected)
    found = [f"{name} is in one only" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        first, second = (_content(files[name]) for files in (ours, theirs))
        if first != second:
            found.append(f"{name} differs")
    return found


def _files(run: Path) -> dict[str, Path]:
    return {str(p.relative_to(run)): p for p in run.rglob("*") if not p.is_dir()}


def _content(path: Path) -> Any:
    """Return what must be equal in a file: all of it but times and how often it was saved."""
    if path.name == "log.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name in ("config.toml", "config.json"):
        return re.sub(r'save_every"?( =|:) \d+', "", path.read_text())
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key != TIME}
    return value
