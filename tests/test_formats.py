"""What all formats have in common, and COCO as pycocotools reads it."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from finished_runs import COLOURS, LEGEND, NAMES, labelled, three_images, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zegment.errors import ConfigError, OutputError
from zegment.formats import FORMATS, LabelledImage, Legend, format_named
from zegment.formats.coco import CocoPolygons

maps = arrays(
    np.int32,
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    elements=st.sampled_from([-1, 0, 0, 1, 2, 3]),
)


@pytest.fixture
def run(tmp_path: Path) -> list[LabelledImage]:
    return three_images(tmp_path / "photos")


def read_coco(path: Path, capsys) -> tuple[object, list[np.ndarray]]:
    """Return pycocotools' index of a file, and the label maps it decodes."""
    coco = pytest.importorskip("pycocotools.coco").COCO(str(path))
    capsys.readouterr()
    maps = []
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.full((image["height"], image["width"]), -1)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(annotation) == 1
            assert mask.sum() == annotation["area"]
            assert (labels[mask] == -1).all()
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            box = [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["bbox"] == box
            labels[mask] = annotation["category_id"]
        maps.append(labels)
    return coco, maps


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
def test_pycocotools_decodes_the_same_label_maps(name, run, tmp_path, capsys):
    (path,) = write(name, run, tmp_path / "out")
    assert path == tmp_path / "out" / f"{name}.json"
    coco, decoded = read_coco(path, capsys)
    for image, labels in zip(run, decoded, strict=True):
        assert np.array_equal(labels, image.labels())
    assert [image["file_name"] for image in coco.dataset["images"]] == [
        "a b.png",
        "sub/ä&c.jpg",
        "none.png",
    ]
    assert [coco.cats[place]["name"] for place in range(4)] == list(NAMES)
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
def test_a_coco_score_is_the_mean_confidence_of_its_pixels(name, run, tmp_path, capsys):
    coco, _ = read_coco(write(name, run, tmp_path)[0], capsys)
    confidence = run[0].confidence()
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[0])):
        mean = confidence[coco.annToMask(annotation) == 1].mean()
        assert annotation["score"] == pytest.approx(mean, abs=1e-6)
    assert all("score" not in a for a in coco.loadAnns(coco.getAnnIds(imgIds=[1])))


def test_coco_has_one_annotation_per_class_and_coco_polygons_one_per_region(run, tmp_path, capsys):
    whole, _ = read_coco(write("coco", run, tmp_path)[0], capsys)
    parts, _ = read_coco(write("coco-polygons", run, tmp_path)[0], capsys)
    assert [a["category_id"] for a in whole.loadAnns(whole.getAnnIds(imgIds=[0]))] == [0, 1, 2]
    assert len(parts.getAnnIds(imgIds=[0], catIds=[0])) == 2
    assert len(parts.getAnnIds(imgIds=[0], catIds=[2])) == 4
    assert not parts.getAnnIds(imgIds=[2])


@settings(max_examples=100, deadline=None)
@given(maps)
def test_polygons_decode_to_the_region_pixel_by_pixel(labels):
    tools = pytest.importorskip("pycocotools.mask")
    height, width = labels.shape
    decoded = np.zeros((5, height, width), int)
    for annotation in CocoPolygons().annotations(labels, None):
        codes = tools.frPyObjects(annotation["segmentation"], height, width)
        # Pieces are added up, so that an overlap would show.
        decoded[annotation["category_id"]] += tools.decode(codes).sum(-1, dtype=int)
    assert np.array_equal(decoded, labels == np.arange(5)[:, None, None])


def test_a_place_that_cannot_be_written_to_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    for name in sorted(set(FORMATS) - {"geojson-world"}):
        with pytest.raises(OutputError, match="choose"):
            write(name, [labelled(tmp_path / "a.png", [[0]])], tmp_path / "file")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"geojson-world"}))
def test_the_same_run_gives_the_same_bytes(name, run, tmp_path):
    def content(out):
        return {
            path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()
        }

    write(name, run, tmp_path / "first")
    write(name, run, tmp_path / "second")
    assert content(tmp_path / "first") == content(tmp_path / "second") != {}


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"geojson-world"}))
def test_only_one_image_is_open_at_a_time_and_a_failure_leaves_the_earlier_file(
    name, run, tmp_path
):
    earlier = write(name, run[:1], tmp_path / "out")
    kept = {path: path.read_bytes() for path in earlier if path.is_file()}
    read = []

    def watched(image):
        def labels():
            read.append(image.stem)
            return image.read_labels()

        return replace(image, read_labels=labels)

    def stream():
        for place, image in enumerate(run):
            assert len(set(read)) == place  # the one before was used up before the next is asked
            yield watched(image)
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        format_named(name).write(stream(), LEGEND, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".zegment*"))
    for path, content in kept.items():
        assert path.read_bytes() == content


def test_a_map_of_another_size_is_refused(tmp_path):
    image = LabelledImage(
        image=tmp_path / "a.png",
        stem="a",
        size=(2, 3),
        read_labels=lambda: np.zeros((3, 2), np.int32),
    )
    with pytest.raises(ValueError, match="segment the image again"):
        format_named("coco-polygons").write([image], LEGEND, tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_formats_and_colours_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="no format 'voc'; choose from coco, coco-polygons"):
        format_named("voc")
    with pytest.raises(ValueError, match="one RGB colour for each class name"):
        Legend(class_names=("a",), colours=COLOURS)


@pytest.mark.parametrize(("name", "module", "extra"), [("coco", "pycocotools.mask", "data")])
def test_a_missing_package_is_named_before_anything_is_segmented(name, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'pip install "zegment\[{extra}\]"'):
        format_named(name).check([])
