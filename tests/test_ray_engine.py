"""Millions of pictures, in miniature: cut, spread, killed, resumed, and each in the output once."""

# ruff: noqa: E402 - what follows the check for packages needs them

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("ray.data")
fsspec = pytest.importorskip("fsspec")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("pycocotools")

import zegment
from zegment import cli
from zegment.errors import ConfigError, DatasetError, ImageError, OutputError, ZegmentError
from zegment.large_scale import reading, run
from zegment.large_scale.cluster import Workers, require, workers_on
from zegment.large_scale.listing import find
from zegment.large_scale.parts import count_part, write_part
from zegment.large_scale.plan import ShardedPlan, ShardedRecord, begin, plan_shards
from zegment.large_scale.reading import Picture, read_pictures
from zegment.large_scale.rows import labels_of, row_of
from zegment.large_scale.run import run_shards
from zegment.large_scale.shards import Found, Shard, cut, stem_of
from zegment.large_scale.worker import Job, ShardWorker
from zegment.prediction.files import read_index_png
from zegment.prediction.record import RunRecord
from zegment.results import Segmentation

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.segmenter import Segmenter

MODEL = "shapes-clip-zss"
CLASSES = "moon, water, kite"


def png(seed: int, width: int = 48, height: int = 40) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(stream, "PNG")
    return stream.getvalue()


def photos_in(folder: Path, number: int) -> Path:
    """Fill a folder, and one inside it, with pictures of different content and size."""
    (folder / "inside").mkdir(parents=True)
    for place in range(number):
        path = folder / ("inside" if place % 3 == 2 else "") / f"{place:03d}.png"
        path.write_bytes(png(place, width=41 + place % 7))
    return folder


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def rows_in(out: Path) -> list[dict]:
    """Return all rows as another program reads them: the folder as one table."""
    return parquet.read_table(out / "parts").to_pylist()


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return zegment.load(MODEL, device="cpu")


@pytest.fixture(scope="module")
def query(segmenter: Segmenter) -> Query:
    return segmenter.query(CLASSES, background="threshold:0.5")


def plan_of(
    segmenter: Segmenter,
    query: Query,
    given: list[Path],
    out: Path,
    *,
    size: int = 4,
    label_maps: bool = False,
    overwrite: bool = False,
) -> ShardedPlan:
    shards = cut(find([str(path) for path in given]), size)
    record = ShardedRecord.over(
        shards, RunRecord.of(segmenter, query), size=size, label_maps=label_maps
    )
    return plan_shards(shards, out, record=record, overwrite=overwrite)


def worker_of(segmenter: Segmenter, query: Query, plan: ShardedPlan) -> ShardWorker:
    return ShardWorker(Job.of(segmenter, query, plan, device="cpu"))


def ask(one: ShardWorker, *shards: Shard) -> dict[str, list]:
    answer = one({"shard": np.array([shard.to_json() for shard in shards])})
    return {name: values.tolist() for name, values in answer.items()}


def one_process(segmenter: Segmenter, query: Query, plan: ShardedPlan) -> None:
    """Do a whole run in this process."""
    begin(plan, query)
    assert ask(worker_of(segmenter, query, plan), *plan.shards)["problem"] == [""] * len(
        plan.shards
    )


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "parts").glob("part-*"))}


# Listing and cutting


def test_folder_stands_for_all_its_pictures_but_not_for_results(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    photos = photos_in(tmp_path / "photos", 6)
    (photos / "notes.txt").write_text("no picture")
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "x.png").write_bytes(png(0))
    out = photos / "out"
    one_process(segmenter, query, plan_of(segmenter, query, [photos], out, label_maps=True))
    assert len(list(out.rglob("*.labels.png"))) == 6
    names = ("000.png", "001.png", "003.png", "004.png", "inside/002.png", "inside/005.png")
    for given in (str(photos), f"file://{photos}", f"{photos}/**/*"):
        (found,) = find([given])
        assert found.root == f"{photos}/"
        assert found.names == names
        assert found.sizes == tuple((photos / name).stat().st_size for name in names)


