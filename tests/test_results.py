import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from zegment.colours import UNKNOWN_COLOUR, as_hex, class_colours
from zegment.drawing import LegendEntry, class_borders
from zegment.results import Segmentation, legend, unknown_id

NAMES = ("sofa", "cat", "potted plant", "sky")


def segmentation(labels, class_names=NAMES, image=None) -> Segmentation:
    labels = np.asarray(labels, dtype=np.int32)
    if image is None:
        image = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return Segmentation(labels=labels, class_names=tuple(class_names), image=image)


def stored(picture, **options):
    """What another program reads from the picture's file."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG", **options)
    return Image.open(stream)


@settings(max_examples=40)
@given(st.sampled_from([1, 4, 254, 255, 256, 847]), st.randoms())
def test_an_index_png_decodes_to_the_same_labels(num_classes, random):
    height, width = random.randint(1, 9), random.randint(1, 9)
    ids = [random.randint(-1, num_classes - 1) for _ in range(height * width - 1)]
    labels = np.array([*ids, num_classes - 1], dtype=np.int32).reshape(height, width)
    result = segmentation(labels, [f"class {k}" for k in range(num_classes)])
    decoded = np.array(stored(result.index_png())).astype(np.int32)
    decoded[decoded == unknown_id(num_classes)] = -1
    assert np.array_equal(decoded, labels)


def test_an_index_png_is_eight_bit_with_class_colours_while_ids_fit():
    picture = stored(segmentation([[0, 3], [-1, 1]]).index_png())
    assert picture.mode == "P"
    colours = np.asarray(picture.convert("RGB"))
    assert colours[0, 1].tolist() == class_colours(4)[3].tolist()
    assert colours[1, 0].tolist() == list(UNKNOWN_COLOUR)
    assert np.asarray(picture)[1, 0] == 255


def test_an_index_png_of_many_classes_is_sixteen_bit_with_unknown_at_the_end():
    picture = stored(segmentation([[0, 299, -1]], map(str, range(300))).index_png())
    assert picture.mode.startswith("I")
    assert np.asarray(picture).tolist() == [[0, 299, 65535]]


def test_the_legend_says_what_every_number_of_the_index_png_means():
    rows = legend(NAMES)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["name"] for row in rows] == [*NAMES, "unknown"]
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 255]
    assert [row["colour"] for row in rows[:4]] == [as_hex(c) for c in class_colours(4)]
    assert legend([str(k) for k in range(256)])[-1]["id"] == 65535


def test_masks_partition_the_known_pixels():
    result = segmentation([[0, 3], [-1, 0]])
    assert result.mask("sofa").tolist() == [[True, False], [False, True]]
    assert not result.mask("cat").any()
    assert np.array_equal(sum(result.mask(n) for n in NAMES), result.labels >= 0)
    with pytest.raises(ValueError, match="no class is called 'dog'; the classes are sofa, cat"):
        result.mask("dog")


def test_shares_are_fractions_of_the_image_in_the_users_order():
    share = segmentation([[0, 3], [-1, 0]]).share()
    assert list(share.items()) == [("sofa", 0.5), ("cat", 0), ("potted plant", 0), ("sky", 0.25)]


def test_an_overlay_without_legend_is_as_large_as_the_image():
    for shape in ((1, 1), (3, 7), (480, 640)):
        result = segmentation(np.zeros(shape))
        assert result.overlay(legend=False).size == (shape[1], shape[0])


def test_opacity_runs_from_the_photo_to_the_class_colour():
    result = segmentation(np.full((8, 8), 2))
    assert np.array_equal(result.overlay(opacity=0, legend=False), result.image)
    painted = np.asarray(result.overlay(opacity=1, legend=False))
    assert (painted == class_colours(3)[2]).all()
    half = np.asarray(result.overlay(opacity=0.5, legend=False)).astype(float)
    assert np.abs(half - (result.image / 2 + class_colours(3)[2] / 2)).max() <= 1
    with pytest.raises(ValueError, match="opacity is 55"):
        result.overlay(opacity=55)


def test_unknown_pixels_show_the_photo():
    labels = np.full((8, 8), -1)
    labels[:, 6:] = 1
    result = segmentation(labels)
    overlay = np.asarray(result.overlay(opacity=1, legend=False))
    assert np.array_equal(overlay[:, :5], result.image[:, :5])


def test_two_classes_are_parted_by_a_light_line_and_nothing_else_is():
    labels = np.zeros((8, 8))
    labels[:, 4:] = 1
    result = segmentation(labels, image=np.zeros((8, 8, 3), np.uint8))
    light = np.asarray(result.overlay(legend=False)).min(-1) > 200
    assert light[:, 3].all()
    assert light.sum() == 8


def test_a_wide_line_at_the_edge_of_a_picture_has_no_gap():
    labels = np.array([[0, 1, 1, 1, 1, 1]])
    assert np.array(class_borders(labels, 8)).tolist() == [[255, 255, 255, 255, 255, 0]]


@given(
    random=st.randoms(use_true_random=False),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    thickness=st.integers(2, 30),
)
@settings(max_examples=100, deadline=None)
def test_wide_lines_cover_the_square_around_each_pixel_of_a_border(random, shape, thickness):
    labels = np.random.default_rng(random.randrange(2**32)).integers(0, 20, shape) // 18
    thin = class_borders(labels, 1)
    wide = thin.filter(ImageFilter.MaxFilter(thickness // 2 * 2 + 1))
    np.testing.assert_array_equal(np.array(class_borders(labels, thickness)), np.array(wide))


@pytest.mark.parametrize(
    ("shape", "factor"),
    [((96, 96), 5), ((60, 100), 5), ((300, 479), 2), ((480, 480), 1), ((9, 2000), 1)],
)
def test_a_small_image_is_enlarged_by_a_whole_factor_so_that_its_legend_is_legible(shape, factor):
    overlay = segmentation(np.zeros(shape)).overlay()
    assert overlay.width == factor * shape[1] >= 480
    assert overlay.height > factor * shape[0] + 14


def test_a_tall_strip_is_not_blown_up_but_set_above_a_full_width_legend():
    overlay = segmentation(np.zeros((2000, 1)), image=np.zeros((2000, 1, 3), np.uint8)).overlay()
    assert overlay.width == 480
    assert 2000 < overlay.height < 2200
    columns = np.asarray(overlay.crop((0, 0, 480, 2000))).min((0, 2)) < 250
    assert columns.nonzero()[0].tolist() == [239]


def test_the_drawn_legend_lists_what_was_found_in_the_users_order_and_names_the_rest(monkeypatch):
    drawn = {}

    def listen(entries, *, footer, width, margin, size):
        drawn.update(entries=entries, footer=footer)
        return Image.new("RGB", (width, size))

    monkeypatch.setattr("zegment.results.draw_legend", listen)
    labels = np.full((100, 100), 3)
    labels[:10] = 0
    labels[50, :50] = -1
    labels[0, 0] = 1
    segmentation(labels).overlay()
    colours = [tuple(colour) for colour in class_colours(4).tolist()]
    assert drawn["entries"] == [
        LegendEntry(name="sofa", colour=colours[0], note="10.0 %"),
        LegendEntry(name="cat", colour=colours[1], note="< 0.1 %"),
        LegendEntry(name="sky", colour=colours[3], note="89.5 %"),
        LegendEntry(name="unknown", colour=None, note="0.5 %"),
    ]
    assert drawn["footer"] == ["Not found: potted plant"]


def test_a_long_list_of_classes_not_found_takes_two_lines(monkeypatch):
    feet = []

    def listen(entries, *, footer, width, margin, size):
        feet.append(footer)
        return Image.new("RGB", (width, size))

    monkeypatch.setattr("zegment.results.draw_legend", listen)
    segmentation(np.zeros((9, 9)), [f"class {k}" for k in range(847)]).overlay()
    segmentation(np.zeros((9, 9)), ["a", "x" * 300, "y" * 300, "z" * 300]).overlay()
    segmentation(np.zeros((9, 9)), ["a"]).overlay()
    many, long, none = feet
    assert len(many) == 2
    assert many[0].startswith("Not found: class 1, class 2,")
    named = " ".join(many).count("class ")
    assert many[1].endswith(f"and {846 - named} more")
    assert len(long) == 2
    assert none == []


def test_colours_of_an_image_do_not_depend_on_which_classes_it_shows():
    alone = segmentation(np.full((4, 4), 3)).overlay(opacity=1, legend=False)
    assert (np.asarray(alone) == class_colours(4)[3]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros((2, 3), np.int64)}, "labels is int64"),
        ({"labels": np.zeros(3, np.int32)}, r"labels has shape \(3,\); expected pixels"),
        ({"labels": np.zeros((0, 3), np.int32)}, "expected pixels"),
        ({"labels": np.full((2, 3), 4, np.int32)}, "run from 4 to 4; expected indices of 4"),
        ({"labels": np.full((2, 3), -2, np.int32)}, "run from -2"),
        ({"image": np.zeros((3, 2, 3), np.uint8)}, r"expected uint8 \(2, 3, 3\)"),
        ({"image": np.zeros((2, 3, 3), np.float32)}, "image is float32"),
        ({"confidence": np.zeros((2, 2), np.float32)}, r"confidence is float32 \(2, 2\)"),
        ({"class_names": tuple(map(str, range(65536)))}, "65535 do"),
        ({"entropy": np.zeros((3, 2), np.float32)}, r"entropy is float32 \(3, 2\)"),
        ({"scores": np.zeros((3, 2, 3), np.float16)}, r"expected float16 \(4, 2, 3\)"),
        ({"colours": np.zeros((3, 3), np.uint8)}, r"expected uint8 \(4, 3\)"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changes, message):
    parts = {
        "labels": np.zeros((2, 3), np.int32),
        "class_names": NAMES,
        "image": np.zeros((2, 3, 3), np.uint8),
        "confidence": np.zeros((2, 3), np.float32),
    }
    Segmentation(**parts)
    with pytest.raises(ValueError, match=message):
        Segmentation(**parts | changes)


def test_own_colours_are_used_everywhere():
    colours = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]], np.uint8)
    image = np.zeros((1, 2, 3), np.uint8)
    labels = np.array([[1, 3]], np.int32)
    result = Segmentation(labels=labels, class_names=NAMES, image=image, colours=colours)
    assert np.array_equal(np.asarray(result.index_png().convert("RGB")), colours[[[1, 3]]])
    painted = np.asarray(result.overlay(opacity=1, legend=False))
    assert {tuple(c) for c in painted.reshape(-1, 3).tolist()} >= {(10, 11, 12)}
    assert [row["colour"] for row in legend(NAMES, colours)[:2]] == ["#010203", "#040506"]


def test_reading_and_drawing_results_does_not_import_torch():
    script = "import sys; import zegment.results; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
