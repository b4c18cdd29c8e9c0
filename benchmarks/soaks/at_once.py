"""Rounds in which several processes write one place at the same instant, while one looks on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from zegment.errors import OutputError

REFUSED = "refused"
"""What a writer answers that was told to keep away."""

Writer = Callable[[Path, int, random.Random], str]
"""Writes into a place that others write to as well; returns what became of it."""

Reader = Callable[[Path], str | None]
"""Looks at a place that is being written to; returns what is wrong with it."""


@dataclass(kw_only=True)
class Rounds:
    """What rounds of writing gave.

    Attributes:
        answers: What each writer said, by round.
        looks: How often a reader looked.
        problems: What readers saw that must not be, and processes that did not end well.
    """

    answers: list[list[str]] = field(default_factory=list)
    looks: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class _Meeting:
    """Where processes meet, and what they tell through."""

    folder: Path
    rounds: int
    barrier: Any
    ended: Any
    queue: Any


def in_rounds(
    write: Writer, folder: Path, *, rounds: int, seed: int, writers: int = 3, read: Reader | None
) -> Rounds:
    """Let processes write one place per round, all at the same instant, while one looks on.

    Args:
        write: A function of a module.
        folder: Where the places are; they are called by the number of the round.
        rounds: How many.
        seed: Of what is written.
        writers: How many processes.
        read: A function of a module; None looks at nothing.
    """
    context = get_context("spawn")
    meeting = _Meeting(
        folder=folder,
        rounds=rounds,
        barrier=context.Barrier(writers + (read is not None)),
        ended=context.Value("i", 0),
        queue=context.SimpleQueue(),
    )
    work = [(_write_rounds, (write, place, seed)) for place in range(writers)]
    if read is not None:
        work.append((_read_rounds, (read, writers)))
    processes = [context.Process(target=target, args=(*given, meeting)) for target, given in work]
    for process in processes:
        process.start()
    found = Rounds(answers=[[""] * writers for _ in range(rounds)])
    for _ in processes:
        kind, place, told = meeting.queue.get()
        if kind == "wrote":
            for number, answer in enumerate(told):
                found.answers[number][place] = answer
        else:
            found.looks, found.problems = told
    for process in processes:
        process.join()
    return found


def _write_rounds(
    write: Writer,
    place: int,
    seed: int,
    meeting: _Meeting,
) -> None:
    draw = random.Random(f"{seed} {place}")  # noqa: S311 - no secret
    answers = []
    for number in range(meeting.rounds):
        meeting.barrier.wait(60)
        try:
            answers.append(write(meeting.folder / f"{number}", place, draw))
        except OutputError:
            answers.append(REFUSED)
        except Exception as error:  # whatever it is, it is what is looked for
            answers.append(f"{type(error).__name__}: {error}")
        with meeting.ended.get_lock():
            meeting.ended.value += 1
    meeting.queue.put(("wrote", place, answers))


def _read_rounds(
    read: Reader,
    writers: int,
    meeting: _Meeting,
) -> None:
    looks, problems = 0, []
    for number in range(meeting.rounds):
        meeting.barrier.wait(60)
        last = False
        while not last:
            last = meeting.ended.value == writers * (
                number + 1
            )  # one more look when all have ended
            problem = read(meeting.folder / f"{number}")
            looks += 1
            if problem:
                problems.append(f"round {number}: {problem}")
    meeting.queue.put(("read", 0, (looks, problems)))


def stamped(draw: random.Random, *, most: int = 1 << 16) -> bytes:
    """Return drawn bytes after their digest, which tells whether they are whole."""
    body = draw.randbytes(draw.randrange(1, most))
    return hashlib.sha256(body).digest() + body


def is_whole(data: bytes) -> bool:
    """Return whether bytes are some that `stamped` made."""
    return hashlib.sha256(data[32:]).digest() == data[:32]
