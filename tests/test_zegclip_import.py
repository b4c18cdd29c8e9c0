"""Released checkpoints through the command line, against numbers recorded from ZegCLIP's code."""

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import zegment
from zegment import cli
from zegment.checkpoint import load_trained
from zegment.checkpoint_files import save_checkpoint
from zegment.config import WindowConfig
from zegment.data.transforms import normalize
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    OutputError,
    VocabularyError,
    ZegmentError,
)
from zegment.evaluation import evaluate
from zegment.inference.decisions import best_class
from zegment.inference.fields import HeldScores, image_scores
from zegment.inference.windows import working_size
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, penalize_seen
from zegment.segmenter import Segmenter
from zegment.text_loading import load_text_tower
from zegment.text_tower import RememberedText
from zegment.vocabulary import TEMPLATES, Vocabulary
from zegment.zegclip_import import ImportOptions, _by_sentence, import_checkpoint
from zegment.zegclip_layout import _our_name, _released_name, import_zegclip
from zegment.zegclip_released import read_released, read_text_embeddings

REFERENCE = Path(__file__).parent / "reference"
PUBLISHED = Path(os.environ.get("ZEGMENT_PUBLISHED_TEXT", "nowhere"))
"""Folder with the text embeddings that were published with ZegCLIP, if somebody has them."""
SETTINGS = ("inductive", "transductive")
NAMES = ("sky", "road", "tree", "car", "dog", "sheep")
UNSEEN = ("tree", "dog")  # the recorded modules have seen 0, 1, 3 and 5
HEADS = ("--heads", "4", "--decoder-heads", "4")
CLASSES = ("--classes", ", ".join(NAMES), "--unseen", ", ".join(UNSEEN))


def invoke(*arguments: str | Path) -> str:
    """Run one command of the command line; return what it printed, raise what it raised."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def recorded(setting: str) -> dict[str, Tensor]:
    return load_file(REFERENCE / f"zegclip_{setting}.safetensors")


def released_state(tensors: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    prefix = "weight/"
    state = OrderedDict(
        (key.removeprefix(prefix), value)
        for key, value in tensors.items()
        if key.startswith(prefix)
    )
    state._metadata = OrderedDict({"": {"version": 1}})  # as Module.state_dict() has it
    return state


def mmcv_file(state: dict[str, Tensor], **meta: Any) -> dict[str, Any]:
    """Return what mmcv's runner saves beside weights: metadata, and the optimizer's moments."""
    trained = [value for key, value in state.items() if "prompt" in key]
    return {
        "meta": {
            "env_info": "sys.platform: linux\nPyTorch: 1.10.1",
            "seed": None,
            "exp_name": "vpt_seg_zero_vit-b_512x512_20k_12_10.py",
            "epoch": 7,
            "iter": 20000,
            "mmseg_version": "0.24.0+9ba4bb5",
            "config": "model = dict(type='ZegCLIP')\n",
            "PALETTE": [[128, 0, 0], [0, 128, 0]],
            "mmcv_version": "1.4.4",
            "time": "Sat Nov 12 08:00:00 2022",
            "hook_msgs": {},
            **meta,
        },
        "state_dict": state,
        "optimizer": {
            "state": {
                i: {"step": 20000, "exp_avg": value.clone(), "exp_avg_sq": value**2}
                for i, value in enumerate(trained)
            },
            "param_groups": [
                {"lr": 2e-5, "betas": (0.9, 0.999), "eps": 1e-8, "params": [i]}
                for i in range(len(trained))
            ],
        },
    }


@dataclass(frozen=True)
class Case:
    """One reference file, as a released checkpoint and as the folder it was imported to."""

    setting: str
    tensors: dict[str, Tensor]
    file: Path
    text: Path
    folder: Path
    segmenter: Segmenter

    @property
    def margin(self) -> float:
        return 0.1 if self.setting == "inductive" else 0.0


@pytest.fixture(scope="module", params=SETTINGS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    setting, place = request.param, tmp_path_factory.mktemp(request.param)
    tensors = recorded(setting)
    torch.save(mmcv_file(released_state(tensors), CLASSES=NAMES), place / "iter_20000.pth")
    np.save(place / "text.npy", tensors["out/text"].numpy())
    folder = place / "imported"
    arguments = ("--text", place / "text.npy", "--setting", setting, *HEADS)
    invoke("import-zegclip", place / "iter_20000.pth", "--out", folder, *CLASSES, *arguments)
    return Case(
        setting=setting,
        tensors=tensors,
        file=place / "iter_20000.pth",
        text=place / "text.npy",
        folder=folder,
        segmenter=zegment.load(folder, device="cpu"),
    )


@pytest.fixture
def released(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an inductive file after changing its weights."""

    def write(change: Callable[[dict[str, Tensor]], object] | None = None, **meta: Any) -> Path:
        state = released_state(recorded("inductive"))
        if change is not None:
            change(state)
        torch.save(mmcv_file(state, CLASSES=NAMES, **meta), tmp_path / "changed.pth")
        return tmp_path / "changed.pth"

    return write


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    np.save(tmp_path / "text.npy", recorded("inductive")["out/text"].numpy())
    return tmp_path / "text.npy"


