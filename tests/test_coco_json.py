import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

pytest.importorskip("pycocotools")

from pycocotools import mask as coco_mask

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX
from zegment.data.checked import CheckReport
from zegment.data.coco_json import CocoJsonDataset
from zegment.data.outlines import decompress
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError

NAMES = ("cat", "dog", "tree")
CATEGORIES = [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 9, "name": "tree"}]
CAT, DOG, TREE = 7, 3, 9
SPLIT = SplitFiles(images="images", masks="instances.json")
SIZE = (4, 6)  # height, width
X = IGNORE_INDEX


def config(root, **options):
    return DataConfig(
        **{"source": "coco_json", "root": str(root), "classes": NAMES, "train": SPLIT, **options}
    )


def box(x, y, width, height):
    """Return the polygon of whole pixels."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def runs(mask):
    """Return uncompressed run lengths, counted pixel by pixel."""
    counts, current = [0], 0
    for value in np.asarray(mask).T.ravel():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return {"size": list(np.shape(mask)), "counts": counts}


def compressed(mask):
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


def annotation(identity, category, segmentation, *, image=1, **more):
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        **more,
    }


def write(root, rows=(), *, names=("a.jpg",), size=SIZE, **tables):
    """Write the images, one after the other from id 1, and the annotation file."""
    images = [
        {"id": i, "file_name": name, "height": size[0], "width": size[1]}
        for i, name in enumerate(names, start=1)
    ]
    content = {"images": images, "annotations": list(rows), "categories": CATEGORIES}
    content |= tables
    for name in names:
        path = Path(root, "images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size[1], size[0]), (10, 20, 30)).save(path)
    Path(root, "instances.json").write_text(json.dumps(content))
    return content


def labels_of(root, annotations, **options):
    write(root, annotations)
    return CocoJsonDataset(config(root, **options), "train")[0][1]


# What an item is


def test_an_item_is_the_image_and_the_painted_outlines(tmp_path):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 2, 2)), annotation(2, DOG, box(4, 1, 2, 3))])
    dataset = CocoJsonDataset(config(tmp_path, unseen=("dog",)), "train")
    image, label = dataset[0]
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 4, 6), True)
    assert label.dtype == torch.int64
    assert label.tolist() == [
        [0, 0, X, X, X, X],
        [0, 0, X, X, 1, 1],
        [X, X, X, X, 1, 1],
        [X, X, X, X, 1, 1],
    ]
    assert (dataset.class_names, dataset.unseen) == (NAMES, ("dog",))
    assert dataset.description(0) is None


def test_what_no_outline_covers_is_the_background_if_there_is_such_a_class(tmp_path):
    label = labels_of(
        tmp_path, [annotation(1, CAT, box(0, 0, 6, 2))], classes=("Background", "cat")
    )
    assert label.tolist() == [[1] * 6] * 2 + [[0] * 6] * 2


def test_an_image_without_annotations_is_an_item(tmp_path):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 6, 4))], names=("a.jpg", "b.jpg"))
    dataset = CocoJsonDataset(config(tmp_path), "train")
    assert len(dataset) == 2
    assert (dataset[1][1] == IGNORE_INDEX).all()


def test_smaller_objects_lie_on_larger_ones_whatever_their_order(tmp_path):
    both = [annotation(1, CAT, box(2, 1, 2, 2)), annotation(2, DOG, box(0, 0, 6, 4))]
    expected = [[1] * 6, [1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1], [1] * 6]
    for order in (both, both[::-1]):
        assert labels_of(tmp_path, order).tolist() == expected


def test_the_area_that_counts_is_measured_and_not_the_one_in_the_file(tmp_path):
    both = [
        annotation(1, CAT, box(2, 1, 2, 2), area=1e9),
        annotation(2, DOG, box(0, 0, 6, 4), area=0),
    ]
    assert labels_of(tmp_path, both)[1].tolist() == [1, 1, 0, 0, 1, 1]


def test_of_equally_large_objects_the_later_is_on_top(tmp_path):
    twins = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, DOG, box(0, 0, 6, 4))]
    assert (labels_of(tmp_path, twins) == 1).all()
    assert (labels_of(tmp_path, twins[::-1]) == 0).all()


def test_a_crowd_is_of_its_class_and_beneath_single_objects(tmp_path):
    crowd = np.zeros(SIZE, np.uint8)
    crowd[0, :2] = 1
    rows = [annotation(1, CAT, box(0, 0, 6, 1)), annotation(2, DOG, runs(crowd), iscrowd=1)]
    assert labels_of(tmp_path, rows)[0].tolist() == [0] * 6
    assert labels_of(tmp_path, rows[1:])[0].tolist() == [1, 1, X, X, X, X]


def test_the_parts_of_an_outline_are_one_object(tmp_path):
    parts = box(0, 0, 1, 4) + box(5, 0, 1, 4)
    assert labels_of(tmp_path, [annotation(1, CAT, parts)])[2].tolist() == [0, X, X, X, X, 0]


def test_a_polygon_may_reach_a_little_beyond_the_image(tmp_path):
    assert (labels_of(tmp_path, [annotation(1, CAT, box(-1, -0.5, 8, 6))]) == 0).all()


@pytest.mark.parametrize("index", [2, -3])
def test_items_end(tmp_path, index):
    write(tmp_path, names=("a.jpg", "b.jpg"))
    with pytest.raises(IndexError):
        CocoJsonDataset(config(tmp_path), "train")[index]


def test_the_last_item_is_also_counted_from_the_end(tmp_path):
    rows = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, DOG, box(0, 0, 6, 4), image=2)]
    write(tmp_path, rows, names=("a.jpg", "b.jpg"))
    assert (CocoJsonDataset(config(tmp_path), "train")[-1][1] == 1).all()


# Against an independent painter


def painted(height, width, objects):
    """Return the label map, pixel by pixel: of the objects there, the smallest, then the last."""
    label = np.full((height, width), IGNORE_INDEX)
    areas = [int(mask.sum()) for _, mask in objects]
    for y in range(height):
        for x in range(width):
            here = [k for k, (_, mask) in enumerate(objects) if mask[y, x]]
            if here:
                label[y, x] = objects[min(here, key=lambda k: (areas[k], -k))][0]
    return label


def inside(polygon, height, width):
    """Return which pixel centres lie in a polygon: a ray to the right crosses it an odd number."""
    mask = np.zeros((height, width), bool)
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for y in range(height):
        for x in range(width):
            for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
                if (y1 > y + 0.5) != (y2 > y + 0.5):
                    cut = x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1)
                    mask[y, x] ^= cut > x + 0.5
    return mask


@st.composite
def scenes(draw):
    """Draw a size and objects as (class, mask, segmentation), from boxes and from any pixels."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    objects = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["box", "runs", "compressed"]))
        if kind == "box":
            left, right = sorted((draw(st.integers(0, width - 1)), draw(st.integers(1, width))))
            top, bottom = sorted((draw(st.integers(0, height - 1)), draw(st.integers(1, height))))
            mask = np.zeros((height, width), np.uint8)
            mask[top:bottom, left:right] = 1
            outline = box(left, top, right - left, bottom - top)
        else:
            bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
            mask = np.array(bits, np.uint8).reshape(height, width)
            outline = runs(mask) if kind == "runs" else compressed(mask)
        objects.append((draw(st.integers(0, 2)), mask, outline))
    return height, width, objects


