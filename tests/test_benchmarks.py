"""Known data sets through the real command line and the real dataset, in miniature."""

import io
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import miniatures as mini
import numpy as np
import pytest
from miniatures import lay, pack, png, stripes
from PIL import Image
from typer.testing import CliRunner

from zegment.commands.data import data_app
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX
from zegment.data.benchmarks import benchmark, benchmark_names
from zegment.data.classes import class_set
from zegment.data.folder import FolderDataset
from zegment.data.preparing import conversion, prepare_benchmark
from zegment.errors import ConfigError, ZegmentError

NONE = IGNORE_INDEX
ADE847 = class_set("ade847").label_values


@dataclass(frozen=True)
class Case:
    """A known data set in miniature: its archives, and what its splits then hold."""

    name: str
    archives: dict
    lengths: dict
    labels: list
    classes: int
    train_labels: list | None = None  # of the last training image, if they differ


VOC = {"VOCtrainval_11-May-2012.tar": mini.voc2012(), "benchmark.tgz": mini.sbd()}
CONTEXT = {
    "VOCtrainval_03-May-2010.tar": mini.voc2010(),
    "trainval.tar.gz": mini.context_annotation(),
}
COCO = {
    "train2017.zip": mini.coco_images("train2017", mini.COCO_TRAIN),
    "val2017.zip": mini.coco_images("val2017", mini.COCO_VAL),
    "stuffthingmaps_trainval2017.zip": mini.coco_maps(),
}
ADE_NUMBERS = (0, ADE847[0], ADE847[255], ADE847[846], 1)
CASES = [
    Case("voc20", VOC, {"train": 4, "test": 1}, [NONE, 19, 0, NONE], 20, [4, 14, NONE]),
    Case("voc21", VOC, {"train": 4, "test": 1}, [NONE, 20, 1, 0], 21, [5, 15, 0]),
    Case("context59", CONTEXT, {"train": 2, "test": 1}, [NONE, NONE, 0, NONE, 58, NONE], 59),
    Case("context60", CONTEXT, {"train": 2, "test": 1}, [0, 0, 1, 0, 59, 0], 60),
    Case("context459", CONTEXT, {"train": 2, "test": 1}, [NONE, 0, 1, 254, 457, 458], 459),
    Case("coco_stuff", COCO, {"train": 2, "test": 1}, [0, 11, 79, 80, 170, NONE], 171),
    Case("coco_object", COCO, {"train": 2, "test": 1}, [1, 12, 80, 0, 0, 0], 81),
    Case(
        "ade150",
        {"ADEChallengeData2016.zip": mini.ade_challenge()},
        {"train": 2, "test": 1},
        [NONE, 0, 149],
        150,
    ),
    Case(
        "ade847",
        {"ADE20K_2021_17_01.zip": mini.ade_full(ADE_NUMBERS)},
        {"train": 1, "test": 1},
        [NONE, 0, 255, 846, NONE],
        847,
    ),
    Case(
        "cityscapes",
        {
            "leftImg8bit_trainvaltest.zip": mini.city_images(),
            "gtFine_trainvaltest.zip": mini.city_masks(),
        },
        {"train": 1, "test": 1},
        [NONE, 0, NONE, 18, NONE],
        19,
    ),
]
BY_NAME = {case.name: case for case in CASES}


def run(*arguments):
    """Return the exit status and the output of ``zegment data``, its error included."""
    result = CliRunner().invoke(data_app, [str(argument) for argument in arguments])
    if isinstance(result.exception, ZegmentError):
        return 2, f"{result.output}{result.exception}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def given(folder, archives):
    """Return the options that give archives to ``prepare``."""
    paths = [pack(folder / name, tree) for name, tree in archives.items()]
    return [word for path in paths for word in ("--archive", path)]


def prepared(name, folder):
    """Return the root of a miniature that the command line has prepared."""
    root = folder / "root"
    status, output = run(
        "prepare", name, "--root", root, *given(folder / "downloads", BY_NAME[name].archives)
    )
    assert status == 0, output
    return root


def dataset(name, root, split):
    config = load_config(overrides=[f"data.benchmark={name}", f"data.root={root}"])
    return FolderDataset(config.data, split)


