import dataclasses
import json
import subprocess
import sys
import tomllib

import pytest

from zegment.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SplitFiles,
)
from zegment.config.loading import (
    config_from_dict,
    config_to_dict,
    config_to_toml,
    load_config,
    preset_names,
)
from zegment.data.shapes_classes import CLASS_NAMES
from zegment.errors import ConfigError

FOLDER = 'data.source="folder"'
CLASSES = 'data.classes=["cat", "dog", "sofa"]'
TRAIN = 'data.train={images="i", masks="m"}'


def write(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


# Layers


def test_nothing_given_is_the_defaults():
    assert load_config() == Config()


def test_a_file_overrules_a_preset_and_an_override_overrules_both(tmp_path):
    file = write(tmp_path, "[optim]\nsteps = 3000\nlr = 1e-3\n")
    config = load_config(preset="voc-zegclip", file=file, overrides=["optim.lr=1e-4"])
    assert config.optim.warmup_steps == 1500  # preset
    assert config.optim.steps == 3000  # file
    assert config.optim.lr == 1e-4  # override
    assert config.optim.weight_decay == OptimConfig().weight_decay  # default


def test_tables_are_merged_and_lists_are_replaced(tmp_path):
    file = write(tmp_path, "[augment]\nscale_range = [1.0, 1.5]\n")
    augment = load_config(preset="voc-zegclip", file=file).augment
    assert augment.scale_range == (1.0, 1.5)
    assert augment.photometric


def test_the_last_of_two_overrides_wins():
    assert load_config(overrides=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("optim.lr=1e-4", "optim", "lr", 1e-4),
        ("optim.lr = 1", "optim", "lr", 1.0),
        ("optim.steps=1_000", "optim", "steps", 1000),
        ("optim.precision=bf16", "optim", "precision", "bf16"),
        ('optim.precision="no"', "optim", "precision", "no"),
        ("augment.photometric=true", "augment", "photometric", True),
        ("augment.crop_size=[64, 32]", "augment", "crop_size", (64, 32)),
        ("model.clip=ViT-B-16/openai", "model", "clip", "ViT-B-16/openai"),
        ("model.clip=a=b", "model", "clip", "a=b"),
        ("data.root=2024-01-31", "data", "root", "2024-01-31"),
        ("loss.focal_alpha=none", "loss", "focal_alpha", None),
    ],
)
def test_an_override_is_read_as_toml_or_else_as_text(override, section, name, value):
    found = getattr(getattr(load_config(overrides=[override]), section), name)
    assert found == value
    assert type(found) is type(value)


def test_an_override_of_several_lines_sets_only_its_own_key():
    config = load_config(overrides=["model.clip=1\nseed=5"])
    assert config.model.clip == "1\nseed=5"
    assert config.seed == 0


def test_none_takes_back_what_a_preset_gave():
    overrides = ["windows.size=none", "windows.stride=none"]
    assert load_config(preset="voc-zegclip", overrides=overrides).windows.size is None


def test_root_in_a_file_is_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(tmp_path, '[data]\nroot = "pictures"\n')
    assert load_config(file="../run.toml").data.root == str(tmp_path.resolve() / "pictures")


def test_an_absolute_root_in_a_file_stays(tmp_path):
    root = (tmp_path / "pictures").resolve()
    file = write(tmp_path, f"[data]\nroot = {json.dumps(str(root))}\n")
    assert load_config(file=file).data.root == str(root)


def test_root_in_an_override_is_relative_to_the_working_directory():
    assert load_config(overrides=["data.root=pictures"]).data.root == "pictures"


# Round trips


@pytest.mark.parametrize("preset", preset_names())
def test_a_config_survives_json_and_toml(preset, tmp_path):
    config = load_config(
        preset=preset, overrides=["loss.focal_alpha=none", 'model.clip="a \\"é\\" \\u007f\\n"']
    )
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    text = config_to_toml(config)
    assert config_from_dict(tomllib.loads(text)) == config


