import numpy as np
import pytest

from zegment.colours import UNKNOWN_COLOUR, as_hex, class_colours, paint

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopic": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopic": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def cielab(rgb, sight):
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(SIGHT[sight]).T, 0, 1)
    to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    xyz = linear @ np.array(to_xyz).T / [0.9505, 1, 1.0888]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@pytest.mark.parametrize("sight", SIGHT)
def test_the_first_twenty_colours_are_told_apart_by_every_eye(sight):
    lab = cielab(class_colours(20), sight)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 99 * np.eye(20)
    assert distance.min() > 15


def test_even_171_colours_are_not_mistaken_for_each_other():
    lab = cielab(class_colours(171), "normal")
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 99 * np.eye(171)
    assert distance.min() > 3  # about 2 is the least that an eye notices


def test_the_colour_of_a_class_does_not_depend_on_how_many_there_are():
    many = class_colours(847)
    for count in (0, 1, 20, 21, 500):
        assert np.array_equal(class_colours(count), many[:count])
    assert many.dtype == np.uint8
    assert class_colours(0).shape == (0, 3)


def test_all_colours_differ_from_each_other_and_from_the_unknown():
    colours = {tuple(colour) for colour in class_colours(847).tolist()}
    assert len(colours | {UNKNOWN_COLOUR}) == 848


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_a_painted_map_shows_class_colours_and_the_unknown_elsewhere(dtype):
    picture = paint(np.array([[0, 2], [255, 3]], dtype=dtype), class_colours(3))
    expected = [*class_colours(3)[[0, 2]].tolist(), list(UNKNOWN_COLOUR), list(UNKNOWN_COLOUR)]
    assert picture.reshape(4, 3).tolist() == expected
    assert picture.dtype == np.uint8


def test_minus_one_is_painted_as_unknown():
    assert paint(np.array([[-1]], dtype=np.int32), class_colours(2))[0, 0].tolist() == list(
        UNKNOWN_COLOUR
    )


def test_a_colour_is_written_with_leading_zeros():
    assert as_hex((0, 10, 255)) == "#000aff"
    assert as_hex(class_colours(1)[0]) == "#e69f00"


def test_an_eight_bit_map_can_be_painted_in_more_colours_than_it_can_hold():
    label = np.array([[255]], dtype=np.uint8)
    assert paint(label, class_colours(300))[0, 0].tolist() == class_colours(300)[255].tolist()
