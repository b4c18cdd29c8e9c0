"""Hostile configurations, vocabularies, legends and checkpoints: a few of each of `soaks.files`."""

import copy
import json
import os
import random
import struct
import sys
from pathlib import Path

import hostile_checkpoints
import hostile_files
import numpy as np
import open_clip
import pytest
import torch
from hostile_checkpoints import CLIP, STUDENT, linked
from safetensors.torch import load_file, save_file
from soaks import fuzzing

from zegment.checkpoint_parts import read_tower
from zegment.clip_loading import load_clip
from zegment.commands.wording import shown
from zegment.config import DataConfig, SplitFiles
from zegment.config.loading import load_config
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    UnsupportedModelError,
    VocabularyError,
    ZegmentError,
)
from zegment.segmenter import load
from zegment.text_files import json_text, parse_json, parse_toml
from zegment.text_loading import load_text_tower
from zegment.torch_files import load_torch
from zegment.vocabulary import Vocabulary
from zegment.wording import brief, printable, readable

KINDS = hostile_files.KINDS | hostile_checkpoints.KINDS

COUNTS = {"overrides": 40, "configurations": 40, "legends": 40, "places": 36, "programs": 30}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", list(KINDS))
def test_whatever_is_read_succeeds_or_is_told_in_one_line(
    kind: str, seed: int, tmp_path: Path
) -> None:
    cases = KINDS[kind](random.Random(f"{seed} {kind}"))  # noqa: S311
    problems = [
        hostile_files.judged(next(cases), tmp_path / str(number))
        for number in range(COUNTS.get(kind, 8) // 2)
    ]
    assert [problem for problem in problems if problem] == []


@pytest.mark.parametrize("name", list(fuzzing.TARGETS))
def test_parsers_survive_changed_inputs(name: str, tmp_path: Path) -> None:
    if name == "run_lengths":
        pytest.importorskip("pycocotools")
    rng = random.Random(name)  # noqa: S311
    seeds, problems = fuzzing.SEEDS[name], []
    for data in [b"", *seeds, *(hostile_files.mutated(rng, rng.choice(seeds)) for _ in range(60))]:
        try:
            fuzzing.TARGETS[name](data, tmp_path)
        except ZegmentError as error:
            problems.append(hostile_files.wrong_words(str(error)))
    assert not any(problems)


# Configuration


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"seed={'9' * 5000}", "seed: expected a whole number, got"),
        (f"seed=0x{'f' * 5000}", "seed: expected a whole number of at most 64 bits"),
        (f"optim.lr={10**400}", "optim.lr: expected a number of at most 64 bits"),
        ("data.root='a\\u0000b'", "data.root"),
        ('data.root="a\\u0000b"', "data.root: .*NUL"),
        ("data.root=\udcff", "data.root: .*not UTF-8"),
        (f"{'a.' * 20_000}b=1", "more than 8 parts"),
        (f"seed={'[' * 3000}", "seed: expected a whole number"),
        ("model.zegclip.prompt_tokens=1000000000", "at most 1000"),
        ("workers=100000", "workers: must be at least 0 and at most 256, got 100000"),
        ("windows.short_side=1000000000", "windows.short_side: .* at most 16384"),
        ("windows.size=1000000000", "windows.size: .* at most 16384"),
        ("windows={size=512, stride=100000}", "windows.stride: .* at most 16384"),
        ("windows={size=512, stride=7}", "windows.stride: must be at least size / 64, 8, got 7"),
        ("augment.short_side=1000000000", "augment.short_side: .* at most 16384"),
        ("augment.crop_size=[512, 1000000000]", "augment.crop_size: .* at most 16384"),
        ('model.kind="a\\nb\\u001b"', r"got .a\\nb\\x1b"),
    ],
)
def test_options_that_no_run_can_have_are_refused(override: str, message: str) -> None:
    if override.endswith("b'"):  # a literal string: no escape, and a possible name
        assert load_config(overrides=[override]).data.root
        return
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(overrides=[override])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("root", ["~nobody-at-all/x", "a\\u0000b"])
def test_a_root_that_is_no_place_is_told(tmp_path: Path, root: str) -> None:
    (tmp_path / "run.toml").write_text(f'[data]\nroot = "{root}"\n')
    with pytest.raises(ConfigError, match=r"data\.root: .*can be no folder"):
        load_config(file=tmp_path / "run.toml")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = 3\n", encoding="utf-8-sig")
    assert load_config(file=tmp_path / "run.toml").seed == 3