def options(text: Path, /, **changes: Any) -> ImportOptions:
    plain = ImportOptions(unseen=UNSEEN, text=text, heads=4, decoder_heads=4)
    return replace(plain, **changes)


# The reference scores


def test_scores_are_the_recorded_ones(case: Case) -> None:
    segmenter, tensors = case.segmenter, case.tensors
    query = segmenter.query()
    assert query.vocabulary.class_names == NAMES
    assert [n for n, seen in zip(NAMES, query.seen.tolist(), strict=True) if not seen] == [*UNSEEN]
    torch.testing.assert_close(query.text_embeddings, tensors["out/text"], atol=1e-6, rtol=0)
    assert segmenter.windows == WindowConfig(short_side=64, size=64, stride=53)
    assert segmenter.calibration.seen_penalty == case.margin
    for image, expected, windows in (
        ("in/image", "out/eval_score", WindowConfig()),
        ("in/image_large", "out/slide_score", segmenter.windows),
    ):
        scores = image_scores(segmenter.model, tensors[image], query.text_embeddings, windows)
        calibrated = penalize_seen(scores, query.seen, margin=segmenter.calibration.seen_penalty)
        torch.testing.assert_close(calibrated, tensors[expected], atol=1e-4, rtol=0)


class Recorded:
    """The recorded images as they were before normalisation, with the recorded labels."""

    class_names, unseen = NAMES, UNSEEN

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.images = (tensors["in/image"] * std + mean) * 255
        self.labels = tensors["out/eval_label"]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def name(self, index: int) -> str:
        return str(index)

    def check(self) -> None:
        pass


def test_evaluation_finds_every_recorded_label(case: Case) -> None:
    assert evaluate(case.segmenter, Recorded(case.tensors)).scores.pAcc == 1.0


@pytest.fixture
def pictures(case: Case, tmp_path: Path) -> dict[str, np.ndarray]:
    """Write random pictures, and what directly built modules make of them as masks."""
    model = import_zegclip(released_state(case.tensors), heads=4, decoder_heads=4).eval()
    windows = WindowConfig(short_side=64, size=64, stride=53)
    seen = torch.tensor([name not in UNSEEN for name in NAMES])
    generator = np.random.default_rng(0)
    masks = {}
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name, size in (("square", (64, 64)), ("small", (40, 56)), ("large", (90, 130))):
        pixels = generator.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        image = normalize(torch.from_numpy(pixels).permute(2, 0, 1), IMAGENET_MEAN, IMAGENET_STD)
        image = F.interpolate(
            image[None], working_size(*size, windows), mode="bilinear", antialias=True
        )
        scores = image_scores(model, image, case.tensors["out/text"], windows)
        labels, _ = best_class(HeldScores(scores), seen, margin=case.margin, size=size)
        masks[name] = labels[0].numpy().astype(np.uint8)
        Image.fromarray(masks[name]).save(tmp_path / "masks" / f"{name}.png")
    return masks


