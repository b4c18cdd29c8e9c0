"""Evaluation: the numbers, and what they were obtained on, from the real classes."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from zegment.calibration import Calibration, read_calibration
from zegment.calibration_sweep import sweep_calibration
from zegment.checkpoint import load_trained
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX
from zegment.data.classes import class_set, natural_name
from zegment.data.shapes import CLASS_NAMES, ShapesDataset
from zegment.errors import ConfigError, VocabularyError
from zegment.evaluation import evaluate, evaluate_named
from zegment.metrics import DiceScores
from zegment.segmenter import Segmenter, load
from zegment.training import Trainer


class Pictures:
    """Pictures of any sizes with labels, in memory."""

    def __init__(self, names, sizes, *, unseen=(), descriptions=None, seed=0):
        rng = np.random.default_rng(seed)
        self.class_names, self.unseen = tuple(names), tuple(unseen)
        self.items = []
        for size in sizes:
            image = rng.integers(0, 256, (3, *size), dtype=np.uint8)
            label = rng.integers(0, len(self.class_names), size)
            label[rng.random(size) < 0.1] = IGNORE_INDEX
            self.items.append((torch.from_numpy(image), torch.from_numpy(label)))
        self.descriptions = descriptions

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]

    def name(self, index):
        return f"picture {index}"

    def check(self):
        pass

    def description(self, index):
        return self.descriptions[index] if self.descriptions else None


SIZES = [(96, 96), (96, 96), (64, 120), (33, 57), (96, 96), (128, 40)]


@pytest.fixture(scope="module")
def zegclip() -> Segmenter:
    return load("shapes-zegclip")


def by_hand(segmenter: Segmenter, data: Pictures) -> dict[str, object]:
    """Count every pixel of every picture, one picture at a time, in plain Python."""
    truth_of, guess_of, both_of = ([0] * len(data.class_names) for _ in range(3))
    dice = []
    for image, label in data.items:
        guess = segmenter(image, data.class_names).labels
        own = [[0, 0, 0] for _ in data.class_names]
        for t, g in zip(label.flatten().tolist(), guess.flatten().tolist(), strict=True):
            if t == IGNORE_INDEX:
                continue
            truth_of[t] += 1
            guess_of[g] += 1
            both_of[t] += t == g
            own[t][0] += 1
            own[g][1] += 1
            own[t][2] += t == g
        dice.append([2 * b / (t + g) if t + g else 1.0 for t, g, b in own])
    ious = [b / (t + g - b) for t, g, b in zip(truth_of, guess_of, both_of, strict=True)]
    unseen = [n in data.unseen for n in data.class_names]
    s = np.mean([v for v, new in zip(ious, unseen, strict=True) if not new])
    u = np.mean([v for v, new in zip(ious, unseen, strict=True) if new])
    return {
        "pAcc": sum(both_of) / sum(truth_of),
        "mIoU": np.mean(ious),
        "mIoU_seen": s,
        "mIoU_unseen": u,
        "hIoU": 2 * s * u / (s + u),
        "DSC": np.mean(dice),
    }


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_numbers_equal_counting_by_hand_whatever_the_batch(zegclip, batch_size) -> None:
    shapes = ShapesDataset("test")
    data = Pictures(shapes.class_names, SIZES, unseen=shapes.unseen)
    found = evaluate(zegclip, data, batch_size=batch_size).to_dict()
    for key, value in by_hand(zegclip, data).items():
        assert found[key] == pytest.approx(value, abs=1e-9), key
    assert found["images"] == len(SIZES)


def test_two_processes_count_the_same_integers(tmp_path: Path) -> None:
    """Five images, so one process has one more than the other."""
    other = tmp_path / "two.toml"
    other.write_text("[data]\ntest_length = 5\n")
    out = tmp_path / "two.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2",
            "--master_port=29731", "-m", "zegment", "evaluate", "shapes-one-stage",
            "--config", str(other), "--json", str(out),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pAcc") == 1, "one process prints"
    one = evaluate_named("shapes-one-stage", other=load_config(file=other)).to_dict()
    two = json.loads(out.read_text())
    assert (two.pop("model"), two.pop("split")) == ("shapes-one-stage", "test")
    one.pop("images_per_second")
    two.pop("images_per_second")
    assert one == two
    assert one["images"] == 5


# Dice


def test_dice_of_an_image_without_the_class_is_one_if_none_was_found() -> None:
    dice = DiceScores(["background", "polyp"])
    label = torch.zeros(3, 2, 2, dtype=torch.long)
    label[2, 0, 0] = 1
    guess = torch.zeros(3, 2, 2, dtype=torch.long)
    guess[1, 0, 0] = guess[2, 0] = 1
    dice.update(guess, label, ignore_index=IGNORE_INDEX)
    assert dice.per_class()["polyp"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert dice.to_dict()["DSC"] == dice.per_class()["polyp"]


def test_dice_ignores_what_is_ignored_and_the_unknown() -> None:
    dice = DiceScores(["a", "b"])
    label = torch.tensor([[[0, 1, IGNORE_INDEX, 1]]])
    dice.update(torch.tensor([[[0, -1, 1, 1]]]), label, ignore_index=IGNORE_INDEX)
    assert dice.per_class() == pytest.approx({"a": 1.0, "b": 2 / 3})


def test_without_images_there_is_no_dice() -> None:
    assert DiceScores(["a"]).to_dict() == {"DSC": None, "per_class_DSC": {"a": None}}


# Other data than the model's own


def test_other_data_divides_by_what_had_masks_and_takes_nothing(zegclip) -> None:
    data = Pictures(["grass", "zebra", "heart", "Sand"], SIZES, unseen=("zebra",))
    found = evaluate(zegclip, data)
    assert found.overlap == ("grass", "Sand")
    assert found.calibration == Calibration()
    per_class = found.scores.per_class
    assert found.scores.mIoU_seen == pytest.approx((per_class["grass"] + per_class["Sand"]) / 2)
    free = load("shapes-zegclip")
    free.calibration = Calibration(seen_penalty=0.0)
    assert evaluate(free, data).scores == found.scores


def test_own_classes_in_another_spelling_are_still_own(tiny_clip_folder: Path) -> None:
    voc = class_set("voc")
    trained = load_trained(str(tiny_clip_folder))
    segmenter = Segmenter.of(trained)
    segmenter.vocabulary = segmenter.query(voc.names).vocabulary
    segmenter.seen = voc.seen
    cleaned = voc.spelled("cleaned")
    assert "potted plant" in cleaned.unseen
    assert evaluate(segmenter, Pictures(cleaned.names, [(32, 32)])).overlap is None
    assert segmenter.had_masks(["Potted Plant", "tv monitor", "sofa", "dining table"]) == [
        False, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second"), [("tvmonitor", "TV monitor"), ("door-stuff", "door"), ("cat", " Cat ")]
)
def test_natural_names_are_equal(first: str, second: str) -> None:
    assert natural_name(first) == natural_name(second)


def test_results_record_data_spelling_and_setting() -> None:
    found = evaluate_named("shapes-zegclip", other=load_config(overrides=["data.test_length=3"]))
    record = found.to_dict()
    assert record["data"] == "shapes/test"
    assert record["class_names"] == "published"
    assert record["setting"] == "inductive"
    assert record["calibration"] == {"seen_penalty": 0.1, "chosen_on": "released"}


# Sentences


SENTENCES = ["a photo of a heart", "one small star"]


def test_sentences_stand_for_the_class_of_their_image(zegclip) -> None:
    data = Pictures(["background", "thing"], [(96, 96)] * 2, descriptions=SENTENCES)
    query = zegclip.query(data.class_names, calibrated=False)
    expected = []
    for (image, label), sentence in zip(data.items, SENTENCES, strict=True):
        own = query.described(sentence, zegclip.text_tower)
        text = zegclip.text_tower([sentence])[0]
        assert torch.equal(own.text_embeddings[1], text)
        assert torch.equal(own.text_embeddings[0], query.text_embeddings[0])
        expected.append((zegclip.label(image[None], own)[0][0] == label).sum().item())
    counted = sum(int((label != IGNORE_INDEX).sum()) for _, label in data.items)
    assert evaluate(zegclip, data).scores.pAcc == pytest.approx(sum(expected) / counted)


def test_a_sentence_needs_one_class_beside_the_background(zegclip) -> None:
    with pytest.raises(VocabularyError, match="one class beside the background"):
        zegclip.query(["background", "a", "b"]).described("a photo", zegclip.text_tower)


# Calibration


def test_sweep_equals_an_evaluation_at_each_penalty(zegclip) -> None:
    data = ShapesDataset("val", length=12)
    penalties = (0.0, 0.1, 0.37)
    swept = sweep_calibration(zegclip, data, data="shapes/val", penalties=penalties)
    assert swept.used == 0.1
    for penalty, scores in zip(penalties, swept.scores, strict=True):
        again = load("shapes-zegclip")
        again.calibration = Calibration(seen_penalty=penalty)
        assert evaluate(again, data).scores == scores
    best = max(scores.hIoU for scores in swept.scores)
    assert swept.scores[penalties.index(swept.chosen.seen_penalty)].hIoU == best


def test_a_choice_is_written_read_and_flagged_if_test_data_made_it(zegclip, tmp_path) -> None:
    data = ShapesDataset("test", length=4)
    swept = sweep_calibration(zegclip, data, data="shapes/test", penalties=(0.0, 0.2))
    swept.save(tmp_path / "sweep")
    record = json.loads((tmp_path / "sweep" / "calibration.json").read_text())
    assert "chosen on test data" in record["chosen"]["warning"]
    assert "chosen on training data" in Calibration(chosen_on="x/train").to_dict()["warning"]
    assert "warning" not in Calibration(chosen_on="x/val").to_dict()
    assert [point["seen_penalty"] for point in record["curve"]] == [0.0, 0.2]
    assert (tmp_path / "sweep" / "calibration.png").read_bytes()[:4] == b"\x89PNG"
    assert read_calibration(tmp_path / "sweep" / "calibration.json") == swept.chosen


@pytest.mark.parametrize("text", ["", "{}", '{"chosen": {"seen_penalty": "much"}}', "[1]"])
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="holds no calibration"):
        read_calibration(file)
    with pytest.raises(ConfigError, match="no calibration"):
        read_calibration(tmp_path / "missing.json")
    file.write_text('{"chosen": {"seen_penalty": 1.5, "chosen_on": "x/val"}}')
    with pytest.raises(ConfigError, match="must be in"):
        read_calibration(file)


def test_without_two_kinds_of_classes_nothing_can_be_chosen(zegclip) -> None:
    free = load("shapes-clip")
    free.vocabulary = zegclip.vocabulary
    with pytest.raises(ConfigError, match=r"all had masks in training, or none had"):
        sweep_calibration(free, ShapesDataset("val", length=2), data="shapes/val")


def test_a_calibration_is_for_the_classes_of_the_model(zegclip, tiny_clip_folder) -> None:
    strange = Pictures(["grass", "cat"], [(32, 32)])
    with pytest.raises(ConfigError, match="x/val has others: nothing is taken"):
        sweep_calibration(zegclip, strange, data="x/val")
    clip, chosen = str(tiny_clip_folder), Calibration(seen_penalty=0.2, chosen_on="x/val")
    other = load_config(overrides=["data.test_length=2", f"model.clip={clip}"])
    assert evaluate_named("shapes-zegclip", other=other, calibration=chosen).calibration == chosen


def test_a_penalty_that_every_class_would_pay_is_not_taken(zegclip) -> None:
    names = ["grass", "sand", "snow"]
    image = Pictures(names, [(96, 96)])[0][0]
    paid = zegclip.label(image[None], zegclip.query(names))
    free = zegclip.label(image[None], zegclip.query(names, calibrated=False))
    assert torch.equal(paid[0], free[0])
    assert torch.equal(paid[1], free[1])


def test_a_report_tells_no_penalty_where_none_is_taken(zegclip) -> None:
    everything = copy.copy(zegclip)
    everything.seen = CLASS_NAMES
    found = evaluate(everything, ShapesDataset("test", length=2))
    assert zegclip.calibration.seen_penalty == 0.1
    assert found.to_dict()["seen_penalty"] == 0.0


def test_names_can_be_put_into_other_sentences(zegclip) -> None:
    data = ShapesDataset("test", length=3)
    own = evaluate(zegclip, data)
    assert evaluate(zegclip, data, templates="single").scores == own.scores
    other = evaluate(zegclip, data, templates="zegclip15")
    assert other.scores != own.scores
    assert other.overlap is None
    with pytest.raises(ConfigError, match="no set of templates"):
        evaluate(zegclip, data, templates="fifteen")


# Training with the settings


def tiny(folder: Path, *overrides: str, preset: str = "shapes-zegclip"):
    small = (
        f"model.clip={folder}", "optim.steps=4", "optim.batch_size=2", "optim.warmup_steps=1",
        "data.image_size=32", "data.train_length=8", "data.val_length=2", "data.test_length=2",
        "model.zegclip.decoder_heads=2", "windows.short_side=none", "windows.size=none",
        "windows.stride=none",
    )  # fmt: skip
    return load_config(preset=preset, overrides=[*small, *overrides])


def state(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "last" / "model.safetensors")


def test_one_run_equals_one_that_starts_from_its_half(tiny_clip_folder, tmp_path) -> None:
    whole = tiny(tiny_clip_folder, "setting=transductive")
    Trainer(whole, tmp_path / "whole").run()
    start = f"self_training.start={tmp_path / 'whole' / 'half'}"
    Trainer(tiny(tiny_clip_folder, "setting=transductive", start), tmp_path / "rest").run()
    first, second = state(tmp_path / "whole"), state(tmp_path / "rest")
    assert all(torch.equal(first[key], second[key]) for key in first)
    stages = [
        json.loads(line).get("stage")
        for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert [s for s in stages if s] == ["inductive", "inductive", "self-training", "self-training"]


def test_half_way_model_is_that_of_inductive_training(tiny_clip_folder, tmp_path) -> None:
    from safetensors.torch import load_file

    Trainer(tiny(tiny_clip_folder, "setting=transductive"), tmp_path / "t").run()
    config = tiny(tiny_clip_folder)
    trainer = Trainer(config, tmp_path / "i")
    for step, batch in zip(range(2), trainer.current.loader, strict=False):
        trainer.current.step(step, *batch)
    ours = trainer.trained.model.trained_state()
    half = load_file(tmp_path / "t" / "half" / "model.safetensors")
    assert half.keys() == ours.keys()
    assert all(torch.equal(half[key], ours[key]) for key in half)


def test_penalty_is_none_after_self_training_and_as_released_otherwise(tiny_clip_folder) -> None:
    assert tiny(tiny_clip_folder).seen_penalty == 0.1
    assert tiny(tiny_clip_folder, "setting=supervised").seen_penalty == 0.1
    assert tiny(tiny_clip_folder, "setting=transductive").seen_penalty == 0.0
    assert tiny(tiny_clip_folder, "calibration.seen_penalty=0.3").seen_penalty == 0.3


def test_supervised_training_knows_every_class(tiny_clip_folder, tmp_path) -> None:
    trainer = Trainer(tiny(tiny_clip_folder, "setting=supervised"), tmp_path / "s")
    assert trainer.trained.seen == trainer.prepared.train_data.class_names
    assert trainer.current.objective.text_embeddings.shape[0] == 20
    trainer.run()
    found = evaluate_named(str(tmp_path / "s"))
    assert found.scores.mIoU_unseen is not None  # the classes that other settings do not see


def test_what_is_of_another_setting_is_refused(tiny_clip_folder) -> None:
    for setting in ("inductive", "supervised"):
        with pytest.raises(ConfigError, match=r'self_training: is for setting = "transductive"'):
            tiny(tiny_clip_folder, f"setting={setting}", "self_training.region=oracle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("self_training.start=shapes-clip-zss", "holds a student, and a zegclip is to be trained"),
        ("optim.warmup_steps=2", "optim.warmup_steps: self-training warms up anew"),
        ("self_training.start_share=1.0", "start_share: leaves no step"),
        ("self_training.start=nowhere", "no CLIP, checkpoint|no checkpoint at|nowhere"),
        ("self_training.start=shapes-zegclip", "other CLIP|another model|another CLIP"),
    ],
)
def test_self_training_that_cannot_work_is_refused(
    tiny_clip_folder, tmp_path, change, message
) -> None:
    with pytest.raises((ConfigError, ValueError, FileNotFoundError), match=message):
        Trainer(tiny(tiny_clip_folder, "setting=transductive", change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_on_shapes_keeps_its_own_unseen_classes(tiny_clip_folder, tmp_path) -> None:
    config = tiny(tiny_clip_folder, 'data.unseen=["snow", "moon"]')
    Trainer(config, tmp_path / "run").run()
    trained = load_trained(str(tmp_path / "run"))
    assert set(trained.vocabulary.class_names) - set(trained.seen) == {"snow", "moon"}
    found = evaluate_named(str(tmp_path / "run")).scores
    assert found.mIoU_unseen == found.subset_miou(["snow", "moon"])
    assert found.mIoU_seen == found.subset_miou(trained.seen)
    assert evaluate_named(str(tmp_path / "run")).overlap is None


def test_shapes_without_unseen_classes_is_supervised(tiny_clip_folder, tmp_path) -> None:
    config = tiny(tiny_clip_folder, "data.unseen=[]")
    Trainer(config, tmp_path / "run").run()
    assert load_trained(str(tmp_path / "run")).seen == ShapesDataset("val").class_names
    found = evaluate_named(str(tmp_path / "run")).scores
    assert (found.mIoU_unseen, found.hIoU) == (None, None)


def test_a_student_learns_from_training_free_clip(tiny_clip_folder, tmp_path) -> None:
    changes = ("setting=transductive", "self_training.start_share=0", "self_training.guide=clip")
    config = tiny(
        tiny_clip_folder, *changes, "self_training.guided_share=0.5", preset="shapes-clip-zss"
    )
    trainer = Trainer(config, tmp_path / "run")
    assert trainer.current.objective.guided_steps == 2
    before = {k: v.clone() for k, v in trainer.trained.model.named_parameters()}
    trainer.run()
    after = dict(trainer.trained.model.named_parameters())
    assert any(not torch.equal(before[key], after[key]) for key in before)
    record = evaluate_named(str(tmp_path / "run")).to_dict()
    assert (record["setting"], record["pseudo_label_region"]) == ("transductive", "unlabelled")


def described_data(root: Path) -> list[str]:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = ["image,description"]
        for i in range(4):
            for kind, channels in (("images", (32, 32, 3)), ("masks", (32, 32))):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                top = 256 if kind == "images" else 2
                array = rng.integers(0, top, channels, dtype=np.uint8)
                Image.fromarray(array).save(root / split / kind / f"{i}.png")
            rows.append(f'{i},"one round polyp, number {i}"')
        (root / split / "descriptions.csv").write_text("\n".join(rows) + "\n")
    return [
        "data.source=folder", f'data.root="{root}"', 'data.classes=["background", "polyp"]',
        *(
            f"data.{split}.{key}={split}/{value}"
            for split in ("train", "test")
            for key, value in (
                ("images", "images"), ("masks", "masks"), ("descriptions", "descriptions.csv")
            )
        ),
        "augment.crop_size=[32, 32]",
    ]  # fmt: skip


def test_sentences_are_learnt_and_asked_for(tiny_clip_folder, tmp_path) -> None:
    options = described_data(tmp_path / "data")
    trainer = Trainer(tiny(tiny_clip_folder, *options), tmp_path / "run")
    image, label, item = trainer.current.loader.dataset[0]
    batch = trainer.current.objective.prepare(image[None], label[None], item[None])
    sentence = f"one round polyp, number {int(item)}"
    expected = trainer.trained.text_tower([sentence])[0]
    assert torch.equal(batch.text_embeddings[0, 1], expected)
    trainer.run()
    losses = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert losses["loss_dice"] > 0
    record = evaluate_named(str(tmp_path / "run")).to_dict()
    assert 0 <= record["DSC"] <= 1
    assert record["images"] == 4


@pytest.mark.parametrize("change", ["setting=transductive", "model.kind=student"])
def test_sentences_are_refused_where_they_are_not_understood(
    tiny_clip_folder, tmp_path, change
) -> None:
    options = [*described_data(tmp_path / "data"), change]
    with pytest.raises(ConfigError, match=r"descriptions|unseen classes"):
        Trainer(tiny(tiny_clip_folder, *options), tmp_path / "run")
