"""Checkpoints that nobody means well with, made from a seed; see `hostile_files`."""

import copy
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import torch
from hostile_files import PLACES, Case, mutated
from safetensors.torch import load_file, save

from zegment.clip_loading import load_clip
from zegment.models.segnext_import import segnext
from zegment.segmenter import load
from zegment.text_loading import load_text_tower
from zegment.zegclip_released import read_released, read_text_embeddings

ASSETS = Path(str(files("zegment"))) / "assets"
STUDENT, ZEGCLIP, CLIP = (ASSETS / f"shapes-{name}" for name in ("clip-zss", "zegclip", "clip"))

_PICTURE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)

ODD = [
    None, True, -1, 0, 5, 2**63, 10**300, 1e308, -1e-9, float("nan"), float("inf"), "", "none", "x",
    "a\n\u001b[2Jb", "\ud800", "x" * 100_000, [], {}, [[]], [None], [1, 2, 3], [0, 0, 0], ["a", 1],
    [float("nan")] * 3, [10**9, 10**9], {"a": {}}, "../../etc", "/etc/passwd", "a\0b",
    "https://example.invalid/model", "hf-hub:nobody/nothing", "local-dir:/nowhere",
    "nobody/nothing", "imagenet", "zegclip", "student", "one_stage", "two_stage", "tu-resnet18",
]  # fmt: skip


def used(folder: Path) -> None:
    """Load a model and, if that succeeds, segment a small picture with it."""
    segmenter = load(folder, device="cpu")
    result = segmenter(_PICTURE)
    assert result.labels.shape == _PICTURE.shape[:2], "wrong shape"
    assert np.isfinite(result.confidence).all(), "scores are not finite"


def linked(source: Path, folder: Path, *, but: str) -> Path:
    """Make a folder whose files are links to those of a model, and return the one that is not."""
    for path in source.iterdir():
        if path.name != but:
            (folder / path.name).symlink_to(path)
    return folder / but


def _case(source: Path, name: str, data: bytes, *, kind: str) -> Case:
    def run(folder: Path) -> None:
        linked(source, folder, but=name).write_bytes(data)
        used(folder)

    return Case(name=f"{source.name}/{name}, {kind}", run=run, told=(name, "shapes-", "config"))


def tables(rng: random.Random) -> Iterator[Case]:
    """Yield checkpoints whose JSON files were changed, without end."""
    while True:
        source = rng.choice([STUDENT, ZEGCLIP])
        name = rng.choice(["config.json", "config.json", "vocabulary.json", "preprocessing.json"])
        text = (source / name).read_bytes()
        if rng.random() < 0.3:
            data, kind = mutated(rng, text), "mutated"
        else:
            table = json.loads(text)
            keys = _changed(rng, table)
            data = json.dumps(table).encode("utf-8", "surrogatepass")
            kind = f"{keys} changed"
        yield _case(source, name, data, kind=kind)


def _changed(rng: random.Random, table: dict) -> str:
    """Replace one value somewhere in a table, or take it out, or add one; return where."""
    inner, path = table, ""
    while True:
        key = rng.choice(list(inner))
        path += f".{key}"
        if not isinstance(inner[key], dict) or not inner[key] or rng.random() < 0.1:
            break
        inner = inner[key]
    match rng.randrange(8):
        case 0:
            del inner[key]
        case 1:
            inner["added"] = rng.choice(ODD)
        case 2 if isinstance(inner[key], list) and inner[key]:
            inner[key][rng.randrange(len(inner[key]))] = rng.choice(ODD)
        case 3 if table.get("config"):
            table["config"].setdefault("model", {})["clip"] = rng.choice(ODD)
        case _:
            inner[key] = copy.deepcopy(rng.choice(ODD))
    return path


def tensors(rng: random.Random) -> Iterator[Case]:
    """Yield checkpoints whose weights or text embeddings were changed, without end."""
    while True:
        source = rng.choice([STUDENT, STUDENT, ZEGCLIP])
        name = rng.choice([path.name for path in source.glob("*.safetensors")])
        kind, change = rng.choice([*_HEADERS.items(), *_WEIGHTS.items()])
        if kind in _HEADERS:
            data = change(rng, (source / name).read_bytes())
        else:
            state = load_file(source / name)
            change(rng, state, rng.choice(sorted(state)))
            data = save({key: value.contiguous() for key, value in state.items()})
        yield _case(source, name, data, kind=kind)