@given(scenes())
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_boxes_and_run_lengths_are_painted_as_by_a_slow_painter(tmp_path, scene):
    height, width, objects = scene
    rows = [annotation(k, (CAT, DOG, TREE)[c], s) for k, (c, _, s) in enumerate(objects)]
    write(tmp_path, rows, size=(height, width))
    expected = painted(height, width, [(c, mask) for c, mask, _ in objects])
    assert np.array_equal(CocoJsonDataset(config(tmp_path), "train")[0][1].numpy(), expected)


def test_random_polygons_differ_from_a_ray_count_only_along_their_edges(tmp_path):
    random = np.random.default_rng(0)
    height, width = 30, 40
    for _ in range(20):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
        radii = random.uniform(4, 14, angles.size)
        points = np.stack([20 + radii * np.cos(angles), 15 + radii * np.sin(angles)], axis=1)
        polygon = points.ravel().tolist()
        write(tmp_path, [annotation(1, CAT, [polygon])], size=(height, width))
        label = CocoJsonDataset(config(tmp_path), "train")[0][1].numpy()
        expected = inside(polygon, height, width)
        near = np.zeros((height, width), bool)  # within a pixel of an edge
        for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
            for t in np.linspace(0, 1, 200):
                x, y = int(x1 + t * (x2 - x1)), int(y1 + t * (y2 - y1))
                near[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
        assert np.array_equal((label == 0)[~near], expected[~near])
        assert (~near & expected).sum() > 0 or expected.sum() < 60


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40))
@settings(deadline=None)
def test_compressed_codes_are_read_as_pycocotools_reads_them(counts):
    total = sum(counts)
    code = coco_mask.frPyObjects({"size": [total, 1], "counts": counts}, total, 1)["counts"]
    assert decompress(code.decode()) == counts


