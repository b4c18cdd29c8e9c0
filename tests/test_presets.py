"""What each packaged preset is: the published row, and nothing that it would have anyway."""

import dataclasses
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest

from zegment.config import (
    AugmentConfig,
    Config,
    LossConfig,
    OptimConfig,
    SelfTrainingConfig,
    SplitFiles,
    StudentConfig,
    TeachingConfig,
    WindowConfig,
    ZegClipConfig,
)
from zegment.config.loading import config_to_dict, load_config, preset_names
from zegment.data.benchmarks import benchmark

DATA = ("coco", "context", "voc")
STUDENTS = ("segformer", "segnext", "swin")
SETTINGS = ("", "-supervised", "-transductive", "-transductive-oracle")
PRESETS = preset_names()
SHAPES_PRESETS = tuple(name for name in PRESETS if name.startswith("shapes-"))
PAPER_PRESETS = tuple(name for name in PRESETS if name not in SHAPES_PRESETS)
STUDENT_PRESETS = tuple(name for name in PAPER_PRESETS if "-clip-zss" in name)

MARKS = ("published", "mmsegmentation", "ours")

VOC_UNSEEN = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
COCO_UNSEEN_IDS = (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)
CONTEXT_UNSEEN_IDS = (1, 7, 8, 15, 20, 25, 32, 34, 49, 55)  # of 60 classes


def text_of(preset: str) -> str:
    return files("zegment").joinpath("presets", f"{preset}.toml").read_text("utf-8")


def own_options(preset: str) -> dict[str, Any]:
    """Return what stands in the file of a preset, but for its base."""
    options = tomllib.loads(text_of(preset))
    options.pop("base", None)
    return options