def _header(change: Callable[[dict, str], object]) -> Callable[[random.Random, bytes], bytes]:
    def apply(rng: random.Random, data: bytes) -> bytes:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        change(header, rng.choice([key for key in header if key != "__metadata__"]))
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]

    return apply


def _size(size: int) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, data: struct.pack("<Q", size) + data[8:]


_HEADERS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    **{f"header of {size} bytes": _size(size) for size in (0, 1, 10**8 + 1, 2**63, 2**64 - 1)},
    "deep header": lambda rng, data: struct.pack("<Q", 90_000) + b"[" * 90_000,
    "mutated": mutated,
    "mutated header": lambda rng, data: mutated(rng, data[:2000]) + data[2000:],
    "cut short": lambda rng, data: data[: rng.randrange(len(data))],
    "longer": lambda rng, data: data + b"\0" * rng.randrange(1, 99),
    "overlapping": _header(lambda h, k: h[k].update(data_offsets=[0, 4])),
    "offsets beyond": _header(lambda h, k: h[k].update(data_offsets=[2**62, 2**63])),
    "huge shape": _header(lambda h, k: h[k].update(shape=[2**31, 2**31])),
    "negative shape": _header(lambda h, k: h[k].update(shape=[-1])),
    **{
        f"dtype {kind}": _header(lambda h, k, kind=kind: h[k].update(dtype=kind))
        for kind in ("F4", "F64", "I32", "BOOL", "F8_E4M3", "F8_E8M0", "C64", "U32", "X", None)
    },
    "missing key": _header(lambda h, k: h.pop(k)),
    "extra key": _header(lambda h, k: h.update({"x\n": h.pop(k)})),
    "no table": _header(lambda h, k: h.update({k: 5})),
}

_WEIGHTS: dict[str, Callable[[random.Random, dict, str], object]] = {
    "NaN": lambda rng, s, k: s.update({k: torch.full_like(s[k].float(), float("nan"))}),
    "infinity": lambda rng, s, k: s.update({k: torch.full_like(s[k].float(), float("inf"))}),
    "beyond float32": lambda rng, s, k: s.update({k: s[k].double() + 1e300}),
    "zeros": lambda rng, s, k: s.update({k: torch.zeros_like(s[k])}),
    "other shape": lambda rng, s, k: s.update({k: s[k][None]}),
    "no element": lambda rng, s, k: s.update({k: s[k].flatten()[:0]}),
    "transposed": lambda rng, s, k: s.update({k: s[k].T if s[k].ndim == 2 else s[k].flatten()}),
    **{
        f"as {kind}": lambda rng, s, k, kind=kind: s.update({k: s[k].to(kind)})
        for kind in (
            torch.float16, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64,
            torch.float8_e4m3fn, torch.float8_e5m2,
        )
    },
}  # fmt: skip