def test_many_classes_are_checked_in_no_time() -> None:
    names = tuple(map(str, range(60_000)))
    split = SplitFiles(images="i", masks="m")
    DataConfig(source="folder", classes=names, unseen=names[30_000:], train=split)
    values = (*range(59_999), 59_998)
    with pytest.raises(ConfigError, match="59998 stands for two classes"):
        DataConfig(source="folder", classes=names, label_values=values, train=split)


# Texts


def test_json_with_a_key_twice_is_refused() -> None:
    with pytest.raises(ValueError, match='"classes" is written twice'):
        parse_json('{"classes": ["a"], "classes": ["b"]}')


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000])
def test_deep_and_large_json_is_refused_in_plain_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|thousands of digits"):
        parse_json(text)


def test_keys_of_many_parts_are_refused_before_they_take_time() -> None:
    with pytest.raises(ValueError, match="a key has more than 32 parts"):
        parse_toml("a." * 100_000 + "b = 1")
    assert parse_toml("x = [\n" + "0.1, " * 99 + "\n]") == {"x": [0.1] * 99}


def test_no_name_can_pass_for_a_line_of_ours() -> None:
    name = "x\nwrote results of 1 to out\x1b[2J.png"
    assert shown(name) == r"x\nwrote results of 1 to out\x1b[2J.png"
    assert len(shown("y" * 5000)) == 5000


def test_bytes_that_are_no_text_are_shown_as_bytes_wherever_they_are_told() -> None:
    name = os.fsdecode("é ".encode() + b"m\xfcller\n")
    assert readable(name) == "é m\\xfcller\n"
    assert printable(name) == shown(name) == r"é m\xfcller\n"
    assert json.loads(json_text({"path": f"{name}\ud800"}).encode()) == {
        "path": "é m\\xfcller\n\\ud800"
    }


def test_messages_repeat_little_and_nothing_that_moves_the_cursor() -> None:
    assert printable("a\n\x1b[2J\u202e") == r"a\n\x1b[2J\u202e"
    assert printable("x" * 1000, most=3) == "xxx… (1000 characters)"
    assert len(brief({"a": ["x" * 10_000] * 10_000})) < 1000
    assert brief(16**5000) == "a whole number of 20001 bits"


# Vocabularies


@pytest.mark.parametrize(
    "table",
    [
        {"vocabulary": {"class_names": 5}},
        {"vocabulary": {"class_names": "cat"}},
        {"vocabulary": {"class_names": ["cat"], "synonyms": 5}},
        {"vocabulary": {"class_names": ["a", "b", "c"], "synonyms": [[], []]}},
    ],
)
def test_a_record_that_would_lose_classes_is_refused(tmp_path: Path, table: dict) -> None:
    (tmp_path / "run.json").write_text(json.dumps(table))
    with pytest.raises(VocabularyError, match=r"run\.json: .*record"):
        Vocabulary.of(tmp_path / "run.json")


def test_control_characters_do_not_divide_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\x1cdog\n")
    with pytest.raises(VocabularyError, match=r"U\+001C"):
        Vocabulary.of(tmp_path / "a.txt")


@pytest.mark.parametrize("mark", "\u00ad\u200e\u202e\u2066")
def test_marks_that_nobody_sees_are_refused(mark: str) -> None:
    with pytest.raises(VocabularyError, match=f"U\\+{ord(mark):04X}"):
        Vocabulary.of(["cat", f"c{mark}at"])


@pytest.mark.parametrize("names", [(1, 2), (None,), (b"cat",)])
def test_names_that_are_no_text_are_refused(names: tuple) -> None:
    with pytest.raises(VocabularyError, match="not text"):
        Vocabulary(class_names=names)
    with pytest.raises(VocabularyError, match="not a tuple"):
        Vocabulary(class_names=("cat",), synonyms=("xyz",))


def test_names_of_any_length_are_refused_before_they_are_split_into_tokens() -> None:
    with pytest.raises(VocabularyError, match="too long"):
        Vocabulary.of(["x" * 100_000])


