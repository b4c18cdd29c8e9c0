import tomllib
from importlib.resources import files

import pytest

from zegment.data.classes import class_set, class_set_names
from zegment.errors import ConfigError

# Ids of the unseen classes in ZegCLIP's released configurations, and for PASCAL Context in those of
# MaskCLIP+ and OTSeg, which repeat ZS3Net's split; one more where the background is class 0.
UNSEEN_IDS = {
    "voc": [15, 16, 17, 18, 19],
    "voc21": [16, 17, 18, 19, 20],
    "coco_stuff": [19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160],
    "pascal_context": [0, 6, 7, 14, 19, 24, 31, 33, 48, 54],
    "pascal_context_60": [1, 7, 8, 15, 20, 25, 32, 34, 49, 55],
}

# Of every set: the number of classes, and some of them, always the first and the last.
SETS = {
    "voc": (
        20,
        {0: "aeroplane", 10: "diningtable", 14: "person", 15: "pottedplant", 19: "tvmonitor"},
    ),
    "voc21": (21, {0: "background", 1: "aeroplane", 15: "person", 20: "tvmonitor"}),
    "coco_stuff": (
        171,
        {
            0: "person",
            11: "stop sign",
            19: "cow",
            79: "toothbrush",  # the last thing
            80: "banner",  # the first stuff class
            94: "clouds",
            100: "door-stuff",
            133: "playingfield",
            160: "wall-concrete",
            170: "wood",
        },
    ),
    "coco_object": (
        81,
        {0: "background", 1: "person", 12: "stop sign", 20: "cow", 80: "toothbrush"},
    ),
    "pascal_context": (
        59,
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
    "pascal_context_60": (
        60,
        {0: "background", 1: "aeroplane", 20: "cow", 55: "tvmonitor", 59: "wood"},
    ),
    "pascal_context_459": (
        459,
        {
            0: "accordion",
            1: "aeroplane",
            112: "dog",
            206: "horse",
            430: "unknown",
            457: "wood",
            458: "wool",
        },
    ),
    "ade150": (
        150,
        {
            0: "wall",
            7: "bed",
            12: "person",
            20: "car",
            80: "bus",
            89: "television receiver",
            130: "screen",
            141: "crt screen",
            149: "flag",
        },
    ),
    "ade847": (
        847,
        {
            0: "wall",
            11: "person",
            99: "aircraft carrier",
            114: "bag",
            191: "bag, traveling bag",
            252: "bag, handbag",
            401: "crevasse",
            500: "cat",
            647: "carapace",
            800: "dog dish",
            846: "adding machine",
        },
    ),
    "cityscapes": (
        19,
        {0: "road", 5: "pole", 8: "vegetation", 11: "person", 16: "train", 18: "bicycle"},
    ),
}

# Of every set whose masks number the classes otherwise: some values, by the name of the class.
LABEL_VALUES = {
    "coco_stuff": {
        "person": 0,
        "stop sign": 12,
        "toothbrush": 89,
        "banner": 91,
        "wall-concrete": 171,
        "wood": 181,
    },
    "coco_object": {"background": 255, "person": 0, "stop sign": 12, "toothbrush": 89},
    "ade847": {
        "wall": 2978,
        "building": 312,
        "car": 401,
        "person": 1831,
        "traffic light": 2836,
        "pot, flowerpot": 1981,
        "adding machine": 3148,
    },
    "cityscapes": {"road": 7, "wall": 12, "traffic light": 19, "bus": 28, "train": 31},
}
ASCENDING = ["coco_stuff", "coco_object", "cityscapes"]


def toml(name):
    packaged = files("zegment.data").joinpath("class_sets", f"{name}.toml")
    return tomllib.loads(packaged.read_text("utf-8"))


def test_every_packaged_set_is_listed():
    assert SETS.keys() <= set(class_set_names())
    assert list(class_set_names()) == sorted(class_set_names())


@pytest.mark.parametrize("name", SETS)
def test_names_are_as_many_as_published_and_all_different(name):
    names = class_set(name).names
    assert len(names) == SETS[name][0]
    assert len({n.casefold() for n in names}) == len(names)
    assert all(n == n.strip() for n in names)


@pytest.mark.parametrize("name", SETS)
def test_names_stand_in_the_order_of_the_label_values(name):
    count, places = SETS[name]
    names = class_set(name).names
    assert {0, count - 1} <= places.keys()
    assert {place: names[place] for place in places} == places


@pytest.mark.parametrize("name", SETS)
def test_unseen_classes_are_those_of_the_released_configuration(name):
    classes = class_set(name)
    expected = UNSEEN_IDS.get(name, [])
    assert [classes.names.index(unseen) for unseen in classes.unseen] == expected


@pytest.mark.parametrize("name", SETS)
def test_cleaned_names_belong_to_published_ones_and_all_stay_different(name):
    names = class_set(name).names
    cleaned = toml(name).get("cleaned", {})
    assert cleaned.keys() <= set(names)
    assert all(cleaned[n] != n for n in cleaned)
    assert len({cleaned.get(n, n).casefold() for n in names}) == len(names)


def test_cleaned_names_read_naturally():
    assert toml("voc")["cleaned"]["tvmonitor"] == "tv monitor"
    cleaned = toml("coco_stuff")["cleaned"]
    assert cleaned["wall-brick"] == "brick wall"
    for name in class_set("coco_stuff").names:
        assert "-" not in cleaned.get(name, name)
    for name in class_set("ade847").names:
        assert "," not in toml("ade847")["cleaned"].get(name, name)


@pytest.mark.parametrize("name", SETS)
def test_label_values_are_one_of_each_class(name):
    table = toml(name)
    assert ("label_values" in table) == (name in LABEL_VALUES)
    if name not in LABEL_VALUES:
        return
    values = table["label_values"]
    assert len(values) == len(table["names"])
    own = [value for value in values if value not in (-1, 255)]
    assert len(set(own)) == len(own)
    assert min(own) >= 0
    if name in ASCENDING:
        assert own == sorted(own)
    by_name = dict(zip(table["names"], values, strict=True))
    assert {n: by_name[n] for n in LABEL_VALUES[name]} == LABEL_VALUES[name]


def test_coco_label_values_leave_out_the_eleven_unused_ids():
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}  # category ids
    values = toml("coco_stuff")["label_values"]
    assert {value + 1 for value in values} == set(range(1, 183)) - gaps
    assert toml("coco_object")["label_values"] == [255, *values[:80]]