# Which images and which classes


def test_items_stand_in_the_order_of_their_names(tmp_path):
    rows = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, DOG, box(0, 0, 6, 4), image=2)]
    write(tmp_path, rows, names=("b.jpg", "sub/a.png", "a.jpg"))
    dataset = CocoJsonDataset(config(tmp_path), "train")
    names = [Path(dataset.name(i)).relative_to(tmp_path / "images") for i in range(3)]
    assert [name.as_posix() for name in names] == ["a.jpg", "b.jpg", "sub/a.png"]
    assert [int(dataset[i][1][0, 0]) for i in range(3)] == [X, 0, 1]


def test_a_list_names_the_images_of_a_split_and_the_others_need_no_file(tmp_path):
    rows = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, DOG, box(0, 0, 6, 4), image=3)]
    write(tmp_path, rows, names=("sub/a.jpg", "b.jpg", "c.jpg"))
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "list.txt").write_text("c\n\nsub/a\n")
    split = SplitFiles(images="images", masks="instances.json", list="list.txt")
    dataset = CocoJsonDataset(config(tmp_path, train=split), "train")
    assert [Path(dataset.name(i)).name for i in range(len(dataset))] == ["c.jpg", "a.jpg"]
    assert [int(dataset[i][1][0, 0]) for i in range(2)] == [1, 0]


def test_descriptions_belong_to_the_images(tmp_path):
    write(tmp_path, names=("b.jpg", "a.jpg"))
    (tmp_path / "texts.csv").write_text("image,description\nb,a black cat\na,an old dog\n")
    split = SplitFiles(images="images", masks="instances.json", descriptions="texts.csv")
    dataset = CocoJsonDataset(config(tmp_path, train=split), "train")
    assert [dataset.description(i) for i in range(2)] == ["an old dog", "a black cat"]


def test_classes_are_found_in_any_spelling_and_several_categories_may_be_one(tmp_path):
    rows = [annotation(1, 1, box(0, 0, 2, 4)), annotation(2, 2, box(4, 0, 2, 4))]
    write(tmp_path, rows, categories=[{"id": 1, "name": "TV monitor"}, {"id": 2, "name": "tv"}])
    dataset = CocoJsonDataset(
        config(tmp_path, classes=("tvmonitor", "dog"), unseen=("dog",), other_values="tvmonitor"),
        "train",
    )
    assert dataset[0][1][0].tolist() == [0, 0, X, X, 0, 0]


