"""Runs that are asked to stop, meet bad numbers, or are gone on with by somebody else."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zegment.checkpoint import load_trained
from zegment.cli import app
from zegment.config import Config, ModelConfig, OptimConfig, SelfTrainingConfig
from zegment.config.loading import load_config, located
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    NotFiniteError,
    OutputError,
)
from zegment.training import Trainer
from zegment.training.resuming import recipe_digest, resumed_config
from zegment.training.stage_run import StageRun
from zegment.training.state import STATE, read_state
from zegment.training.stopping import TrainingStopped

SMALL = [
    "data.image_size=32",
    "data.train_length=24",
    "data.val_length=4",
    "optim.steps=6",
    "optim.batch_size=4",
    "optim.warmup_steps=1",
    "validate_every=2",
]
ZEGCLIP = ["model.zegclip.prompt_tokens=2", "model.zegclip.decoder_heads=2", "windows.size=32",
           "windows.stride=16"]  # fmt: skip
STUDENT = [
    "teaching.pseudo_classes=synthesizer",
    "teaching.synthesizer_heads=2",
    "teaching.bank_size=6",
]
KINDS = {
    "zegclip": ("shapes-zegclip", ZEGCLIP),
    "self-training": ("shapes-zegclip-transductive", ZEGCLIP),
    "student": ("shapes-clip-zss", STUDENT),
}


def configured(clip: Path, kind: str, *settings: str) -> Config:
    preset, own = KINDS[kind]
    return load_config(preset=preset, overrides=[f"model.clip={clip}", *SMALL, *own, *settings])


def result(run: Path) -> dict[str, object]:
    """Return all that a run leaves, but for the seconds that it took."""
    files: dict[str, object] = {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "log.jsonl"
    }
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return files | {"log": [{k: v for k, v in line.items() if k != "seconds"} for line in lines]}


@pytest.fixture(scope="module")
def undisturbed(
    tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return the run folder of a kind of run that nothing happened to."""
    folder, known = tmp_path_factory.mktemp("undisturbed"), {}

    def run(kind: str) -> Path:
        if kind not in known:
            known[kind] = folder / kind
            Trainer(configured(tiny_clip_folder, kind), known[kind]).run()
        return known[kind]

    return run


