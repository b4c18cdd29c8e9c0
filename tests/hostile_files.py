"""Texts and files that nobody means well with, made from a seed: options, vocabularies, legends.

A case reads one of them through the product. It may succeed; else it must end in an error of the
product's own, of one line, that names the file or option, soon and in little memory.
"""

import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args, get_origin

from zegment.config import Config
from zegment.config.fields import Section, field_hints
from zegment.config.loading import config_to_toml, load_config
from zegment.errors import ZegmentError
from zegment.vocabulary import Vocabulary
from zegment.wording import printable

MOST_SECONDS = 5
"""Of processor time."""

MOST_WAITING = 20
"""Seconds by the clock: a machine may be busy, but a pipe is waited for without end."""

MOST_MEMORY = 1 << 20
"""KiB beyond the largest use so far."""

MOST_WORDS = 5000
"""Characters of an error."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attempt.

    Attributes:
        name: Kind, and what is special.
        run: Given an empty folder, writes what is to be read there, and reads it.
        told: One of these must be in the error: the name of the file or option.
    """

    name: str
    run: Callable[[Path], object]
    told: tuple[str, ...] = ()


class Waited(BaseException):
    """The clock ran out; nothing that handles errors may take it for one."""


def judged(case: Case, folder: Path) -> str | None:
    """Return what is wrong with how a case ended; None if nothing is."""
    folder.mkdir(parents=True)
    started, memory = time.process_time(), _most_memory()
    problem = None
    try:
        with _alarm():
            case.run(folder)
    except ZegmentError as error:
        problem = wrong_words(str(error), case.told)
    except (Exception, SystemExit, Waited) as error:
        problem = f"{type(error).__name__}: {error}"[:300]
    seconds = time.process_time() - started
    if (folder / "executed").exists():
        problem = "code in the file was executed"
    elif problem is None and seconds > MOST_SECONDS:
        problem = f"took {seconds:.1f} s"
    elif problem is None and _most_memory() - memory > MOST_MEMORY:
        problem = f"took {(_most_memory() - memory) >> 10} MiB"
    return problem and f"{case.name}: {problem}"


def wrong_words(text: str, told: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with the text of an error; None if nothing is."""
    if len(text.splitlines()) != 1:
        return f"the error has {len(text.splitlines())} lines: {text[:200]!r}"
    if len(text) > MOST_WORDS:
        return f"the error has {len(text)} characters: {text[:200]!r}"
    if told and not any(word in text for word in told):
        return f"the error names none of {told}: {text[:300]!r}"
    return None


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Waited(f"{MOST_WAITING} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_WAITING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# What may stand where a file is expected.


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link to itself": _loop,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing at all": lambda path: path.symlink_to("/dev/null"),
    "empty": lambda path: path.write_bytes(b""),
    "terabyte": _sparse,
}


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with a few changes: bits, ends, repetitions, and tokens that parsers fear."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(6):
            case 0 if changed:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[place:]
            case 2:
                del changed[place : place + rng.randrange(1, 9)]
            case 3:
                changed[place:place] = changed[place : place + rng.randrange(1, 40)] * 2
            case _:
                changed[place:place] = rng.choice(TOKENS)
    return bytes(changed)


TOKENS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\x85", b"\xe2\x80\xa8", b"\xe2\x80\xae", b'"',
    b"'", b'"""', b"[", b"]", b"{", b"}", b"=", b",", b"|", b"#", b"\\u0000", b"\\ud800", b"nan",
    b"-inf", b"1e999", b"9" * 5000, b"0x" + b"f" * 5000, b"[" * 3000, b'{"a":' * 3000, b"a." * 3000,
    b"null", b"true", b"-1", b"{}", b"\x1b[2J", b"1979-05-27T07:32:00+99:99", b"../" * 9,
]  # fmt: skip