def test_predict_writes_what_the_modules_give(
    case: Case, pictures: dict[str, np.ndarray], tmp_path: Path
) -> None:
    invoke("predict", tmp_path / "images", "--model", case.folder, "--out", tmp_path / "out")
    for name, expected in pictures.items():
        written = np.asarray(Image.open(tmp_path / "out" / f"{name}.labels.png"))
        np.testing.assert_array_equal(written, expected)
    assert len({label for mask in pictures.values() for label in np.unique(mask)}) > 1


@pytest.mark.usefixtures("pictures")
def test_evaluate_agrees_with_what_the_modules_give(case: Case, tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(
        f'[data]\nsource = "folder"\nclasses = {list(NAMES)}\nunseen = {list(UNSEEN)}\n'
        '[data.test]\nimages = "images"\nmasks = "masks"\n'.replace("'", '"')
    )
    scores = tmp_path / "scores.json"
    invoke("evaluate", case.folder, "--config", tmp_path / "data.toml", "--json", scores)
    written = json.loads(scores.read_text())
    assert written["pAcc"] == 1.0
    assert written["images"] == 3


# What is stored


def test_a_checkpoint_holds_its_own_tower_and_needs_no_clip(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zegment.clip_loading.find_clip", None)
    monkeypatch.setattr("zegment.text_loading.find_clip", None)
    trained = load_trained(str(case.folder), device="cpu")
    with safe_open(case.folder / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(trained.model.state_dict())
    header = json.loads((case.folder / "config.json").read_text())
    assert header["tower"] == {"heads": 4, "activation": "quick_gelu", "grid": [4, 4]}
    config = trained.config
    assert (config.setting, config.model.clip) == (case.setting, "ViT-B-16/openai")
    assert config.model.normalization == "imagenet"
    own = config.model.zegclip
    assert (own.prompt_tokens, own.decoder_layers, own.decoder_heads) == (3, 3, 4)
    assert trained.seen == ("sky", "road", "car", "sheep")


def test_an_imported_model_is_saved_again_as_it_was(case: Case, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again", load_trained(str(case.folder), device="cpu"))
    for path in case.folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_model_without_prompt_norm_is_recognised(
    released: Callable[..., Path], text_file: Path
) -> None:
    def drop(state: dict[str, Tensor]) -> None:
        for key in [k for k in state if "prompt_norm" in k]:
            del state[key]

    trained = import_checkpoint(released(drop), options(text_file))
    assert not trained.config.model.zegclip.prompt_norm
    assert not any("prompt_norm" in key for key in trained.state())


def test_classes_come_from_the_file_unless_given(
    released: Callable[..., Path], text_file: Path
) -> None:
    path = released()
    trained = import_checkpoint(path, options(text_file))
    assert trained.vocabulary.class_names == NAMES
    others = ("a", "b", "c", "d", "e", "f")
    trained = import_checkpoint(path, options(text_file, class_names=others, unseen=("c", "e")))
    assert trained.vocabulary.class_names == others


@pytest.mark.parametrize("wrapped", [False, True])
def test_bare_state_dicts_are_read_with_and_without_module(
    tmp_path: Path, text_file: Path, *, wrapped: bool
) -> None:
    state = released_state(recorded("inductive"))
    names = {f"module.{k}" if wrapped else k: v for k, v in state.items()}
    torch.save(names, tmp_path / "bare.pth", _use_new_zipfile_serialization=not wrapped)
    trained = import_checkpoint(tmp_path / "bare.pth", options(text_file, class_names=NAMES))
    weight = state["backbone.conv1.weight"]
    assert trained.model.state_dict()["tower.conv1.weight"].equal(weight)


def test_numpy_in_the_metadata_is_read(released: Callable[..., Path], text_file: Path) -> None:
    palette = np.arange(18, dtype=np.uint8).reshape(6, 3)
    path = released(PALETTE=palette, seed=np.int64(3), lr=np.float64(2e-5), flag=np.bool_(1))
    assert import_checkpoint(path, options(text_file)).vocabulary.class_names == NAMES


def test_half_precision_weights_become_single(
    released: Callable[..., Path], text_file: Path
) -> None:
    def halve(state: dict[str, Tensor]) -> None:
        state.update({key: value.half() for key, value in state.items()})

    model = import_checkpoint(released(halve), options(text_file)).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_supervised_has_seen_all(tmp_path: Path, text_file: Path) -> None:
    state = released_state(recorded("transductive"))  # holds a count of all classes
    torch.save(mmcv_file(state, CLASSES=NAMES), tmp_path / "all.pth")
    trained = import_checkpoint(
        tmp_path / "all.pth", options(text_file, setting="supervised", unseen=None)
    )
    assert trained.seen == NAMES
    assert trained.config.seen_penalty == 0.1


def test_windows_can_be_chosen(released: Callable[..., Path], text_file: Path) -> None:
    path = released()
    chosen = import_checkpoint(path, options(text_file, window=128)).config.windows
    assert chosen == WindowConfig(short_side=64, size=128, stride=106)
    chosen = import_checkpoint(path, options(text_file, short_side=80, stride=60)).config.windows
    assert chosen == WindowConfig(short_side=80, size=64, stride=60)


def test_released_names_turn_into_ours_and_back() -> None:
    for key in import_zegclip(
        released_state(recorded("inductive")), heads=4, decoder_heads=4
    ).state_dict():
        if key != "prompts.embeddings":
            assert _our_name(_released_name(key)) == key


# Text


@pytest.mark.parametrize("templates", list(TEMPLATES))
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_embeddings_come_back_for_any_number_of_sentences(
    released: Callable[..., Path], tmp_path: Path, templates: str, dtype: type
) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 16)).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    text = ("--text", tmp_path / "rows.npy", "--templates", templates)
    invoke("import-zegclip", released(), "--out", tmp_path / "o", *CLASSES, *HEADS, *text)
    query = zegment.load(tmp_path / "o", device="cpu").query()
    expected = F.normalize(torch.from_numpy(rows).float(), dim=-1)
    torch.testing.assert_close(query.text_embeddings, expected, atol=1e-6, rtol=0)
    assert query.vocabulary.templates == TEMPLATES[templates]
    lengths = [row.norm().item() for row in load_file(tmp_path / "o" / "text.safetensors").values()]
    assert lengths == pytest.approx([1] * 6 * len(TEMPLATES[templates]))


@pytest.mark.parametrize("templates", list(TEMPLATES))
@pytest.mark.parametrize("published", [False, True])
def test_further_words_are_embedded_by_the_clip(
    released: Callable[..., Path],
    tiny_clip_folder: Path,
    tmp_path: Path,
    templates: str,
    *,
    published: bool,
) -> None:
    tower = load_text_tower(str(tiny_clip_folder))
    sentences = TEMPLATES[templates]
    expected = Vocabulary(class_names=(*NAMES, "zebra"), templates=sentences).embed(tower)
    np.save(tmp_path / "rows.npy", expected[:6].numpy().astype(np.float16))
    text = ("--text", tmp_path / "rows.npy") if published else ()
    clip = ("--clip", tiny_clip_folder, "--templates", templates)
    invoke("import-zegclip", released(), "--out", tmp_path / "o", *CLASSES, *HEADS, *clip, *text)
    segmenter = zegment.load(tmp_path / "o", device="cpu")
    found = segmenter.query([*NAMES, "zebra"]).text_embeddings
    torch.testing.assert_close(found, expected, atol=1e-3 if published else 1e-6, rtol=0)


def test_published_embeddings_stand_for_classes_before_they_are_saved_too(
    released: Callable[..., Path], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    tower, sentences = load_text_tower(str(tiny_clip_folder)), TEMPLATES["zegclip15"]
    vocabulary = Vocabulary(class_names=(*NAMES, "zebra"), templates=sentences)
    expected = vocabulary.embed(tower)
    np.save(tmp_path / "rows.npy", expected[:6].numpy())
    clip = {"clip": str(tiny_clip_folder), "templates": "zegclip15"}
    trained = import_checkpoint(released(), options(tmp_path / "rows.npy", **clip))
    torch.testing.assert_close(vocabulary.embed(trained.text_tower), expected)


@pytest.mark.parametrize("width", ["the same", "another"])
def test_further_words_of_another_clip_are_refused(
    case: Case, make_clip: Callable[..., str], tmp_path: Path, width: str
) -> None:
    folder, other = tmp_path / "other", make_clip() if width == "the same" else "shapes-clip"
    clip = ("--clip", other, "--text", case.text, "--setting", case.setting)
    invoke("import-zegclip", case.file, "--out", folder, *CLASSES, *HEADS, *clip)
    segmenter = zegment.load(folder, device="cpu")
    segmenter.query(["car", "sky"])
    with pytest.raises(CheckpointError, match="“sky” differently"):
        segmenter.query(["car", "zebra"])


def test_published_embeddings_of_the_real_clip_fit_their_class_sets(tmp_path: Path) -> None:
    """The files that were published with ZegCLIP, and models of their width."""
    if not PUBLISHED.is_dir():
        pytest.skip("the published embeddings are not here")
    from zegment.data.classes import class_set

    for name, names, templates in (
        ("voc20_single", "voc", "single"),
        ("cocostuff171_multi", "coco_stuff", "zegclip15"),
    ):
        vocabulary = Vocabulary(class_names=class_set(names).names, templates=TEMPLATES[templates])
        path = PUBLISHED / f"clip_vitb16_text_{name}.npy"
        rows = read_text_embeddings(path, (len(vocabulary.class_names), 512))
        stored = _by_sentence(vocabulary, rows)
        again = vocabulary.embed(RememberedText(stored, load_text_tower, vocabulary=vocabulary))
        torch.testing.assert_close(again, rows, atol=1e-6, rtol=0)


# Mistakes


def test_nothing_in_a_file_is_executed(tmp_path: Path, released: Callable[..., Path]) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    for seed in (Malicious(), np.array([Malicious()], dtype=object)):
        path = released(seed=seed)
        with pytest.raises(CheckpointError, match=r"changed\.pth.*could run code"):
            read_released(path)
    assert not (tmp_path / "executed").exists()


def test_files_that_are_no_checkpoints_are_refused(
    tmp_path: Path, released: Callable[..., Path]
) -> None:
    whole = released().read_bytes()
    path = tmp_path / "broken.pth"
    for content, message in (
        (whole[: len(whole) // 2], "cut short"),
        (b"", "no PyTorch file"),
        (b"hello, this is text\n" * 10, "no PyTorch file"),
        (whole[:300] + b"?" * 300 + whole[600:], "no PyTorch file"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"broken.pth.*{message}"):
            read_released(path)
    for content in ([1, 2], {"state_dict": 3}, {"state_dict": {"a": 3}}, {}, {1: torch.ones(1)}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=r"broken\.pth holds no state dict"):
            read_released(path)
    with pytest.raises(ModelNotFoundError, match=r"none\.pth"):
        read_released(tmp_path / "none.pth")
    with pytest.raises(ModelNotFoundError, match=str(tmp_path)):
        read_released(tmp_path)


CONV = "backbone.conv1.weight"
LAYER = "backbone.transformer.resblocks.1.mlp.c_proj.weight"
DEEP = "backbone.deep_prompt_embeddings"
QUERY = "decode_head.decoder_1.layers.1.multihead_attn.q.weight"
NORM = "decode_head.decoder_1.layers.2.norm3.bias"
COUNT = "decode_head.loss_decode.criterion.empty_weight"


@pytest.mark.parametrize("key", [CONV, LAYER, DEEP, QUERY, NORM, "backbone.prompt_norm.bias"])
def test_every_missing_misshapen_or_broken_tensor_is_named(
    released: Callable[..., Path], text_file: Path, key: str
) -> None:
    def cut(state: dict[str, Tensor]) -> None:
        state[key] = state[key][:-1]

    def break_(state: dict[str, Tensor]) -> None:
        state[key].flatten()[0] = float("nan")

    def count(state: dict[str, Tensor]) -> None:
        state[key] = state[key].long()

    for change, message in (
        (lambda state: state.pop(key), f"has no tensor '{key}'"),
        (lambda state: state.update({key: state[key][None]}), key),
        # A convolution with fewer filters is a narrower tower, which nothing else fits.
        (cut, "has shape" if key == CONV else f"'{key}' has shape"),
        (break_, f"'{key}' holds NaN"),
        (count, f"'{key}' holds no plain"),
    ):
        with pytest.raises(CheckpointError, match=f"changed.pth .*{message}"):
            import_checkpoint(released(change), options(text_file, heads=1))


@pytest.mark.parametrize(
    "key",
    [
        "decode_head.conv_seg.weight",
        "backbone.self_attn.extra.weight",
        "text_encoder.logit_scale",
        "decode_head.decoder_2.layers.0.norm1.weight",
        "prompt_learner.ctx",
    ],
)
def test_every_unknown_tensor_is_named(
    released: Callable[..., Path], text_file: Path, key: str
) -> None:
    path = released(lambda state: state.update({key: torch.ones(2)}))
    with pytest.raises(CheckpointError, match=f"changed.pth .*unknown tensor '{key}'"):
        import_checkpoint(path, options(text_file))


def test_positions_that_are_no_square_are_refused(
    released: Callable[..., Path], text_file: Path
) -> None:
    key = "backbone.positional_embedding"
    path = released(lambda state: state.update({key: state[key][:-2]}))
    with pytest.raises(CheckpointError, match=f"changed.pth .*'{key}' has 15 rows"):
        import_checkpoint(path, options(text_file))


def test_classes_that_the_file_was_not_trained_for_are_refused(
    released: Callable[..., Path], text_file: Path
) -> None:
    path = released()
    for changes in ({"setting": "transductive"}, {"unseen": ("tree",)}):
        with pytest.raises(CheckpointError, match=r"changed.pth was trained for 4 classes.*"):
            import_checkpoint(path, options(text_file, **changes))
    without = released(lambda state: state.pop(COUNT))
    assert import_checkpoint(without, options(text_file, unseen=("tree",)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"heads": None}, ConfigError, "--heads: .* 32 wide"),
        ({"heads": 5}, ConfigError, "--heads: 5 heads"),
        ({"heads": 0}, ConfigError, "--heads: 0 heads"),
        ({"decoder_heads": 3}, ConfigError, "--decoder-heads: 3 heads"),
        ({"unseen": None}, ConfigError, "--unseen"),
        ({"unseen": ("tree", "dogs")}, ConfigError, '--unseen: "dogs".*did you mean "dog"'),
        ({"unseen": NAMES}, ConfigError, "--unseen: every class"),
        ({"templates": "many"}, ConfigError, "templates.*many.*single, zegclip15"),
        ({"stride": 80}, ConfigError, "--stride: must be at most size, 64"),
        ({"window": 0}, ConfigError, "--window: must be at least 1"),
        ({"short_side": -1}, ConfigError, "--short-side: must be at least 1"),
        ({"text": Path("none.npy")}, ModelNotFoundError, "none.npy"),
        ({"text": None, "clip": "ViT-B-16/none"}, ModelNotFoundError, "ViT-B-16"),
        ({"text": None, "clip": "shapes-clip"}, ConfigError, "--clip: .*shapes-clip"),
    ],
)
def test_every_wrong_option_is_named(
    released: Callable[..., Path],
    text_file: Path,
    changes: dict[str, Any],
    error: type[ZegmentError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        import_checkpoint(released(), options(text_file, **changes))


def test_a_file_without_class_names_says_which_option_gives_them(
    tmp_path: Path, text_file: Path
) -> None:
    torch.save(released_state(recorded("inductive")), tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match=r"bare\.pth does not name its classes.*--class-set"):
        import_checkpoint(tmp_path / "bare.pth", options(text_file))


def test_text_that_does_not_fit_is_refused(
    released: Callable[..., Path], tmp_path: Path, text_file: Path
) -> None:
    checkpoint, path, good = released(), tmp_path / "wrong.npy", np.load(text_file)
    zero, broken = good.copy(), good.copy()
    zero[2], broken[3, 1] = 0, np.nan
    for rows, message in (
        (good[:5], r"float32 \(5, 16\), expected .* \(6, 16\)"),
        (good[:, :8], r"\(6, 8\)"),
        (good[None], r"\(1, 6, 16\)"),
        (good.astype(np.int64), "int64"),
        (zero, "row 2"),
        (broken, "row 3"),
        (np.array([{}]), "Object arrays"),
    ):
        np.save(path, rows, allow_pickle=True)
        with pytest.raises(CheckpointError, match=f"wrong.npy.*{message}"):
            import_checkpoint(checkpoint, options(path))
    for content in (b"", b"no array", text_file.read_bytes()[:90]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"cannot read .*wrong\.npy"):
            import_checkpoint(checkpoint, options(path))
    with path.open("wb") as file:
        np.savez(file, good)
    with pytest.raises(CheckpointError, match=r"wrong\.npy holds an archive"):
        import_checkpoint(checkpoint, options(path))


def test_classes_that_share_a_sentence_cannot_share_an_embedding(
    released: Callable[..., Path], text_file: Path
) -> None:
    names = ("cat", "small cat", *NAMES[2:])
    with pytest.raises(VocabularyError, match=r"“a photo of a small cat\.”"):
        import_checkpoint(released(), options(text_file, class_names=names, templates="zegclip15"))


def test_the_command_takes_class_sets(released: Callable[..., Path], tmp_path: Path) -> None:
    arguments = ("import-zegclip", released(), "--out", tmp_path / "o", *HEADS)
    with pytest.raises(ConfigError, match="--classes and --class-set"):
        invoke(*arguments, "--classes", "a, b", "--class-set", "voc")
    with pytest.raises(ConfigError, match="no class set"):
        invoke(*arguments, "--class-set", "vocs")
    with pytest.raises(CheckpointError, match="20 classes, 5 of them unseen, is for 15"):
        invoke(*arguments, "--class-set", "voc")
    with pytest.raises(CheckpointError, match="20 classes, 1 of them unseen, is for 19"):
        invoke(*arguments, "--class-set", "voc", "--unseen", "cat")
    assert not (tmp_path / "o").exists()


def test_nothing_is_ever_overwritten(
    released: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    arguments = ("import-zegclip", released(), "--text", text_file, *CLASSES, *HEADS, "--out")
    assert "6 classes, 4 of them seen" in invoke(*arguments, used)  # empty, so not in use
    before = {path.name: path.read_bytes() for path in used.iterdir()}
    for out in (used, text_file):
        with pytest.raises(OutputError, match=f"{out.name}.*in use"):
            invoke(*arguments, out)
    assert before == {path.name: path.read_bytes() for path in used.iterdir()}


def test_evaluation_without_data_says_what_is_missing(case: Case) -> None:
    with pytest.raises(ConfigError, match=r"no test split: add \[data.test\]"):
        invoke("evaluate", case.folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda header, _: header["tower"].pop("heads"),
        lambda header, _: header.update(tower=3),
        lambda header, _: header["tower"].update(grid=[3, 3]),
        lambda header, _: header["tower"].update(activation="relu"),
        lambda _, weights: weights.pop("tower.proj"),
        lambda _, weights: weights.pop("decoder.layers.0.q.bias"),
        lambda _, weights: weights["tower.conv1.weight"].fill_(float("nan")),
    ],
)
def test_damaged_self_contained_folders_are_refused(
    case: Case, tmp_path: Path, damage: Callable[[dict, dict], object]
) -> None:
    for path in case.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    header = json.loads((tmp_path / "config.json").read_text())
    weights = load_file(tmp_path / "model.safetensors")
    damage(header, weights)
    (tmp_path / "config.json").write_text(json.dumps(header))
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_trained(str(tmp_path), device="cpu")


def test_text_without_a_sentence_is_refused(case: Case, tmp_path: Path) -> None:
    for path in case.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = load_file(tmp_path / "text.safetensors")
    text.pop("a photo of a sky")
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match=r"text.safetensors.*“a photo of a sky”"):
        load_trained(str(tmp_path), device="cpu")