def test_an_exact_name_goes_before_another_spelling(tmp_path):
    rows = [annotation(1, 1, box(0, 0, 2, 4)), annotation(2, 2, box(4, 0, 2, 4))]
    names = ("tvmonitor", "tv monitor")
    write(tmp_path, rows, categories=[{"id": 1 + k, "name": name} for k, name in enumerate(names)])
    dataset = CocoJsonDataset(config(tmp_path, classes=names), "train")
    assert dataset[0][1][0].tolist() == [0, 0, X, X, 1, 1]


def test_ids_may_be_texts(tmp_path):
    images = [{"id": "x", "file_name": "a.jpg", "height": 4, "width": 6}]
    rows = [annotation("first", "c", box(0, 0, 6, 4), image="x")]
    write(tmp_path, rows, images=images, categories=[{"id": "c", "name": "cat"}])
    dataset = CocoJsonDataset(config(tmp_path, classes=("cat",), unseen=()), "train")
    assert (dataset[0][1] == 0).all()


def test_a_category_that_is_no_class_is_an_error_with_the_remedy(tmp_path):
    write(tmp_path, [annotation(12, TREE, box(0, 0, 6, 4))])
    message = (
        r'annotation 12 of .*instances\.json is a "tree" \(category 9\), which is no class; did '
        r'you mean "trees"\? add it to data\.classes, or set data\.other_values = "ignore"'
    )
    with pytest.raises(DatasetError, match=message):
        CocoJsonDataset(config(tmp_path, classes=("cat", "trees"), unseen=("trees",)), "train")


def test_a_category_that_is_no_class_does_not_matter_without_annotations(tmp_path):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 6, 4))])
    assert (CocoJsonDataset(config(tmp_path, classes=("cat",)), "train")[0][1] == 0).all()


@pytest.mark.parametrize(("other", "value"), [("ignore", IGNORE_INDEX), ("dog", 1)])
def test_a_category_that_is_no_class_is_what_the_option_says(tmp_path, other, value):
    rows = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, TREE, box(1, 0, 2, 4))]
    label = labels_of(tmp_path, rows, classes=("cat", "dog"), other_values=other)
    assert label[0].tolist() == [0, value, value, 0, 0, 0]


def test_a_class_that_is_no_category_is_an_error_with_the_similar_one(tmp_path):
    write(tmp_path)
    message = (
        r'class "dgo" is no category of .*instances\.json; did you mean "dog"\? its categories '
        "are dog, cat, tree; spell the class as the file does"
    )
    with pytest.raises(DatasetError, match=message):
        CocoJsonDataset(config(tmp_path, classes=("cat", "dgo")), "train")


def test_unseen_classes_need_a_category_only_outside_training(tmp_path):
    write(tmp_path, categories=[{"id": CAT, "name": "cat"}])
    options = {"classes": ("cat", "dog"), "unseen": ("dog",), "val": SPLIT}
    assert len(CocoJsonDataset(config(tmp_path, **options), "train")) == 1
    with pytest.raises(DatasetError, match='class "dog" is no category'):
        CocoJsonDataset(config(tmp_path, **options), "val")


# Workers


def test_a_loader_makes_batches_in_worker_processes(tmp_path):
    rows = [annotation(1, CAT, box(0, 0, 6, 4)), annotation(2, DOG, box(0, 0, 6, 4), image=2)]
    write(tmp_path, rows, names=("a.jpg", "b.jpg"))
    loader = DataLoader(CocoJsonDataset(config(tmp_path), "train"), batch_size=2, num_workers=1)
    images, labels = next(iter(loader))
    assert images.shape == (2, 3, 4, 6)
    assert labels[:, 0, 0].tolist() == [0, 1]


def test_a_dataset_can_be_sent_to_another_process(tmp_path):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 6, 4))])
    dataset = pickle.loads(  # noqa: S301 - our own
        pickle.dumps(CocoJsonDataset(config(tmp_path), "train"))
    )
    assert (dataset[0][1] == 0).all()


# Mistakes that show before an image is read


def raises_at_once(root, error, message, **options):
    with pytest.raises(error, match=message):
        CocoJsonDataset(config(root, **options), "train")


