"""The figure of one image: what its panels hold, the command that draws it, and its mistakes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from zegment import cli
from zegment.colours import class_colours
from zegment.config import DataConfig, SplitFiles
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, build_dataset
from zegment.errors import CheckpointError, ConfigError, DatasetError, OutputError, ZegmentError
from zegment.segmenter import Segmenter
from zegment.teaching_figure import (
    TeachingFigure,
    load_student,
    other_colours,
    read_own,
    read_pair,
    teaching_figure,
)
from zegment.training import Trainer

QUICK = [
    "data.image_size=32",
    "data.train_length=8",
    "data.val_length=2",
    "data.test_length=2",
    "optim.steps=1",
    "optim.batch_size=4",
    "optim.warmup_steps=0",
    "windows.short_side=none",
]


def train(clip: Path, out: Path, *settings: str) -> Path:
    overrides = [f"model.clip={clip}", *QUICK, *settings]
    Trainer(load_config(preset="shapes-clip-zss", overrides=overrides), out).run()
    return out


@pytest.fixture(scope="module")
def run(tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny_clip_folder, tmp_path_factory.mktemp("figure") / "run")


@pytest.fixture(scope="module")
def student(run: Path):
    return load_student(str(run), device="cpu")


@pytest.fixture(scope="module")
def drawn(student) -> TeachingFigure:
    return teaching_figure(*student, *read_pair(student[0].config, "train"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (97, 61, 3), np.uint8)).save(path)
    return path


def figure(*arguments: str | Path) -> tuple[int, str]:
    """Run the command in this process; what a user got wrong is raised."""
    result = CliRunner().invoke(cli.app, ["figure", *map(str, arguments)])
    if isinstance(result.exception, ZegmentError):
        raise result.exception
    return result.exit_code, result.output


def starts(figure: TeachingFigure) -> list[str]:
    return [panel.title.partition(":")[0] for panel in figure.panels]


ALL = [
    "image",
    "annotated",
    "K-Means from 1×1 windows",
    "K-Means from 2×2 windows",
    "fused",
    "GLM attention",
    "student's prediction",
]


def test_panels_come_in_the_order_of_the_method(drawn: TeachingFigure) -> None:
    # An eighth and a fourth of four tokens are both one token.
    assert starts(drawn) == ALL
    assert all(panel.picture.shape == (32, 32, 3) for panel in drawn.panels)
    assert all(panel.picture.dtype == np.uint8 for panel in drawn.panels)


def test_fused_labels_keep_annotated_pixels_and_fill_the_others_with_groups(student, drawn) -> None:
    annotated, fused = drawn.panels[1].values, drawn.panels[4].values
    known = annotated != IGNORE_INDEX
    assert 0 < known.sum() < known.size
    np.testing.assert_array_equal(fused[known], annotated[known])
    assert (fused[~known] >= len(student[0].seen)).all()
    groups = set(fused[~known]) - {IGNORE_INDEX}
    assert drawn.panels[4].title.startswith(f"fused: {len(groups)} group")


def test_annotation_shows_no_unseen_class(student, drawn: TeachingFigure) -> None:
    trained = student[0]
    image, label = read_pair(trained.config, "train")
    names, ranks = trained.vocabulary.class_names, drawn.panels[1].values
    np.testing.assert_array_equal(drawn.panels[0].values, image.permute(1, 2, 0))
    for i, name in enumerate(names):
        rank = trained.seen.index(name) if name in trained.seen else IGNORE_INDEX
        assert (ranks[label.numpy() == i] == rank).all()


def test_clusters_are_numbered_and_lie_where_nothing_is_annotated(drawn: TeachingFigure) -> None:
    free = drawn.panels[1].values == IGNORE_INDEX
    mostly = free.reshape(4, 8, 4, 8).mean((1, 3)).repeat(8, 0).repeat(8, 1) > 0.5
    for panel in drawn.panels[2:4]:
        np.testing.assert_array_equal(panel.values >= 0, mostly)
        count = panel.values.max() + 1
        assert set(panel.values[mostly]) == set(range(count))
        assert f": {count} cluster" in panel.title


def test_attention_sums_to_one(drawn: TeachingFigure) -> None:
    attention = drawn.panels[5].values
    assert attention.ndim == 2
    assert attention.sum() == pytest.approx(1, abs=1e-5)


def test_prediction_is_that_of_the_segmenter(student, drawn: TeachingFigure) -> None:
    segmenter = Segmenter.of(student[0])
    image, _ = read_pair(student[0].config, "train")
    expected, _ = segmenter.label(image[None], segmenter.query())
    np.testing.assert_array_equal(drawn.panels[-1].values, expected[0])


def test_legend_names_every_class_in_its_colour(student, drawn: TeachingFigure) -> None:
    trained = student[0]
    names, colours = trained.vocabulary.class_names, class_colours(20)
    shown = {names[i] for i in np.unique(drawn.panels[-1].values)}
    shown |= {trained.seen[r] for r in np.unique(drawn.panels[1].values) if r != IGNORE_INDEX}
    assert set(drawn.legend) == shown
    assert all((rgb == colours[names.index(n)]).all() for n, rgb in drawn.legend.items())
    assert set(drawn.unseen) == set(names) - set(trained.seen)


def test_groups_look_like_no_class_of_the_legend(drawn: TeachingFigure) -> None:
    free = drawn.panels[1].values == IGNORE_INDEX
    painted = {tuple(c) for c in drawn.panels[4].picture[free].tolist()}
    assert not painted & {tuple(c) for c in np.array(list(drawn.legend.values())).tolist()}
    others = other_colours(40, class_colours(20))
    assert len({tuple(c) for c in np.concatenate([others, class_colours(20)]).tolist()}) == 60


@pytest.mark.parametrize("annotate", ["all", "none"])
def test_image_that_is_annotated_everywhere_or_nowhere(student, annotate: str) -> None:
    trained = student[0]
    image, label = read_pair(trained.config, "train")
    seen = trained.vocabulary.class_names.index(trained.seen[3])
    label = torch.full_like(label, seen if annotate == "all" else IGNORE_INDEX)
    drawn = teaching_figure(*student, image, label)
    titles = [panel.title for panel in drawn.panels]
    if annotate == "all":
        assert [t.endswith("nothing unannotated") for t in titles[2:5]] == [True] * 3
        assert (drawn.panels[4].values == 3).all()
    else:
        assert titles[1] == "nothing annotated"
        assert (drawn.panels[4].values >= len(trained.seen)).all()
    assert drawn.page().height > 200


def test_modules_that_a_run_leaves_out_have_no_panel(tiny_clip_folder, tmp_path) -> None:
    settings = ["teaching.pseudo_classes=none", "teaching.global_weight=0"]
    run = train(tiny_clip_folder, tmp_path / "run", *settings)
    trained, clip = load_student(str(run))
    drawn = teaching_figure(trained, clip, *read_pair(trained.config, "train"))
    assert starts(drawn) == ["image", "annotated", "fused", "student's prediction"]
    np.testing.assert_array_equal(drawn.panels[2].values, drawn.panels[1].values)


def test_page_has_two_rows_and_loses_no_panel(drawn: TeachingFigure) -> None:
    page = np.asarray(drawn.page(cell=120))
    assert page.shape[1] < 5 * 120 + 60
    assert page.shape[0] > 2 * 120
    for rgb in drawn.legend.values():
        assert (page == rgb).all(-1).any()


def test_image_of_any_size_with_and_without_a_mask(run, student, photo, tmp_path) -> None:
    labels = np.full((97, 61), 255, np.uint8)
    labels[:40] = student[0].vocabulary.class_names.index(student[0].seen[2])
    mask = tmp_path / "mask.png"
    Image.fromarray(labels).save(mask)
    for given in (None, mask):
        drawn = teaching_figure(*student, *read_own(student[0], photo, given))
        assert all(panel.picture.shape == (97, 61, 3) for panel in drawn.panels)
        assert drawn.panels[-2].values.sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_array_equal(drawn.panels[-3].values[:40], 2)
    out = tmp_path / "own.png"
    status, output = figure(run, "--image", photo, "--mask", mask, "--out", out)
    assert (status, "wrote" in output) == (0, True)


def test_large_image_is_brought_to_the_size_that_the_student_looks_at(student, photo) -> None:
    trained = student[0]
    config = load_config(
        preset="shapes-clip-zss",
        overrides=[f"model.clip={trained.config.model.clip}", "windows.short_side=32"],
    )
    small = replace(trained, config=config)
    drawn = teaching_figure(small, student[1], *read_own(small, photo))
    assert {panel.picture.shape for panel in drawn.panels} == {(51, 32, 3)}


def test_command_writes_a_picture_once(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "figure.png"
    status, output = figure(run, "--out", out, "--index", "3", "--device", "cpu")
    assert status == 0, output
    assert "7 panels" in output
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.width > 900
    assert [path.name for path in out.parent.iterdir()] == ["figure.png"]
    with pytest.raises(OutputError, match="--overwrite"):
        figure(run, "--out", out)
    assert figure(run, "--out", out, "--split", "val", "--overwrite")[0] == 0


def test_first_image_that_is_annotated_in_part_is_taken(student) -> None:
    trained = student[0]
    data = build_dataset(trained.config.data, "train")
    unseen = [data.class_names.index(name) for name in data.unseen]
    parts = [np.isin(data[i][1], unseen).mean() for i in range(len(data))]
    first = next(i for i, share in enumerate(parts) if 0 < share < 1)
    assert torch.equal(read_pair(trained.config, "train")[1], data[first][1])
    assert torch.equal(read_pair(trained.config, "train", 7)[0], data[7][0])


@pytest.mark.parametrize("index", ["8", "-1"])
def test_index_outside_the_split_says_how_many_there_are(run, tmp_path, index) -> None:
    with pytest.raises(ConfigError, match=r"train split has 8 images; give 0 to 7"):
        figure(run, "--out", tmp_path / "f.png", "--index", index)
    assert not (tmp_path / "f.png").exists()


def test_run_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"zegclip model.*shapes-clip-zss"):
        figure("shapes-zegclip", "--out", tmp_path / "f.png")


def test_options_that_do_not_go_together_are_refused(run, photo, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--index and --image"):
        figure(run, "--out", tmp_path / "f.png", "--image", photo, "--index", "0")
    with pytest.raises(ConfigError, match="--mask"):
        figure(run, "--out", tmp_path / "f.png", "--mask", photo)


def test_mask_of_another_size_names_both(run, photo, tmp_path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.zeros((32, 30), np.uint8)).save(mask)
    with pytest.raises(DatasetError) as caught:
        figure(run, "--out", tmp_path / "f.png", "--image", photo, "--mask", mask)
    for part in (str(mask), str(photo), "30 x 32", "61 x 97"):
        assert part in str(caught.value)


def test_mask_value_that_is_no_class_is_named(student, photo, tmp_path) -> None:
    mask = tmp_path / "mask.png"
    Image.fromarray(np.full((97, 61), 20, np.uint8)).save(mask)
    with pytest.raises(DatasetError, match=r"value 20 is none of the run's 20 classes"):
        read_own(student[0], photo, mask)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        ({"source": "coco_json"}, [0, 1, 19, 255]),
        ({"source": "huggingface"}, [0, 1, 19, 255]),
        ({"source": "huggingface", "reduce_zero_label": True}, [1, 2, 20, 0]),
        ({"source": "folder", "label_values": (65535, *range(7, 26))}, [65535, 7, 25, 255]),
    ],
)
def test_mask_holds_the_label_values_of_the_data(student, tmp_path, options, values) -> None:
    trained, image, mask = student[0], tmp_path / "image.png", tmp_path / "mask.png"
    names, files = trained.vocabulary.class_names, SplitFiles(images="images", masks="masks")
    data = DataConfig(classes=names, train=files, **options)
    trained = replace(trained, config=replace(trained.config, data=data))
    Image.new("RGB", (4, 1)).save(image)
    Image.fromarray(np.array([values], np.uint16)).save(mask)
    assert read_own(trained, image, mask)[1].tolist() == [[0, 1, 19, IGNORE_INDEX]]
    assert read_own(trained, image)[1].tolist() == [[IGNORE_INDEX] * 4]


def test_another_clip_than_the_one_that_taught_is_refused(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run / "last", tmp_path / "copy")
    header = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**header, "clip_fingerprint": "other"}))
    with pytest.raises(CheckpointError, match="taught by another"):
        load_student(str(copy))
