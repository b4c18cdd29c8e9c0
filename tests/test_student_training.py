"""CLIP-ZSS from configuration to prediction: what training needs, and a student does without."""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zegment import clip_loading
from zegment.checkpoint import load_trained
from zegment.clip import ImageTower
from zegment.config import Config
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, build_dataset
from zegment.data.shapes import UNSEEN, ShapesDataset
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError, OutputError
from zegment.evaluation import evaluate
from zegment.segmenter import Segmenter, load
from zegment.text_tower import TextTower
from zegment.training import Trainer

QUICK = [
    "data.image_size=32",
    "data.train_length=24",
    "data.val_length=4",
    "data.test_length=6",
    "optim.steps=3",
    "optim.batch_size=4",
    "optim.warmup_steps=1",
    "teaching.pseudo_classes=synthesizer",
    "teaching.synthesizer_heads=2",
    "teaching.bank_size=6",
]


def quick(clip: Path | str, *settings: str) -> Config:
    return load_config(
        preset="shapes-clip-zss", overrides=[f"model.clip={clip}", *QUICK, *settings]
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


@pytest.fixture(scope="module")
def run(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "student"
    Trainer(quick(tiny_clip_folder), out).run()
    return out


def test_every_part_of_the_loss_is_logged(run: Path) -> None:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if "loss_ce" in entry]
    assert len(steps) == 3
    for entry in steps:
        assert {"loss_mask", "loss_dice", "loss_ce", "loss_global", "loss_bce"} <= entry.keys()


def test_parts_that_are_switched_off_are_not_computed(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    config = quick(tiny_clip_folder, "teaching.global_weight=0", "teaching.pseudo_classes=none")
    trainer = Trainer(config, tmp_path / "run")
    trainer.run()
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert {key for key in first if key.startswith("loss")} == {
        "loss_mask",
        "loss_dice",
        "loss_ce",
    }


def test_local_distillation_is_a_further_loss(tiny_clip_folder: Path, tmp_path: Path) -> None:
    Trainer(quick(tiny_clip_folder, "teaching.local_weight=1.0"), tmp_path / "run").run()
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert first["loss_local"] > 0


def test_only_the_student_is_saved(run: Path) -> None:
    assert all(key.startswith("network.") for key in weights(run))
    assert any("running_mean" in key for key in weights(run))


def test_the_synthesizer_learns_too(tiny_clip_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    objective = trainer.current.objective
    before = {k: p.clone() for k, p in objective.named_parameters() if p.requires_grad}
    assert before
    trainer.run()
    after = dict(trainer.current.objective.named_parameters())
    assert any(not torch.equal(before[k], after[k]) for k in before)


def test_saved_student_predicts_the_same(tiny_clip_folder: Path, tmp_path: Path) -> None:
    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    trainer.run()
    dataset = build_dataset(trainer.config.data, "test")
    ours = evaluate(Segmenter.of(trainer.trained), dataset).scores
    assert evaluate(load(str(tmp_path / "run")), dataset).scores == ours


def test_same_seed_same_weights(run: Path, tiny_clip_folder: Path, tmp_path: Path) -> None:
    Trainer(quick(tiny_clip_folder), tmp_path / "again").run()
    first, again = weights(run), weights(tmp_path / "again")
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_unseen_names_and_masks_stay_out_of_training(
    run: Path, tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the masks say of unseen classes, and however these are called, weights are equal."""
    sentences: list[str] = []
    encode = TextTower.ensembles

    def spy(self: TextTower, given: list[tuple[str, ...]]) -> torch.Tensor:
        sentences.extend(sentence for group in given for sentence in group)
        return encode(self, given)

    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    unseen = [trainer.prepared.train_data.class_names.index(name) for name in UNSEEN]
    swap = torch.arange(IGNORE_INDEX + 1)
    swap[torch.tensor(unseen)] = torch.tensor([*unseen[1:], IGNORE_INDEX])
    transform = trainer.current.loader.dataset.transform

    def confused(
        image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = transform(image, label, generator)
        return image, swap[label]

    trainer.current.loader.dataset.transform = confused
    with monkeypatch.context() as patch:
        patch.setattr(TextTower, "ensembles", spy)
        Trainer(quick(tiny_clip_folder), tmp_path / "spied")
    assert len(sentences) == 15
    assert not any(name in sentence.split() for sentence in sentences for name in UNSEEN)
    trainer.run()
    first, other = weights(run), weights(tmp_path / "run")
    assert all(torch.equal(first[key], other[key]) for key in first)


# --- Without CLIP ---------------------------------------------------------------------------------


def test_prediction_builds_no_image_tower(run: Path, tmp_path: Path) -> None:
    """In a process of its own: no image tower is made, for known or for new words."""
    program = """
import gc, sys, torch, open_clip
from open_clip.transformer import VisionTransformer
from zegment.clip import ImageTower
made = []
for kind in (VisionTransformer, ImageTower, open_clip.CLIP):
    init = kind.__init__
    def spy(self, *args, init=init, **kwargs):
        made.append(type(self).__name__)
        init(self, *args, **kwargs)
    kind.__init__ = spy
import numpy as np
import zegment
segmenter = zegment.load(sys.argv[1])
own = sum(p.numel() for p in segmenter.model.parameters())
image = np.zeros((40, 52, 3), np.uint8)
segmenter(image)
held = [m for m in gc.get_objects() if isinstance(m, torch.nn.Module)]
alive = {id(p): p.numel() for m in held for p in m.parameters()}
print(own, sum(alive.values()))
segmenter(image, ["moon", "a word that training never met"])
print(made)
open_clip.create_model("ViT-B-32", pretrained=None)
print(len(made) > 0)
"""
    result = subprocess.run(  # the control at the end shows that the spy sees image towers
        [sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True
    )
    counts, made, control = result.stdout.splitlines()
    own, alive = map(int, counts.split())
    assert own == alive
    assert made == "[]"
    assert control == "True"


def test_trained_words_need_no_clip_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModelNotFoundError(f"no CLIP is called '{name}'")

    monkeypatch.setattr(clip_loading, "_resolve", missing)
    segmenter = load(str(run))
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    assert len(segmenter(image).class_names) == 20
    with pytest.raises(ModelNotFoundError, match="no CLIP is called"):
        segmenter(image, ["zebra"])


def test_new_words_come_from_the_same_clip(run: Path, tiny_clip_folder: Path) -> None:
    remembered = load(str(run)).text_tower
    whole = clip_loading.load_clip(str(tiny_clip_folder)).text_tower
    sentences = ["a photo of a moon", "a photo of a zebra"]
    torch.testing.assert_close(remembered(sentences), whole(sentences))


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint of the run, to be changed."""
    return Path(shutil.copytree(run / "last", tmp_path / "copy"))


@pytest.mark.parametrize("width", ["the same", "another"])
def test_new_words_of_another_clip_are_refused(
    copy: Path, tiny_clip_folder: Path, make_clip: Callable[..., str], width: str
) -> None:
    other = make_clip("other", seed=5) if width == "the same" else "shapes-clip"
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace(str(tiny_clip_folder), other))
    segmenter = load(str(copy))
    first = segmenter.query().vocabulary.class_names[0]
    with pytest.raises(CheckpointError, match=f"embeds “{first}” differently"):
        segmenter.query(["zebra"])


def test_text_without_a_sentence_is_refused(copy: Path) -> None:
    text = load_file(copy / "text.safetensors")
    sentence = next(iter(text))
    del text[sentence]
    save_file(text, copy / "text.safetensors")
    with pytest.raises(CheckpointError, match=f"text.safetensors is damaged.*“{sentence}”"):
        load(str(copy))


def test_no_image_tower_is_alive_after_loading(run: Path) -> None:
    trained = load_trained(str(run))
    gc.collect()
    assert not trained.model.runs_clip
    assert not any(isinstance(module, ImageTower) for module in trained.model.modules())


def test_packaged_student_segments_unseen_classes() -> None:
    scores = evaluate(load("shapes-clip-zss"), ShapesDataset("test", length=60)).scores
    assert scores.mIoU_seen > 0.7
    assert scores.mIoU_unseen > 0.5


# --- Unusual input --------------------------------------------------------------------------------


def test_batch_of_one_trains(tiny_clip_folder: Path, tmp_path: Path) -> None:
    Trainer(quick(tiny_clip_folder, "optim.batch_size=1"), tmp_path / "run").run()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


@pytest.mark.parametrize("value", [0, 12])
def test_images_annotated_everywhere_or_nowhere_train(
    tiny_clip_folder: Path, tmp_path: Path, value: int
) -> None:
    """Class 0 is unseen and class 12 is seen."""
    trainer = Trainer(quick(tiny_clip_folder), tmp_path / "run")
    assert (trainer.prepared.train_data.class_names[value] in UNSEEN) == (value == 0)
    transform = trainer.current.loader.dataset.transform
    trainer.current.loader.dataset.transform = lambda image, label, generator: transform(
        image, torch.full_like(label, value), generator
    )
    trainer.run()
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


def test_an_architecture_that_cannot_train_on_one_image_is_refused(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    config = quick(
        tiny_clip_folder,
        "optim.batch_size=1",
        "model.student.architecture=deeplabv3plus",
        "model.student.encoder=resnet18",
        "data.image_size=64",
    )
    with pytest.raises(ConfigError, match=r"batch_size.*at least two"):
        Trainer(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_crop_that_the_architecture_cannot_take_is_refused(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    config = quick(
        tiny_clip_folder,
        "model.student.architecture=fpn",
        "model.student.encoder=tu-test_resnet",
        "data.image_size=40",
    )
    with pytest.raises(ConfigError, match=r"crop_size.*multiples of 32.*use \[64, 64\]"):
        Trainer(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.student.architecture=unetta"], r"model\.student: .*did you mean"),
        (["model.student.architecture=segnex"], r'did you mean "segnext"'),
        (["model.student.architecture=unet", "model.student.encoder=resnet5"], "did you mean"),
        (
            [
                "model.student.architecture=unet",
                "model.student.encoder=resnet18",
                "model.student.weights=imagenet22",
            ],
            "has no weights",
        ),
        (["model.student.encoder=huge"], "no size"),
        (["model.student.architecture=segnext", "model.student.encoder=xl"], "no size"),
        (
            [
                "model.student.architecture=segnext",
                "model.student.encoder=t",
                "model.student.weights=/nowhere.pth",
            ],
            "no SegNeXt weights from",
        ),
        (
            [
                "model.student.architecture=unet",
                "model.student.encoder=resnet18",
                "model.student.weights=imagenet",
            ],
            "no network",
        ),
    ],
)
def test_students_that_do_not_exist_are_refused(
    tiny_clip_folder: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        Trainer(quick(tiny_clip_folder, *settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_heads_that_do_not_divide_the_embedding_are_refused(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"teaching\.synthesizer_heads.*16 dimensions.*got 3"):
        Trainer(quick(tiny_clip_folder, "teaching.synthesizer_heads=3"), tmp_path / "run")


# --- The teacher's cache --------------------------------------------------------------------------


def test_cached_tokens_train_the_same_student(tiny_clip_folder: Path, tmp_path: Path) -> None:
    cached = quick(tiny_clip_folder, f"teaching.cache={tmp_path / 'cache'}", "augment.flip=0")
    Trainer(cached, tmp_path / "first").run()
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 12
    Trainer(cached, tmp_path / "second").run()
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 12


def test_a_cache_that_cannot_be_written_is_refused_before_any_work(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    config = quick(tiny_clip_folder, f"teaching.cache={tmp_path / 'file'}")
    with pytest.raises(OutputError, match=r"teaching\.cache: cannot write"):
        Trainer(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_random_colours_and_sizes_are_not_cached(tiny_clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teaching\.cache.*augment\.photometric"):
        quick(tiny_clip_folder, f"teaching.cache={tmp_path}", "augment.photometric=true")