def test_a_written_config_loads_as_a_file(tmp_path):
    root = str((tmp_path / "data").resolve())
    config = load_config(preset="coco-zegclip", overrides=[f"data.root={root}"])
    assert load_config(file=write(tmp_path, config_to_toml(config))) == config


def test_a_dict_with_some_options_keeps_the_other_defaults():
    assert config_from_dict({"seed": 3}) == Config(seed=3)


def test_a_config_can_be_a_key_and_cannot_be_changed():
    config = Config()
    assert hash(config) == hash(Config())
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


# Mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", r'optim\.lrr: unknown option; did you mean "lr"\? \(from --set optim'),
        ("lr=1", r'lr: unknown option; did you mean "optim\.lr"\?'),
        ("model.prompt_tokens=5", r'did you mean "zegclip\.prompt_tokens"\?'),
        ("xyz=1", "xyz: unknown option; known are setting, seed, workers"),
        ("optim.lr=fast", 'optim.lr: expected a number, got "fast"'),
        ("optim.steps=2.5", "optim.steps: expected a whole number, got 2.5"),
        ("optim.steps=true", "optim.steps: expected a whole number, got true"),
        ("optim.lr=inf", "optim.lr: expected a number, got inf"),
        ("optim.lr=nan", "optim.lr: expected a number, got nan"),
        ("augment.photometric=1", "augment.photometric: expected true or false, got 1"),
        ("model.clip=16", "model.clip: expected text, got 16; put it in quotes"),
        ("model.kind=zegclp", 'model.kind: expected one of "zegclip", "one_stage", "dense_clip"'),
        (
            "augment.crop_size=512",
            r"augment.crop_size: expected a list such as \[512, 512\], got 512",
        ),
        ("augment.crop_size=[512]", r"augment.crop_size: expected 2 values, got \[512\]"),
        ("data.classes=cat", 'data.classes: expected a list such as .*"cat", "dog"'),
        ("data.classes=[1]", "data.classes: expected text, got 1"),
        ("optim=3", "optim: expected a table of options, got 3"),
        ("seed.x=3", "seed: expected a whole number, got a table"),
        ('data.train={images="i"}', "data.train.masks: is missing; add it"),
        ('data.train={images="i", masks="m", lst="l"}', 'data.train.lst: .*did you mean "list"'),
    ],
)
def test_an_option_of_the_wrong_name_or_type_is_named_with_a_remedy(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=-1", "optim.lr: must be above 0, got -1"),
        ("optim.lr=0", "optim.lr: must be above 0, got 0"),
        ("optim.steps=0", "optim.steps: must be at least 1, got 0"),
        ("optim.batch_size=0", "optim.batch_size: must be at least 1"),
        ("optim.micro_batch_size=5", "optim.micro_batch_size: must divide batch_size, 16, got 5"),
        ("optim.warmup_steps=2000", "optim.warmup_steps: must be below steps, 2000, got 2000"),
        ("optim.min_lr=1", "optim.min_lr: must be at most lr, 0.0002, got 1"),
        ("optim.warmup_ratio=2", "optim.warmup_ratio: must be at least 0 and at most 1, got 2"),
        ("optim.weight_decay=-0.1", "optim.weight_decay: must be at least 0"),
        ("seed=-1", "seed: must be at least 0"),
        ("workers=-1", "workers: must be at least 0"),
        ("workers=257", "workers: must be at least 0 and at most 256"),
        ("seed=4294967296", "seed: must be at least 0 and at most 4294967295, got 4294967296"),
        ("model.zegclip.prompt_dropout=1", "prompt_dropout: must be at least 0 and below 1"),
        ("model.zegclip.prompt_layers=-1", "prompt_layers: must be at least 0 and at most 100"),
        ("model.zegclip.prompt_layers=all", 'prompt_layers: expected a whole number, got "all"'),
        ("model.zegclip.tower=tuned", 'tower: expected one of "frozen", "fine_tuned", got "tuned"'),
        ("model.zegclip.relation=sum", 'relation: expected one of "product_text", "text", "class'),
        (
            "model.zegclip={auxiliary_losses=true, decoder_layers=1}",
            "auxiliary_losses: are those of layers before the last, and decoder_layers is 1",
        ),
        ("model.two_stage.margin=1e308", "margin: must be at least 0 and at most 10, got 1e.308"),
        ("model.two_stage.cell=9223372036854775807", "cell: must be at least 1 and at most 16384"),
        ("model.two_stage.proposals=10001", "proposals: must be at least 1 and at most 10000"),
        ("teaching.loss_stride=16385", "loss_stride: must be at least 1 and at most 16384"),
        ("teaching.iterations=1001", "teaching.iterations: must be at least 1 and at most 1000"),
        ('model.clip=""', 'model.clip: must be a text that is not empty, got ""'),
        ('model.student.encoder=" "', 'student.encoder: must be a text that is not empty, got " "'),
        ('teaching.cache=""', "teaching.cache: must be a text that is not empty"),
        ("model.dense_clip.temperature=0", "temperature: must be above 0"),
        ("loss.kind=focal", 'loss.kind: expected one of "released", "non_mutually_exclusive", "cr'),
        ("loss.focal_alpha=1.5", "loss.focal_alpha: must be at least 0 and at most 1"),
        ("data.image_size=8", "data.image_size: must be at least 16"),
        ("data.train_length=0", "data.train_length: must be at least 1"),
        ("data.train_length=9223372036854775807", "train_length: .* at most 1000000, got 92233"),
        ("data.val_length=1000001", "data.val_length: must be at least 1 and at most 1000000"),
        ("data.test_length=1000001", "data.test_length: must be at least 1 and at most 1000000"),
        ("data.benchmark=vocc", r'data.benchmark: .*"vocc"; did you mean "voc21".*from --set data'),
        ("data.ignore_value=70000", "data.ignore_value: must be at least 0 and at most 65535"),
        ("augment.flip=1.5", "augment.flip: must be at least 0 and at most 1"),
        ("augment.crop_size=[0, 8]", "augment.crop_size: must be at least 1 and at most 16384"),
        ("augment.scale_range=[2.0, 1.0]", "augment.scale_range: must run from small to large"),
        ("augment.scale_range=[0.5, 2.0]", "augment.scale_range: .*set augment.crop_size"),
        ("augment.scale_range=[1e308, 1e308]", "scale_range: must be .* at most 16, got 1e.308"),
        ("augment.scale_range=[1e-9, 1]", "augment.scale_range: must be at least 0.0625"),
        ("augment={short_side=9000, scale_range=[2, 2]}", "sides of 9000 .* up to 18000 long, and"),
        ("augment.long_side=64", "augment.long_side: only limits short_side"),
        ("augment={short_side=64, long_side=32}", "augment.long_side: must be at least short_side"),
        ("augment.max_class_share=0.7", "augment.max_class_share: .*set augment.crop_size"),
        ("windows.stride=8", "windows.stride: is for windows; set size too"),
        ("windows={size=8, stride=9}", "windows.stride: must be at most size, 8, got 9"),
        ("data.classes=['cat']", "data.classes: Shapes has its own classes"),
        ("data.unseen=['hart']", 'data.unseen: "hart" is not one of the .* did you mean "heart"'),
        ("data.unseen=['heart', 'heart']", "data.unseen: a class is listed twice"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_limits(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([FOLDER, TRAIN], "data.classes: your own files need class names"),
        ([FOLDER, CLASSES], r"data.train: your own files need \[data.train\]"),
        ([FOLDER, TRAIN, CLASSES, "data.class_set=voc"], "data.classes: class_set gives the names"),
        ([FOLDER, TRAIN, "data.class_set=vox"], 'data.class_set: .*did you mean "voc"'),
        ([FOLDER, TRAIN, 'data.classes=["cat", " "]'], "data.classes: class 1 has an empty name"),
        ([FOLDER, TRAIN, 'data.classes=["cat", "Cat"]'], 'data.classes: "Cat" is the same name'),
        (
            [FOLDER, TRAIN, 'data.classes=["a", "b", "a"]'],
            'data.classes: "a" is the same name as "a"',
        ),
        (
            [FOLDER, TRAIN, CLASSES, 'data.unseen=["sofaa"]'],
            'data.unseen: "sofaa" is not one of the classes; did you mean "sofa"?',
        ),
        (
            [FOLDER, TRAIN, CLASSES, 'data.unseen=["cat", "cat"]'],
            "data.unseen: a class is listed twice",
        ),
        (
            [FOLDER, TRAIN, CLASSES, 'data.unseen=["cat", "dog", "sofa"]'],
            "data.unseen: every class is unseen",
        ),
        (
            [FOLDER, TRAIN, CLASSES, "data.ignore_value=2"],
            'ignore_value: 2 is also the label of "sofa"',
        ),
        (
            [FOLDER, TRAIN, CLASSES, "data.reduce_zero_label=true", "data.ignore_value=3"],
            'ignore_value: 3 is also the label of "sofa"',
        ),
        ([FOLDER, TRAIN, CLASSES, "data.mask_suffix=.jpg"], "data.mask_suffix: .*lossless"),
        ([FOLDER, TRAIN, CLASSES, "data.mask_suffix=''"], "data.mask_suffix: .*lossless"),
        (
            [FOLDER, TRAIN, f"data.classes={[str(i) for i in range(65536)]}"],
            "data.classes: 65536 are too many",
        ),
    ],
)
def test_a_folder_that_cannot_work_is_refused_before_any_file_is_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=overrides)


