# ruff: noqa: PLC0415, E501 - imports are late so that atheris can watch them; inputs are as long as they are
"""Coverage-guided fuzzing of the parsers that read what strangers wrote.

Six targets: configuration files, ``--set`` overrides, vocabularies, legends, the headers of
checkpoints, run-length codes. Each gets one minute at ``amount`` 1.0, in a process of its own, by
atheris, which is no dependency of Zegment: ``pip install atheris``. Without it nothing is fuzzed,
and the figures say so. An input that ends in anything but a result or an error of Zegment's own is
a failure; its bytes are kept in the figures.
"""

import base64
import json
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SECONDS = 60

Target = Callable[[bytes, Path], object]


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Fuzz every parser for its share of the time; return executions, coverage and finds."""
    if find_spec("atheris") is None:
        return {"targets": {}, "failures": [], "note": "not fuzzed: pip install atheris"}
    seconds, started = max(round(SECONDS * amount), 1), time.perf_counter()
    targets = {name: _fuzzed(name, seconds, seed) for name in TARGETS}
    return {
        "targets": targets,
        "executions": sum(found["executions"] for found in targets.values()),
        "seconds": round(time.perf_counter() - started, 1),
        "failures": [f"{name}: {text}" for name in targets for text in targets[name].pop("finds")],
    }


def _fuzzed(name: str, seconds: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for place, data in enumerate(SEEDS[name]):
            (corpus / str(place)).write_bytes(data)
        options = [
            f"-max_total_time={seconds}", f"-seed={seed + 1}", "-print_final_stats=1",
            "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", f"-artifact_prefix={folder}/find-",
        ]  # fmt: skip
        done = subprocess.run(  # noqa: S603 - this file itself
            [sys.executable, __file__, name, *options, str(corpus)],
            capture_output=True, text=True, errors="replace", check=False, timeout=seconds + 300,
        )  # fmt: skip
        finds = [
            base64.b64encode(path.read_bytes()).decode() for path in Path(folder).glob("find-*")
        ]
    said = done.stdout + done.stderr
    executions = re.findall(r"number_of_executed_units:\s*(\d+)", said)
    coverage = re.findall(r"cov: (\d+)", said)
    ends = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit)\b.*$", said, re.MULTILINE)
    if done.returncode and not finds:
        finds = [done.stderr[-500:]]
    return {
        "executions": int(executions[-1]) if executions else 0,
        "edges": int(coverage[-1]) if coverage else 0,
        "seconds": seconds,
        "finds": [f"{find} ({'; '.join(ends[-2:])})" for find in finds],
    }


def configuration(data: bytes, folder: Path) -> None:
    """Read a configuration file, write it again, and read that: both must be the same."""
    from zegment.config.loading import config_from_dict, config_to_toml, load_config
    from zegment.text_files import parse_toml

    (folder / "run.toml").write_bytes(data)
    read = load_config(file=folder / "run.toml")
    # Not as a file, whose folders would be relative to itself.
    assert config_from_dict(parse_toml(config_to_toml(read))) == read, "written otherwise than read"


def override(data: bytes, folder: Path) -> None:
    """Read what follows ``--set``, one override a line of NUL."""
    from zegment.config.loading import config_from_dict, config_to_dict, load_config

    read = load_config(overrides=data.decode("utf-8", "surrogateescape").split("\0"))
    assert config_from_dict(json.loads(json.dumps(config_to_dict(read)))) == read, "JSON differs"


def vocabulary(data: bytes, folder: Path) -> None:
    """Read classes from a file of a kind that the first byte chooses, or as words."""
    from zegment.vocabulary import Vocabulary

    suffix = ("", ".txt", ".toml", ".json")[data[0] % 4] if data else ".txt"
    if not suffix:
        read = Vocabulary.of(data[1:].decode("utf-8", "surrogateescape"))
    else:
        (folder / f"words{suffix}").write_bytes(data[1:])
        read = Vocabulary.of(folder / f"words{suffix}")
    assert len(read.palette()) == len(read.class_names)
    assert all(read.queries()), "a class without sentences"


def legend(data: bytes, folder: Path) -> None:
    """Read the legend or the record of a prediction."""
    vocabulary(b"\3" + data, folder)


def header(data: bytes, folder: Path) -> None:
    """Read a file of a checkpoint: which one, the first byte says."""
    from zegment.checkpoint_files import CONFIG, PREPROCESSING, VOCABULARY, WEIGHTS, read_header
    from zegment.checkpoint_parts import read_normalization, read_words
    from zegment.checkpoint_weights import read_tensors

    name = (CONFIG, PREPROCESSING, VOCABULARY, WEIGHTS)[data[0] % 4] if data else CONFIG
    (folder / name).write_bytes(data[1:])
    if name == CONFIG:
        read_header(folder)
    elif name == PREPROCESSING:
        read_normalization(folder)
    elif name == VOCABULARY:
        read_words(folder)
    else:
        for tensor in read_tensors(folder / name).values():
            assert tensor.nbytes <= len(data), "larger than its file"


def run_lengths(data: bytes, folder: Path) -> None:
    """Read a COCO segmentation, JSON; what is accepted must be what pycocotools makes of it."""
    import numpy as np
    from pycocotools import mask

    from zegment.data.outlines import decompress, outline_runs

    try:
        outline = json.loads(data)
    except (ValueError, RecursionError):
        decompress(data.decode("latin-1"))
        return
    height, width = 5, 7
    if isinstance(outline, list | dict):
        runs = outline_runs(outline, height=height, width=width, where="annotation 1")
        inside = np.repeat(np.arange(len(runs)) % 2, runs)
        assert len(inside) == height * width, "another size"
        if isinstance(outline, dict) and isinstance(outline["counts"], str):
            theirs = mask.decode({"size": [height, width], "counts": outline["counts"]})
            assert (theirs.T.ravel() == inside).all(), "another mask"


TARGETS: dict[str, Target] = {
    "configuration": configuration,
    "override": override,
    "vocabulary": vocabulary,
    "legend": legend,
    "header": header,
    "run_lengths": run_lengths,
}

_FOLDER = b"""[data]\nsource = "folder"\nclasses = ["cat", "sofa"]\nunseen = ["cat"]\nroot = "x"
label_values = [1, 2]\nother_values = "ignore"\n[data.train]\nimages = "i"\nmasks = "m"\n"""
_TENSORS = b'{"a": {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}}'
_WORDS = b'{"class_names": ["cat", "a"], "seen": ["cat"], "templates": ["a {}"], "synonyms": [["b"], []]}'

SEEDS: dict[str, list[bytes]] = {
    "configuration": [
        b'seed = 1\n[optim]\nlr = 1e-4\n[model]\nkind = "student"\n[windows]\nsize = 8\nstride = 4',
        b'[augment]\nscale_range = [0.5, 2.0]\ncrop_size = [96, 96]\n[text]\ntemplates = "single"',
        _FOLDER,
    ],
    "override": [
        b"optim.lr=1e-4", b"data.root='x'\0seed=0x10", b'data.train={images="i", masks="m"}',
        b"augment.crop_size=[96, 96]", b"model.clip=ViT-B-16/openai", b"windows.size=none",
    ],
    "vocabulary": [
        b"\0cat, sofa|couch", b"\1# pets\ncat\nsofa, couch # furniture\n",
        b'\2templates = ["one {}"]\ncombine = "max"\nplurals = true\nclasses = ["cat", {name = "x"}]',
        b'\3{"classes": [{"name": "cat", "synonyms": ["b"], "colour": "#b0c4de"}, "sofa"]}',
    ],
    "legend": [
        b'{"classes": [{"id": 0, "name": "cat", "colour": [1, 2, 3]}, {"id": 255, "name": "unknown"}]}',
        b'{"vocabulary": {"class_names": ["cat"], "synonyms": [["b"]], "colours": [null], "templates": '
        b'["a {}"], "combine": "mean"}}',
    ],
    "header": [
        b'\0{"format": 1, "clip_fingerprint": "a", "config": {"seed": 1, "model": {"kind": "zegclip"}}}',
        b'\1{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}', b"\2" + _WORDS,
        b"\3" + struct.pack("<Q", len(_TENSORS)) + _TENSORS + b"\0" * 8,
    ],
    "run_lengths": [
        b'{"size": [5, 7], "counts": [3, 4, 28]}', b'{"size": [5, 7], "counts": "34l0"}',
        b"[[0, 0, 3, 0, 3, 3.5]]", b"34l0", b'{"size": [5, 7], "counts": "01Z1"}',
    ],
}  # fmt: skip


def _main() -> None:
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=["zegment", "tomllib", "json"]):
        import zegment.checkpoint_parts
        import zegment.config.loading
        import zegment.data.outlines
        import zegment.vocabulary.files
        import zegment.vocabulary.plurals  # noqa: F401
    from zegment.errors import ZegmentError

    target = TARGETS[sys.argv.pop(1)]
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108

    def run(data: bytes) -> None:
        try:
            target(data, folder)
        except ZegmentError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"several lines: {error}") from error

    atheris.Setup(sys.argv, run)
    atheris.Fuzz()


if __name__ == "__main__":
    _main()