def test_without_pycocotools_the_command_to_install_it_is_given(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    raises_at_once(
        tmp_path, ConfigError, r'needs the package pycocotools.*: pip install "zegment\[data\]"'
    )


def test_a_split_that_is_not_configured_names_its_table(tmp_path):
    with pytest.raises(ConfigError, match=r"no val split: add \[data.val\]"):
        CocoJsonDataset(config(tmp_path), "val")


@pytest.mark.parametrize(
    ("option", "value"),
    [("label_values", (0, 1, 2)), ("reduce_zero_label", True), ("ignore_value", 250)],
)
def test_options_for_masks_are_refused(tmp_path, option, value):
    message = rf"data\.{option} is about the pixel values of masks, .*leave it out"
    raises_at_once(tmp_path, ConfigError, message, **{option: value})


def test_a_missing_annotation_file_is_named_with_the_place_that_was_searched(tmp_path):
    write(tmp_path)
    (tmp_path / "instances.json").unlink()
    message = r'data\.train\.masks = "instances\.json": looked for /.*instances\.json'
    raises_at_once(tmp_path, DatasetNotFoundError, message)


def test_a_missing_folder_is_named_with_the_place_that_was_searched(tmp_path):
    split = SplitFiles(images="gone", masks="instances.json")
    message = r'data\.train\.images = "gone": looked for /.*gone'
    raises_at_once(tmp_path, DatasetNotFoundError, message, train=split)


def test_a_folder_is_no_annotation_file(tmp_path):
    write(tmp_path)
    split = SplitFiles(images="images", masks="images")
    raises_at_once(tmp_path, DatasetError, "cannot read .*images", train=split)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_half_written_file_is_refused(tmp_path, share):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 6, 4))])
    path = tmp_path / "instances.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = r"instances\.json is not valid JSON .*if it is damaged or cut off, copy it again"
    raises_at_once(tmp_path, DatasetError, message)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\xff", b"<html>", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, content):
    write(tmp_path)
    (tmp_path / "instances.json").write_bytes(content)
    raises_at_once(tmp_path, DatasetError, "is not valid JSON")


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, [1]])
def test_a_file_without_a_table_is_refused(tmp_path, key, value):
    write(tmp_path, **{key: value})
    message = rf'instances\.json has no list "{key}" of objects; expected a file of COCO instances'
    raises_at_once(tmp_path, DatasetError, message)


def test_results_are_no_annotations(tmp_path):
    write(tmp_path)
    (tmp_path / "instances.json").write_text("[]")
    raises_at_once(tmp_path, DatasetError, 'has no list "images"')


@pytest.mark.parametrize(
    ("table", "key", "where"),
    [
        ("annotations", "id", "annotation number 0"),
        ("annotations", "image_id", "annotation 5"),
        ("annotations", "category_id", "annotation 5"),
        ("annotations", "segmentation", "annotation 5"),
        ("images", "id", "image number 0"),
        ("images", "file_name", "image 1"),
        ("images", "height", "image 1"),
        ("images", "width", "image 1"),
        ("categories", "id", "category number 0"),
        ("categories", "name", "category 3"),
    ],
)
def test_a_missing_or_unusable_key_is_named(tmp_path, table, key, where):
    content = write(tmp_path, [annotation(5, CAT, box(0, 0, 6, 4))])
    for change, word in (("drop", "no"), (None, "no usable"), (True, "no usable")):
        row = dict(content[table][0])
        if change == "drop":
            del row[key]
        else:
            row[key] = change
        write(tmp_path, **{**content, table: [row, *content[table][1:]]})
        message = rf'{where} of .*instances\.json has {word} "{key}"; expected'
        raises_at_once(tmp_path, DatasetError, message)


def test_an_annotation_of_an_unknown_image_is_named(tmp_path):
    write(tmp_path, [annotation(5, CAT, box(0, 0, 6, 4), image=77)])
    message = r"annotation 5 of .*instances\.json is of image 77, .*remove the annotation"
    raises_at_once(tmp_path, DatasetError, message)