def test_as_many_classes_as_labels_are_accepted():
    names = [str(i) for i in range(255)]
    config = load_config(overrides=[FOLDER, TRAIN, f"data.classes={names}"])
    assert len(config.data.classes) == 255


def test_a_folder_with_only_a_test_split_is_enough_for_evaluation():
    config = load_config(overrides=[FOLDER, CLASSES, 'data.test={images="i", masks="m"}'])
    assert config.data.test == SplitFiles(images="i", masks="m")
    assert config.data.train is None


def test_unseen_names_of_the_user_overrule_those_of_the_class_set():
    data = load_config(overrides=[FOLDER, TRAIN, "data.class_set=voc", 'data.unseen=["cat"]']).data
    assert data.named_classes().unseen == ("cat",)
    assert len(data.named_classes().names) == 20


def test_the_error_names_the_file_that_has_the_mistake(tmp_path):
    file = write(tmp_path, "[optim]\nstep = 3\n")
    with pytest.raises(ConfigError, match=r'optim\.step: .*"steps"\? \(from .*run\.toml\)'):
        load_config(preset="voc-zegclip", file=file, overrides=["seed=1"])


def test_broken_toml_is_named_with_file_and_line(tmp_path):
    file = write(tmp_path, "seed = 1\nworkers = = 2\n")
    with pytest.raises(ConfigError, match=r"run\.toml is not valid TOML: .*line 2"):
        load_config(file=file)


