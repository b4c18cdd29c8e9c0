"""A run from configuration to checkpoint, on scenes so few and models so small that it is quick."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zegment.checkpoint import load_trained
from zegment.checkpoint_files import checkpoint_folder
from zegment.clip import TextTower
from zegment.config import Config, OptimConfig
from zegment.config.loading import config_to_toml, load_config
from zegment.data import build_dataset
from zegment.data.shapes import UNSEEN
from zegment.data.stream import TrainingStream
from zegment.data.transforms import TrainTransform
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError, OutputError
from zegment.evaluation import evaluate
from zegment.segmenter import Segmenter, load
from zegment.training import Trainer
from zegment.training.optimization import learning_rate

QUICK = [
    "data.image_size=32",
    "data.train_length=24",
    "data.val_length=4",
    "data.test_length=6",
    "optim.steps=3",
    "optim.batch_size=4",
    "optim.warmup_steps=1",
    "model.zegclip.prompt_tokens=2",
    "model.zegclip.decoder_heads=2",
    "windows.size=32",
    "windows.stride=16",
]


def quick(clip: Path, *settings: str, preset: str = "shapes-zegclip") -> Config:
    return load_config(preset=preset, overrides=[f"model.clip={clip}", *QUICK, *settings])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return dict(load_trained(str(run)).model.state_dict())


@pytest.fixture(scope="module")
def run(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    Trainer(quick(tiny_clip_folder), out).run()
    return out


def test_learning_rate_warms_up_and_decays_as_released() -> None:
    optim = OptimConfig(
        steps=20000, lr=2e-4, warmup_steps=1500, warmup_ratio=1e-6, power=0.9, min_lr=1e-6
    )
    assert learning_rate(0, optim) == pytest.approx(2e-10)
    assert learning_rate(1500, optim) == pytest.approx(199e-6 * (18500 / 20000) ** 0.9 + 1e-6)
    assert learning_rate(19999, optim) == pytest.approx(1e-6, rel=0.05)
    rates = [learning_rate(step, optim) for step in range(20000)]
    assert rates.index(max(rates)) in range(1400, 1501)


def test_run_folder_holds_everything(run: Path) -> None:
    for name in ("last", "best"):
        files = {path.name for path in (run / name).iterdir()}
        assert files == {
            "model.safetensors",
            "config.json",
            "vocabulary.json",
            "preprocessing.json",
            "metrics.json",
        }
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss_mask" in e] == [1, 2, 3]
    vocabulary = json.loads((run / "last" / "vocabulary.json").read_text())
    assert set(vocabulary["class_names"]) - set(vocabulary["seen"]) == set(UNSEEN)


def test_training_changes_only_what_is_trained(run: Path, tiny_clip_folder: Path) -> None:
    trained = load_trained(str(run))
    clip = load_trained(str(tiny_clip_folder))
    assert trained.fingerprint == clip.fingerprint
    tower = clip.model.state_dict()
    for key, value in trained.model.state_dict().items():
        if key.startswith("tower."):
            assert torch.equal(value, tower[key])


def test_saved_model_predicts_the_same(tiny_clip_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    trainer.run()
    dataset = build_dataset(trainer.config.data, "test")
    ours = evaluate(Segmenter.of(trainer.trained), dataset).scores
    assert evaluate(load(str(tmp_path / "run")), dataset).scores == ours


def test_same_seed_same_weights_and_another_seed_others(
    run: Path, tiny_clip_folder: Path, tmp_path: Path
) -> None:
    Trainer(quick(tiny_clip_folder), tmp_path / "again").run()
    Trainer(quick(tiny_clip_folder, "seed=1"), tmp_path / "other").run()
    first, again = weights(run), weights(tmp_path / "again")
    assert all(torch.equal(first[k], again[k]) for k in first)
    other = weights(tmp_path / "other")
    assert not torch.equal(first["descriptor.proj.weight"], other["descriptor.proj.weight"])


@pytest.mark.parametrize("setting", ["inductive", "transductive", "supervised"])
def test_accumulation_keeps_the_effective_batch(
    tiny_clip_folder: Path, tmp_path: Path, setting: str
) -> None:
    dropless = (
        "model.zegclip.prompt_dropout=0.0", "model.zegclip.decoder_dropout=0.0",
        f"setting={setting}", "data.unannotated_share=0.3", "optim.warmup_steps=0",
    )  # fmt: skip
    Trainer(quick(tiny_clip_folder, *dropless), tmp_path / "whole").run()
    parts = quick(tiny_clip_folder, *dropless, "optim.micro_batch_size=1")
    Trainer(parts, tmp_path / "parts").run()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for key in ("descriptor.proj.weight", "prompts.proj.weight", "prompt_norm.weight"):
        torch.testing.assert_close(whole[key], parts[key], rtol=1e-4, atol=1e-6)


def test_unseen_names_are_not_even_encoded_while_training(
    tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences: list[str] = []
    encode = TextTower.ensembles

    def spy(self: TextTower, given: list[tuple[str, ...]]) -> torch.Tensor:
        sentences.extend(sentence for group in given for sentence in group)
        return encode(self, given)

    monkeypatch.setattr(TextTower, "ensembles", spy)
    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    assert len(sentences) == 15
    assert not any(name in sentence.split() for sentence in sentences for name in UNSEEN)
    assert trainer.current.objective.text_embeddings.shape == (15, 16)


def test_one_stage_baseline_trains_the_whole_tower(tiny_clip_folder: Path, tmp_path: Path) -> None:
    config = quick(tiny_clip_folder, preset="shapes-one-stage")
    Trainer(config, tmp_path / "run").run()
    tower = load_trained(str(tiny_clip_folder)).model.state_dict()
    trained = weights(tmp_path / "run")
    assert not torch.equal(trained["tower.conv1.weight"], tower["tower.conv1.weight"])


def test_training_free_model_is_not_trained(tiny_clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.kind.*nothing to train"):
        Trainer(quick(tiny_clip_folder, preset="shapes-dense-clip"), tmp_path / "run")


def test_used_run_folder_is_refused(tiny_clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="in use; give another --out"):
        Trainer(quick(tiny_clip_folder), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_crop_must_fit_the_patch(tiny_clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"augment\.crop_size.*multiples of 8"):
        Trainer(quick(tiny_clip_folder, "augment.crop_size=[30, 32]"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- The stream of training draws -----------------------------------------------------------------


def stream(seed: int = 0, length: int = 100) -> TrainingStream:
    config = load_config(overrides=QUICK)
    transform = TrainTransform(config.augment, mean=(0, 0, 0), std=(1, 1, 1))
    return TrainingStream(build_dataset(config.data, "train"), transform, seed=seed, length=length)


def test_every_epoch_takes_each_image_once_in_another_order() -> None:
    draws = stream()
    first, second = ([draws.item(24 * e + i) for i in range(24)] for e in range(2))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second


def test_draws_do_not_depend_on_order_or_company() -> None:
    draws = stream()
    together = draws.__getitems__([30, 3, 55])
    for draw, (image, label) in zip([55, 3, 30], reversed(together), strict=True):
        alone_image, alone_label = stream()[draw]
        assert torch.equal(image, alone_image)
        assert torch.equal(label, alone_label)


def test_seeds_give_different_draws() -> None:
    assert [stream(0).item(i) for i in range(24)] != [stream(1).item(i) for i in range(24)]


# --- Checkpoints ----------------------------------------------------------------------------------


def damage(run: Path, tmp_path: Path, name: str, content: str | None) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in (run / "last").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    return copy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", None, r"cannot read .*model\.safetensors.*incomplete"),
        ("model.safetensors", "junk", r"cannot read .*model\.safetensors"),
        ("config.json", "{", r"cannot read .*config\.json"),
        ("config.json", '{"format": 99, "zegment": "9.9"}', "format 99.*zegment 9.9"),
        ("config.json", '{"format": 1}', r"config\.json is damaged"),
        ("vocabulary.json", None, r"cannot read .*vocabulary\.json"),
        ("vocabulary.json", "[]", r"vocabulary\.json is damaged"),
    ],
)
def test_damaged_checkpoint_is_named(
    run: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_trained(str(damage(run, tmp_path, name, content)))


def test_weights_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    config = (run / "last" / "config.json").read_text()
    one_stage = config.replace('"kind": "zegclip"', '"kind": "one_stage"')
    assert one_stage != config
    with pytest.raises(CheckpointError, match="checkpoint of another model"):
        load_trained(str(damage(run, tmp_path, "config.json", one_stage)))


def test_weights_of_another_size_are_refused(run: Path, tmp_path: Path) -> None:
    config = (run / "last" / "config.json").read_text()
    larger = config.replace('"prompt_tokens": 2', '"prompt_tokens": 5')
    with pytest.raises(CheckpointError, match=r"prompts\.embeddings.*shape"):
        load_trained(str(damage(run, tmp_path, "config.json", larger)))


def test_another_clip_of_the_same_name_is_refused(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "last" / "config.json").read_text())
    config["clip_fingerprint"] = "0" * 16
    with pytest.raises(CheckpointError, match="trained on another"):
        load_trained(str(damage(run, tmp_path, "config.json", json.dumps(config))))


def test_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model in folder"):
        checkpoint_folder(str(tmp_path))


def test_two_processes_train_as_one(tiny_clip_folder: Path, tmp_path: Path) -> None:
    """Both stages: the same batches, masks counted together, gradients of the joint batch."""
    own = (
        "model.zegclip.prompt_dropout=0.0", "model.zegclip.decoder_dropout=0.0",
        "setting=transductive", "data.unannotated_share=0.3", "optim.warmup_steps=0",
        "optim.steps=4",
    )  # fmt: skip
    config = quick(tiny_clip_folder, *own)
    Trainer(config, tmp_path / "one").run()
    (tmp_path / "run.toml").write_text(config_to_toml(config))
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
            "--master_port=29743", "-m", "zegment", "train",
            "--config", str(tmp_path / "run.toml"), "--out", str(tmp_path / "two"),
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote") == 1, "one process prints"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key in ("descriptor.proj.weight", "prompts.proj.weight", "prompt_norm.weight"):
        torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-5)
    lines = [json.loads(x) for x in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 4], "one process logs"
    assert lines[-1] == {"step": 4, "finished": True}