def values(rng: random.Random) -> str:
    """Return a TOML value that hardly any option wants."""
    number = rng.choice([0, -1, 3, 2**31, 2**63, 2**64, 10**400])
    return rng.choice([
        str(number), f"-{number}", "0x" + "f" * rng.choice([1, 17, 5000]), "9" * 5000, "1e400",
        "nan", "-inf", "1e-320", "true", '""', '"none"', "none", '"a\\u0000b"', '"\\n\\u001b[31m"',
        '"' + "x" * 100_000 + '"', "'''\na\nb'''", "[]", "[[]]", "[1, 'a']", "[nan]", "{}",
        "{a = 1}", "{images = 1}", "{images = 'i', masks = 'm', list = []}", "[" * 2000,
        "[" * 300 + "]" * 300, "{a=" * 2000, "1979-05-27", "07:32:00", '["cat", "cat"]',
        '["a\\u202eb", ""]', "[255, -7, 65536]", "'../../etc/passwd'", "'~nobody-at-all/x'",
        "'hf-hub:nobody/nothing'", "'https://example.invalid/x'", f"[{'0, ' * 70_000}]",
        f"[{','.join(map(repr, map(str, range(70_000))))}]", "\udcff", "a\0b", "=", "= =", "#",
        "1\nseed = 2", "1\n" + "a." * 20_000 + "b = 1",
    ])  # fmt: skip


def _keys(section: type[Section] = Config, prefix: str = "") -> Iterator[str]:
    for name, hint in field_hints(section).items():
        yield f"{prefix}{name}"
        inner = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is None]
        for kind in inner:
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from _keys(kind, f"{prefix}{name}.")


KEYS = sorted(_keys())


def overrides(rng: random.Random) -> Iterator[Case]:
    """Yield what may come after ``--set``, without end."""
    while True:
        key = rng.choice(
            [*KEYS, "a." * rng.choice([3, 9, 20_000]) + "b", "optim.lrr", "x\ny", " ", ""]
        )
        text = f"{key}={values(rng)}" if rng.random() < 0.95 else rng.choice([key, "=", "\0"])
        others = [f"{rng.choice(KEYS)}={values(rng)}"] if rng.random() < 0.2 else []
        parts = {part.strip()[:20] for one in (text, *others) for part in one[:200].split(".")}
        parts = {printable(part.partition("=")[0]) for part in parts}
        yield Case(
            name=f"--set {text[:60]!r}",
            run=lambda folder, texts=(text, *others): load_config(overrides=texts),
            told=(*parts, "sets nothing"),
        )


