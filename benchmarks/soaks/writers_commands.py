"""Commands that two processes give at the same instant, into one folder.

Published size: 20 rounds of each prediction, 3 of an export, 6 of a training. One process comes
through and the other is refused, or both come through and have the same; what is in the folder then
is, to the byte, what one process alone writes.
"""

from __future__ import annotations

import random
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from soaks.at_once import REFUSED, Writer, in_rounds

MODEL = "shapes-clip-zss"
CLASSES = ("moon, water, kite", "water, sand")
TIMED = ("log.jsonl", "metrics.json")
"""Files of a run folder that hold seconds."""


def give(*words: object) -> str:
    """Give a command in this process, as the command line would, and say nothing."""
    from zegment.cli import app  # noqa: PLC0415 - in the process that needs it

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()) as told:
        status = app([str(word) for word in words], standalone_mode=False)
    return "done" if not status else f"status {status}: {told.getvalue()}"


def lay_pictures(folder: Path, seed: int) -> Path:
    """Make two folders of small pictures below ``folder``, and return it."""
    draw = np.random.default_rng(seed)
    for place in range(2):
        for number in range(3):
            path = folder / "pictures" / f"{place}" / f"{place}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = draw.integers(0, 256, (4, 5, 3), np.uint8)
            Image.fromarray(coarse).resize((56, 48)).save(path)
    return folder


def _predict(out: Path, pictures: int, classes: int, *further: str) -> str:
    photos = out.parent.parent / "pictures" / f"{pictures}"
    return give(
        "predict", photos, "--out", out, "--model", MODEL, "--classes", CLASSES[classes], *further
    )


def predict_the_same(out: Path, place: int, draw: random.Random) -> str:
    """Segment the same pictures."""
    return _predict(out, 0, 0, "--format", "cvat", "--save", "masks")


def predict_other_pictures(out: Path, place: int, draw: random.Random) -> str:
    """Segment other pictures in the same way."""
    return _predict(out, place, 0)


def predict_other_classes(out: Path, place: int, draw: random.Random) -> str:
    """Segment the same pictures in another way."""
    return _predict(out, 0, place)


def predict_anew(out: Path, place: int, draw: random.Random) -> str:
    """Begin anew, which removes what is there."""
    return _predict(out, place, place, "--overwrite")


def export(out: Path, place: int, draw: random.Random) -> str:
    """Export a model."""
    return give("export", MODEL, "--out", out)


def train(out: Path, place: int, draw: random.Random) -> str:
    """Train a model for three steps."""
    short = {
        "optim.steps": 3,
        "optim.warmup_steps": 0,
        "optim.batch_size": 2,
        "data.train_length": 4,
        "data.val_length": 2,
        "data.image_size": 64,
        "validate_every": 2,
    }
    words = (word for key, value in short.items() for word in ("--set", f"{key}={value}"))
    return give("train", "--out", out, "--preset", "shapes-clip-zss", *words)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that two processes give.

    Attributes:
        write: Gives it.
        orders: Which processes may have come through, in which order.
        rounds: Of the published size.
    """

    write: Writer
    orders: tuple[tuple[int, ...], ...]
    rounds: int


COMMANDS = {
    "predict the same": Command(write=predict_the_same, orders=((0,),), rounds=20),
    "predict other pictures": Command(
        write=predict_other_pictures, orders=((0,), (1,), (0, 1)), rounds=20
    ),
    "predict other classes": Command(write=predict_other_classes, orders=((0,), (1,)), rounds=20),
    "predict anew": Command(write=predict_anew, orders=((0,), (1,)), rounds=20),
    "export": Command(write=export, orders=((0,),), rounds=3),
    "train": Command(write=train, orders=((0,),), rounds=6),
}


def command(name: str, *, rounds: int, seed: int, folder: Path) -> list[str]:
    """Have two processes give a command, and return what must not have been.

    Args:
        name: One of `COMMANDS`.
        rounds: How often.
        seed: Of the pictures.
        folder: Where everything is written.
    """
    known = COMMANDS[name]
    lay_pictures(folder, seed)
    places = folder / "out"
    found = in_rounds(known.write, places, rounds=rounds, seed=seed, writers=2, read=None)
    expected = []
    for number, order in enumerate(known.orders):
        alone = folder / "alone" / f"{number}"
        for place in order:
            assert known.write(alone, place, random.Random(0)) == "done"  # noqa: S311
        expected.append(bytes_of(alone))
    wrong = []
    for number, answers in enumerate(found.answers):
        if "done" not in answers or not set(answers) <= {"done", REFUSED}:
            wrong.append(f"{name}, round {number}: {answers}")
        elif bytes_of(places / f"{number}") not in expected:
            wrong.append(f"{name}, round {number}: the folder is not what one process writes")
    return wrong


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for files that hold seconds."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in TIMED
    }


def commands(*, amount: float, seed: int, folder: Path) -> dict[str, Any]:
    """Give every command, and return what was done and what must not have been."""
    failures: list[str] = []
    rounds = {name: max(2, round(known.rounds * amount)) for name, known in COMMANDS.items()}
    for name, number in rounds.items():
        failures += command(name, rounds=number, seed=seed, folder=folder / name)
    return {"rounds": rounds, "processes": 2, "failures": failures}