def test_an_annotation_of_an_unknown_category_is_named(tmp_path):
    write(tmp_path, [annotation(5, 78, box(0, 0, 6, 4))])
    message = r"annotation 5 of .*instances\.json is of category 78, .*remove the annotation"
    raises_at_once(tmp_path, DatasetError, message)


def test_two_images_of_one_id_are_refused(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
    write(tmp_path, images=[image, {**image, "file_name": "b.jpg"}])
    raises_at_once(tmp_path, DatasetError, r"image 1 of .*instances\.json is listed twice")


def test_two_images_of_one_file_are_refused(tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
    write(tmp_path, images=[image, {**image, "id": 2}])
    raises_at_once(tmp_path, DatasetError, r"images 1 and 2 of .* are the same file .*a\.jpg")


def test_two_categories_of_one_id_are_refused(tmp_path):
    write(tmp_path, categories=[*CATEGORIES, {"id": 3, "name": "wolf"}])
    raises_at_once(tmp_path, DatasetError, r'category 3 of .* is "dog" and "wolf"')


def test_a_file_without_images_is_refused(tmp_path):
    write(tmp_path, images=[])
    raises_at_once(tmp_path, DatasetError, r"instances\.json names no image")


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    write(tmp_path, names=("a.jpg", "b.jpg", "sub/c.jpg"))
    (tmp_path / "images" / "b.jpg").unlink()
    (tmp_path / "images" / "sub" / "c.jpg").unlink()
    (tmp_path / "images" / "sub").rmdir()
    message = r"2 of 3 images of .*instances\.json are not in .*images, first .*b\.jpg; add them"
    raises_at_once(tmp_path, DatasetError, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ngone\n", r'1 of 2 lines of .*list\.txt name no image, first "gone"'),
        ("a\na\n", 'lists "a" 2 times'),
        ("", "lists no image"),
    ],
)
def test_a_list_that_names_no_images_is_refused(tmp_path, text, message):
    write(tmp_path)
    (tmp_path / "list.txt").write_text(text)
    split = SplitFiles(images="images", masks="instances.json", list="list.txt")
    raises_at_once(tmp_path, DatasetError, message, train=split)


def test_a_list_cannot_choose_between_images_of_one_name(tmp_path):
    write(tmp_path, names=("a.jpg", "a.png"))
    (tmp_path / "list.txt").write_text("a\n")
    split = SplitFiles(images="images", masks="instances.json", list="list.txt")
    raises_at_once(tmp_path, DatasetError, r"a\.jpg and .*a\.png have one name", train=split)


# Mistakes that show when images are read: by item, and by the check of all


def raises_on_item_and_check(root, error, message):
    dataset = CocoJsonDataset(config(root), "train")
    with pytest.raises(error, match=message):
        dataset[0]
    with pytest.raises(DatasetError, match=message):
        dataset.check()


def test_an_image_of_another_size_is_named_with_both_sizes(tmp_path):
    write(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "a.jpg")
    message = r"images/a\.jpg is 3 x 2 pixels as it is shown, but 6 x 4 in .*instances\.json; take"
    raises_on_item_and_check(tmp_path, DatasetError, message)


def test_an_image_that_the_camera_turned_must_have_the_size_of_the_file(tmp_path):
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "a.jpg", exif=exif)
    message = r"a\.jpg is 4 x 6 pixels as it is shown, but 6 x 4 in .* without its EXIF"
    raises_on_item_and_check(tmp_path, DatasetError, message)


def test_an_image_that_is_none_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes(b"no picture")
    raises_on_item_and_check(tmp_path, ImageError, r"images/a\.jpg is not a picture")


def code(*, size=SIZE, counts):
    return {"size": list(size), "counts": counts}