def leaves(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def at(options: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        options = options[name]
    return options


def header(preset: str) -> str:
    return text_of(preset).partition("\n\n")[0]


def unseen_ids(config: Config) -> tuple[int, ...]:
    classes = config.data.named_classes()
    return tuple(sorted(classes.names.index(name) for name in classes.unseen))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_holds_only_what_it_would_not_have_anyway(preset: str) -> None:
    base = tomllib.loads(text_of(preset)).get("base")
    inherited = config_to_dict(Config() if base is None else load_config(preset=base))
    resolved = config_to_dict(load_config(preset=preset))
    own = own_options(preset)
    assert [key for key in leaves(own) if at(inherited, key) == at(resolved, key)] == []
    known = own.get("data", {}).get("benchmark")
    if known is not None:
        assert own["data"].keys() <= {"benchmark", "root"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_says_in_a_header_what_it_reproduces(preset: str) -> None:
    lines = header(preset).splitlines()
    assert all(line.startswith("# ") for line in lines)
    if preset in SHAPES_PRESETS:
        assert "It reproduces no row of a paper" in header(preset).replace("\n# ", " ")
        return
    assert any(line.startswith("# Paper: ") for line in lines)
    assert any(line.startswith("# Hardware of the ") for line in lines)
    assert "(CVPR 2023, arXiv 2212.03588)" in header(preset) or "arXiv 2310.02296" in header(preset)
    config = load_config(preset=preset)
    classes = config.data.named_classes()
    assert f"{len(classes.seen)} seen and {len(classes.unseen)} unseen classes" in header(preset)
    assert f"data set {config.data.benchmark} in {config.data.root};" in header(preset)


@pytest.mark.parametrize("preset", PAPER_PRESETS)
def test_a_paper_preset_reads_a_known_data_set_from_its_folder(preset: str) -> None:
    data = load_config(preset=preset).data
    assert data.benchmark is not None
    assert data.root == f"data/{benchmark(data.benchmark).folder}"


@pytest.mark.parametrize("preset", PAPER_PRESETS)
def test_a_paper_preset_reports_on_the_papers_split_and_chooses_nothing_on_it(preset: str) -> None:
    data = load_config(preset=preset).data
    assert data.val is None
    assert data.train is not None
    assert data.test not in (None, data.train)


def test_presets_of_context_read_the_prepared_layout() -> None:
    data = load_config(preset="context-clip-zss-segnext").data
    folders = {"images": "JPEGImages", "masks": "SegmentationClassContext"}
    lists = "ImageSets/SegmentationContext"
    assert data.root == "data/VOCdevkit/VOC2010"
    assert data.train == SplitFiles(**folders, list=f"{lists}/train.txt")
    assert data.test == SplitFiles(**folders, list=f"{lists}/val.txt")


# ZegCLIP


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("data", "known", "prompts", "steps", "templates", "sizes"),
    [
        ("voc", "voc20", 10, 20_000, "single", (15, 5)),
        ("coco", "coco_stuff", 100, 80_000, "zegclip15", (156, 15)),
        ("context", "context60", 35, 40_000, "zegclip15", (50, 10)),
    ],
)
def test_a_zegclip_preset_is_the_released_configuration(
    setting: str,
    data: str,
    known: str,
    prompts: int,
    steps: int,
    templates: str,
    sizes: tuple[int, int],
) -> None:
    config = load_config(preset=f"{data}-zegclip{setting}")
    assert (config.model.kind, config.model.clip) == ("zegclip", "ViT-B-16/openai")
    assert config.model.normalization == "imagenet"
    assert config.model.zegclip == ZegClipConfig(
        prompt_tokens=prompts,
        prompt_dropout=0.1,
        decoder_layers=3,
        decoder_heads=8,
        decoder_dropout=0.1,
        double_class_embedding=True,
        prompt_norm=True,
    )
    assert config.data.benchmark == known
    assert config.text.templates == templates
    assert config.optim == OptimConfig(
        steps=steps,
        batch_size=16,
        micro_batch_size=4,
        lr=2e-4,
        head_lr_scale=1.0,
        weight_decay=0.01,
        decay_norms=True,
        max_grad_norm=None,
        warmup_steps=1500,
        warmup_ratio=1e-6,
        power=0.9,
        min_lr=1e-6,
        precision="no",
    )
    assert config.augment == AugmentConfig(
        short_side=512,
        long_side=2048,
        scale_range=(0.5, 2.0),
        crop_size=(512, 512),
        max_class_share=0.75,
        flip=0.5,
        photometric=True,
    )
    assert config.loss == LossConfig(
        focal_weight=100.0,
        dice_weight=1.0,
        focal_alpha=0.25,
        focal_gamma=2.0,
        squared_dice=False,
        ignored_are_negatives=True,
    )
    assert config.windows == WindowConfig(short_side=512, size=512, stride=426)
    classes = config.data.named_classes()
    assert (len(classes.seen), len(classes.unseen)) == sizes


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(
    ("suffix", "setting", "region", "inductive_share", "seen_penalty"),
    [
        ("", "inductive", "unlabelled", 1, 0.1),
        ("-transductive", "transductive", "unlabelled", 0.5, 0.0),
        ("-transductive-oracle", "transductive", "oracle", 0.5, 0.0),
        ("-supervised", "supervised", "unlabelled", 1, 0.1),
    ],
)
def test_zegclip_presets_of_one_data_set_differ_in_the_setting_alone(
    data: str, suffix: str, setting: str, region: str, inductive_share: float, seen_penalty: float
) -> None:
    config = load_config(preset=f"{data}-zegclip{suffix}")
    assert config.setting == setting
    assert config.self_training == SelfTrainingConfig(
        region=region, start_share=0.5, start=None, guide="model"
    )
    assert config.inductive_steps == inductive_share * config.optim.steps
    assert config.seen_penalty == seen_penalty
    inductive = load_config(preset=f"{data}-zegclip")
    assert (
        dataclasses.replace(config, setting="inductive", self_training=inductive.self_training)
        == inductive
    )


def test_unseen_classes_are_the_published_ones() -> None:
    voc = load_config(preset="voc-zegclip")
    assert voc.data.named_classes().unseen == VOC_UNSEEN
    assert unseen_ids(voc) == (15, 16, 17, 18, 19)
    assert unseen_ids(load_config(preset="coco-zegclip")) == COCO_UNSEEN_IDS
    assert unseen_ids(load_config(preset="context-zegclip")) == CONTEXT_UNSEEN_IDS
    # Without the background every id is one less.
    students = load_config(preset="context-clip-zss-segnext")
    assert unseen_ids(students) == tuple(i - 1 for i in CONTEXT_UNSEEN_IDS)


def test_the_background_is_dropped_in_voc_and_a_seen_class_in_context() -> None:
    voc = load_config(preset="voc-zegclip").data
    assert voc.reduce_zero_label
    assert "background" not in voc.named_classes().names
    context = load_config(preset="context-zegclip").data
    assert not context.reduce_zero_label
    assert context.named_classes().names[0] == "background"
    assert "background" in context.named_classes().seen


def test_context_whose_configuration_was_not_released_marks_every_number() -> None:
    """The other numbers come from the base, whose configuration was released."""
    lines = text_of("context-zegclip").partition("\n\n")[2].splitlines()
    numbers = [line for line in lines if "=" in line and not line.startswith(("base", "root"))]
    assert numbers
    for line in numbers:
        assert line.partition("  # ")[2].startswith(("published", "ours")), line


# CLIP-ZSS


@pytest.mark.parametrize("preset", STUDENT_PRESETS)
def test_a_student_preset_has_the_published_numbers_and_mmsegmentations_schedule(
    preset: str,
) -> None:
    config = load_config(preset=preset)
    assert (config.model.kind, config.model.clip) == ("student", "ViT-B-16/openai")
    assert config.model.normalization == "imagenet"
    assert (config.setting, config.seen_penalty) == ("inductive", 0.0)
    assert config.optim == OptimConfig(
        steps={"voc": 20_000, "context": 40_000, "coco": 80_000}[preset.partition("-")[0]],
        batch_size=16,
        micro_batch_size=4,
        lr=6e-5,
        head_lr_scale=10.0,
        weight_decay=0.01,
        decay_norms=False,
        warmup_steps=1500,
        warmup_ratio=1e-6,
        power=1.0,
        min_lr=0.0,
    )
    assert config.augment == AugmentConfig(
        short_side=512,
        long_side=2048,
        scale_range=(0.5, 2.0),
        crop_size=(512, 512),
        max_class_share=0.75,
        flip=0.5,
        photometric=True,
    )
    assert config.teaching == TeachingConfig()
    assert (config.teaching.bank_size, config.teaching.loss_stride) == (24, 4)
    assert config.windows == WindowConfig(short_side=512)


@pytest.mark.parametrize("preset", STUDENT_PRESETS)
def test_every_number_of_a_student_preset_says_who_chose_it(preset: str) -> None:
    seen = 0
    table = ""
    for line in text_of(preset).partition("\n\n")[2].splitlines():
        if line.startswith("["):
            table = line
        unmarked = line.startswith(("base = ", "root = ", "kind = "))
        # Windows are explained in a comment above the table.
        if "=" not in line or line.startswith("#") or unmarked or table == "[windows]":
            continue
        assert line.partition("  # ")[2].startswith(MARKS), line
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize(
    ("student", "architecture", "encoder"),
    [
        ("segnext", "segnext", "b"),
        ("segformer", "segformer", "mit_b5"),
        ("swin", "upernet", "tu-swin_base_patch4_window12_384"),
    ],
)
@pytest.mark.parametrize("data", DATA)
def test_student_presets_of_one_data_set_differ_in_the_student_alone(
    data: str, student: str, architecture: str, encoder: str
) -> None:
    own, other = (load_config(preset=f"{data}-clip-zss-{s}") for s in (student, "segnext"))
    assert own.model.student == StudentConfig(
        architecture=architecture, encoder=encoder, weights="imagenet"
    )
    model = dataclasses.replace(own.model, student=other.model.student)
    assert dataclasses.replace(own, model=model) == other


@pytest.mark.parametrize(
    ("data", "class_set", "reduces", "templates", "seen", "unseen"),
    [
        ("voc", "voc", True, "single", 15, 5),
        ("coco", "coco_stuff", False, "zegclip15", 156, 15),
        ("context", "pascal_context", True, "zegclip15", 49, 10),
    ],
)
def test_presets_of_one_student_differ_in_data_texts_and_steps_alone(
    data: str, class_set: str, reduces: bool, templates: str, seen: int, unseen: int
) -> None:
    for student in STUDENTS:
        own = load_config(preset=f"{data}-clip-zss-{student}")
        assert (own.data.class_set, own.data.reduce_zero_label) == (class_set, reduces)
        assert own.text.templates == templates
        classes = own.data.named_classes()
        assert (len(classes.seen), len(classes.unseen)) == (seen, unseen)
        voc = load_config(preset=f"voc-clip-zss-{student}")
        optim = dataclasses.replace(own.optim, steps=voc.optim.steps)
        assert dataclasses.replace(own, data=voc.data, text=voc.text, optim=optim) == voc


@pytest.mark.parametrize("data", ["coco", "voc"])
def test_students_read_the_files_and_texts_of_zegclip(data: str) -> None:
    student, zegclip = (load_config(preset=f"{data}-{s}") for s in ("clip-zss-swin", "zegclip"))
    assert student.data == zegclip.data
    assert student.text == zegclip.text


# Shapes


@pytest.mark.parametrize("preset", SHAPES_PRESETS)
def test_a_shapes_preset_needs_no_download(preset: str) -> None:
    config = load_config(preset=preset)
    assert (config.data.source, config.model.clip) == ("shapes", "shapes-clip")
    assert config.model.student.weights is None


@pytest.mark.parametrize("preset", SHAPES_PRESETS)
def test_a_shapes_preset_is_called_what_it_trains(preset: str) -> None:
    kind = load_config(preset=preset).model.kind
    assert {"student": "clip-zss"}.get(kind, kind.replace("_", "-")) in preset
