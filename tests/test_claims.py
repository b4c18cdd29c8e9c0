"""A folder belongs to one process at a time, and to nobody when that process is gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soaks.writers import kills, scene

from zegment import locks
from zegment.claims import claimed
from zegment.errors import OutputError
from zegment.leftovers import remove_leftovers, temporary_name

HOLDER = """
import os, sys, time
from pathlib import Path
from zegment.claims import claimed
with claimed(sys.argv[1], purpose="train"):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    if sys.argv[2] != "fork":
        print("claimed", flush=True)
    time.sleep(60)
"""

pytestmark = pytest.mark.skipif(locks.fcntl is None, reason="folders cannot be locked here")


def start_holder(folder: Path, how: str = "alone") -> tuple[subprocess.Popen[str], str]:
    """Start a process that claims a folder, and wait until it has."""
    command = [sys.executable, "-c", HOLDER, str(folder), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()


def test_another_process_is_refused_until_the_first_is_gone_however_it_ends(tmp_path: Path) -> None:
    holder, told = start_holder(tmp_path / "run")
    try:
        assert told == "claimed"
        with (
            pytest.raises(OutputError, match=r"cannot train into '.*run': another process is"),
            claimed(tmp_path / "run", purpose="train"),
        ):
            pass
        assert list((tmp_path / "run").iterdir()) == []  # a claim leaves no file
    finally:
        kill(holder)
    with claimed(tmp_path / "run", purpose="train"):
        pass


def test_a_process_that_outlives_the_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    """Processes that load data do so for seconds."""
    holder, orphan = start_holder(tmp_path / "run", "fork")
    try:
        kill(holder)
        os.kill(int(orphan), 0)  # it is alive
        with claimed(tmp_path / "run", purpose="train"):
            pass
    finally:
        os.kill(int(orphan), signal.SIGKILL)


def test_a_claim_ends_with_its_block_and_is_not_given_twice(tmp_path: Path) -> None:
    def claim_twice() -> None:
        with claimed(tmp_path, purpose="predict"), claimed(tmp_path, purpose="predict"):
            pass

    for _ in range(2):
        with pytest.raises(OutputError, match="cannot predict into"):
            claim_twice()
    with claimed(tmp_path, purpose="predict"):
        pass


def test_folders_are_claimed_apart(tmp_path: Path) -> None:
    with claimed(tmp_path / "a", purpose="train"), claimed(tmp_path / "b", purpose="train"):
        pass


@pytest.mark.parametrize("filled", [False, True])
def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path, filled: bool) -> None:
    folder = tmp_path / "runs" / "1"
    with claimed(folder, purpose="train"):
        assert folder.is_dir()
        if filled:
            (folder / "log").touch()
    assert folder.exists() == filled


def test_an_empty_folder_of_the_user_stays(tmp_path: Path) -> None:
    with claimed(tmp_path, purpose="train"):
        pass
    assert tmp_path.is_dir()


def test_a_link_claims_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    with (
        claimed(tmp_path / "real", purpose="train"),
        pytest.raises(OutputError, match="link"),
        claimed(tmp_path / "link", purpose="train"),
    ):
        pass


def test_a_file_is_no_folder_to_claim(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="choose a place"),
        claimed(tmp_path / "file", purpose="train"),
    ):
        pass


def test_where_folders_cannot_be_locked_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EBADF, "as NFS does")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with claimed(tmp_path / "run", purpose="train"), claimed(tmp_path / "run", purpose="train"):
        (tmp_path / "run" / "log").touch()
    monkeypatch.setattr(locks, "fcntl", None)  # Windows
    with claimed(tmp_path / "run", purpose="train"):
        pass


def test_many_claims_leave_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with (
            claimed(tmp_path, purpose="train"),
            pytest.raises(OutputError),
            claimed(tmp_path, purpose="train"),
        ):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("seed", [0, 1])
def test_of_processes_that_claim_at_the_same_instant_one_is_inside(
    tmp_path: Path, seed: int
) -> None:
    _, wrong = scene("a claimed folder", rounds=40, seed=seed, folder=tmp_path)
    assert wrong == []


def half_written(folder: Path, *, seconds: float) -> Path:
    path = folder / temporary_name()
    path.write_bytes(b"half")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path) -> None:
    abandoned, young = half_written(tmp_path, seconds=20), half_written(tmp_path, seconds=5)
    written, foreign = half_written(tmp_path, seconds=7200), tmp_path / ".zegment-mine.partial"
    foreign.touch()
    os.utime(foreign, (0, 0))
    (tmp_path / "inside").mkdir()
    deep = half_written(tmp_path / "inside", seconds=20)
    with written.open("rb") as stream:
        assert locks.lock(stream.fileno())
        with claimed(tmp_path, purpose="train"):
            assert not abandoned.exists()
        assert young.exists()
        assert written.exists()
    assert deep.exists()  # somebody else may have claimed that folder
    remove_leftovers(tmp_path, deep=True)
    assert sorted(path.name for path in tmp_path.rglob("*.partial")) == sorted(
        [young.name, foreign.name]
    )


def test_where_locks_cannot_tell_an_hour_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, younger = half_written(tmp_path, seconds=3700), half_written(tmp_path, seconds=3500)
    monkeypatch.setattr(locks, "fcntl", None)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [younger]
    assert not old.exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_writers_killed_at_any_moment_leave_what_was_there_whole(tmp_path: Path, seed: int) -> None:
    found = kills(count=40, seed=seed, folder=tmp_path)
    assert found["failures"] == []
    assert found["left half-written"] > 0