def test_picture_that_is_given_twice_is_read_once(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", 3)
    found = find([f"{photos}/001.png", str(photos), f"{photos}/*.png"])
    assert [group.names for group in found] == [("001.png",), ("000.png", "inside/002.png")]
    archive = str(tar(tmp_path / "a.tar", []))
    assert find([archive, f"{tmp_path}/*.tar"]) == [Found(root=archive, sizes=(10240,))]


def test_ranges_and_lists_name_what_is_read(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        tar(tmp_path / f"part-{number:03d}.tar", [])
    found = find([f"{tmp_path}/part-{{008..010}}.tar"])
    assert [Path(group.root).name for group in found] == [f"part-{n:03d}.tar" for n in (8, 9, 10)]
    (tmp_path / "list.txt").write_text("# mine\n1.jpg\ns3://bucket/{1..2}.jpg\ns3://bucket/a.tar\n")
    pictures, archive = find([f"@{tmp_path}/list.txt"])
    assert pictures.names == (f"{tmp_path}/1.jpg", "s3://bucket/1.jpg", "s3://bucket/2.jpg")
    assert archive == Found(root="s3://bucket/a.tar")


def test_address_is_listed_and_read_by_fsspec() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/shop/a/1.png": png(1), "/shop/2.png": png(2), "/shop/x.json": b"{}"})
    for given in ("memory://shop", "memory://shop/**/*.png"):
        (found,) = find([given])
        assert found.names == ("2.png", "a/1.png")
        assert found.sizes == (len(png(2)), len(png(1)))
        (shard,) = cut([found], 4)
        for picture, seed in zip(read_pictures(shard), (2, 1), strict=True):
            assert np.array_equal(picture.pixels, np.asarray(Image.open(io.BytesIO(png(seed)))))
            assert fsspec.open(picture.source).open().read() == png(seed)
    assert find(["memory://shop/2.png"])[0].names == ("2.png",)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("none", ImageError, "no image at none"),
        ("*.jpg", ImageError, "stands for no picture"),
        ("tars", ImageError, r"give tars/\*.tar"),
        ("-", ConfigError, "every process reads for itself"),
        ("memory://none/x.png", ConfigError, "cannot list memory://none/x.png"),
        ("nosuch://x", ConfigError, "cannot list nosuch://x"),
        ("@none.txt", ImageError, "cannot read the list none.txt"),
    ],
)
def test_what_cannot_be_listed_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tars").mkdir()
    tar(tmp_path / "tars" / "a.tar", [])
    with pytest.raises(error, match=message):
        find([given])


def test_changed_picture_changes_its_shard_alone(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", 9)
    before = cut(find([str(photos)]), 4)
    assert [len(shard.names) for shard in before] == [4, 4, 1]
    assert cut(find([str(photos)]), 4) == before
    (photos / "inside" / "002.png").write_bytes(b"longer than it was" * 1000)
    after = cut(find([str(photos)]), 4)
    changed = [a.digest != b.digest for a, b in zip(after, before, strict=True)]
    assert changed == [False, True, False]
    assert all(Shard.from_json(shard.to_json()) == shard for shard in after)


def test_label_map_never_leaves_its_folder() -> None:
    listed = Shard(number=0, root="", names=("x",))
    archive = Shard(number=0, root="s3://b/part-01.tar")
    assert stem_of(listed, "s3://b/a/1.jpg") == "b/a/1.jpg"
    assert stem_of(archive, "../../etc/./1.jpg") == "part-01/etc/1.jpg"
    assert stem_of(archive, "/1.jpg") == "part-01/1.jpg"
    long = [stem_of(listed, f"{'ü' * 200}{end}.jpg") for end in "ab"]
    assert len({*long}) == 2
    assert all(len(f"{name}.labels.png".encode()) <= 255 for name in long)


def test_label_map_has_a_name_that_every_file_system_takes(tmp_path: Path) -> None:
    archive = Shard(number=0, root="/a/day.1.TAR.gz")
    assert stem_of(archive, "1.jpg") == "day.1/1.jpg"
    names = ("a" * 300 + "/1.jpg", "a" * 301 + "/1.jpg", "a\0b.jpg", "b/" * 3000 + "1.jpg")
    stems = [stem_of(archive, name) for name in names]
    assert len({*stems}) == len(names)
    for stem in stems:
        path = tmp_path / f"{stem}.labels.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_hidden_files_and_results_are_left_out(tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", 1)
    for name in (".hidden.png", "inside/._x.png"):
        (photos / name).write_bytes(png(0))
    (photos / "out" / "fiftyone" / "data").mkdir(parents=True)
    (photos / "out" / "run.json").write_text('{"vocabulary": {}, "save": []}')
    (photos / "out" / "fiftyone" / "data" / "p.jpg").write_bytes(png(0))
    memory = fsspec.filesystem("memory")
    memory.pipe({f"/hid/{name}": b"x" for name in ("1.png", ".2.png", "a/._3.png", ".b/4.png")})
    assert find([str(photos)])[0].names == ("000.png",)
    assert find([f"{photos}/.h*.png"])[0].names == (".hidden.png",)
    for given in ("memory://hid", "memory://hid/**/*.png"):
        assert find([given])[0].names == ("1.png",)
    assert find(["memory://hid/.2.png"])[0].names == (".2.png",)


def test_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos", 3)
    really = os.scandir

    def closed(folder: str) -> object:
        if str(folder).endswith("inside"):
            raise PermissionError(13, "Permission denied", folder)
        return really(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ImageError, match=r"cannot read the folder .*inside: Permission denied"):
        find([str(photos)])