def test_a_missing_file_is_answered_with_the_presets(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file .*gone\.toml.*voc-zegclip"):
        load_config(file=tmp_path / "gone.toml")


def test_a_folder_or_a_binary_file_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(file=tmp_path)
    (tmp_path / "run.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read .*run\.toml as a text file"):
        load_config(file=tmp_path / "run.toml")


def test_an_unknown_preset_is_answered_with_the_nearest_and_all_of_them():
    with pytest.raises(ConfigError, match=r'"voc-zegclp"; did you mean "voc-zegclip"\?.*shapes-'):
        load_config(preset="voc-zegclp")


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim..lr=3", ""])
def test_an_override_without_key_and_value_shows_how_to_write_one(override):
    with pytest.raises(ConfigError, match=r"write key=value, such as optim\.lr=1e-4"):
        load_config(overrides=[override])


def test_a_config_made_in_python_is_checked_like_one_from_a_file():
    with pytest.raises(ConfigError, match="lr: must be above 0"):
        OptimConfig(lr=-1.0)
    with pytest.raises(ConfigError, match='kind: expected one of "zegclip"'):
        ModelConfig(kind="zegclp")
    with pytest.raises(ConfigError, match="scale_range: must run from small"):
        AugmentConfig(scale_range=(2.0, 1.0))
    assert DataConfig(
        source="folder", classes=["a", "b"], train=SplitFiles(images="i", masks="m")
    ).classes == ("a", "b")


def test_reading_a_preset_does_not_import_torch():
    code = (
        "import sys; from zegment.config.loading import load_config; "
        "load_config(preset='voc-zegclip'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("model", ["model.kind=one_stage", "model.zegclip.tower=fine_tuned"])
def test_the_clip_that_is_trained_does_not_guess_for_itself(model):
    guided = ["setting=transductive", "self_training.guide=clip"]
    assert load_config(overrides=guided).self_training.guide == "clip"
    with pytest.raises(ConfigError, match=r"self_training\.guide: is the CLIP that this .* trains"):
        load_config(overrides=[*guided, model])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["guide=checkpoint"], "guide_checkpoint: is missing; name the run folder or model"),
        (["guide_checkpoint=run"], 'guide_checkpoint: is for guide = "checkpoint", and the guide'),
        (["guide=clip", "guide_checkpoint=run"], 'and the guide is "clip"; set that, or leave'),
        (["guide=teacher"], 'guide: expected one of "model", "clip", "checkpoint"'),
    ],
)
def test_a_guide_and_its_checkpoint_belong_together(changes, message):
    changes = [f"self_training.{change}" for change in changes]
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=["setting=transductive", *changes])


