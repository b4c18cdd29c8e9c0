"""A student that a trained segmenter guesses for, as a user trains it."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import save_tiny_clip

from zegment.checkpoint import load_trained
from zegment.clip_loading import load_clip
from zegment.config.loading import load_config
from zegment.errors import ZegmentError
from zegment.models.build import build_model
from zegment.self_training import SegmenterGuide
from zegment.training import Trainer
from zegment.training.guides import build_guide
from zegment.training.resuming import resumed_config

QUICK = [
    "data.image_size=32",
    "data.train_length=8",
    "data.val_length=2",
    "optim.steps=3",
    "optim.batch_size=2",
    "optim.warmup_steps=0",
    "model.zegclip.prompt_tokens=2",
    "model.zegclip.decoder_heads=2",
]
GUIDED = [
    "setting=transductive",
    "self_training.start_share=0",
    "self_training.guide=checkpoint",
    "self_training.guided_share=1",
]


@pytest.fixture(scope="module")
def zegclip(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a trained ZegCLIP."""
    out = tmp_path_factory.mktemp("guides") / "zegclip"
    changes = [f"model.clip={tiny_clip_folder}", *QUICK]
    Trainer(load_config(preset="shapes-zegclip", overrides=changes), out).run()
    return out


def guided(clip: Path, guide: Path | str, out: Path, *changes: str) -> Trainer:
    """Return a student's run that is about to begin."""
    own = [f"model.clip={clip}", *QUICK, *GUIDED, f"self_training.guide_checkpoint={guide}"]
    return Trainer(load_config(preset="shapes-clip-zss", overrides=[*own, *changes]), out)


def test_a_student_learns_what_a_trained_segmenter_guesses(
    zegclip: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    trainer = guided(tiny_clip_folder, zegclip / "last", tmp_path / "run")
    objective = trainer.current.objective
    assert isinstance(objective.guide, SegmenterGuide)
    assert objective.guided_steps == 3
    expected = load_trained(str(zegclip)).model.state_dict()
    image, texts = torch.randn(2, 3, 32, 32), objective.text_embeddings
    assert len(texts) == 20, "unseen names are known"
    with torch.no_grad():  # both take the CLIP's own normalisation
        ours, theirs = objective.guide(image, texts), load_trained(str(zegclip)).model(image, texts)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    before = {k: v.clone() for k, v in trainer.trained.state().items()}
    trainer.run()
    after = objective.guide.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in expected.items())
    saved = load_trained(str(tmp_path / "run")).state()
    assert saved.keys() == before.keys()
    assert any(not torch.equal(saved[key], before[key]) for key in before)


def test_any_system_can_guide_any_other(
    zegclip: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    guided(tiny_clip_folder, zegclip, tmp_path / "student").run()
    trainer = guided(
        tiny_clip_folder, tmp_path / "student", tmp_path / "run",
        "model.kind=one_stage", "self_training.guided_share=0.4",
    )  # fmt: skip
    assert trainer.current.objective.guided_steps == 2
    trainer.run()


class StoppedError(Exception):
    """What happens in the middle of a run."""


class Stopper:
    """An observer that ends a run after two steps."""

    def step(self, step: int, losses: dict[str, float]) -> None:
        if step == 2:
            raise StoppedError

    def validated(self, step: int, evaluation: object) -> None:
        pass


def test_a_run_goes_on_with_the_guide_that_it_began_with_and_with_no_other(
    zegclip: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    guide, out = tmp_path / "guide", tmp_path / "run"
    shutil.copytree(zegclip, guide)
    with pytest.raises(StoppedError):
        guided(tiny_clip_folder, guide, out, "save_every=1").run(Stopper())
    config = resumed_config(out)
    assert Trainer(config, out, resume=True).progress.step == 1
    shutil.rmtree(guide)
    changes = [f"model.clip={tiny_clip_folder}", *QUICK, "seed=1"]
    Trainer(load_config(preset="shapes-zegclip", overrides=changes), guide).run()
    with pytest.raises(ZegmentError, match=r"saved with guide '\w{16}', and now it is '\w{16}'"):
        Trainer(config, out, resume=True)
    shutil.rmtree(guide)
    with pytest.raises(ZegmentError, match=r"guide_checkpoint: no checkpoint at '.*guide'"):
        Trainer(config, out, resume=True)


@pytest.fixture
def damaged(zegclip: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that gives a checkpoint without one of its files."""

    def without(name: str) -> Path:
        folder = shutil.copytree(zegclip / "last", tmp_path / "damaged")
        (folder / name).unlink()
        return folder

    return without


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", r"cannot read .*model\.safetensors.*copy all of it again"),
        ("config.json", r"cannot read .*config\.json"),
        ("vocabulary.json", r"cannot read .*vocabulary\.json"),
    ],
)
def test_a_guide_without_one_of_its_files_is_refused(
    damaged: Callable[[str], Path], tiny_clip_folder: Path, tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ZegmentError, match=rf"^self_training\.guide_checkpoint: {message}"):
        guided(tiny_clip_folder, damaged(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ("nowhere", "no checkpoint at 'nowhere'; give a folder that"),
        ("shapes-zegclip", "was trained with the text embeddings of another CLIP"),
        ("shapes-clip-zss", "was trained with the text embeddings of another CLIP"),
        ("shapes-clip", "no checkpoint at 'shapes-clip'"),
    ],
)
def test_what_cannot_guess_is_refused(
    tiny_clip_folder: Path, tmp_path: Path, guide: str, message: str
) -> None:
    with pytest.raises(ZegmentError, match=rf"self_training\.guide_checkpoint: .*{message}"):
        guided(tiny_clip_folder, guide, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guide_on_another_tower_may_have_the_same_words(
    zegclip: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    """What was imported has an image tower of its own; its words decide."""
    clip, trained = load_clip(str(tiny_clip_folder)), load_trained(str(zegclip))
    clip = dataclasses.replace(clip, fingerprint="another")
    config = guided(tiny_clip_folder, zegclip, tmp_path / "run").config
    model = build_model(config.model, clip)
    embeddings = trained.vocabulary.embed(clip.text_tower)
    assert build_guide(config, clip, model, embeddings) is not None
    other = load_clip(str(save_tiny_clip(tmp_path / "other", seed=1)))
    with pytest.raises(ZegmentError, match="text embeddings of another CLIP"):
        build_guide(config, other, model, embeddings)
