"""Variants of ZegCLIP as a user trains them: one override, a checkpoint, the same predictions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zegment.checkpoint import load_trained
from zegment.clip_loading import load_clip
from zegment.config.loading import load_config
from zegment.data import build_dataset
from zegment.evaluation import evaluate
from zegment.segmenter import Segmenter, load
from zegment.training import Trainer

QUICK = [
    "data.image_size=32",
    "data.train_length=8",
    "data.val_length=2",
    "data.test_length=3",
    "optim.steps=2",
    "optim.batch_size=2",
    "optim.warmup_steps=0",
    "model.zegclip.prompt_tokens=2",
    "model.zegclip.decoder_heads=2",
    "windows.size=32",
    "windows.stride=16",
]
NEL, CE = {"loss_mask", "loss_dice"}, {"loss_ce"}
EARLIER = {f"{name}_{layer}" for name in NEL for layer in (0, 1)}


@pytest.fixture
def begin(tiny_clip_folder: Path, tmp_path: Path) -> Callable[..., Trainer]:
    """Return a function that makes a run ready, of a preset and its changes."""

    def make(*overrides: str, preset: str = "shapes-zegclip", name: str = "run") -> Trainer:
        changes = [f"model.clip={tiny_clip_folder}", *QUICK, *overrides]
        return Trainer(load_config(preset=preset, overrides=changes), tmp_path / name)

    return make


def logged(run: Path) -> set[str]:
    """Return the names of the losses of a run."""
    lines = (run / "log.jsonl").read_text().splitlines()
    return {key for key in json.loads(lines[0]) if key.startswith("loss")}


@pytest.mark.parametrize(
    ("preset", "overrides", "losses"),
    [
        ("shapes-zegclip", ["model.zegclip.prompt_layers=0"], NEL),
        ("shapes-zegclip", ["model.zegclip.prompt_layers=1"], NEL),
        ("shapes-zegclip", ["model.zegclip.tower=fine_tuned"], NEL),
        ("shapes-zegclip", ["model.zegclip.relation=text"], NEL),
        ("shapes-zegclip", ["model.zegclip.relation=product"], NEL),
        ("shapes-zegclip", ["model.zegclip.auxiliary_losses=true"], {*NEL, *EARLIER}),
        ("shapes-zegclip", ["loss.kind=cross_entropy"], CE),
        ("shapes-zegclip-transductive", ["loss.kind=cross_entropy"], CE),
        ("shapes-one-stage", ["loss.kind=non_mutually_exclusive"], NEL),
        ("shapes-clip-zss", ["loss.kind=cross_entropy"], {*CE, "loss_global"}),
    ],
    ids=lambda value: value[0].partition(".")[2] if isinstance(value, list) else None,
)
def test_a_variant_is_one_override_and_its_checkpoint_is_the_model(
    begin: Callable[..., Trainer], preset: str, overrides: list[str], losses: set[str]
) -> None:
    trainer = begin(*overrides, preset=preset)
    before = {k: v.clone() for k, v in trainer.trained.state().items()}
    trainer.run()
    assert logged(trainer.out) == losses
    after = load_trained(str(trainer.out)).state()
    assert after.keys() == before.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    data = build_dataset(trainer.config.data, "test")
    ours = evaluate(Segmenter.of(trainer.trained), data).scores
    assert evaluate(load(str(trainer.out)), data).scores == ours


def test_a_fine_tuned_tower_learns_at_the_rate_of_what_came_pretrained(
    begin: Callable[..., Trainer], tiny_clip_folder: Path
) -> None:
    trainer = begin(
        "model.zegclip.tower=fine_tuned", "model.zegclip.prompt_layers=0", "optim.head_lr_scale=10"
    )
    scales = {
        id(parameter): group["scale"]
        for group in trainer.current.optimizer.param_groups
        for parameter in group["params"]
    }
    model = trainer.trained.model
    assert {scales[id(parameter)] for parameter in model.tower.parameters()} == {1.0}
    assert {scales[id(parameter)] for parameter in model.decoder.parameters()} == {10.0}
    trainer.run()
    saved = load_file(trainer.out / "last" / "model.safetensors")
    clip = load_clip(str(tiny_clip_folder)).image_tower.state_dict()
    assert all(not torch.equal(saved[f"tower.{key}"], clip[key]) for key in clip)
