"""Run folders that somebody else has changed, by accident or to do harm."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from test_training_stopped import Signalling, configured
from typer.testing import CliRunner

from zegment.cli import app
from zegment.config import Config
from zegment.errors import (
    CheckpointError,
    ModelNotFoundError,
    NotFiniteError,
    OutputError,
    ZegmentError,
)
from zegment.training import Trainer
from zegment.training.log import RunLog
from zegment.training.resuming import resumed_config
from zegment.training.state import STATE
from zegment.training.stopping import TrainingStopped

LOG = "log.jsonl"


@pytest.fixture(scope="module")
def original(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(TrainingStopped):
        Trainer(configured(tiny_clip_folder, "zegclip"), run).run(Signalling(3))
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that stopped after its third step."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(run: Path, *, prepared: bool = False) -> str:
    """Return what the command that goes on with a run says before it has changed anything.

    Unless it may be ``prepared``, also before it has loaded anything.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not prepared:
            patch.setattr("zegment.training.trainer.prepare", lambda *_: pytest.fail("went on"))
        found = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert isinstance(found.exception, ZegmentError), found.exception
    message = str(found.exception)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("name", ["config.toml", LOG, STATE, "last", "best"])
def test_links_in_a_run_folder_are_not_written_through(
    run: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run / name).rename(elsewhere)
    before = elsewhere.read_bytes() if elsewhere.is_file() else content(elsewhere)
    (run / name).symlink_to(elsewhere)
    message = refusal(run)
    assert f"{run / name} is a link" in message
    assert "itself there" in message
    with pytest.raises(CheckpointError, match="is a link"):
        resumed_config(run)
    assert before == (elsewhere.read_bytes() if elsewhere.is_file() else content(elsewhere))


def test_a_link_put_there_after_the_check_is_not_written_through(run: Path, tmp_path: Path) -> None:
    trainer = Trainer(resumed_config(run), run, resume=True)
    (tmp_path / "log").write_bytes((run / LOG).read_bytes())
    before = (tmp_path / "log").read_bytes()
    (run / LOG).unlink()
    (run / LOG).symlink_to(tmp_path / "log")
    with pytest.raises(CheckpointError, match=f"{LOG} is a link"):
        trainer.run()
    assert (tmp_path / "log").read_bytes() == before


def test_a_run_folder_may_be_a_link_itself(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run, target_is_directory=True)
    found = CliRunner().invoke(app, ["train", "--resume", str(tmp_path / "link")])
    assert found.exit_code == 0, found.output
    assert not (run / STATE).exists()


def circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["config.toml", LOG, STATE])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, circle])
def test_what_is_no_file_is_refused_and_not_waited_for(
    run: Path, name: str, make: Callable[[Path], None]
) -> None:
    (run / name).unlink()
    make(run / name)
    assert str(run / name) in refusal(run)


def test_a_folder_that_leads_to_itself_has_no_run(tmp_path: Path) -> None:
    circle(tmp_path / "run")
    with pytest.raises(ModelNotFoundError, match=rf"no run in '{tmp_path}/run': .*give the --out"):
        resumed_config(tmp_path / "run")


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 100_000, "x = " + "{a=" * 100_000, "x = " + "[" * 90 + "]" * 90]
)
def test_a_configuration_that_is_nested_deeply_is_refused(run: Path, text: str) -> None:
    (run / "config.toml").write_text(text)
    assert f"cannot read {run / 'config.toml'}" in refusal(run)


@pytest.mark.parametrize(
    "line", [b"[" * 200_000, b"\xff\xfe\x00", b'"text"', b'{"loss": 1}', b'{"step": "one"}']
)
def test_a_damaged_line_of_a_log_is_refused_and_nothing_lost(run: Path, line: bytes) -> None:
    first, *rest = (run / LOG).read_bytes().splitlines(keepends=True)
    (run / LOG).write_bytes(b"".join([first, line + b"\n", *rest]))
    before = content(run)
    message = refusal(run)
    assert f"line 2 of {run / LOG}" in message
    assert "remove the line" in message
    assert content(run) == before


def test_half_a_line_at_the_end_of_a_log_is_what_a_kill_leaves(run: Path) -> None:
    with (run / LOG).open("ab") as file:
        file.write(b'{"step": 4, "sta')
    found = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert found.exit_code == 0, found.output


def test_a_run_whose_state_is_missing_does_not_begin_anew(run: Path) -> None:
    (run / STATE).unlink()
    before = content(run)
    message = refusal(run, prepared=True)
    assert f"{run / STATE} is missing" in message
    assert "saved after step 2; copy it back, or train anew into another folder" in message
    assert content(run) == before


def test_a_run_that_was_killed_before_its_first_save_begins_again(run: Path) -> None:
    (run / STATE).unlink()
    lines = (run / LOG).read_bytes().splitlines(keepends=True)
    (run / LOG).write_bytes(b"".join(lines[:2]))  # killed while it saved after the second step
    found = CliRunner().invoke(app, ["train", "--resume", str(run), "--set", "save_every=1"])
    assert found.exit_code == 0, found.output
    assert "no step of this run was saved; it begins again with step 1" in found.output
    steps = [entry["step"] for entry in RunLog(run).read() if "stage" in entry]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_steps_that_a_log_has_lost_are_told(run: Path) -> None:
    first, *_ = (run / LOG).read_bytes().splitlines(keepends=True)
    (run / LOG).write_bytes(first)
    with pytest.warns(RuntimeWarning, match=rf"{LOG} lacks 2 of the 3 steps"):
        Trainer(resumed_config(run), run, resume=True)
    command = [sys.executable, "-m", "zegment", "train", "--resume", str(run)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = [line for line in found.stderr.splitlines() if "lacks" in line]
    assert line.startswith(f"warning: {run / LOG} lacks 2 of the 3 steps")
    assert "warnings.warn" not in found.stderr


@pytest.mark.parametrize("option", ["--out", "--resume"])
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("/dev/null")])
def test_what_is_no_folder_is_not_taken_for_a_run(
    tmp_path: Path, option: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "run")
    found = CliRunner().invoke(app, ["train", option, str(tmp_path / "run")])
    assert isinstance(found.exception, ZegmentError), found.exception
    assert f"'{tmp_path}/run': it is not a folder; " in str(found.exception)


def test_a_model_whose_logits_are_not_finite_is_named(run: Path) -> None:
    weights, header = run / "last" / "model.safetensors", run / "last" / "config.json"
    save_file({k: v * 1e30 for k, v in load_file(weights).items()}, weights)  # finite themselves
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    table = json.loads(header.read_text())
    table["sha256"][weights.name] = digest
    header.write_text(json.dumps(table))
    found = CliRunner().invoke(app, ["evaluate", str(run)])
    assert isinstance(found.exception, NotFiniteError), found.exception
    assert f"the logits of '{run}' are not all finite" in str(found.exception)


@pytest.mark.parametrize("name", ["loop", "loop/run", "n" * 300])
def test_a_run_folder_that_cannot_be_is_refused_at_once(tmp_path: Path, name: str) -> None:
    circle(tmp_path / "loop")
    with pytest.raises(OutputError, match=r"cannot write .*; choose a place"):
        Trainer(Config(), tmp_path / name)