def test_brackets_braces_and_odd_line_ends_in_names_are_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "br[1]x"
    (folder / "in").mkdir(parents=True)
    for name in ("1.png", "s{1..2}.png", "in/odd\u2028name.png"):
        (folder / name).write_bytes(png(0))
    monkeypatch.chdir(folder)
    (found,) = find(["*.png"])
    assert (found.root, found.names) == (f"{folder}/", ("1.png", "s{1..2}.png"))
    (found,) = find(["./in/../i*/*.png"])
    assert (found.root, found.names) == (f"{folder}/", ("in/odd\u2028name.png",))
    assert find(["s{1..2}.png"])[0].names == ("s{1..2}.png",)
    (folder / "list.txt").write_text("in/odd\u2028name.png\r\n 1.png\n")
    (found,) = find(["@list.txt"])
    assert found.names == (f"{folder}/in/odd\u2028name.png", f"{folder}/1.png")


def test_list_names_nothing_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("memory://shop/1.png\n")
    with pytest.raises(ConfigError, match="one process alone"):
        find([f"@{tmp_path}/list.txt"])


# Reading


def damaged(whole: bytes, how: str) -> bytes:
    """Damage an archive of four pictures so that tarfile alone would take it for a shorter one."""
    third = 2 * (512 + -(-len(png(0, 8, 8)) // 512) * 512)
    kinds = {
        "cut at a header": whole[:third],
        "cut within a header": whole[: third + 100],
        "damaged header": whole[: third + 10] + b"\xff" + whole[third + 11 :],
        "zeros for a header": whole[:third] + bytes(512) + whole[third + 512 :],
        "two in one": whole + whole,
        "packed and cut": gzip.compress(whole)[:-9],
        "packed and damaged": gzip.compress(whole)[:-6] + b"\0" + gzip.compress(whole)[-5:],
    }
    return kinds[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut at a header",
        "cut within a header",
        "damaged header",
        "zeros for a header",
        "two in one",
        "packed and cut",
        "packed and damaged",
    ],
)
def test_damaged_archive_never_passes_for_a_shorter_one(tmp_path: Path, how: str) -> None:
    path = tar(tmp_path / "x.tar", [(f"{n}.png", png(0, 8, 8)) for n in range(4)])
    shard = Shard(number=0, root=str(path))
    whole = path.read_bytes()
    for data in (whole, gzip.compress(whole)):
        path.write_bytes(data)
        assert [picture.status for picture in read_pictures(shard)] == ["done"] * 4
    path.write_bytes(damaged(whole, how))
    *before, last = read_pictures(shard)
    assert all(picture.status == "done" for picture in before)
    assert (last.status, last.member) == ("failed", None)
    assert "cannot be read to its end" in last.error


def test_link_in_an_archive_has_a_row(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("hard.png", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            archive.addfile(info)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    read = list(read_pictures(Shard(number=0, root=str(tmp_path / "x.tar"))))
    assert [(p.member, p.status) for p in read] == [
        ("hard.png", "damaged"),
        ("soft.png", "damaged"),
    ]
    assert all("a link to a.png, which a stream cannot follow" in p.error for p in read)


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("odd"), "damaged"), (MemoryError(), "failed")]
)
def test_picture_that_breaks_its_decoder_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    photos = photos_in(tmp_path / "photos", 2)
    really = reading.read_image

    def breaking(picture: Image.Image) -> np.ndarray:
        if picture.width == 41:  # the first; not every version of fsspec tells a file's name
            raise error
        return really(picture)

    monkeypatch.setattr(reading, "read_image", breaking)
    names = ("000.png", "001.png")
    read = list(read_pictures(Shard(number=0, root=f"{photos}/", names=names, sizes=(0, 0))))
    assert [picture.status for picture in read] == [status, "done"]
    assert "000.png" in read[0].error