def published(monkeypatch, name, lengths):
    """Let the published numbers of a data set be those of its miniature."""
    counts = {split: (number,) for split, number in lengths.items()}
    known = replace(benchmark(name), counts=counts)
    monkeypatch.setattr(
        "zegment.data.checking.benchmark", lambda asked: known if asked == name else None
    )


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


# What is prepared, and what it holds


@pytest.mark.parametrize("name", BY_NAME)
def test_archives_become_labels(tmp_path, name):
    case, root = BY_NAME[name], prepared(name, tmp_path)
    for split, length in case.lengths.items():
        found = dataset(name, root, split)
        assert (len(found), len(found.class_names)) == (length, case.classes)
        values = case.train_labels if split == "train" and case.train_labels else case.labels
        image, label = found[length - 1]
        assert image.shape[1:] == label.shape
        assert label.numpy().tolist() == stripes(*values).tolist()
    assert not [path for path in files(root) if ".zegment" in str(path)]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_complete_miniature_passes_the_check(tmp_path, monkeypatch, name):
    case, root = BY_NAME[name], prepared(name, tmp_path)
    published(monkeypatch, name, case.lengths)
    status, output = run("check", name, "--root", root, "--json", tmp_path / "counts.json")
    assert status == 0, output
    report = json.loads((tmp_path / "counts.json").read_text())
    assert {split: part["images"] for split, part in report["splits"].items()} == case.lengths
    pixels = report["splits"]["test"]["class_pixels"]
    labels = stripes(*case.labels)
    expected = [int((labels == label).sum()) for label in range(case.classes)]
    assert list(pixels.values()) == expected
    assert report["splits"]["test"]["ignored_pixels"] == (labels == NONE).sum()
    absent = f"{len(report['absent_classes'])} of {case.classes} classes never occur"
    assert absent in output
    assert len(report["absent_classes"]) > 0


def test_every_known_data_set_of_natural_images_has_a_miniature_and_counts():
    assert set(BY_NAME) <= set(benchmark_names())
    for name, case in BY_NAME.items():
        known = benchmark(name)
        assert set(known.counts) == {"train", "test"}
        assert known.archives == tuple(case.archives)


@pytest.mark.parametrize("name", ["coco_stuff", "coco_object", "cityscapes"])
def test_label_values_are_those_of_the_class_set(name):
    known = benchmark(name)
    assert tuple(known.data["label_values"]) == class_set(known.data["class_set"]).label_values


def test_the_list_names_classes_counts_and_archives():
    status, output = run("list")
    assert status == 0
    for expected in ("context459", "459 classes", "4,998 or 4,996", "benchmark.tgz", "118,287"):
        assert expected in output