def test_huge_numbers_in_a_vocabulary_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"classes = [0x{'f' * 5000}]")
    with pytest.raises(VocabularyError, match="whole number of 20000 bits"):
        Vocabulary.of(tmp_path / "a.toml")


# Checkpoints


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vocabulary.json", {"class_names": [1, 2]}, "not text"),
        ("vocabulary.json", {"class_names": "abc"}, "class_names is 'abc', not a list"),
        ("vocabulary.json", {"seen": "abc"}, "seen is 'abc', not a list"),
        ("vocabulary.json", {"seen": ["nothing"]}, "'nothing' is seen"),
        ("preprocessing.json", {"std": [0, 0, 0]}, r"std is \[0, 0, 0\]"),
        ("preprocessing.json", {"mean": [float("nan")] * 3}, "mean is"),
        ("preprocessing.json", {"mean": "abc"}, "mean is 'abc'"),
        ("config.json", {"clip_fingerprint": {}}, "clip_fingerprint is {}"),
        ("config.json", {"config": []}, "expected a table of options"),
    ],
)
def test_parts_that_cannot_be_are_refused(
    tmp_path: Path, name: str, changes: dict, message: str
) -> None:
    table = json.loads((STUDENT / name).read_text()) | changes
    linked(STUDENT, tmp_path, but=name).write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match=f"{name}.*{message}"):
        load(tmp_path)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64, torch.float8_e5m2])
def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path, kind: torch.dtype) -> None:
    weights = load_file(STUDENT / "model.safetensors")
    key = next(key for key, value in weights.items() if value.dtype == torch.float32)
    weights[key] = weights[key].to(kind)
    save_file(weights, linked(STUDENT, tmp_path, but="model.safetensors"))
    with pytest.raises(CheckpointError, match=f"'{key}' holds numbers of type {kind}"):
        load(tmp_path)


def test_text_embeddings_that_are_no_direction_are_refused(tmp_path: Path) -> None:
    rows = load_file(STUDENT / "text.safetensors")
    key = next(iter(rows))
    rows[key] = rows[key] * float("nan")
    save_file(rows, linked(STUDENT, tmp_path, but="text.safetensors"))
    with pytest.raises(CheckpointError, match=f"embedding of '{key}' is no row"):
        load(tmp_path)


def test_a_tower_is_not_made_larger_than_its_weights() -> None:
    weights = {
        "tower.conv1.weight": torch.ones(32, 3, 8, 8),
        "tower.positional_embedding": torch.ones(17, 32),
    }
    for changes in ({"grid": [100_000, 100_000]}, {"heads": 0}, {"heads": 7}, {"heads": "2"}):
        table = {"heads": 2, "activation": "gelu", "grid": [4, 4]} | changes
        with pytest.raises(CheckpointError, match=f"{next(iter(changes))} is"):
            read_tower(Path("folder"), {"tower": table}, weights)