def test_losses_of_what_is_not_compiled_are_not_combined_with_compiling():
    both = ["model.zegclip.auxiliary_losses=true", "optim.compile=true"]
    with pytest.raises(ConfigError, match=r"optim\.compile: .* leave one of the two out"):
        load_config(overrides=both)
    assert load_config(overrides=[*both, "model.kind=one_stage"]).optim.compile


def test_shapes_takes_any_unseen_classes_but_all_of_them():
    def unseen(*overrides: str) -> tuple[str, ...]:
        return load_config(overrides=overrides).data.named_classes().unseen

    assert unseen() == ("heart", "star", "ring", "water", "brick")
    assert unseen('data.unseen=["snow", "moon"]') == ("snow", "moon")
    assert unseen("data.unseen=[]") == ()
    most = list(CLASS_NAMES[1:])
    assert unseen(f"data.unseen={json.dumps(most)}") == tuple(most)
    with pytest.raises(ConfigError, match=r"data\.unseen: every class is unseen"):
        unseen(f"data.unseen={json.dumps(CLASS_NAMES)}")


def test_unseen_classes_of_a_class_set_can_be_none_of_them():
    packaged = load_config(preset="voc-zegclip")
    supervised = load_config(preset="voc-zegclip", overrides=["data.unseen=[]"])
    assert len(packaged.data.named_classes().unseen) == 5
    assert supervised.data.named_classes().unseen == ()


def test_folders_without_a_root_lie_beside_their_file(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    file = write(
        tmp_path,
        '[data]\nsource = "folder"\nclasses = ["a", "b"]\n'
        '[data.train]\nimages = "images"\nmasks = "masks"\n',
    )
    assert load_config(file=file).data.root == str(tmp_path)


def test_a_file_without_folders_keeps_the_root_of_its_preset(tmp_path):
    file = write(tmp_path, "[data]\nunseen = []\n")
    root = load_config(preset="voc-zegclip").data.root
    assert load_config(preset="voc-zegclip", file=file).data.root == root


def test_of_a_long_override_only_the_beginning_is_repeated() -> None:
    with pytest.raises(ConfigError, match=r"\(50009 characters\)") as raised:
        load_config(overrides=["optim.lr=" + "[" * 50_000])
    assert len(str(raised.value)) < 500


def test_a_batch_has_a_bound() -> None:
    with pytest.raises(ConfigError, match=r"optim\.batch_size: .*65536"):
        load_config(overrides=["optim.batch_size=1000000000"])
