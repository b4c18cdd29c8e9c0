import subprocess
import sys

import numpy as np
import pytest

from zegment.errors import ConfigError
from zegment.integrations import label_image, mask_targets, to_fiftyone, to_napari, to_supervision
from zegment.results import Segmentation

NAMES = ("sky", "cat", "potted plant")
LABELS = np.array([[0, 0, 2, -1], [0, 0, 2, 2]], np.int32).repeat(16, 0).repeat(16, 1)
CONFIDENCE = np.linspace(0, 1, LABELS.size, dtype=np.float32).reshape(LABELS.shape)


def segmentation(labels=LABELS, names=NAMES, **changes) -> Segmentation:
    image = np.full((*labels.shape, 3), 200, np.uint8)
    return Segmentation(labels=labels, class_names=names, image=image, **changes)


def test_supervision_gets_one_mask_per_class_that_occurs():
    pytest.importorskip("supervision")
    detections = to_supervision(segmentation(confidence=CONFIDENCE))
    assert detections.class_id.tolist() == [0, 2]
    assert detections.data["class_name"].tolist() == ["sky", "potted plant"]
    assert np.array_equal(detections.mask, np.array([[[0]], [[2]]]) == LABELS)
    assert detections.xyxy.tolist() == [[0, 0, 32, 32], [32, 0, 64, 32]]
    means = [CONFIDENCE[place == LABELS].mean() for place in (0, 2)]
    assert detections.confidence == pytest.approx(means)


def test_supervision_paints_filters_and_measures_what_it_got():
    library = pytest.importorskip("supervision")
    result = segmentation(confidence=CONFIDENCE)
    detections = to_supervision(result)
    painted = library.MaskAnnotator(opacity=1).annotate(result.image.copy(), detections)
    changed = (painted != result.image).any(-1)
    assert np.array_equal(changed, LABELS >= 0)
    plants = detections[detections.data["class_name"] == "potted plant"]
    assert plants.area.tolist() == [np.count_nonzero(LABELS == 2)]


def test_supervision_gets_nothing_from_nothing():
    library = pytest.importorskip("supervision")
    detections = to_supervision(segmentation(np.full((4, 4), -1, np.int32)))
    assert len(detections) == 0
    assert isinstance(detections, library.Detections)
    assert to_supervision(segmentation()).confidence is None


def test_the_label_image_has_zero_for_the_unknown():
    labels = label_image(segmentation())
    assert labels.dtype == np.int32
    assert np.array_equal(labels == 0, LABELS == -1)
    assert np.array_equal(labels - 1, LABELS)


def test_scikit_image_measures_every_class_and_passes_over_the_unknown():
    measure = pytest.importorskip("skimage.measure")
    properties = measure.regionprops(label_image(segmentation()))
    assert [(p.label, p.area) for p in properties] == [
        (place + 1, np.count_nonzero(place == LABELS)) for place in (0, 2)
    ]


def test_a_napari_layer_has_colours_and_names_for_every_label():
    result = segmentation()
    data, arguments, kind = to_napari(result, name="cats")
    assert kind == "labels"
    assert arguments["name"] == "cats"
    assert np.array_equal(data, label_image(result))
    colours = arguments["colormap"]
    assert set(colours) == {None, 0, 1, 2, 3}
    assert colours[0].tolist() == colours[None].tolist() == [0, 0, 0, 0]
    assert np.array_equal(np.rint(colours[3][:3] * 255), result.colours[2])
    assert colours[3][3] == 1
    features = arguments["features"]
    assert features["index"].tolist() == [0, 1, 2, 3]
    assert features["class"].tolist() == ["unknown", *NAMES]


def test_napari_makes_a_labels_layer_of_it():
    layers = pytest.importorskip("napari.layers")
    layer = layers.Layer.create(*to_napari(segmentation()))
    assert isinstance(layer, layers.Labels)
    assert np.array_equal(layer.data, label_image(segmentation()))


@pytest.mark.parametrize("classes", [3, 300])
def test_fiftyone_gets_a_mask_whose_zero_is_unknown(classes):
    library = pytest.importorskip("fiftyone")
    names = tuple(f"class {place}" for place in range(classes))
    label = to_fiftyone(segmentation(names=names))
    assert isinstance(label, library.Segmentation)
    assert label.mask.dtype == (np.uint8 if classes <= 255 else np.uint16)
    assert np.array_equal(label.mask.astype(int) - 1, LABELS)
    assert mask_targets(segmentation(names=names))[3] == "class 2"


@pytest.mark.parametrize(
    ("convert", "module"), [(to_supervision, "supervision"), (to_fiftyone, "fiftyone")]
)
def test_a_missing_library_is_named_with_its_extra(convert, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf'pip install "zegment\[{module}\]"'):
        convert(segmentation())


def test_neither_formats_nor_integrations_import_what_only_some_need():
    heavy = ["torch", "supervision", "fiftyone", "napari", "rasterio", "shapely", "pycocotools"]
    script = (
        "import sys, zegment.formats, zegment.integrations; "
        f"sys.exit(', '.join(set({heavy}) & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