def test_ade847_indices_follow_the_alphabet_up_to_the_appended_names():
    # The raw index is sorted by the whole of the synonyms, so compare initials only.
    table = toml("ade847")
    pairs = sorted(zip(table["label_values"], table["names"], strict=True))
    initials = [name[0] for value, name in pairs if value < 3101]
    assert len(initials) == 827
    assert initials == sorted(initials)


def test_sets_with_background_add_it_to_the_set_without():
    for name, without in (("voc21", "voc"), ("pascal_context_60", "pascal_context")):
        assert class_set(name).names == ("background", *class_set(without).names)
        assert class_set(name).unseen == class_set(without).unseen
    assert class_set("coco_object").names[1:] == class_set("coco_stuff").names[:80]


def test_pascal_context_names_its_classes_in_the_full_annotation():
    full = class_set("pascal_context_459").names
    values = toml("pascal_context")["label_values_459"]
    assert values == sorted(values)
    assert tuple(full[value - 1] for value in values) == class_set("pascal_context").names


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name in SETS for split in toml(name).get("splits", ())]
)
def test_further_splits_are_of_known_classes(name, split):
    table = toml(name)
    unseen = table["splits"][split]
    assert set(unseen) < set(table["names"])
    assert len(set(unseen)) == len(unseen)
    assert set(unseen) != set(table["unseen"])


def test_pascal_context_knows_the_split_of_cascade_clip():
    table = toml("pascal_context")
    ids = [table["names"].index(name) for name in table["splits"]["cascade_clip"]]
    assert ids == [0, 2, 3, 7, 9, 13, 17, 19, 31, 37]


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


@pytest.mark.parametrize("name", SETS)
def test_seen_and_unseen_divide_the_classes(name):
    classes = class_set(name)
    assert not set(classes.seen) & set(classes.unseen)
    assert set(classes.seen) | set(classes.unseen) == set(classes.names)
    assert len(classes.seen) == len(classes.names) - len(UNSEEN_IDS.get(name, []))


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
    assert class_set("voc21").colours == ((0, 0, 0), *colours)


def test_colours_are_one_of_each_class():
    for name in SETS:
        classes = class_set(name)
        assert len(classes.colours) in {0, len(classes.names)}
        assert all(0 <= channel <= 255 for colour in classes.colours for channel in colour)
    assert class_set("cityscapes").colours[0] == (128, 64, 128)
    assert class_set("cityscapes").colours[18] == (119, 11, 32)
    assert class_set("ade150").colours[0] == (120, 120, 120)
    assert class_set("ade150").colours[149] == (92, 0, 255)


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_where_it_comes_from_and_whether_it_has_a_split(name):
    assert ("split: " in class_set(name).source) == bool(class_set(name).unseen)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("voc", "ZegCLIP"),
        ("voc21", "ZegCLIP"),
        ("coco_stuff", "ZegCLIP"),
        ("pascal_context", "ZS3Net"),
        ("pascal_context_60", "ZS3Net"),
    ],
)
def test_every_split_says_where_it_comes_from(name, split):
    assert f"split: {split}" in class_set(name).source


def test_an_unknown_set_is_answered_with_the_nearest_name_and_all_of_them():
    with pytest.raises(ConfigError, match=r'"coco-stuff"; did you mean "coco_stuff"\?.*voc'):
        class_set("coco-stuff")
