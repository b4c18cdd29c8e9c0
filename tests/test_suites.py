"""One command over many data sets, on fabricated files in their official layouts."""

import json
from collections import Counter
from pathlib import Path

import miniatures
import pytest
from typer.testing import CliRunner

from zegment import cli
from zegment.config import WindowConfig
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, SegmentationDataset, build_dataset
from zegment.data.benchmarks import benchmark
from zegment.data.classes import class_set
from zegment.errors import ConfigError, DatasetNotFoundError
from zegment.evaluation import evaluate
from zegment.inference.running import Execution
from zegment.segmenter import Segmenter, load
from zegment.suites import SuiteRun, suite_names

EIGHT = ["voc21", "context60", "coco_object", "voc20", "context59", "coco_stuff", "cityscapes",
         "ade150"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every natural data set, prepared where it has to be."""
    numbers = class_set("ade847").label_values
    raw = (0, numbers[0], numbers[300], numbers[846])
    return miniatures.every_data_set(tmp_path_factory.mktemp("data"), ade847=raw)


def test_eight_sets_as_one_command(root: Path, tiny_clip_folder: Path, tmp_path: Path) -> None:
    words = ["table", str(tiny_clip_folder), "--suite", "training-free", "--root", str(root)]
    result = CliRunner().invoke(cli.app, [*words, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output + str(result.exception)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert list(table["results"]) == EIGHT
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("\n|") == 2 + len(EIGHT) - 1
    assert "mean mIoU of 8 data sets" in text
    assert table["results"]["cityscapes"]["windows"] == [560, 224, 112]
    assert table["results"]["voc20"]["windows"] == [336, 224, 112]
    classes = [len(table["results"][name]["per_class"]) for name in EIGHT]
    assert classes == [21, 60, 81, 20, 59, 171, 19, 150]


def test_scores_of_every_set_equal_counting_by_hand(root: Path, tmp_path: Path) -> None:
    run = SuiteRun("shapes-one-stage", "cross-dataset", root=root, out=tmp_path / "out")
    run.run()
    assert set(run.configs) == {
        "voc20", "voc21", "context59", "context459", "ade150", "ade847", "cityscapes",
    }  # fmt: skip
    segmenter = load("shapes-one-stage")
    for name, config in run.configs.items():
        data = build_dataset(config.data, "test")
        iou = counted(segmenter, data)
        result = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert {k: v for k, v in result["per_class"].items() if v is not None} == iou, name
        assert result["mIoU"] == pytest.approx(sum(iou.values()) / len(iou), abs=1e-9), name
        assert len(result["absent"]) == len(data.class_names) - len(iou), name


def counted(segmenter: Segmenter, data: SegmentationDataset) -> dict[str, float]:
    """Return the IoU of each class that occurs, from a plain count of pixels."""
    union, both = Counter(), Counter()
    for index in range(len(data)):
        image, label = data[index]
        guess = segmenter(image, data.class_names).labels
        pixels = zip(label.flatten().tolist(), guess.flatten().tolist(), strict=True)
        for truth, found in pixels:
            if truth == IGNORE_INDEX:
                continue
            both[truth] += truth == found
            union.update({truth, found})
    return {data.class_names[k]: both[k] / union[k] for k in sorted(union)}


def test_a_trained_model_is_told_what_it_has_met(root: Path, tmp_path: Path) -> None:
    run = SuiteRun("shapes-one-stage", "cross-dataset", root=root, out=tmp_path, only=["context59"])
    text = run.run()
    result = json.loads((tmp_path / "context59.json").read_text())
    # These four of Shapes' seen classes are classes of PASCAL Context too.
    assert result["overlap_with_training"] == ["flower", "grass", "snow", "wood"]
    assert result["seen_penalty"] == 0.0
    assert "| 4 classes |" in text


def test_what_is_done_is_not_done_again(root, tiny_clip_folder, tmp_path, monkeypatch) -> None:
    options = {"root": root, "out": tmp_path, "only": ["voc20"]}
    first = SuiteRun(str(tiny_clip_folder), "training-free", **options).run()
    monkeypatch.setattr("zegment.suites.evaluate_named", None)
    assert SuiteRun(str(tiny_clip_folder), "training-free", **options).run() == first
    with pytest.raises(ConfigError, match=r"voc20\.json was measured under other circumstances"):
        SuiteRun(str(tiny_clip_folder), "training-free", attention="value", **options).run()
    (tmp_path / "voc20.json").write_text('{"half')
    with pytest.raises(ConfigError, match=r"voc20\.json is damaged"):
        SuiteRun(str(tiny_clip_folder), "training-free", **options).run()


def test_missing_files_are_found_before_any_work(tiny_clip_folder, tmp_path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"VOCdevkit"):
        SuiteRun(str(tiny_clip_folder), "training-free", root=tmp_path, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("suite", "only", "message"),
    [
        ("training-fre", (), 'did you mean "training-free"'),
        ("training-free", ("ade847",), "--only ade847: the suite has"),
    ],
)
def test_unknown_names_are_refused(tiny_clip_folder, tmp_path, suite, only, message) -> None:
    with pytest.raises(ConfigError, match=message):
        SuiteRun(str(tiny_clip_folder), suite, root=tmp_path, out=tmp_path, only=only)


def test_suites_are_the_published_ones() -> None:
    assert suite_names() == ("training-free", "cross-dataset")


@pytest.mark.parametrize("name", ["voc20", "context59", "coco_object", "cityscapes"])
@pytest.mark.parametrize(
    "windows", [WindowConfig(), WindowConfig(short_side=64, size=48, stride=29)]
)
def test_scores_equal_counting_whatever_the_window_and_the_batch(root, name, windows) -> None:
    place = root / benchmark(name).folder
    config = load_config(overrides=[f"data.benchmark={name}", f"data.root={place}"]).data
    segmenter = load("shapes-one-stage")
    segmenter.run_as(Execution(windows=windows))
    data = build_dataset(config, "test")
    expected = counted(segmenter, data)
    for batch_size in (1, 3):
        scores = evaluate(segmenter, data, batch_size=batch_size).scores
        assert {k: v for k, v in scores.per_class.items() if v is not None} == expected


def test_the_program_says_what_a_model_has_met(root: Path) -> None:
    place = root / benchmark("context59").folder
    words = ["evaluate", "shapes-one-stage", "--benchmark", "context59", "--root", str(place)]
    output = CliRunner().invoke(cli.app, words).output.replace("\n", " ")
    assert "4 of 59 classes had masks in its training (flower, grass, snow, wood)" in output