class Signalling:
    """An observer that sends this process a signal after a step."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number, self.seen = step, number, []

    def step(self, step: int, losses: dict[str, float]) -> None:
        self.seen.append(step)
        if step == self.at:
            os.kill(os.getpid(), self.number)

    def validated(self, step: int, evaluation: object) -> None:
        pass


def spoil(monkeypatch: pytest.MonkeyPatch, *steps: int, gradient: bool = False) -> None:
    """Make the loss, or the gradient alone, of some steps no number, and what steps change."""
    forward, calls = StageRun._pass, [0]

    def spoilt(self: StageRun, *batch: torch.Tensor) -> dict[str, float]:
        losses, step = forward(self, *batch), self.stage.first + calls[0] + 1
        calls[0] += 1
        if step in steps:
            lasting = self.joined.state_dict().keys()
            for name, buffer in self.joined.named_buffers():
                if name in lasting and buffer.is_floating_point():
                    buffer.mul_(torch.nan)
            if gradient:
                next(p for p in self.joined.parameters() if p.grad is not None).grad.mul_(torch.nan)
            else:
                losses[next(iter(losses))] = float("nan")
        return losses

    monkeypatch.setattr(StageRun, "_pass", spoilt)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    kind: str,
    step: int,
    undisturbed: Callable[[str], Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped) as stopped:
        Trainer(configured(tiny_clip_folder, kind), run).run(Signalling(step))
    assert (stopped.value.step, stopped.value.steps, stopped.value.status) == (step, 6, 143)
    assert signal.getsignal(signal.SIGTERM) == before
    assert read_state(run / STATE).progress.step == step

    observer = Signalling(0)
    Trainer(resumed_config(run), run, resume=True).run(observer)
    assert observer.seen == list(range(step + 1, 7))
    assert result(run) == result(undisturbed(kind))


def test_a_signal_at_the_last_step_lets_the_run_end(
    undisturbed: Callable[[str], Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    Trainer(configured(tiny_clip_folder, "zegclip"), tmp_path / "run").run(Signalling(6))
    assert result(tmp_path / "run") == result(undisturbed("zegclip"))


@pytest.mark.parametrize("kind", ["zegclip", "student"])
@pytest.mark.parametrize(("step", "gradient"), [(1, False), (3, True)])
def test_numbers_gone_bad_end_the_run_before_they_do_harm(
    kind: str,
    step: int,
    gradient: bool,
    undisturbed: Callable[[str], Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, step, gradient=gradient)
        trainer = Trainer(configured(tiny_clip_folder, kind), run)
        with pytest.raises(NotFiniteError) as error:
            trainer.run()
    message = str(error.value)
    assert message.startswith(f"step {step}: ")
    assert ("the norm of the gradient is nan" if gradient else "is nan; images: ") in message
    stream = trainer.current.stream
    for draw in range(4 * (step - 1), 4 * step):
        assert stream.dataset.name(stream.item(draw)) in message
    assert f"--resume {run} --set optim.skip_nonfinite" in message
    # What made them bad is gone now.
    Trainer(resumed_config(run), run, resume=True).run()
    assert result(run) == result(undisturbed(kind))


def test_steps_gone_bad_are_left_out_if_that_is_asked_for(
    tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 2, 3, 5)
    config = configured(tiny_clip_folder, "student", "optim.skip_nonfinite=2")
    trainer, observer = Trainer(config, tmp_path / "run"), Signalling(0)
    trainer.run(observer)
    assert observer.seen == [1, 4, 6]
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    left_out = [line for line in lines if "skipped" in line]
    assert [line["step"] for line in left_out] == [2, 3, 5]
    assert all(len(line["images"]) == 4 and "is nan" in line["skipped"] for line in left_out)
    state = trainer.current.joined.state_dict()
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())


def test_no_more_steps_in_a_row_are_left_out_than_asked_for(
    tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, 1, 3, 4, 5)
    config = configured(tiny_clip_folder, "zegclip", "optim.skip_nonfinite=2")
    with pytest.raises(NotFiniteError, match=r"^step 5: .*leaving out more is of no help"):
        Trainer(config, tmp_path / "run").run()


def test_a_finished_run_is_not_gone_on_with(undisturbed: Callable[[str], Path]) -> None:
    run = undisturbed("zegclip")
    before = result(run)
    with pytest.raises(OutputError, match="is finished; train anew"):
        Trainer(resumed_config(run), run, resume=True)
    assert result(run) == before
    assert not (run / STATE).exists()


@pytest.fixture
def stopped(tiny_clip_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that stopped after its third step."""
    with pytest.raises(TrainingStopped):
        Trainer(configured(tiny_clip_folder, "zegclip"), tmp_path / "run").run(Signalling(3))
    return tmp_path / "run"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_damaged_state_is_refused(stopped: Path, share: float) -> None:
    content = (stopped / STATE).read_bytes()
    (stopped / STATE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"cannot read .*{STATE}"):
        Trainer(resumed_config(stopped), stopped, resume=True)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("train_length = 24", "train_length = 20", "images 24, and now it is 20"),
        ('setting = "inductive"', 'setting = "supervised"', "config.toml of digest"),
        ("steps = 6", "steps = 2", "config.toml of digest"),
        ("prompt_tokens = 2", "prompt_tokens = 3", "config.toml of digest"),
        ("lr = 0.001", "lr = 0.1", "config.toml of digest"),
    ],
)
def test_a_run_goes_on_only_with_what_it_began_with(
    stopped: Path, old: str, new: str, match: str
) -> None:
    path = stopped / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises((CheckpointError, ConfigError), match=match):
        Trainer(resumed_config(stopped), stopped, resume=True)


def test_what_somebody_wrote_into_a_configuration_stays(stopped: Path) -> None:
    path = stopped / "config.toml"
    path.write_text("# mine\n" + path.read_text())
    Trainer(resumed_config(stopped), stopped, resume=True).run()
    assert path.read_text().startswith("# mine\n")


def test_where_things_lie_and_circumstances_are_no_part_of_a_recipe() -> None:
    usual = recipe_digest(Config())
    moved = Config(model=ModelConfig(clip="/elsewhere/clip"), workers=3, save_every=7)
    assert recipe_digest(moved) == usual
    assert recipe_digest(Config(seed=1)) != usual
    assert recipe_digest(Config(optim=OptimConfig(lr=0.1))) != usual


def test_a_run_without_a_checkpoint_is_told_from_no_model(stopped: Path) -> None:
    for name in ("last", "best"):
        shutil.rmtree(stopped / name)
    with pytest.raises(ModelNotFoundError, match=rf"zegment train --resume {stopped}$"):
        load_trained(str(stopped))