def configurations(rng: random.Random) -> Iterator[Case]:
    """Yield configuration files, without end."""
    whole = config_to_toml(Config())
    folder = 'classes = ["a", "b"]\nsource = "folder"\ntrain = {images = "i", masks = "m"}\n'
    while True:
        kind = rng.randrange(5)
        if kind == 0:
            table, _, option = rng.choice(KEYS).rpartition(".")
            text = (f"[{table}]\n" if table else "") + f"{option} = {values(rng)}\n"
            data = text.encode("utf-8", "surrogatepass")
        elif kind == 1:
            root = rng.choice(["a\\u0000", "~nobody-at-all", "a" * 5000, "/" * 9, "x/" * 3000])
            source = rng.choice(["folder", "huggingface"])
            data = f'[data]\nroot = "{root}"\n{folder.replace("folder", source)}'.encode()
        elif kind == 2:
            data = whole.encode(rng.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
        else:
            data = mutated(rng, rng.choice([whole, f"[data]\n{folder}"]).encode())
        yield _file_case("run.toml", data, lambda path: load_config(file=path))


def vocabularies(rng: random.Random) -> Iterator[Case]:
    """Yield lists of classes as files of every kind and as texts, without end."""
    names = ["cat", "sofa|couch", "potted plant", "猫", "wall, brick", "C#"]
    table = {"classes": [{"name": "cat", "synonyms": ["kitten"], "colour": "#b0c4de"}, "sofa"]}
    toml = 'templates = ["one {}"]\ncombine = "max"\nplurals = true\nclasses = ["cat", {name="x"}]'
    texts = {
        ".txt": "# pets\n" + "\n".join(names),
        ".json": json.dumps(table | {"templates": "single", "plurals": True}),
        ".toml": toml,
        ".csv": "name,colour\ncat,red\n",
    }
    large = {
        ".txt": "\n".join(map(str, range(1_000_000))),
        ".json": json.dumps(list(map(str, range(70_000)))),
        ".toml": "classes = [" + "'a'," * 70_000 + "]",
        ".csv": "a,b\n" * 1000,
    }
    while True:
        suffix = rng.choice(list(texts))
        data = texts[suffix].encode()
        match rng.randrange(12):
            case 0:
                text = rng.choice([", ".join(names), large[".txt"].replace("\n", ","), "cat," * 9])
                text = mutated(rng, text.encode()).decode("utf-8", "surrogateescape")
                yield Case(
                    name=f"words {text[:40]!r}", run=lambda _, text=text: Vocabulary.of(text)
                )
                continue
            case 1:
                data = data.decode().encode(rng.choice(["utf-16", "utf-8-sig", "utf-16-le"]))
            case 2:
                data = large[suffix].encode()
            case 3:
                name = "".join(
                    chr(rng.choice([*range(0x20, 0x2FF), 0x202E, 0x10FFFF])) for _ in "x" * 9
                )
                data = json.dumps([name, rng.choice([name, name + " ", "a" * 100_000])]).encode()
                suffix = ".json"
            case 4:
                key = rng.choice(["classes", "templates", "combine", "plurals", "name"])
                data, suffix = f"{key} = {values(rng)}".encode("utf-8", "replace"), ".toml"
            case _:
                data = mutated(rng, data)
        yield _file_case(f"words{suffix}", data, Vocabulary.of)


def legends(rng: random.Random) -> Iterator[Case]:
    """Yield what a prediction may have written, and somebody changed since, without end."""
    legend = {
        "classes": [
            {"id": 0, "name": "cat", "colour": [1, 2, 3]},
            {"id": 1, "name": "sofa", "colour": [4, 5, 6]},
            {"id": 255, "name": "unknown", "colour": [0, 0, 0]},
        ],
        "background": {"policy": "none"},
    }
    words = {
        "class_names": ["cat", "sofa"],
        "synonyms": [[], ["couch"]],
        "colours": [None, [1, 2, 3]],
    }
    record = {"vocabulary": words | {"templates": ["a {}"], "combine": "mean"}}
    odd = [None, 5, -1, "abc", [], {}, [1], [[]], [["x"]], True, 1e300, "x" * 9999, ["a", "b", "c"]]
    while True:
        table = json.loads(json.dumps(rng.choice([legend, record])))
        if rng.random() < 0.6:
            inner = rng.choice([table, *[t for t in table.values() if isinstance(t, dict)]])
            inner[rng.choice([*inner, "classes", "colours"])] = rng.choice(odd)
            if "classes" in table and isinstance(table["classes"], list) and table["classes"]:
                entry = rng.choice(table["classes"])
                if isinstance(entry, dict):
                    entry[rng.choice(["id", "name", "colour", "synonyms"])] = rng.choice(odd)
            data = json.dumps(table).encode()
        else:
            data = mutated(rng, json.dumps(table).encode())
        yield _file_case("legend.json", data, Vocabulary.of)


def places(rng: random.Random) -> Iterator[Case]:
    """Yield what is no file, wherever a text file is read, without end."""
    readers = {
        "run.toml": lambda path: load_config(file=path),
        **{f"words{suffix}": Vocabulary.of for suffix in (".txt", ".toml", ".json")},
    }
    while True:
        for kind, make in PLACES.items():
            for name, read in readers.items():

                def run(folder: Path, name: str = name, make=make, read=read) -> None:
                    make(folder / name)
                    read(folder / name)

                yield Case(name=f"{name}, {kind}", run=run, told=(name,))


def _file_case(name: str, data: bytes, read: Callable[[Path], object]) -> Case:
    def run(folder: Path) -> None:
        (folder / name).write_bytes(data)
        read(folder / name)

    return Case(name=f"{name} {data[:40]!r} ({len(data)} bytes)", run=run, told=(name,))


KINDS: dict[str, Callable[[random.Random], Iterator[Case]]] = {
    "overrides": overrides,
    "configurations": configurations,
    "vocabularies": vocabularies,
    "legends": legends,
    "places": places,
}