def test_a_student_without_its_text_is_not_built_from_a_download(tmp_path: Path) -> None:
    config = json.loads((STUDENT / "config.json").read_text())
    config["config"]["model"]["student"] |= {"encoder": "resnet18", "weights": "imagenet"}
    linked(STUDENT, tmp_path, but="config.json").write_text(json.dumps(config))
    (tmp_path / "text.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"text\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\0b"])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        load(name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layers", 10**9, "layers is 1000000000"),
        ("context_length", 10**6, "context_length is 1000000"),
        ("width", 3 * 2**20, "has shape"),
        ("vocab_size", 2**40, "has shape"),
    ],
)
def test_a_text_tower_is_not_made_larger_than_its_weights(
    tmp_path: Path, key: str, value: int, message: str
) -> None:
    config = json.loads((CLIP / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"][key] = value
    linked(CLIP, tmp_path, but="open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFoundError, match=message):
        load_text_tower(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layers", 10**9, "layers is 1000000000; it can be 1 to 100"),
        ("layers", 6, "its weights have no 'visual.transformer.resblocks.5"),
        ("width", 32 * 2**20, "heads is 1048576; it can be 1 to 1024"),
        ("width", 320, r"'visual.conv1.weight' has shape \(160, .* and \(320, "),
        ("head_width", 1 << 60, "heads is 0"),
        ("image_size", 2**20, "image_size in patches is 17179869184; it can be 1 to 4096"),
        ("image_size", [8, 2**40], "image_size in patches"),
        ("patch_size", 0, "patch_size is 0"),
        ("patch_size", 16, "'visual.conv1.weight' has shape"),
        ("mlp_ratio", 1e9, "'visual.transformer.resblocks.0.mlp"),
        ("pos_embed_type", "sin_cos_2d", ""),
        ("attentional_pool", True, r"'visual.proj' has shape \(160, 128\) in its weights"),
        ("attn_pooler_queries", "x", ""),
    ],
)
def test_an_image_tower_is_not_made_larger_than_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object, message: str
) -> None:
    config = json.loads((CLIP / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"][key] = value
    linked(CLIP, tmp_path, but="open_clip_config.json").write_text(json.dumps(config))
    create = open_clip.create_model

    def on_paper(*names: str, **options: object) -> object:
        assert options.get("device") == "meta" or not message, "room was made"
        return create(*names, **options)

    monkeypatch.setattr(open_clip, "create_model", on_paper)
    if not message:
        assert load_clip(str(tmp_path)).image_tower
        return
    with pytest.raises(ModelNotFoundError, match=message):
        load_clip(str(tmp_path))


def test_a_text_tower_is_not_made_larger_with_its_image_tower(tmp_path: Path) -> None:
    config = json.loads((CLIP / "open_clip_config.json").read_text())
    linked(CLIP, tmp_path, but="open_clip_config.json")
    for key, value, message in (
        ("layers", 10**9, "layers is 1000000000"),
        ("context_length", 10**6, "context_length is 1000000"),
        ("vocab_size", 2**40, "'token_embedding.weight' has shape"),
    ):
        changed = copy.deepcopy(config)
        changed["model_cfg"]["text_cfg"][key] = value
        (tmp_path / "open_clip_config.json").write_text(json.dumps(changed))
        with pytest.raises(ModelNotFoundError, match=message):
            load_clip(str(tmp_path))


@pytest.mark.parametrize("colours", [{"std": [0, 1, 1]}, {"mean": "abc"}, {"mean": [0.5, 0.5]}])
def test_a_clip_that_normalises_its_images_to_nothing_is_refused(
    tmp_path: Path, colours: dict
) -> None:
    config = json.loads((CLIP / "open_clip_config.json").read_text())
    config["preprocess_cfg"] |= colours
    linked(CLIP, tmp_path, but="open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="does not say how its images are normalised"):
        load_clip(str(tmp_path))


def test_files_of_pytorch_that_grow_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.ones(1).expand(10**6, 10**6)}}, path)
    with pytest.raises(ValueError, match="its tensors would take"):
        load_torch(path)
    path.write_bytes(hostile_checkpoints._inflated())
    with pytest.raises(ValueError, match="compressed archive"):
        load_torch(path)


def test_a_declared_header_beyond_all_memory_is_refused(tmp_path: Path) -> None:
    path = linked(STUDENT, tmp_path, but="model.safetensors")
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        load(tmp_path)


def test_the_command_answers_in_one_line_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from zegment.cli import main

    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    linked(STUDENT, (tmp_path / "m"), but="config.json") if (tmp_path / "m").mkdir() else None
    (tmp_path / "m" / "config.json").write_text("[" * 100_000)
    (tmp_path / "x.pth").write_bytes(hostile_checkpoints._PROGRAMS["archive"](tmp_path))
    (tmp_path / "x.toml").write_text("a." * 100_000 + "b = 1")
    out, model = str(tmp_path / "out"), str(tmp_path / "m")
    for arguments in (
        ["predict", str(tmp_path / "a.png"), "--out", out, "--model", model],
        ["predict", str(tmp_path / "a.png"), "--out", out, "--classes", "a" * 10_000],
        ["evaluate", model],
        ["evaluate", "shapes-clip-zss", "--config", str(tmp_path / "x.toml")],
        ["import-zegclip", str(tmp_path / "x.pth"), "--out", out, "--class-set", "voc"],
        ["export", model, "--out", out],
    ):
        monkeypatch.setattr(sys, "argv", ["zegment", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2, arguments
        assert len(told) == 1, arguments
        assert told[0].startswith("error:")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()