def test_a_finished_run_that_cannot_be_written_to_is_finished(
    undisturbed: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    run = Path(shutil.copytree(undisturbed("zegclip"), tmp_path / "run"))
    (run / STATE).touch()  # as if it had been killed before its last act
    monkeypatch.setattr(Path, "unlink", unlink)
    found = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert found.exit_code == 0, found.output
    assert "is finished" in " ".join(found.output.split())


def test_a_run_in_a_folder_that_is_read_only_says_where_it_can_go_on(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("zegment.files.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("zegment.training.trainer.prepare", pytest.fail)  # it takes a while
    found = CliRunner().invoke(app, ["train", "--resume", str(stopped)])
    assert isinstance(found.exception, OutputError)
    assert str(found.exception) == (
        "--resume goes on in the folder of the run, and it cannot be written to (Read-only file "
        f"system); make '{stopped}' writable, or copy it and go on with the copy"
    )


def test_a_run_whose_name_is_not_utf8_is_told_readably(
    undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xfcller"))
    shutil.copytree(undisturbed("zegclip"), run)
    found = CliRunner().invoke(app, ["train", "--resume", str(run)])
    assert found.exit_code == 0, found.output
    assert r"m\xfcllerisfinished" in "".join(found.output.split())


def test_only_circumstances_change_when_a_run_goes_on(stopped: Path) -> None:
    changed = resumed_config(stopped, ["workers=2", "optim.skip_nonfinite=4"])
    assert (changed.workers, changed.optim.skip_nonfinite) == (2, 4)
    assert changed.optim.lr == resumed_config(stopped).optim.lr
    with pytest.raises(ConfigError, match=r"--set optim\.lr: .* train anew"):
        resumed_config(stopped, ["optim.lr=1"])
    with pytest.raises(ModelNotFoundError, match="no run in"):
        resumed_config(stopped / "last")


def test_the_command_line_goes_on_with_a_run(
    stopped: Path, undisturbed: Callable[[str], Path]
) -> None:
    both = CliRunner().invoke(app, ["train", "--resume", str(stopped), "--out", "elsewhere"])
    assert "leave --out" in str(both.exception)
    done = CliRunner().invoke(app, ["train", "--resume", str(stopped)])
    assert done.exit_code == 0, done.output
    assert "going on after step 3 of 6" in done.output
    assert result(stopped) == result(undisturbed("zegclip"))


def test_a_run_goes_on_and_is_evaluated_from_any_folder(
    tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name, values in (("a", [0, 1]), ("b", [1, 0])):
        mask = Image.fromarray(np.repeat(np.array([values], np.uint8), 16, axis=0).repeat(16, 1))
        mask.save(tmp_path / "home" / "data" / f"{name}.png")
        mask.convert("RGB").save(tmp_path / "home" / "data" / f"{name}.jpg")
    split = '{images=".", masks="."}'
    data = ["data.source=folder", "data.root=data", 'data.classes=["cat", "sofa"]',
            "data.image_suffix=.jpg", f"data.train={split}", f"data.test={split}",
            "optim.steps=4", "optim.batch_size=2", "optim.warmup_steps=0",
            "augment.crop_size=[32, 32]"]  # fmt: skip
    clip = f"model.clip={tiny_clip_folder}"
    config = load_config(preset="shapes-zegclip", overrides=[clip, *data, *ZEGCLIP])
    assert config.data.root == "data"
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(TrainingStopped):
        Trainer(config, Path("run")).run(Signalling(2))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resumed_config(Path("../home/run")).data.root == str(tmp_path.resolve() / "home/data")
    gone_on = CliRunner().invoke(app, ["train", "--resume", "../home/run"])
    assert gone_on.exit_code == 0, gone_on.output
    scored = CliRunner().invoke(app, ["evaluate", "../home/run", "--json", "scores.json"])
    assert scored.exit_code == 0, scored.output
    assert json.loads(Path("scores.json").read_text())["images"] == 2
    again = load_config(file="../home/run/config.toml")
    assert again.data == load_trained("../home/run").config.data == located(again).data


def test_data_that_lie_nowhere_keep_their_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(Config()) == Config()
    split = 'data.test={images="image", masks="mask"}'
    hub = load_config(overrides=["data.source=huggingface", "data.root=user/name", split,
                                 'data.classes=["cat"]'])  # fmt: skip
    assert located(hub) == hub
    (tmp_path / "user" / "name").mkdir(parents=True)
    assert located(hub).data.root == str(tmp_path.resolve() / "user" / "name")


def test_what_a_run_starts_from_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a/last", "shapes-zegclip"):
        (tmp_path / name).mkdir(parents=True)
    own = SelfTrainingConfig(
        start="runs/a/last", guide="checkpoint", guide_checkpoint="runs/a/last"
    )
    config = Config(setting="transductive", self_training=own)
    whole = str(tmp_path.resolve() / "runs" / "a" / "last")
    found = located(config).self_training
    assert (found.start, found.guide_checkpoint) == (whole, whole)
    for name in ("shapes-zegclip", "user/model", "/no/such/place"):
        kept = located(replace(config, self_training=replace(own, start=name))).self_training
        assert kept.start == name


def test_two_trainers_do_not_write_one_run(tiny_clip_folder: Path, tmp_path: Path) -> None:
    config, run = configured(tiny_clip_folder, "zegclip"), tmp_path / "run"
    first, second = Trainer(config, run), Trainer(config, run)
    caught = []

    class Second(Signalling):
        def step(self, step: int, losses: dict[str, float]) -> None:
            if step == 2:
                with pytest.raises(OutputError, match="another process"):
                    second.run()
                caught.append(step)

    first.run(Second(0))
    assert caught == [2]
    with pytest.raises(OutputError, match="in use"):
        second.run()