DAMAGED = "damaged run-length code: its runs do not add up to the 6 x 4 pixels"
FULL = compressed(np.ones(SIZE))["counts"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "empty outline"),
        ([[]], "polygon of 0 numbers"),
        ([[0, 0, 3, 3]], "polygon of 4 numbers; a polygon has at least three points"),
        ([[0, 0, 3, 0, 3, 3, 1]], "polygon of 7 numbers"),
        ([0, 0, 3, 0, 3, 3], "polygon that is no list of numbers"),
        ([[0, 0, 3, 0, 3, "3"]], "polygon that is no list of numbers"),
        ([[0, 0, 3, 0, 3, None]], "polygon that is no list of numbers"),
        ([[0, 0, 3, 0, 3, float("nan")]], "far outside .* 6 x 4 pixels, or with NaN"),
        ([[0, 0, 3, 0, 3, float("inf")]], "far outside"),
        ([[0, 0, 3, 0, 3, 1e9]], "far outside"),
        ([[0, 0, 10**400, 0, 3, 3]], "far outside"),
        ([[0, 0, 3, 0, 3, -9]], "far outside"),
        (code(size=(6, 4), counts=[0, 24]), r"of size \[6, 4\], its image is \[4, 6\]"),
        ({"counts": [0, 24]}, "of size None"),
        ({"size": list(SIZE)}, DAMAGED),
        (code(counts=[0, 23]), DAMAGED),
        (code(counts=[0, 25]), DAMAGED),
        (code(counts=[0, 30, -6]), DAMAGED),
        (code(counts=[0, 24.0]), DAMAGED),
        (code(counts=[0, 10**30]), DAMAGED),
        (code(counts=[]), DAMAGED),
        (code(counts=""), DAMAGED),
        (code(counts=FULL[:-1]), DAMAGED),
        (code(counts=FULL + "1"), DAMAGED),
        (code(counts="~~é\x00"), DAMAGED),
        (code(counts="o" * 40 + "0"), DAMAGED),
        (code(counts=compressed(np.ones((3, 6)))["counts"]), DAMAGED),
    ],
)
def test_a_broken_outline_is_named_by_its_annotation(tmp_path, segmentation, message):
    write(tmp_path, [annotation(41, CAT, segmentation)])
    where = rf"annotation 41 of .*instances\.json (has|is) .*{message}"
    raises_on_item_and_check(tmp_path, DatasetError, where)


@pytest.mark.parametrize("segmentation", ["text", 5, None])
def test_an_outline_of_another_kind_is_refused_at_once(tmp_path, segmentation):
    write(tmp_path, [annotation(41, CAT, segmentation)])
    raises_at_once(tmp_path, DatasetError, 'annotation 41 .* has no usable "segmentation"')


# The check of all images


def test_the_check_counts_what_it_saw_and_reports_progress(tmp_path):
    rows = [annotation(1, CAT, box(0, 0, 2, 4)), annotation(2, TREE, box(0, 0, 6, 2), image=2)]
    write(tmp_path, rows, names=("a.jpg", "b.jpg"))
    seen = []
    report = CocoJsonDataset(config(tmp_path), "train").check(
        progress=lambda *done: seen.append(done)
    )
    assert report == CheckReport(images=2, sizes=1, class_pixels=(8, 0, 12), ignored_pixels=28)
    assert seen == [(1, 2), (2, 2)]


def test_a_training_set_of_the_first_class_alone_is_no_mistake(tmp_path):
    write(tmp_path, [annotation(1, CAT, box(0, 0, 2, 4))])
    assert CocoJsonDataset(config(tmp_path), "train").check().class_pixels == (8, 0, 0)


def test_the_check_counts_several_bad_outlines_and_names_the_first(tmp_path):
    rows = [annotation(k, CAT, [], image=k) for k in (1, 2)]
    write(tmp_path, rows, names=("a.jpg", "b.jpg"))
    with pytest.raises(DatasetError, match=r"annotation 1 .*\(so far 2 files are wrong\)"):
        CocoJsonDataset(config(tmp_path), "train").check()


def test_images_in_which_nothing_is_outlined_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(DatasetError, match=r"no pixel of the train images has a class: .*outlines"):
        CocoJsonDataset(config(tmp_path), "train").check()
