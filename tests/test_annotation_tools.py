"""Label Studio, CVAT and FiftyOne read what is written for them, with readers of their own."""

import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from finished_runs import COLOURS, NAMES, labelled, three_images, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from zegment.errors import OutputError
from zegment.formats import LabelledImage, Legend
from zegment.formats.brush import encode_brush
from zegment.formats.cvat import cvat_names, distinct_colours, voc_colours


@pytest.fixture
def run(tmp_path: Path) -> list[LabelledImage]:
    return three_images(tmp_path / "photos")


@settings(max_examples=50, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 30), st.integers(1, 30))))
def test_label_studios_own_decoder_reads_a_brush(mask):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    decoded = brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)
    assert np.array_equal(decoded, np.where(mask, 255, 0)[..., None].repeat(4, -1))


def test_runs_of_every_length_class_survive_the_brush():
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    for length in (1, 2, 3, 4, 5, 64, 65, 16384, 16385, 40000):
        mask = np.arange(40001)[None] < length
        decoded = brush.decode_rle(encode_brush(mask))
        assert np.array_equal(decoded[3::4] == 255, mask[0])


def test_label_studio_reads_predictions_that_fit_the_configuration(run, tmp_path):
    brush = pytest.importorskip("label_studio_sdk.converter.brush")
    tasks_file, configuration_file = write("label-studio", run, tmp_path / "out")
    tasks = json.loads(tasks_file.read_text(encoding="utf-8"))
    for image, task in zip(run, tasks, strict=True):
        (prediction,) = task["predictions"]
        labels = np.full(image.size, -1)
        for result in prediction["result"]:
            assert (result["original_height"], result["original_width"]) == image.size
            # The SDK's decoder of exports expects the brush beside the type, not in the value.
            flat = {**result, **result["value"]}
            (layer,) = brush.decode_from_annotation("label", [flat]).values()
            labels[layer == 255] = NAMES.index(result["value"]["brushlabels"][0])
        assert np.array_equal(labels, image.labels())
    root = ElementTree.parse(configuration_file).getroot()  # noqa: S314 - our own file
    assert [label.get("value") for label in root.iter("Label")] == list(NAMES)
    assert next(label.get("background") for label in root.iter("Label")) == "#0000ff"
    control, shown = root.find("BrushLabels"), root.find("Image")
    assert control.get("toName") == shown.get("name") == "image"
    results = [result for task in tasks for result in task["predictions"][0]["result"]]
    assert {(r["from_name"], r["to_name"]) for r in results} == {(control.get("name"), "image")}
    assert len({result["id"] for result in results}) == len(results)


def test_label_studio_accepts_configuration_and_predictions(run, tmp_path):
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    tasks_file, configuration_file = write("label-studio", run, tmp_path / "out")
    checker = interface.LabelInterface(configuration_file.read_text(encoding="utf-8"))
    checker.validate()
    for task in json.loads(tasks_file.read_text(encoding="utf-8")):
        assert not checker.validate_prediction(task["predictions"][0], return_errors=True)


