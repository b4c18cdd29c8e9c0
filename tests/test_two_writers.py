"""Two processes that write one place at once, disks that are full: all is whole, or refused."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from soaks.at_once import in_rounds
from soaks.writers import SCENES, scene
from soaks.writers_caches import damage, embedding, use_caches
from soaks.writers_commands import CLASSES, MODEL, bytes_of, command, lay_pictures

from zegment import files
from zegment.claims import claimed
from zegment.errors import DatasetNotFoundError, OutputError
from zegment.files import atomic_folder, atomic_stream, atomic_write_bytes
from zegment.text_cache import TextCache


@pytest.mark.parametrize("name", [name for name in SCENES if "claimed" not in name])
@pytest.mark.parametrize("seed", [0, 1])
def test_at_the_same_instant(tmp_path: Path, name: str, seed: int) -> None:
    found, wrong = scene(name, rounds=12, seed=seed, folder=tmp_path)
    assert wrong == []
    assert found.looks > 12 or SCENES[name][1] is None


def test_a_folder_that_was_moved_aside_when_the_process_was_killed_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    target = tmp_path / "last"
    with atomic_folder(target) as stage:
        (stage / "old").touch()
    child = os.fork()
    if child == 0:
        rename = Path.rename

        def die_afterwards(self: Path, to: Path) -> Path:
            rename(self, to)
            os._exit(9)

        Path.rename = die_afterwards
        with atomic_folder(target, replace=True) as stage:
            (stage / "new").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not target.exists()
    with claimed(tmp_path, purpose="train"):  # removes what is half-written, and this is not
        pass
    with pytest.raises(ZeroDivisionError), atomic_folder(target, replace=True):
        raise ZeroDivisionError
    assert [path.name for path in target.iterdir()] == ["old"]


def test_what_is_left_in_an_empty_folder_does_not_keep_it_from_being_filled(tmp_path: Path) -> None:
    (tmp_path / files.temporary_name()).mkdir()
    with atomic_folder(tmp_path) as stage:
        (stage / "new").touch()
    assert (tmp_path / "new").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_caches_that_are_shared_and_damaged_never_give_wrong_numbers(
    tmp_path: Path, seed: int
) -> None:
    found = in_rounds(use_caches, tmp_path, rounds=12, seed=seed, writers=2, read=None)
    assert {answer for answers in found.answers for answer in answers} == {"done"}


def rows(words: range) -> dict[tuple[str, ...], torch.Tensor]:
    return {(f"{word}",): embedding(word) for word in words}


@pytest.mark.parametrize("seed", range(8))
def test_a_text_cache_damaged_anywhere_is_healed_by_the_next_use(tmp_path: Path, seed: int) -> None:
    """Also where its first page, which tells what is in it, is whole."""
    TextCache(lambda: "tower", tmp_path).write(rows(range(300)))
    (file,) = tmp_path.glob("*.sqlite")
    draw = random.Random(seed)  # noqa: S311
    for _ in range(6):
        damage(file, draw)
    cache = TextCache(lambda: "tower", tmp_path)
    cache.read(list(rows(range(300))))
    cache.write(rows(range(300, 340)))
    found = cache.read(list(rows(range(340))))
    assert {(f"{word}",) for word in range(300, 340)} <= found.keys()
    assert all(torch.equal(row, embedding(int(word))) for (word,), row in found.items())


def test_a_row_with_one_wrong_bit_is_no_row(tmp_path: Path) -> None:
    cache = TextCache(lambda: "tower", tmp_path)
    cache.write(rows(range(1)))
    (file,) = tmp_path.glob("*.sqlite")
    data = bytearray(file.read_bytes())
    place = data.find(embedding(0).numpy().tobytes()[:16])
    data[place] ^= 1  # the lowest bit of the first number
    file.write_bytes(data)
    assert cache.read([("0",)]) == {}


def give(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "zegment", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command_line, capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


def test_a_second_prediction_into_a_folder_is_told_so_in_a_line_and_writes_nothing(
    tmp_path: Path,
) -> None:
    lay_pictures(tmp_path, seed=0)
    with claimed(tmp_path / "out", purpose="predict"):
        ended = give(
            "predict", "pictures/0", "--out", "out", "--model", MODEL, "--classes", CLASSES[0],
            cwd=tmp_path,
        )  # fmt: skip
        assert list((tmp_path / "out").iterdir()) == []
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "cannot predict into 'out': another process is writing there; wait until" in line


def test_predictions_begun_at_the_same_instant_end_as_one_alone(tmp_path: Path) -> None:
    assert command("predict anew", rounds=4, seed=0, folder=tmp_path) == []


def test_tables_are_begun_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Before a process of Ray's is started."""
    pytest.importorskip("pyarrow")
    from zegment.large_scale.cluster import Workers
    from zegment.large_scale.plan import ShardedRecord, plan_shards
    from zegment.large_scale.run import run_shards
    from zegment.prediction.record import RunRecord

    names = RunRecord(model="m", vocabulary={"class_names": ["a"]})
    record = ShardedRecord.over([], names, size=1, label_maps=False)
    workers = Workers(count=1, cpus=1.0, gpus=0.0)
    plan = plan_shards([], tmp_path / "out", record=record)
    with claimed(tmp_path / "out", purpose="predict"), pytest.raises(OutputError, match="another"):
        next(run_shards(None, None, plan, ray=None, workers=workers))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="another run has begun"):
        next(run_shards(None, None, plan, ray=None, workers=workers))


