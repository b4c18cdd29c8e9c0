import pytest

from zegment.data.classes import class_set, class_set_names
from zegment.errors import ConfigError

# Ids of the unseen classes in ZegCLIP's released configurations, and for PASCAL Context in those of
# MaskCLIP+ and OTSeg, which repeat ZS3Net's split.
UNSEEN_IDS = {
    "voc": [15, 16, 17, 18, 19],
    "coco_stuff": [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160],
    "pascal_context": [0, 6, 7, 14, 19, 24, 31, 33, 48, 54],
}


def test_every_packaged_set_is_listed():
    assert class_set_names() == ("coco_stuff", "pascal_context", "voc")


@pytest.mark.parametrize(
    ("name", "count"), [("voc", 20), ("coco_stuff", 171), ("pascal_context", 59)]
)
def test_names_are_as_many_as_published_and_all_different(name, count):
    names = class_set(name).names
    assert len(names) == count
    assert len({n.casefold() for n in names}) == count


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "voc",
            {0: "aeroplane", 10: "diningtable", 14: "person", 15: "pottedplant", 19: "tvmonitor"},
        ),
        (
            "coco_stuff",
            {
                0: "person",
                11: "stop sign",
                79: "toothbrush",  # the last thing
                80: "banner",  # the first stuff class
                100: "door-stuff",
                133: "playingfield",
                160: "wall-concrete",
                170: "wood",
            },
        ),
        (
            "pascal_context",
            {
                0: "aeroplane",
                7: "boat",
                19: "cow",
                31: "keyboard",
                39: "pottedplant",
                43: "shelves",
                54: "tvmonitor",
                58: "wood",
            },
        ),
    ],
)
def test_names_stand_in_the_order_of_the_label_values(name, places):
    names = class_set(name).names
    assert {place: names[place] for place in places} == places


@pytest.mark.parametrize("name", sorted(UNSEEN_IDS))
def test_unseen_classes_are_those_of_the_released_configuration(name):
    classes = class_set(name)
    assert [classes.names.index(unseen) for unseen in classes.unseen] == UNSEEN_IDS[name]


def test_pascal_context_is_numbered_alphabetically():
    names = class_set("pascal_context").names
    assert list(names) == sorted(names)


def test_pascal_context_withholds_the_ten_classes_of_zs3net():
    unseen = {
        *("cow", "motorbike", "sofa", "cat", "boat"),
        *("fence", "bird", "tvmonitor", "keyboard", "aeroplane"),
    }
    assert set(class_set("pascal_context").unseen) == unseen
    assert len(class_set("pascal_context").seen) == 49


@pytest.mark.parametrize("name", sorted(UNSEEN_IDS))
def test_seen_and_unseen_divide_the_classes(name):
    classes = class_set(name)
    assert not set(classes.seen) & set(classes.unseen)
    assert set(classes.seen) | set(classes.unseen) == set(classes.names)
    assert len(classes.seen) == len(classes.names) - len(UNSEEN_IDS[name])


def test_voc_colours_are_the_colour_map_of_the_development_kit():
    colours = class_set("voc").colours
    for label, colour in enumerate(colours, start=1):
        # Bits 0, 3, 6 of the label are the high bits of red, bits 1, 4, 7 of green, 2, 5 of blue.
        expected = [
            sum((label >> (3 * i + channel) & 1) << (7 - i) for i in range(3))
            for channel in range(3)
        ]
        assert list(colour) == expected
    assert len(set(colours)) == 20


@pytest.mark.parametrize(
    ("name", "split"), [("voc", "ZegCLIP"), ("coco_stuff", "ZegCLIP"), ("pascal_context", "ZS3Net")]
)
def test_every_set_says_where_it_comes_from(name, split):
    assert f"split: {split}" in class_set(name).source


def test_an_unknown_set_is_answered_with_the_nearest_name_and_all_of_them():
    with pytest.raises(ConfigError, match=r'"coco-stuff"; did you mean "coco_stuff"\?.*voc'):
        class_set("coco-stuff")