def test_label_studio_finds_pictures_below_the_folder_that_holds_them(run, tmp_path):
    tasks = json.loads(write("label-studio", run, tmp_path / "out")[0].read_text("utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=photos/a%20b.png",
        "/data/local-files/?d=photos/sub/%C3%A4%26c.jpg",
        "/data/local-files/?d=photos/none.png",
    ]


def test_a_picture_in_another_folder_than_its_results_is_addressed_by_its_own(tmp_path):
    image = labelled(tmp_path / "frames" / "f.png", [[0]], stem="film/f")
    (task,) = json.loads(write("label-studio", [image], tmp_path / "out")[0].read_text("utf-8"))
    assert task["data"]["image"] == "/data/local-files/?d=frames/f.png"


def cvat_label_map(archive: zipfile.ZipFile) -> dict[str, tuple[int, ...]]:
    lines = archive.read("labelmap.txt").decode("utf-8").splitlines()
    rows = [line.split(":") for line in lines if not line.startswith("#")]
    assert all(len(row) == 4 for row in rows)
    return {name: tuple(map(int, colour.split(","))) for name, colour, _, _ in rows}


def test_a_cvat_archive_holds_masks_in_the_colours_of_its_label_map(run, tmp_path):
    (path,) = write("cvat", run, tmp_path / "out")
    with zipfile.ZipFile(path) as archive:
        colours = cvat_label_map(archive)
        assert list(colours) == ["background", *NAMES[:3], "a- b"]
        listed = archive.read("ImageSets/Segmentation/default.txt").decode("utf-8").splitlines()
        assert listed == ["a b", "sub/ä&c", "none"]
        ids = {colour: place - 1 for place, colour in enumerate(colours.values())}
        for stem, image in zip(listed, run, strict=True):
            with archive.open(f"SegmentationClass/{stem}.png") as stream:
                picture = np.asarray(Image.open(stream))
            labels = np.array([[ids[tuple(map(int, c))] for c in row] for row in picture])
            assert np.array_equal(labels, image.labels())
            with archive.open(f"SegmentationObject/{stem}.png") as stream:
                objects = np.asarray(Image.open(stream))
            assert np.array_equal(objects.any(-1), labels >= 0)


@pytest.mark.parametrize("classes", [4, 300])
def test_datumaro_which_reads_for_cvat_finds_the_same_label_maps(classes, run, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    names = (*NAMES, *(f"class {place}" for place in range(classes - 4)))
    colours = np.concatenate([COLOURS, COLOURS[[0] * (classes - 4)]])
    legend = Legend(class_names=names, colours=colours)
    (path,) = write("cvat", run, tmp_path / "out", legend)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    dataset = datumaro.Dataset.import_from(str(tmp_path / "unpacked"), "voc_segmentation")
    label_names = [label.name for label in dataset.categories()[datumaro.AnnotationType.label]]
    items = {item.id: item for item in dataset}
    assert len(items) == 3
    expected = cvat_names(names)
    for image in run:
        labels = np.full(image.size, -1)
        for mask in items[image.stem].annotations:
            labels[np.asarray(mask.image, bool)] = expected.index(label_names[mask.label])
        assert np.array_equal(labels, image.labels())


def test_cvat_colours_are_distinct_and_never_black():
    wanted = np.array([[0, 0, 0], [5, 5, 5], [5, 5, 5], [230, 159, 0]], np.uint8)
    chosen = distinct_colours(wanted)
    assert chosen[1] == (5, 5, 5)
    assert chosen[3] == (230, 159, 0)
    assert len({(0, 0, 0), *chosen}) == 5
    many = distinct_colours(np.zeros((1000, 3), np.uint8))
    assert len({(0, 0, 0), *many}) == 1001


def test_cvat_names_fit_into_a_label_map_and_stay_distinct():
    assert cvat_names(["a:b", "a-b", "#c", "d e"]) == ["a-b 2", "a-b", "-c", "d e"]


def test_a_class_called_background_is_told_from_the_unknown_in_cvat(tmp_path):
    legend = Legend(class_names=("background", "cat"), colours=COLOURS[:2])
    run = [labelled(tmp_path / "a.png", [[0, 1, -1]])]
    with zipfile.ZipFile(write("cvat", run, tmp_path, legend)[0]) as archive:
        colours = cvat_label_map(archive)
    assert list(colours) == ["unknown", "background", "cat"]
    assert colours["unknown"] == (0, 0, 0)
    assert colours["background"] == (0, 0, 255)


def test_object_colours_are_those_of_pascal_voc():
    assert voc_colours()[[0, 1, 2, 3, 8, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [0, 64, 128],
        [224, 224, 192],
    ]
    assert len(np.unique(voc_colours(), axis=0)) == 256


@pytest.mark.parametrize("classes", [4, 255, 256])
def test_a_fiftyone_folder_pairs_pictures_with_maps_whose_zero_is_unknown(classes, run, tmp_path):
    legend = Legend(class_names=tuple(map(str, range(classes))), colours=COLOURS[[0] * classes])
    (folder,) = write("fiftyone", run, tmp_path / "out", legend)
    for image in run:
        picture = folder / "data" / f"{image.stem}{image.image.suffix}"
        assert picture.read_bytes() == image.image.read_bytes()
        labels = np.asarray(Image.open(folder / "labels" / f"{image.stem}.png"))
        assert labels.dtype == (np.uint8 if classes <= 255 else np.uint16)
        assert np.array_equal(labels.astype(int) - 1, image.labels())
    targets = json.loads((folder / "mask_targets.json").read_text("utf-8"))
    assert targets["1"] == "0"
    assert len(targets) == classes


@pytest.mark.parametrize("classes", [4, 300])
def test_fiftyones_importer_reads_the_same_label_maps(classes, run, tmp_path):
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    legend = Legend(class_names=tuple(map(str, range(classes))), colours=COLOURS[[0] * classes])
    (folder,) = write("fiftyone", run, tmp_path / "out", legend)
    importer = importers.ImageSegmentationDirectoryImporter(str(folder), load_masks=True)
    with importer:
        samples = {Path(path).name: label.mask for path, _, label in importer}
    assert len(samples) == 3
    for image in run:
        assert np.array_equal(samples[image.image.name].astype(int) - 1, image.labels())


def test_a_fiftyone_folder_is_replaced_only_if_nothing_else_is_in_it(run, tmp_path):
    write("fiftyone", run, tmp_path)
    (folder,) = write("fiftyone", run[:1], tmp_path)
    assert [path.name for path in (folder / "labels").iterdir()] == ["a b.png"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt' would be lost"):
        write("fiftyone", run, tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"
    assert run[0].image.is_file()


def test_fiftyone_gets_copies_where_links_are_impossible(run, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.link", refuse)
    (folder,) = write("fiftyone", run, tmp_path)
    assert (folder / "data" / "a b.png").read_bytes() == run[0].image.read_bytes()