@pytest.fixture
def small_disk():
    """Let no file of this process grow beyond 20 kB, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_does_not_fit_leaves_the_earlier_one(tmp_path: Path, small_disk) -> None:
    atomic_write_bytes(tmp_path / "x", b"old")
    with pytest.raises(OutputError, match=r"cannot write .*x: .*choose a place .* that has room"):
        atomic_write_bytes(tmp_path / "x", bytes(50_000))
    assert bytes_of(tmp_path) == {"x": b"old"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_does_not_fit_leaves_the_earlier_one(
    tmp_path: Path, small_disk, replace: bool
) -> None:
    """Whatever writes into it need not know what a full disk says."""
    target = tmp_path / "folder"
    if replace:
        target.mkdir()
        (target / "old").touch()
    with (
        pytest.raises(OutputError, match=r"cannot write .*folder: .*choose a place"),
        atomic_folder(target, replace=replace) as stage,
    ):
        (stage / "new").write_bytes(bytes(50_000))
    assert bytes_of(tmp_path) == ({"folder/old": b""} if replace else {})


def test_a_checkpoint_that_does_not_fit_is_an_error_in_our_words(
    tmp_path: Path, small_disk
) -> None:
    from zegment.checkpoint import load_trained
    from zegment.checkpoint_files import save_checkpoint

    with pytest.raises(OutputError, match=r"cannot write .*run: .*choose a place"):
        save_checkpoint(tmp_path / "run", load_trained(MODEL, device="cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_on_a_full_disk_changes_nothing(tmp_path: Path, small_disk) -> None:
    cache = TextCache(lambda: "tower", tmp_path)
    cache.write(rows(range(500)))
    found = cache.read(list(rows(range(500))))
    assert all(torch.equal(row, embedding(int(word))) for (word,), row in found.items())


def test_what_a_writer_reads_in_vain_is_not_told_as_what_it_writes(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError), atomic_stream(tmp_path / "x"):
        raise DatasetNotFoundError("no list train.txt")
    with pytest.raises(FileNotFoundError) as caught, atomic_folder(tmp_path / "y"):
        (tmp_path / "missing").read_bytes()
    assert not isinstance(caught.value, OutputError)
    assert caught.value.errno == errno.ENOENT
    assert list(tmp_path.iterdir()) == []