class Payload:
    """What a pickle may hold: on loading, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "executed"),)


def _saved(content: object, **options: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _array(folder: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Payload(folder)], dtype=object), allow_pickle=True)
    return stream.getvalue()


@cache
def _inflated() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("x/data.pkl", b"\x80\x02N." + b"\0" * (1 << 28))
        packed.writestr("x/version", b"3\n")
    return stream.getvalue()


_LARGE = {"state_dict": {"backbone.conv1.weight": torch.ones(1).expand(10**6, 10**6)}}

_PROGRAMS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda folder: pickle.dumps(Payload(folder)),
    "old pickle": lambda folder: pickle.dumps(Payload(folder), protocol=0),
    "archive": lambda folder: _saved({"state_dict": {}, "meta": Payload(folder)}),
    "legacy file": lambda folder: _saved(
        {"a": Payload(folder)}, _use_new_zipfile_serialization=False
    ),
    "array": _array,
    "expanded tensor": lambda folder: _saved(_LARGE),
    "inflated archive": lambda folder: _inflated(),
    "empty table": lambda folder: _saved({}),
    "bare pickle": lambda folder: pickle.dumps({}),
}
"""Files that would run code if they were believed, or grow when they are read."""


def _read_segnext(path: Path) -> None:
    segnext("t", weights=path, embed_dim=16)


def _read_clip(path: Path) -> None:
    shutil.copy(CLIP / "open_clip_config.json", path.parent)
    load_text_tower(str(path.parent))


def _read_checkpoint(path: Path) -> None:
    linked(STUDENT, path.parent, but=path.name)
    used(path.parent)


READERS: dict[str, Callable[[Path], object]] = {
    "released.pth": read_released,
    "text.npy": lambda path: read_text_embeddings(path, (3, 16)),
    "segnext.pth": _read_segnext,
    "segnext.safetensors": _read_segnext,
    **dict.fromkeys(
        ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.pth"), _read_clip
    ),
    **dict.fromkeys(
        (
            "model.safetensors", "text.safetensors", "model.onnx", "config.json",
            "vocabulary.json", "preprocessing.json",
        ),
        _read_checkpoint,
    ),
}  # fmt: skip
"""Whatever reads weights, by the name of a file that it reads."""


def programs(rng: random.Random) -> Iterator[Case]:
    """Yield pickles under the names of all files that hold weights, without end."""
    while True:
        for kind, make in _PROGRAMS.items():
            for name, read in READERS.items():

                def run(folder: Path, name: str = name, make=make, read=read) -> None:
                    (folder / name).write_bytes(make(folder))
                    read(folder / name)

                yield Case(name=f"{kind} as {name}", run=run, told=(name, "CLIP"))


def weight_places(rng: random.Random) -> Iterator[Case]:
    """Yield what is no file, wherever weights are read, without end."""
    while True:
        for (kind, make), (name, read) in product(PLACES.items(), READERS.items()):

            def run(folder: Path, name: str = name, make=make, read=read) -> None:
                make(folder / name)
                read(folder / name)

            yield Case(name=f"{name}, {kind}", run=run, told=(name, "CLIP", "no model"))


def clips(rng: random.Random) -> Iterator[Case]:
    """Yield CLIPs in folders of which one file was changed or is none, without end."""
    while True:
        name = rng.choice(["open_clip_config.json"] * 3 + ["open_clip_model.safetensors"])
        change, kind = _clip_change(rng, name)

        def run(folder: Path, name: str = name, change=change) -> None:
            change(linked(CLIP, folder, but=name))
            clip = load_clip(str(folder))
            picture = torch.zeros(1, 3, *(2 * [clip.image_tower.shape.patch_size]))
            assert clip.image_tower(picture)[0].isfinite().all(), "embeddings are not finite"

        yield Case(name=f"{name}, {kind}", run=run, told=("CLIP",))


def _clip_change(rng: random.Random, name: str) -> tuple[Callable[[Path], object], str]:
    """Return what makes a file of a CLIP, and what is special about it."""
    if rng.random() < 0.2:
        kind, place = rng.choice(list(PLACES.items()))
        return place, kind
    data = (CLIP / name).read_bytes()
    if name.endswith(".json") and rng.random() < 0.8:
        table = json.loads(data)
        kind = f"{_changed(rng, table)} changed"
        data = json.dumps(table).encode("utf-8", "surrogatepass")
    else:
        kind, change = (
            ("mutated", mutated) if name.endswith(".json") else rng.choice([*_HEADERS.items()])
        )
        data = change(rng, data)
    return lambda path: path.write_bytes(data), kind


def names(rng: random.Random) -> Iterator[Case]:
    """Yield names that no model has, without end."""
    odd = [
        "", ".", "..", "/", "\0", "a\0b", "x" * 300, "x/" * 3000, "\n", "\udcff", "~", "~nobody/x",
        "../../etc/passwd", "/etc", "/dev/zero", "https://example.invalid/x", "a/b/c",
        "hf-hub:", "hf-hub:../x", "local-dir:", "local-dir:/dev", "nobody/nothing@../..",
        "ViT-B-16/", "ViT-B-16/../openai", "\u202eppilc", "shapes-clip/../shapes-clip-zs",
    ]  # fmt: skip
    while True:
        name = rng.choice(odd) + rng.choice(["", "", "", "/", ".onnx", "\n"])
        yield Case(name=f"model {name[:40]!r}", run=lambda _, name=name: load(name, device="cpu"))


KINDS: dict[str, Callable[[random.Random], Iterator[Case]]] = {
    "tables": tables,
    "tensors": tensors,
    "programs": programs,
    "weight_places": weight_places,
    "clips": clips,
    "names": names,
}