def test_archive_yields_every_picture_and_says_what_is_wrong(tmp_path: Path) -> None:
    whole = [("a/1.png", png(1)), ("a/1.json", b"{}"), ("2.jpg", b"no picture"), ("3.PNG", png(3))]
    path = tar(tmp_path / "x.tar", whole)
    read = list(read_pictures(Shard(number=0, root=str(path))))
    assert [(p.member, p.status) for p in read] == [
        ("a/1.png", "done"),
        ("2.jpg", "damaged"),
        ("3.PNG", "done"),
    ]
    assert "x.tar: 2.jpg is not a picture" in read[1].error
    path.write_bytes(path.read_bytes()[: 512 + 512 * (len(png(1)) // 512 + 1) + 1024 + 600])
    *_, last = read_pictures(Shard(number=0, root=str(path)))
    assert last.status == "failed"
    assert last.member is None
    assert "cannot be read to its end" in last.error


def test_picture_that_cannot_be_reached_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos", 2)
    calls: list[str] = []
    really = reading._open

    def unsteady(source: str) -> io.BufferedReader:
        calls.append(source)
        if len(calls) <= 2 or source.endswith("001.png"):
            raise ConnectionResetError("reset by peer")
        return really(source)

    monkeypatch.setattr(reading, "_open", unsteady)
    monkeypatch.setattr(reading, "_PAUSE", 0.0)
    monkeypatch.setattr(reading, "_THREADS", 1)
    names = ("000.png", "001.png", "none.png")
    shard = Shard(number=0, root=f"{photos}/", names=names, sizes=(0, 0, 0))
    read = list(read_pictures(shard))
    assert [picture.status for picture in read] == ["done", "failed", "failed"]
    assert read[1].error == "reset by peer"
    assert len(calls) == 3 + 3 + 1  # a file that is not there is not waited for


def test_few_pictures_are_held_however_long_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    really = reading._decoded
    monkeypatch.setattr(reading, "_decoded", lambda e: decoded.append(e.name) or really(e))
    path = tar(tmp_path / "x.tar", [(f"{n}.png", png(n, 8, 8)) for n in range(60)])
    for place, _ in enumerate(read_pictures(Shard(number=0, root=str(path)))):
        assert len(decoded) <= place + 2 + reading._AHEAD
    assert len(decoded) == 60


# Rows


@pytest.mark.parametrize("seed", range(4))
def test_row_holds_the_label_map_exactly(tmp_path: Path, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    height, width = numbers.integers(1, 70, 2).tolist()
    labels = numbers.integers(-1, 5, (height, width), dtype=np.int32) * 700
    labels[labels < 0] = -1
    names = tuple(f"class {n}" for n in range(3000))
    scores = numbers.random((height, width), dtype=np.float32)
    image = np.zeros((height, width, 3), np.uint8)
    result = Segmentation(labels=labels, class_names=names, image=image, confidence=scores)
    picture = Picture(source="a.png", member=None, name="a.png", pixels=image)
    bad = Picture(source="b\udcff.png", member=None, name="b", status="damaged", error="no picture")
    rows = [row_of(picture, result), row_of(bad, None)]
    write_part(tmp_path / "part-00000.parquet", rows, mark="mark")
    first, second = parquet.read_table(tmp_path / "part-00000.parquet").to_pylist()
    assert labels_of(first).dtype == np.int32
    assert np.array_equal(labels_of(first), labels)
    assert [mask["class_id"] for mask in first["masks"]] == sorted(
        {*labels.ravel().tolist()} - {-1}
    )
    for mask in first["masks"]:
        inside = labels == mask["class_id"]
        assert mask["class_name"] == names[mask["class_id"]]
        assert mask["area"] == inside.sum()
        assert mask["score"] == pytest.approx(scores[inside].mean(), abs=1e-5)
    assert second["source"] == r"b\xff.png"
    for row in (second, {**second, "masks": float("nan")}):  # as pandas has it
        with pytest.raises(ValueError, match="no picture"):
            labels_of(row)


def compressed(runs: list[int]) -> str:
    """Return COCO's compressed code of runs, whatever they are."""
    code = ""
    for place, value in enumerate(runs):
        rest, more = value - (runs[place - 2] if place > 2 else 0), True
        while more:
            five, rest = rest & 31, rest >> 5
            more = rest != (-1 if five & 16 else 0)
            code += chr(48 + five + 32 * more)
    return code


@pytest.mark.parametrize(
    "runs",
    [[4, 1], [4, 2, 1], [4, 2, 10**6], [8, -2], [-1, 7], [6, 2**33, -(2**33)], [2**64]],
    ids=["short", "long", "far too long", "negative", "negative first", "huge", "beyond 64 bits"],
)
def test_masks_whose_runs_are_not_those_of_the_picture_are_refused(runs: list[int]) -> None:
    row = {"source": "a\n.png", "height": 2, "width": 3, "error": None}
    whole = {"class_id": 5, "counts": compressed([1, 2, 3])}
    assert labels_of({**row, "masks": [whole]}).tolist() == [[-1, 5, -1], [5, -1, -1]]
    with pytest.raises(DatasetError, match=r"row of a\\n\.png has a damaged mask: .* 3 x 2 pixels"):
        labels_of({**row, "masks": [whole, {"class_id": 0, "counts": compressed(runs)}]})


@pytest.mark.parametrize("code", ["", "é", "\udcff", "o", None, 7, [4, 2]])
def test_masks_that_are_no_code_are_refused(code: object) -> None:
    row = {"source": "a.png", "height": 2, "width": 3, "error": None}
    with pytest.raises(DatasetError, match=r"a\.png has a damaged mask"):
        labels_of({**row, "masks": [{"class_id": 0, "counts": code}]})


def test_table_that_is_cut_off_or_made_otherwise_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    bad = Picture(source="b", member=None, name="b", status="failed", error="gone")
    write_part(path, [row_of(bad, None)] * 3, mark="mark")
    assert count_part(path, mark="mark").failed == 3
    assert count_part(path, mark="other") is None
    assert count_part(tmp_path / "none", mark="mark") is None
    path.write_bytes(path.read_bytes()[:-9])
    assert count_part(path, mark="mark") is None


# One process


def test_tables_and_label_maps_are_what_the_segmenter_returns(
    tmp_path: Path, segmenter: Segmenter
) -> None:
    """With so many classes that ids need 16 bits."""
    words = [f"thing {(n + 140) % 300}" for n in range(300)]
    query = segmenter.query(words)
    photos = photos_in(tmp_path / "photos", 5)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out", label_maps=True)
    one_process(segmenter, query, plan)
    rows = rows_in(tmp_path / "out")
    assert len(rows) == 5
    found: set[int] = set()
    for row in rows:
        expected = segmenter.segment(row["source"], query).labels
        found.update(expected.ravel().tolist())
        assert np.array_equal(labels_of(row), expected)
        stored = read_index_png(tmp_path / "out" / row["label_map"], len(words))
        assert np.array_equal(stored, expected)
    assert min(found) < 255 < max(found)
    legend = json.loads((tmp_path / "out" / "legend.json").read_text())
    assert [entry["name"] for entry in legend[:-1]] == words


def test_shard_that_is_done_twice_has_the_same_bytes(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    members = [("1.png", png(1)), ("1.png", png(2)), ("bad.png", b"x")]
    path = tar(tmp_path / "x.tar", members)
    plan = plan_of(segmenter, query, [path], tmp_path / "out", label_maps=True)
    one_process(segmenter, query, plan)
    first = tables(tmp_path / "out")
    (plan.part(plan.shards[0])).unlink()
    one_process(segmenter, query, plan)
    assert tables(tmp_path / "out") == first
    rows = rows_in(tmp_path / "out")
    assert [row["status"] for row in rows] == ["done", "damaged", "damaged"]
    assert "more than once" in rows[1]["error"]
    assert [row["label_map"] for row in rows] == ["labels/x/1.png.labels.png", None, None]
    assert np.array_equal(
        read_index_png(tmp_path / "out" / rows[0]["label_map"], 3), labels_of(rows[0])
    )


def test_members_with_one_label_map_do_not_replace_one_another(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    names = ("a.png", "./a.png", "/a.png", "A.png", "b.png")
    path = tar(tmp_path / "x.tar", [(name, png(n)) for n, name in enumerate(names)])
    plan = plan_of(segmenter, query, [path], tmp_path / "out", label_maps=True)
    one_process(segmenter, query, plan)
    rows = rows_in(tmp_path / "out")
    assert [row["status"] for row in rows] == ["done", "damaged", "damaged", "damaged", "done"]
    assert "./a.png would have the label map of a.png" in rows[1]["error"]
    for row in (rows[0], rows[-1]):
        stored = read_index_png(tmp_path / "out" / row["label_map"], 3)
        assert np.array_equal(stored, labels_of(row))
    one_process(segmenter, query, plan_of(segmenter, query, [path], tmp_path / "tables"))
    assert {row["status"] for row in rows_in(tmp_path / "tables")} == {"done"}


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (MemoryError(), ""),
        (torch.OutOfMemoryError("CUDA out of memory"), ""),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ""),
        (RuntimeError("something else"), "RuntimeError: something else"),
    ],
)
def test_picture_for_which_memory_runs_out_is_tried_again(
    tmp_path: Path,
    segmenter: Segmenter,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    problem: str,
) -> None:
    photos = photos_in(tmp_path / "photos", 2)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out")
    begin(plan, query)
    one = worker_of(segmenter, query, plan)
    really = one._segmenter.segment

    def breaking(pixels: np.ndarray, query: Query) -> Segmentation:
        if pixels.shape[1] == 41:
            raise error
        return really(pixels, query)

    monkeypatch.setattr(one._segmenter, "segment", breaking)
    assert ask(one, *plan.shards)["problem"] == [problem]
    if problem:
        return
    rows = rows_in(tmp_path / "out")
    assert [row["status"] for row in rows] == ["failed", "done"]
    assert "memory ran out while 40 x 41 pixels" in rows[0]["error"]
    monkeypatch.undo()
    ask(one, *plan.shards)
    assert {row["status"] for row in rows_in(tmp_path / "out")} == {"done"}


def test_table_of_a_picture_that_changed_does_not_outlive_it(
    tmp_path: Path, segmenter: Segmenter, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though every process that begins its shard dies."""
    photos, out = photos_in(tmp_path / "photos", 6), tmp_path / "out"
    one_process(segmenter, query, plan_of(segmenter, query, [photos], out))
    (photos / "000.png").write_bytes(png(0, width=90))
    plan = plan_of(segmenter, query, [photos], out)
    monkeypatch.setattr(run, "_computed", lambda *_, **__: iter(()))
    outcomes = list(run_shards(segmenter, query, plan, ray=None, workers=TWO))
    assert {o.shard.number: o.counted is None for o in outcomes} == {0: True, 1: False}
    assert list(tables(out)) == ["part-00001.parquet"]


def test_finished_shard_is_left_and_one_that_failed_is_tried_again(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    photos = photos_in(tmp_path / "photos", 8)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out")
    (photos / "inside" / "002.png").rename(tmp_path / "away.png")
    one_process(segmenter, query, plan)
    times = [plan.part(shard).stat().st_mtime_ns for shard in plan.shards]
    assert [row["status"] for row in rows_in(tmp_path / "out")].count("failed") == 1
    (tmp_path / "away.png").rename(photos / "inside" / "002.png")
    one_process(segmenter, query, plan)
    again = [plan.part(shard).stat().st_mtime_ns for shard in plan.shards]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, False]
    assert {row["status"] for row in rows_in(tmp_path / "out")} == {"done"}


def test_table_is_there_whole_or_not_at_all(
    tmp_path: Path, segmenter: Segmenter, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = photos_in(tmp_path / "photos", 4)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out")
    begin(plan, query)
    one = worker_of(segmenter, query, plan)
    really = one._segmenter.segment
    calls = iter(range(100))

    def breaking(*given: object) -> Segmentation:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return really(*given)

    monkeypatch.setattr(one._segmenter, "segment", breaking)
    with pytest.raises(KeyboardInterrupt):
        ask(one, *plan.shards)
    assert tables(tmp_path / "out") == {}
    one_process(segmenter, query, plan)
    assert len(rows_in(tmp_path / "out")) == 4


def test_process_refuses_another_model_or_folder(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    photos = photos_in(tmp_path / "photos", 1)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out")
    answer = ask(worker_of(segmenter, query, plan), *plan.shards)
    assert "give an --out on a file system that all of them share" in answer["problem"][0]
    begin(plan, query)
    job = Job(model="shapes-zegclip", device="cpu", query=query, plan=plan)
    answer = ask(ShardWorker(job), *plan.shards)
    assert "is another model on a machine of the cluster" in answer["problem"][0]
    assert tables(tmp_path / "out") == {}


# Planning


def test_folder_of_another_run_is_refused(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    photos, out = photos_in(tmp_path / "photos", 6), tmp_path / "out"
    one_process(segmenter, query, plan_of(segmenter, query, [photos], out))
    before = tables(out)
    with pytest.raises(OutputError, match="class names was 'moon, water, kite' and is 'sand'"):
        plan_of(segmenter, segmenter.query("sand"), [photos], out)
    with pytest.raises(OutputError, match="shard size was '4' and is '5'"):
        plan_of(segmenter, query, [photos], out, size=5)
    with pytest.raises(OutputError, match="listed was '6' and is '4'"):
        plan_of(segmenter, query, [photos / "*.png"], out)
    assert tables(out) == before
    plan = plan_of(segmenter, query, [photos / "*.png"], out, overwrite=True)
    one_process(segmenter, query, plan)
    assert len(rows_in(out)) == 4
    assert list(tables(out)) == ["part-00000.parquet"]  # the second is of no shard any more


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    photos, out = photos_in(tmp_path / "photos", 6), tmp_path / "out"
    one_process(segmenter, query, plan_of(segmenter, query, [photos], out, label_maps=True))
    (out / "labels" / "mine.labels.png").write_bytes(png(0))
    foreign = parquet.read_table(out / "parts" / "part-00000.parquet").replace_schema_metadata()
    parquet.write_table(foreign, out / "parts" / "part-00009.parquet")
    begin(plan_of(segmenter, query, [photos], out, overwrite=True), query)
    left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert left == [
        "labels/mine.labels.png",
        "legend.json",
        "parts/part-00009.parquet",
        "run.json",
    ]


def test_engines_do_not_share_a_folder(tmp_path: Path, segmenter: Segmenter, query: Query) -> None:
    photos = photos_in(tmp_path / "photos", 1)
    local = ["predict", str(photos), f"--model={MODEL}", "--classes", CLASSES, "--out"]
    assert CliRunner().invoke(cli.app, [*local, str(tmp_path / "l")]).exit_code == 0
    with pytest.raises(OutputError, match="results of --engine local"):
        plan_of(segmenter, query, [photos], tmp_path / "l", overwrite=True)
    begin(plan_of(segmenter, query, [photos], tmp_path / "r"), query)
    for more in ([], ["--overwrite"]):
        result = CliRunner().invoke(cli.app, [*local, str(tmp_path / "r"), *more])
        assert isinstance(result.exception, OutputError)
        assert "--engine ray" in str(result.exception)
    (tmp_path / "f" / "parts").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"no run.json says"):
        plan_of(segmenter, query, [photos], tmp_path / "f")


def test_pictures_with_one_label_map_are_refused(
    tmp_path: Path, segmenter: Segmenter, query: Query
) -> None:
    folders = [photos_in(tmp_path / name, 2) for name in "ab"]
    plan_of(segmenter, query, folders, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"would both have the label map 000.png.labels.png"):
        plan_of(segmenter, query, folders, tmp_path / "out", label_maps=True)
    given = [tmp_path / "c", tar(tmp_path / "X.tar", [("000.png", png(0))])]
    photos_in(tmp_path / "c" / "x", 1)
    plan_of(segmenter, query, given, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"x/000.png would lie among those of .*X\.tar"):
        plan_of(segmenter, query, given, tmp_path / "out", label_maps=True)
    days = [tar(tmp_path / f"day.{n}.tar", []) for n in range(2)]
    plan_of(segmenter, query, days, tmp_path / "out", label_maps=True)


@pytest.mark.parametrize(
    ("machines", "wanted", "expected"),
    [
        ([{"CPU": 1}], {}, (1, 1, 0)),
        ([{"CPU": 8}, {"CPU": 5}], {}, (6, 2, 0)),
        ([{"CPU": 8}, {"CPU": 5}], {"cpus": 1}, (13, 1, 0)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 16}], {}, (4, 2, 1)),
        ([{"CPU": 8, "GPU": 8}], {}, (8, 1, 1)),
        ([{"CPU": 8, "GPU": 1}], {"gpus": 0.5}, (2, 2, 0.5)),
        ([{"CPU": 8, "GPU": 1}], {"gpus": 0}, (4, 2, 0)),
        ([{"CPU": 8}], {"count": 3}, (3, 2, 0)),
    ],
)
def test_as_many_processes_as_there_is_room_for(
    machines: list[dict[str, float]],
    wanted: dict[str, float],
    expected: tuple[int, float, float],
) -> None:
    count, cpus, gpus = expected
    assert workers_on(machines, **wanted) == Workers(count=count, cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    "wanted",
    [
        {"cpus": 9},
        {"gpus": 1},
        {"count": 0},
        *({"cpus": cpus} for cpus in (-1, 0, 1e-5, float("nan"), float("inf"))),
        *({"gpus": gpus} for gpus in (-1, 1e-5, float("nan"), float("inf"))),
    ],
)
def test_processes_that_would_never_start_are_refused(wanted: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="actor"):
        workers_on([{"CPU": 8}], **wanted)


def test_what_other_processes_cannot_read_is_refused(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe({"/shop/1.png": png(1)})
    arguments = ["predict", "memory://shop", "--engine=ray", "--out", str(tmp_path / "o")]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "one process alone" in str(result.exception)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine=ray", "--save=overlay"], "overlay belongs to --engine local"),
        (["--engine=ray", "--format=coco"], "--format belongs to --engine local"),
        (["--engine=ray", "--shard-size=0"], "--shard-size is 0"),
        (["--shard-size=9"], "--shard-size belongs to --engine ray"),
        (["--actors=2"], "--actors belongs to --engine ray"),
    ],
)
def test_options_of_the_other_engine_are_refused(
    tmp_path: Path, more: list[str], message: str
) -> None:
    photos = photos_in(tmp_path / "photos", 1)
    arguments = ["predict", str(photos), f"--model={MODEL}", "--out", str(tmp_path / "o"), *more]
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
    assert not (tmp_path / "o").exists()


# The cluster: two cores, two processes. It takes seconds to start, so all tests below share it.


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    require()
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )
    yield ray
    ray.shutdown()


TWO = Workers(count=2, cpus=1.0, gpus=0.0)


def writing() -> list[int]:
    """Return the processes of our cluster that are in the middle of a table."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(file.path.endswith(".partial") for file in process.open_files()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def test_killed_process_leaves_every_picture_in_the_output_once(
    tmp_path: Path, segmenter: Segmenter, query: Query, ray: ModuleType
) -> None:
    """Slow, for two processes load the model, and a third one when one of them is killed."""

    class Slow(ShardWorker):
        def _segmented(self, picture: Picture) -> tuple[Picture, Segmentation | None]:
            time.sleep(0.1)
            return super()._segmented(picture)

    photos = photos_in(tmp_path / "photos", 30)
    archive = tar(tmp_path / "x.tar", [(f"{n}.png", png(n)) for n in range(100, 105)])
    plan = plan_of(segmenter, query, [photos, archive], tmp_path / "out", size=5)
    run = run_shards(segmenter, query, plan, ray=ray, workers=TWO, worker=Slow)
    outcomes = [next(run)]
    limit = time.monotonic() + 30
    while not (busy := writing()) and time.monotonic() < limit:
        time.sleep(0.01)
    os.kill(busy[0], signal.SIGKILL)
    assert len(tables(tmp_path / "out")) < len(plan.shards)
    outcomes += run
    assert list((tmp_path / "out" / "parts").glob(".zegment-*.partial"))  # it was half-way
    assert sorted(outcome.shard.number for outcome in outcomes) == list(range(7))
    rows = rows_in(tmp_path / "out")
    found = sorted((row["source"], row["member"] or "") for row in rows)
    expected = [(str(path), "") for path in photos.rglob("*.png")]
    assert found == sorted([*expected, *((str(archive), f"{n}.png") for n in range(100, 105))])
    assert {row["status"] for row in rows} == {"done"}
    for row in rows[::6]:
        if row["member"] is None:
            again = segmenter.segment(row["source"], query).labels
            assert np.array_equal(labels_of(row), again)
    alone = plan_of(segmenter, query, [photos, archive], tmp_path / "alone", size=5)
    one_process(segmenter, query, alone)
    assert tables(tmp_path / "alone") == tables(tmp_path / "out")


class WithoutModel(ShardWorker):
    """Starts quickly; every picture is of the first class."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._problem = ""

    def _segmented(self, picture: Picture) -> tuple[Picture, Segmentation | None]:
        labels = np.zeros(picture.pixels.shape[:2], np.int32)
        names = self._job.query.vocabulary.class_names
        return picture, Segmentation(labels=labels, class_names=names, image=picture.pixels)


def test_picture_that_kills_every_process_costs_its_shard_alone(
    tmp_path: Path, segmenter: Segmenter, query: Query, ray: ModuleType
) -> None:
    """Slow, for a process is started again after each death."""

    class Dying(WithoutModel):
        def _segmented(self, picture: Picture) -> tuple[Picture, Segmentation | None]:
            if picture.name == "003.png":
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._segmented(picture)

    photos = photos_in(tmp_path / "photos", 8)
    plan = plan_of(segmenter, query, [photos], tmp_path / "out", size=2)
    outcomes = list(run_shards(segmenter, query, plan, ray=ray, workers=TWO, worker=Dying))
    lost = [outcome for outcome in outcomes if outcome.counted is None]
    assert [outcome.shard.names for outcome in lost] == [("003.png", "004.png")]
    assert len(rows_in(tmp_path / "out")) == 6
    one_process(segmenter, query, plan)  # the next run, with a machine that copes
    assert len({row["source"] for row in rows_in(tmp_path / "out")}) == 8


def test_process_that_cannot_work_ends_the_run_with_the_reason(
    tmp_path: Path, segmenter: Segmenter, query: Query, ray: ModuleType
) -> None:
    class Broken(WithoutModel):
        def __init__(self, job: Job) -> None:
            super().__init__(job)
            self._problem = "no model here"

    plan = plan_of(segmenter, query, [photos_in(tmp_path / "photos", 2)], tmp_path / "out")
    run = run_shards(segmenter, query, plan, ray=ray, workers=TWO, worker=Broken)
    with pytest.raises(ZegmentError, match=r"a process of the run stopped: no model here"):
        list(run)


def test_command_that_was_killed_is_gone_on_with_and_counts_bad_pictures(
    tmp_path: Path, segmenter: Segmenter, query: Query, ray: ModuleType
) -> None:
    """Slow, for the command that is killed has a cluster of its own."""
    photos, out = photos_in(tmp_path / "photos", 150), tmp_path / "out"
    (photos / "0.jpg").write_bytes(b"no picture")
    for place in range(2):
        tar(tmp_path / f"x-{place}.tar", [("1.png", png(place))])
    command = [
        *("predict", str(photos), f"{tmp_path}/x-{{0..1}}.tar", "--engine=ray", "--shard-size=5"),
        *(f"--model={MODEL}", "--classes", CLASSES, "--background=threshold:0.5", "--save=labels"),
        *("--out", str(out), "--actors=1", "--cpus-per-actor=1"),
    ]
    program = [sys.executable, "-m", "zegment", *command]
    environment = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"}
    limit = time.monotonic() + 600  # a busy machine may take minutes to start a cluster
    with subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None and time.monotonic() < limit:
            if (out / "parts").exists() and len(tables(out)) >= 2:
                running.kill()
            time.sleep(0.01)
        assert running.wait() == -signal.SIGKILL
    kept = tables(out)
    assert 2 <= len(kept) < 33
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 1, (result.output, result.exception)
    output = " ".join(result.output.split())
    assert "152 pictures have labels; 33 of 33 tables" in output
    assert "1 of 153 could not be read" in output
    assert "0.jpg is not a picture" in output
    (failed,) = json.loads((out / "failed.json").read_text())
    assert failed["source"] == str(photos / "0.jpg")
    assert kept.items() <= tables(out).items()
    rows = rows_in(out)
    sources = sorted(row["source"] for row in rows)
    archives = [str(tmp_path / f"x-{place}.tar") for place in range(2)]
    assert sources == sorted([*map(str, photos.rglob("*.*g")), *archives])
    assert len(list(out.rglob("*.labels.png"))) == 152
    row = rows[-1]
    expected = segmenter.segment(Image.open(io.BytesIO(png(1))), query).labels
    assert np.array_equal(labels_of(row), expected)
    assert np.array_equal(read_index_png(out / row["label_map"], 3), expected)


def test_page_runs(tmp_path: Path, ray: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the page, and then its programs, which read what the commands wrote."""
    page = Path(__file__).parent.parent / "docs" / "millions-of-images.md"
    text = page.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    photos_in(tmp_path / "photos", 3)
    tar(tmp_path / "part-000.tar", [("1.png", png(1))])
    commands = re.findall(r"^zegment .*", "\n".join(_blocks(text, "bash")), flags=re.MULTILINE)
    assert commands
    for line in commands:
        result = CliRunner().invoke(cli.app, [*shlex.split(line)[1:], "--cpus-per-actor=1"])
        assert result.exit_code == 0, (line, result.output, result.exception)
    programs = _blocks(text, "python")
    assert programs
    for program in programs:
        exec(compile(program, str(page), "exec"), {})  # noqa: S102 - it is our own page


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