def test_the_program_says_in_one_line_what_is_wrong_with_the_root(tmp_path):
    root = prepared("ade150", tmp_path)
    code = "from zegment.cli import main; main()"
    words = [sys.executable, "-c", code, "data", "check", "ade150", "--root", root / "images"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert f"but {root} looks like it" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_data_set_is_named_with_a_suggestion(tmp_path):
    for command in ("prepare", "check"):
        status, output = run(command, "voc_20", "--root", tmp_path)
        assert status == 2
        assert 'did you mean "voc20"' in output


# Training masks of VOC


def test_own_masks_of_voc_go_before_those_of_sbd_and_val_is_not_taught(tmp_path):
    root = prepared("voc20", tmp_path)
    listed = (root / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    assert listed == [*mini.VOC_TRAIN, "2008_000004", "2008_000005"]
    label = dataset("voc20", root, "train")[1][1]
    assert label.numpy().tolist() == stripes(NONE, 19, 0, NONE).tolist()
    assert not (root / "SegmentationClassAug/2007_000003.png").exists()


def test_sbd_may_lie_beside_the_development_kit(tmp_path):
    lay(tmp_path, mini.voc2012())
    lay(tmp_path, mini.sbd())
    root = tmp_path / "VOCdevkit" / "VOC2012"
    assert run("prepare", "voc20", "--root", root)[0] == 0
    assert len(dataset("voc20", root, "train")) == 4


def test_masks_that_somebody_else_converted_are_taken(tmp_path):
    lay(tmp_path, mini.voc2012())
    root = tmp_path / "VOCdevkit" / "VOC2012"
    names = ["2007_000001", "2007_000002", "2007_000003", "2008_000004"]
    zipped = {f"SegmentationClassAug/{name}.png": png(stripes(0, 7)) for name in names}
    archives = given(tmp_path, {"SegmentationClassAug.zip": zipped})
    assert run("prepare", "voc20", "--root", root, *archives)[0] == 0
    assert len(dataset("voc20", root, "train")) == 3


def test_a_mask_of_sbd_with_other_values_is_refused_and_nothing_is_listed(tmp_path):
    lay(tmp_path, mini.voc2012())
    lay(tmp_path, mini.sbd())
    bad = tmp_path / "benchmark_RELEASE/dataset/cls/2008_000004.mat"
    bad.write_bytes(mini.mat(GTcls={"Segmentation": stripes(3, 33)}))
    root = tmp_path / "VOCdevkit" / "VOC2012"
    status, output = run("prepare", "voc20", "--root", root)
    assert status == 2
    assert str(bad) in output
    assert "0 to 20" in output
    assert "benchmark.tgz" in output
    assert not (root / "ImageSets/Segmentation/train_aug.txt").exists()


@pytest.mark.parametrize("content", [b"", b"no Matlab file at all", mini.mat(Other=1)])
def test_a_damaged_matlab_file_is_named(tmp_path, content):
    lay(tmp_path, mini.voc2012())
    lay(tmp_path, mini.sbd())
    bad = tmp_path / "benchmark_RELEASE/dataset/cls/2008_000005.mat"
    bad.write_bytes(content)
    status, output = run("prepare", "voc20", "--root", tmp_path / "VOCdevkit/VOC2012")
    assert status == 2
    assert str(bad) in output
    assert "again" in output


def test_without_scipy_the_remedy_is_to_install_it(tmp_path, monkeypatch):
    lay(tmp_path, mini.voc2012())
    lay(tmp_path, mini.sbd())
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    status, output = run("prepare", "voc20", "--root", tmp_path / "VOCdevkit/VOC2012")
    assert status == 2
    assert "needs the package scipy" in output
    assert 'pip install "zegment[data]"' in output


# PASCAL Context


def test_the_publishers_pictures_are_renumbered_by_their_names(tmp_path):
    lay(tmp_path, mini.voc2010())
    lay(tmp_path, mini.context_pictures())
    root = tmp_path / "VOCdevkit" / "VOC2010"
    assert run("prepare", "context59", "--root", root)[0] == 0
    found = dataset("context59", root, "test")
    label = found[0][1].numpy()
    names = [found.class_names[i] for i in label[0, 1:5]]
    assert label[0, 0] == NONE
    assert names == ["aeroplane", "dog", "table", "wood"]
    status, output = run("prepare", "context459", "--root", root)
    assert status == 2
    assert "trainval.tar.gz" in output


def test_the_publishers_pictures_are_not_guessed_at_without_their_names(tmp_path):
    tree = mini.context_pictures()
    names = tree.pop("59_labels.txt")
    lay(tmp_path, mini.voc2010())
    lay(tmp_path, tree)
    root = tmp_path / "VOCdevkit" / "VOC2010"
    status, output = run("prepare", "context59", "--root", root)
    assert (status, "download 59_labels.txt" in output) == (2, True)
    (tmp_path / "59_labels.txt").write_bytes(names.replace(b"wood", b"woods"))
    status, output = run("prepare", "context59", "--root", root)
    assert (status, "lacks wood" in output) == (2, True)
    assert not (root / "SegmentationClassContext").exists()


def test_lists_and_masks_of_another_converter_are_kept(tmp_path, monkeypatch):
    lay(tmp_path, mini.voc2010())
    root = tmp_path / "VOCdevkit" / "VOC2010"
    for split, names in (("train", mini.CONTEXT_TRAIN[:1]), ("val", mini.CONTEXT_VAL)):
        lay(root, {f"ImageSets/SegmentationContext/{split}.txt": mini.lines(*names)})
        for name in names:
            lay(root, {f"SegmentationClassContext/{name}.png": png(stripes(0, 59))})
    before = files(root)
    assert run("prepare", "context60", "--root", root)[0] == 0
    assert files(root) == before
    published(monkeypatch, "context60", {"train": 1, "test": 1})
    assert run("check", "context60", "--root", root)[0] == 0


def test_lists_of_another_year_are_refused(tmp_path):
    lay(tmp_path, mini.voc2010())
    root = tmp_path / "VOCdevkit" / "VOC2010"
    lay(root, mini.context_annotation())
    (root / "JPEGImages/2012_004331.jpg").write_bytes(mini.jpeg())
    (root / "ImageSets/Main/val.txt").write_bytes(mini.lines(*mini.CONTEXT_VAL, "2012_004331"))
    status, output = run("prepare", "context59", "--root", root)
    assert status == 2
    assert "2012_004331.mat" in output
    assert "VOCtrainval_03-May-2010.tar" in output
    assert not (root / "SegmentationClassContext").exists()


# ADE20K


def test_the_index_of_ade20k_is_not_opened_and_an_older_release_is_refused(tmp_path):
    root = prepared("ade847", tmp_path)
    assert (root / "index_ade20k.pkl").exists()
    with Image.open(next(root.glob("annotations/ADE/validation/*/*/*.png"))) as picture:
        assert picture.mode.startswith("I;16")
    old = tmp_path / "old"
    lay(old, {"images/training/a/abbey/ADE_train_00000001.jpg": mini.jpeg()})
    status, output = run("prepare", "ade847", "--root", old)
    assert status == 2
    assert "earlier release" in output
    assert "ADE20K_2021_17_01" in output


def test_an_object_number_beyond_the_release_is_refused(tmp_path):
    lay(tmp_path, mini.ade_full((0, 5000)))
    status, output = run("prepare", "ade847", "--root", tmp_path / "ADE20K_2021_17_01")
    assert status == 2
    assert "number 5000" in output
    assert not (tmp_path / "ADE20K_2021_17_01/annotations").exists()


# Going on after an interruption


@pytest.mark.parametrize("name", ["voc20", "context459", "ade847"])
def test_preparing_again_makes_what_is_missing_and_touches_nothing_else(tmp_path, name):
    root = prepared(name, tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    folder = {"voc20": "SegmentationClassAug", "context459": "SegmentationClassContext459"}
    masks = sorted((root / folder.get(name, "annotations")).rglob("*.png"))
    masks[0].unlink()
    masks[-1].write_bytes(masks[-1].read_bytes()[:-5])
    others = {path: path.stat().st_mtime_ns for path in before if path not in (masks[0], masks[-1])}
    assert run("prepare", name, "--root", root)[0] == 0
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_failure_half_way_leaves_whole_files_and_the_next_call_goes_on(tmp_path, monkeypatch):
    lay(tmp_path, mini.voc2010())
    root = tmp_path / "VOCdevkit" / "VOC2010"
    lay(root, mini.context_annotation())
    real, calls = conversion.atomic_write_bytes, []

    def write(path, data):
        calls.append(path)
        if len(calls) > 2:
            raise KeyboardInterrupt
        real(path, data)

    monkeypatch.setattr(conversion, "atomic_write_bytes", write)
    assert CliRunner().invoke(data_app, ["prepare", "context459", "--root", str(root)]).exit_code
    monkeypatch.undo()
    written = list(root.glob("SegmentationClass*/*"))
    assert 0 < len(written) <= 2
    for path in written:
        with Image.open(path) as picture:
            picture.load()
    assert not (root / "ImageSets/SegmentationContext").exists()
    assert run("prepare", "context459", "--root", root)[0] == 0
    assert len(dataset("context459", root, "train")) == 2


def test_archives_may_be_given_one_by_one(tmp_path):
    root, downloads = tmp_path / "coco", tmp_path / "downloads"
    archives = given(downloads, COCO)
    status, output = run("prepare", "coco_stuff", "--root", root, *archives[2:4])
    assert status == 2  # images without masks cannot be used
    assert "stuffthingmaps_trainval2017.zip" in output
    status, output = run("prepare", "coco_stuff", "--root", root, *archives[4:])
    assert (status, "train: missing" in output) == (0, True)
    assert len(dataset("coco_stuff", root, "test")) == 1
    assert run("prepare", "coco_stuff", "--root", root, *archives[:2])[0] == 0
    assert len(dataset("coco_stuff", root, "train")) == 2


def test_archives_come_in_any_order(tmp_path):
    backwards = dict(reversed(VOC.items()))
    root = tmp_path / "root"
    assert run("prepare", "voc21", "--root", root, *given(tmp_path / "d", backwards))[0] == 0
    assert len(dataset("voc21", root, "train")) == 4


def test_a_cut_archive_leaves_no_root(tmp_path):
    archives = given(tmp_path, COCO)
    archives[3].write_bytes(archives[3].read_bytes()[:-40])
    status, output = run("prepare", "coco_object", "--root", tmp_path / "root", *archives[2:4])
    assert status == 2
    assert "val2017.zip is damaged or cut off" in output
    assert not (tmp_path / "root").exists()


# Wrong roots


def test_a_root_above_or_below_the_right_one_is_corrected(tmp_path):
    root = prepared("ade150", tmp_path)
    for wrong in (tmp_path, root / "images", root / "images" / "training"):
        for command in ("prepare", "check"):
            status, output = run(command, "ade150", "--root", wrong)
            assert status == 2
            assert f"but {root} looks like it; give that" in output


def test_an_empty_root_tells_what_to_download(tmp_path):
    for command in ("prepare", "check"):
        for wrong in (tmp_path / "missing" / "x" / "y" / "z", tmp_path):
            status, output = run(command, "cityscapes", "--root", wrong)
            assert status == 2
            assert "expected leftImg8bit/train, gtFine/train" in output
            assert "gtFine_trainvaltest.zip" in output
            assert "https://www.cityscapes-dataset.com/" in output
            assert not (tmp_path / "missing").exists()


def test_a_missing_archive_is_named_before_anything_is_unpacked(tmp_path):
    downloads = given(tmp_path / "downloads", VOC)
    status, output = run(
        "prepare", "voc20", "--root", tmp_path / "root", *downloads, "--archive", tmp_path / "x.tar"
    )
    assert status == 2
    assert "x.tar" in output
    assert not (tmp_path / "root").exists()


def test_preparing_without_sbd_names_its_archive(tmp_path):
    lay(tmp_path, mini.voc2012())
    status, output = run("prepare", "voc20", "--root", tmp_path / "VOCdevkit/VOC2012")
    assert status == 2
    assert "benchmark.tgz" in output


# What a check finds


def test_other_counts_than_published_are_warned_of(tmp_path):
    root = prepared("ade150", tmp_path)
    status, output = run("check", "ade150", "--root", root)
    assert status == 1
    assert "train has 2 images, published are 20,210" in output
    assert "ADEChallengeData2016.zip" in output


def test_one_split_alone_is_checked_and_the_other_is_said_to_be_missing(tmp_path, monkeypatch):
    root = prepared("coco_stuff", tmp_path)
    for folder in ("images", "annotations"):
        for file in (root / folder / "train2017").iterdir():
            file.unlink()
        (root / folder / "train2017").rmdir()
    published(monkeypatch, "coco_stuff", {"train": 2, "test": 1})
    status, output = run("check", "coco_stuff", "--root", root)
    assert status == 1
    assert "train is missing" in output
    assert "--split" in output
    assert "wood" in output
    assert run("check", "coco_stuff", "--root", root, "--split", "test")[0] == 0
    status, output = run("check", "coco_stuff", "--root", root, "--split", "val")
    assert (status, "has no val split" in output) == (2, True)


def test_masks_derived_by_another_converter_do_no_harm(tmp_path, monkeypatch):
    root = prepared("coco_stuff", tmp_path)
    for mask in list((root / "annotations").rglob("*.png")):
        mask.with_name(f"{mask.stem}_labelTrainIds.png").write_bytes(png(stripes(0, 170)))
    case = BY_NAME["coco_stuff"]
    published(monkeypatch, "coco_stuff", case.lengths)
    status, output = run("check", "coco_stuff", "--root", root)
    assert status == 0, output
    assert dataset("coco_stuff", root, "test")[0][1].numpy().tolist() == (
        stripes(*case.labels).tolist()
    )


def damaged(name, folder, path, content):
    """Return what a check says after a file was replaced, or removed."""
    root = prepared(name, folder)
    file = next(root.glob(path))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    status, output = run("check", name, "--root", root)
    assert status == 2, output
    assert Path(file).name in output
    return root, output


def rgb():
    file = io.BytesIO()
    Image.fromarray(np.zeros((mini.HEIGHT, mini.WIDTH, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("images/validation/*1.jpg", mini.jpeg()[:-9], "cannot be decoded"),
        ("images/validation/*1.jpg", b"", "is empty"),
        ("annotations/validation/*1.png", png(stripes(0, 150))[:50], "mask"),
        (
            "annotations/validation/*1.png",
            png(stripes(0, 151)),
            "value 151 found, but ade150 has 150 classes",
        ),
        ("annotations/validation/*1.png", rgb(), "RGB picture"),
        ("annotations/validation/*1.png", png(np.zeros((3, 3))), "3 x 3 pixels"),
        ("annotations/validation/*1.png", None, "have no mask"),
        ("images/training/*1.jpg", None, "masks have no image"),
    ],
    ids=["cut", "empty", "cut mask", "value", "colours", "size", "no mask", "no image"],
)
def test_a_check_names_the_file_that_cannot_be_used_and_the_archive(tmp_path, path, content, said):
    if said == "masks have no image":
        root = prepared("ade150", tmp_path)
        next(root.glob(path)).unlink()
        status, output = run("check", "ade150", "--root", root)
        assert (status, "ADE_train_00000001.png" in output) == (2, True)
    else:
        _, output = damaged("ade150", tmp_path, path, content)
    assert said in output
    assert "ADEChallengeData2016.zip" in output


def test_a_check_goes_on_with_the_other_split_and_writes_what_it_found(tmp_path):
    root = prepared("voc21", tmp_path)
    (root / "SegmentationClassAug/2008_000004.png").write_bytes(png(stripes(0, 21)))
    assert run("check", "voc21", "--root", root, "--json", tmp_path / "a.json")[0] == 2
    report = json.loads((tmp_path / "a.json").read_text())
    assert "2008_000004.png" in report["splits"]["train"]["problem"]
    assert report["splits"]["test"]["images"] == 1
    assert run("check", "voc21", "--root", root, "--json", tmp_path / "a.json")[0] == 2


def test_a_list_that_names_a_missing_image_is_named(tmp_path):
    root = prepared("voc20", tmp_path)
    file = root / "ImageSets/Segmentation/val.txt"
    file.write_text("2007_000003\n2007_999999\n")
    for command in ("prepare", "check"):
        status, output = run(command, "voc20", "--root", root)
        assert status == 2
        assert "2007_999999" in output
        assert "VOCtrainval_11-May-2012.tar" in output


def test_an_image_of_two_splits_is_an_error(tmp_path):
    root = prepared("voc20", tmp_path)
    lists = root / "ImageSets/Segmentation"
    (root / "SegmentationClassAug/2007_000003.png").write_bytes(png(stripes(0, 1)))
    (lists / "train_aug.txt").write_text((lists / "train_aug.txt").read_text() + "2007_000003\n")
    status, output = run("check", "voc20", "--root", root)
    assert status == 2
    assert "train and test share 1 images" in output
    status, output = run("prepare", "voc20", "--root", root)
    assert status == 2
    assert "train_aug.txt lists 1 images that are none of this split" in output


def test_settings_of_a_known_data_set_can_be_changed():
    overrides = ["data.benchmark=context59", "data.spelling=cleaned", "data.root=x"]
    assert "potted plant" in load_config(overrides=overrides).data.named_classes().names
    with pytest.raises(ConfigError, match="no known data set"):
        load_config(overrides=["data.benchmark=voc19"])


def test_no_archive_is_unpacked_if_one_of_them_cannot_be(tmp_path):
    whole, cut = tmp_path / "VOCtrainval_11-May-2012.tar", tmp_path / "benchmark.tgz"
    pack(whole, mini.voc2012())
    pack(cut, mini.sbd())
    cut.write_bytes(cut.read_bytes()[:-9])
    root = tmp_path / "VOC"
    with pytest.raises(ZegmentError, match=r"benchmark\.tgz is damaged or cut off"):
        prepare_benchmark("voc20", root, archives=[whole, cut])
    assert not root.exists()


def test_a_split_that_was_asked_for_may_not_be_missing(tmp_path):
    root = prepared("ade150", tmp_path)
    shutil.rmtree(root / "images" / "validation")
    assert run("check", "ade150", "--root", root)[0] == 1
    status, output = run("check", "ade150", "--root", root, "--split", "test")
    assert status == 2
    assert "test is missing" in output.replace("\n", " ")
