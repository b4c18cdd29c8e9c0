"""Every command given twice, in processes that differ in all that must not matter: the same bytes.

Published size: all of `COMMANDS`, four times, with a seed of Python's hashes, a time zone, a
language, a width of the terminal, a temporary folder, a working directory and an order of files of
its own each time.
"""

from __future__ import annotations

import json
import locale
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BY_NATURE = {"seconds", "images_per_second", "training_seconds"}
"""Entries of JSON files that tell how long something took."""

KINDS = ("overlay", "masks", "confidence", "entropy", "margin", "scores")
FORMATS = ("coco", "coco-polygons", "geojson", "label-studio", "cvat", "fiftyone")
CLASSES = "moon, water, kite, sand"

_SHORT = {
    "optim.warmup_steps": 0,
    "optim.batch_size": 2,
    "data.train_length": 8,
    "data.val_length": 2,
    "data.test_length": 4,
    "data.image_size": 64,
    "validate_every": 2,
}


def _train(preset: str, out: str, steps: int, **further: object) -> list[str]:
    settings = {**_SHORT, "optim.steps": steps, **further}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["train", "--preset", preset, "--out", out, *words]


def _repeated(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


# Tables name each picture by its whole path, so that one is the same for all.
COMMANDS: dict[str, list[str]] = {
    "train": _train("shapes-zegclip", "run", 4),
    "train in two stages": _train("shapes-zegclip", "halves", 4, setting='"transductive"'),
    "train a student": _train("shapes-clip-zss", "student", 4, **{"teaching.cache": '"tokens"'}),
    "predict": [
        "predict", "photos", "--model", "run", "--out", "predicted", "--background",
        "threshold:0.3", *_repeated("--save", KINDS), *_repeated("--format", FORMATS),
    ],
    "predict a video": [
        "predict", "film.mkv", "--model", "run", "--out", "film", "--classes", CLASSES,
        "--smoothing", "0.5",
    ],
    "evaluate": ["evaluate", "run", "--json", "report.json"],
    "sweep": ["evaluate", "run", "--sweep-calibration", "swept"],
    "fit a threshold": [
        "fit-threshold", "photos", "masks", "--model", "run", "--out", "threshold.json",
        "--classes", CLASSES,
    ],
    "export": ["export", "run", "--out", "exported"],
    "export frozen": ["export", "run", "--out", "frozen", "--classes", CLASSES, "--int8"],
    "figure": ["figure", "student", "--out", "figure.png"],
    "predict with ray": [
        "predict", "../../given/photos", "--engine", "ray", "--model", "run", "--out", "tables",
        "--shard-size", "2", "--actors", "1", "--save", "labels",
    ],
    "demo": ["demo", "--quick", "--out", "demo"],
    "push": ["push"],
}  # fmt: skip

NEEDS = {
    "predict": "pycocotools",
    "predict a video": "av",
    "export": "onnxscript",
    "export frozen": "onnxscript",
    "predict with ray": "ray",
}
"""Packages without which a command cannot be given."""


def lay(folder: Path, seed: int) -> None:
    """Make the pictures, masks and the video that the commands read."""
    draw = np.random.default_rng(seed)
    for name in ("photos", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        coarse = draw.integers(0, 256, (4, 5, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((72, 56 + 8 * (number % 2)))
        picture.save(folder / "photos" / f"{number}.png")
        labels = draw.choice(np.array([0, 1, 2, 3, 255], np.uint8), picture.size[::-1])
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")
    try:
        import av  # noqa: PLC0415 - an optional package
    except ImportError:
        return
    with av.open(str(folder / "film.mkv"), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 52, "bgr0"
        for _ in range(4):
            coarse = draw.integers(0, 256, (6, 7, 3), np.uint8)
            frame = np.asarray(Image.fromarray(coarse).resize((60, 52)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def surroundings(number: int, draw: random.Random, folder: Path) -> tuple[Path, dict[str, str]]:
    """Return a working directory, and an environment, unlike those of other numbers."""
    zone = ("UTC", "Asia/Tokyo", "America/St_Johns", "Pacific/Chatham")[number % 4]
    language = ("C", "C.UTF-8", "tr_TR.UTF-8", "POSIX")[number % 4]
    # Without its language Python takes a name for ASCII, and one that is not would be no text.
    accents = "é" * number if _has_utf8(language) else ""
    temporary = folder / f"tmp{number}"
    temporary.mkdir(parents=True)
    own = {
        "PYTHONHASHSEED": str(draw.randrange(2**32)),
        "TZ": zone,
        "LC_ALL": language,
        "COLUMNS": str(draw.randrange(60, 200)),
        "TMPDIR": str(temporary),
        "ZEGMENT_CACHE": str(folder / f"cache{number}"),
    }
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return folder / f"place {number}" / (accents or "e"), {**os.environ, **fixed, **own}


def _has_utf8(language: str) -> bool:
    """Return whether a language is installed and writes UTF-8."""
    kept = locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, language)
        return language.endswith("UTF-8")
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_CTYPE, kept)


def give(names: Sequence[str], *, folder: Path, number: int, draw: random.Random) -> Path:
    """Give commands in a process of their own, and return its working directory.

    Raises:
        RuntimeError: If one of them fails; says what it printed.
    """
    place, environment = surroundings(number, draw, folder)
    sources = [path for path in sorted((folder / "given").rglob("*")) if path.is_file()]
    draw.shuffle(sources)  # folders are listed in the order in which they were filled
    for source in sources:
        target = place / source.relative_to(folder / "given")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    ended = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-X", "utf8=0", __file__, *names],
        cwd=place,
        env=environment,
        capture_output=True,
        check=False,
    )
    if ended.returncode:
        told = (ended.stderr or ended.stdout).decode(errors="replace")
        raise RuntimeError(f"{names}: status {ended.returncode}: {told[-2000:]}")
    return place


def compare(one: Path, other: Path) -> Iterator[str]:
    """Yield which files of two folders differ, in more than the time that something took."""
    files = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    yield from (f"{path} is there but once" for path in sorted(files[0] ^ files[1]))
    for path in sorted(files[0] & files[1]):
        contents = [(folder / path).read_bytes() for folder in (one, other)]
        if contents[0] != contents[1]:
            timed = path.suffix in (".json", ".jsonl")
            if not timed or _untimed(contents[0]) != _untimed(contents[1]):
                yield f"{path} differs"


def timed_files(one: Path, other: Path) -> set[str]:
    """Return the files of two equal folders that differ in the time that something took."""
    paths = (path.relative_to(one) for path in one.rglob("*") if path.is_file())
    differ = (path for path in paths if (one / path).read_bytes() != (other / path).read_bytes())
    return {path.as_posix() for path in differ}


def _untimed(content: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    text = content.decode()
    try:
        return _without(json.loads(text))
    except ValueError:
        return [_without(json.loads(line)) for line in text.splitlines()]


def _without(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in BY_NATURE}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Give all commands several times, and return what was done and what differed."""
    started, draw, times = time.perf_counter(), random.Random(seed), max(2, round(4 * amount))  # noqa: S311
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay(folder / "given", seed)
        first, *others = (
            give(list(COMMANDS), folder=folder, number=number, draw=draw) for number in range(times)
        )
        differ = [f"seed {seed}: {what}" for other in others for what in compare(first, other)]
        files = sum(path.is_file() for path in first.rglob("*"))
        timed = sorted(set().union(*(timed_files(first, other) for other in others)))
    return {
        "commands": len(COMMANDS),
        "times": times,
        "files compared": files,
        "files that hold times": timed,
        "seconds": round(time.perf_counter() - started, 1),
        "failures": differ,
    }


def _push() -> None:
    """Write what would be sent to the Hub."""
    from zegment.hub.upload import upload_files  # noqa: PLC0415 - loads the Hub's client

    for name, content in upload_files("run", "user/name", licence="mit").items():
        target = Path("pushed", name)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.read_bytes())


if __name__ == "__main__":
    from zegment.cli import app

    for given in sys.argv[1:]:
        if given == "push":
            _push()
        elif status := app(COMMANDS[given], standalone_mode=False):
            sys.exit(status)
