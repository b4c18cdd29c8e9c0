import ast
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX, hub
from zegment.data.checked import CheckReport
from zegment.data.hub import HubDataset
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError

datasets = pytest.importorskip("datasets")  # offline, as conftest.py says for every test

NAMES = ("sky", "road", "car")
SPLIT = SplitFiles(images="image", masks="mask")
X = IGNORE_INDEX


@pytest.fixture(autouse=True)
def quiet_and_apart(tmp_path, monkeypatch):
    """Keep progress bars off the output, and prepared tables out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def config(root, **options):
    return DataConfig(
        **{"source": "huggingface", "root": str(root), "classes": NAMES, "train": SPLIT, **options}
    )


def picture(label, mode=None):
    """Return a picture of label values."""
    label = np.asarray(label)
    made = Image.fromarray(label.astype(np.uint16 if label.max() > 255 else np.uint8), mode=mode)
    if mode == "P":
        made.putpalette([9, 8, 7] * 256)
    return made


def image_of(label):
    """Return an image whose red channel is ten times the label."""
    label = np.asarray(label)
    red = np.minimum(label * 10, 255).astype(np.uint8)
    return Image.fromarray(np.stack([red, 0 * red, 0 * red], axis=-1))


def png(image, **options):
    stream = io.BytesIO()
    image.save(stream, format="PNG", **options)
    return stream.getvalue()


def write(root, masks, *, images=None, split="train", feature=None, names=("image", "mask")):
    """Write a Parquet file with one row for each mask, and a column that is no picture."""
    feature = feature or datasets.Image()
    masks = [mask if isinstance(mask, bytes | None) else png(mask) for mask in masks]
    images = images or [png(Image.new("RGB", (3, 2), (10, 20, 30)))] * len(masks)
    table = datasets.Dataset.from_dict(
        {names[0]: images, names[1]: masks, "height": [2] * len(masks)},
        features=datasets.Features(
            {names[0]: feature, names[1]: feature, "height": datasets.Value("int64")}
        ),
    )
    (root / "set").mkdir(exist_ok=True)
    table.to_parquet(root / "set" / f"{split}-00000-of-00001.parquet")
    return root / "set"


FIRST, SECOND = [[0, 1, 2], [2, 1, 255]], [[1, 1, 1], [1, 1, 0]]


@pytest.fixture
def root(tmp_path):
    """Two images of 2 x 3 pixels with all three classes and an ignored pixel."""
    images = [png(image_of(label)) for label in (FIRST, SECOND)]
    return write(tmp_path, [picture(FIRST), picture(SECOND)], images=images)


# What an item is


def test_an_item_is_the_image_and_its_label_map(root):
    dataset = HubDataset(config(root, unseen=("car",)), "train")
    image, label = dataset[0]
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 2, 3), True)
    assert label.dtype == torch.int64
    assert label.tolist() == [[0, 1, 2], [2, 1, X]]
    assert image[0].tolist() == [[0, 10, 20], [20, 10, 255]]
    assert (dataset.class_names, dataset.unseen) == (NAMES, ("car",))
    assert dataset.description(0) is None


def test_items_stand_in_the_order_of_the_rows_and_end(root):
    dataset = HubDataset(config(root), "train")
    assert len(dataset) == 2
    assert dataset[1][1].tolist() == dataset[-1][1].tolist() == SECOND
    assert dataset.name(1) == dataset.name(-1) == f"row 1 of train of {root}"
    for index in (2, -3):
        with pytest.raises(IndexError):
            dataset[index]


def test_columns_of_plain_bytes_are_read(tmp_path):
    root = write(tmp_path, [picture(FIRST)], feature=datasets.Value("binary"))
    assert HubDataset(config(root), "train")[0][1].tolist() == [[0, 1, 2], [2, 1, X]]


def test_a_table_that_says_nothing_of_pictures_is_read(tmp_path):
    both = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = [{"bytes": png(picture(label)), "path": None} for label in (FIRST, SECOND)]
    table = datasets.Dataset.from_dict(
        {"image": rows, "mask": rows}, features=datasets.Features({"image": both, "mask": both})
    )
    table.to_parquet(tmp_path / "train.parquet")
    assert HubDataset(config(tmp_path), "train")[1][1].tolist() == SECOND


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_masks_hold_class_numbers(tmp_path, mode):
    root = write(tmp_path, [picture(FIRST, mode)])
    assert HubDataset(config(root), "train")[0][1].tolist() == [[0, 1, 2], [2, 1, X]]


def test_a_mask_of_one_bit_has_two_classes(tmp_path):
    mask = Image.fromarray(np.array([[0, 255, 0]] * 2, np.uint8)).convert("1")
    root = write(tmp_path, [mask])
    assert HubDataset(config(root), "train")[0][1].tolist() == [[0, 1, 0]] * 2


def test_masks_of_sixteen_bits_are_read(tmp_path):
    root = write(tmp_path, [picture([[0, 2, 1], [1, 40000, 0]])])
    dataset = HubDataset(config(root, ignore_value=40000), "train")
    assert dataset[0][1].tolist() == [[0, 2, 1], [1, X, 0]]


def test_label_values_mean_what_they_mean_in_files(tmp_path):
    root = write(tmp_path, [picture([[0, 1, 2], [3, 3, 255]])])
    dataset = HubDataset(config(root, reduce_zero_label=True), "train")
    assert dataset[0][1].tolist() == [[X, 0, 1], [2, 2, X]]
    dataset = HubDataset(config(root, label_values=(3, 2, 0), other_values="ignore"), "train")
    assert dataset[0][1].tolist() == [[2, X, 1], [0, 0, X]]


def test_an_image_is_turned_as_its_camera_says_and_its_mask_must_fit_that(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(Image.new("RGB", (3, 2)), exif=exif)
    root = write(tmp_path, [picture(FIRST)], images=[turned])
    with pytest.raises(DatasetError, match=r"is 3 x 2 pixels, its image 2 x 3 as it is shown"):
        HubDataset(config(root), "train")[0]


def test_pictures_in_files_of_their_own_are_read(tmp_path):
    picture(FIRST).save(tmp_path / "mask.png")
    row = {"path": str(tmp_path / "mask.png"), "bytes": None}
    both = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    table = datasets.Dataset.from_dict(
        {"image": [row], "mask": [row]}, features=datasets.Features({"image": both, "mask": both})
    )
    (tmp_path / "set").mkdir()
    table.to_parquet(tmp_path / "set" / "train.parquet")
    dataset = HubDataset(config(tmp_path / "set"), "train")
    assert dataset[0][1].tolist() == [[0, 1, 2], [2, 1, X]]
    (tmp_path / "mask.png").unlink()
    with pytest.raises(DatasetError, match=r'"image" in row 0 .* read: no image at .*mask\.png'):
        dataset[0]


# Which rows and columns


def test_a_split_has_its_own_name_or_the_one_in_the_list(root, tmp_path):
    write(tmp_path, [picture(SECOND)] * 3, split="test")
    held_out = SplitFiles(images="image", masks="mask", list="test")
    options = {"val": held_out, "test": SPLIT}
    assert len(HubDataset(config(root, **options), "train")) == 2
    assert len(HubDataset(config(root, **options), "test")) == 3
    dataset = HubDataset(config(root, **options), "val")
    assert len(dataset) == 3
    assert dataset.name(2) == f"row 2 of test of {root}"


def test_a_part_of_a_split_can_be_taken(root):
    part = SplitFiles(images="image", masks="mask", list="train[1:]")
    dataset = HubDataset(config(root, train=part), "train")
    assert [label.tolist() for _, label in dataset] == [SECOND]


def test_columns_are_named_by_the_configuration(tmp_path):
    root = write(tmp_path, [picture(FIRST)], names=("pixel_values", "label"))
    split = SplitFiles(images="pixel_values", masks="label")
    assert HubDataset(config(root, train=split), "train")[0][1][0].tolist() == [0, 1, 2]


# Workers


def test_a_loader_makes_batches_in_worker_processes(root):
    loader = DataLoader(HubDataset(config(root), "train"), batch_size=2, num_workers=1)
    images, labels = next(iter(loader))
    assert images.shape == (2, 3, 2, 3)
    assert labels[1].tolist() == SECOND


def test_a_dataset_can_be_sent_to_another_process(root):
    sent = pickle.dumps(HubDataset(config(root), "train"))
    assert pickle.loads(sent)[1][1].tolist() == SECOND  # noqa: S301 - our own


def test_the_package_is_not_imported_before_it_is_needed():
    imports = [
        node.names[0].name if isinstance(node, ast.Import) else node.module
        for node in ast.parse(Path(hub.__file__).read_text("utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert "zegment.images" in imports
    assert not [name for name in imports if name.partition(".")[0] == "datasets"]


# Mistakes that show before a row is read


def raises_at_once(root, error, message, **options):
    with pytest.raises(error, match=message):
        HubDataset(config(root, **options), "train")


def test_without_datasets_the_command_to_install_it_is_given(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    raises_at_once(
        root, ConfigError, r'needs the package datasets.*: pip install "zegment\[data\]"'
    )


def test_a_split_that_is_not_configured_names_its_table(root):
    with pytest.raises(ConfigError, match=r"no val split: add \[data.val\]"):
        HubDataset(config(root), "val")


def test_descriptions_are_refused(root):
    split = SplitFiles(images="image", masks="mask", descriptions="texts.csv")
    raises_at_once(root, ConfigError, r"data\.train\.descriptions is for image files", train=split)


@pytest.mark.parametrize("name", ["someone/something", "something"])
def test_what_cannot_be_downloaded_is_named_with_both_remedies(name):
    message = (
        rf'cannot download data\.root = "{name}", and there is no folder /.*{name} .*'
        "connect to the internet and unset HF_HUB_OFFLINE, or give the folder"
    )
    raises_at_once(name, DatasetNotFoundError, message)


@pytest.mark.parametrize("name", ["/no/such/folder", "../gone", "a b/c", "a/b/c"])
def test_what_is_no_folder_and_no_name_is_not_looked_for_on_the_hub(name):
    message = r"no data set for data\.root = .*: looked for /.*; give the folder .* user/name"
    raises_at_once(name, DatasetNotFoundError, message)


def test_a_name_that_the_hub_does_not_know_is_named(monkeypatch):
    def load_dataset(path):
        raise datasets.exceptions.DatasetNotFoundError(
            f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed."
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = r'"someone/typo": Dataset .* cannot be accessed; looked for .*hf auth login'
    raises_at_once("someone/typo", DatasetNotFoundError, message)


def test_an_empty_folder_is_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    message = r"no data set for data\.root = .*empty.* doesn't contain any data files; looked"
    raises_at_once(tmp_path / "empty", DatasetNotFoundError, message)


def test_a_damaged_table_is_refused(root):
    (file,) = root.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    message = r"cannot read data\.root = .*if its files are damaged, copy them again"
    raises_at_once(root, DatasetError, message)


def test_a_data_set_of_another_form_is_refused_with_the_remedy(root, tmp_path):
    datasets.load_dataset(str(root), split="train").save_to_disk(str(tmp_path / "disk"))
    message = r"saved using `save_to_disk`.*, write it with to_parquet"
    raises_at_once(tmp_path / "disk", DatasetError, message)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("trian", r'"trian"; did you mean "train"\?'),
        ("train[:x]", r'"train\[:x\]" \(Unrecognized instruction format: train\[:x\]\);'),
    ],
)
def test_a_split_that_does_not_exist_is_named_with_those_that_do(root, tmp_path, name, advice):
    write(tmp_path, [picture(FIRST)], split="test")
    split = SplitFiles(images="image", masks="mask", list=name)
    with pytest.raises(ConfigError) as caught:
        HubDataset(config(root, train=split), "train")
    message = rf"has no split {advice} it has train, test; name one of them in data\.train\.list"
    assert caught.match(message)


@pytest.mark.parametrize("key", ["images", "masks"])
def test_a_column_that_does_not_exist_is_named_with_those_that_do(root, key):
    split = SplitFiles(**{"images": "image", "masks": "mask", key: "maks"})
    message = (
        rf'data\.train\.{key}: ".*" has no column "maks"; did you mean "mask"\? it has '
        "image, mask, height"
    )
    raises_at_once(root, ConfigError, message, train=split)


def test_a_column_without_pictures_is_refused(root):
    split = SplitFiles(images="image", masks="height")
    message = (
        r'data\.train\.masks: column "height" of ".*" holds int64 and no pictures; columns of '
        "pictures are: image, mask"
    )
    raises_at_once(root, ConfigError, message, train=split)


def test_a_split_without_rows_is_refused(tmp_path):
    root = write(tmp_path, [])
    raises_at_once(root, DatasetError, r"cannot read data\.root = .*corresponds to no data")


def test_a_part_without_rows_is_refused(root):
    part = SplitFiles(images="image", masks="mask", list="train[:0]")
    message = r'has no split "train\[:0\]" \(.*no data!\); it has train; name one'
    raises_at_once(root, ConfigError, message, train=part)


# Mistakes that show when rows are read: by item, and by the check of all


def raises_on_item_and_check(root, error, message, **options):
    dataset = HubDataset(config(root, **options), "train")
    with pytest.raises(error, match=message):
        dataset[0]
    with pytest.raises(DatasetError, match=message):
        dataset.check()


def test_a_value_that_is_no_class_is_named_with_the_number_of_classes(tmp_path):
    root = write(tmp_path, [picture([[0, 37, 36], [0, 0, 0]])])
    message = (
        r'mask "mask" in row 0 of train of .*: values 36, 37 found, but there are 3 classes '
        r"\(values 0 to 2, 255 is ignored\); complete data\.classes"
    )
    raises_on_item_and_check(root, DatasetError, message)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_with_colours_is_refused_with_the_remedy(tmp_path, mode):
    root = write(tmp_path, [Image.new(mode, (3, 2))])
    message = rf'"mask" in row 0 .* is a {mode} picture; save masks as single-channel index PNG'
    raises_on_item_and_check(root, DatasetError, message)


def test_a_mask_of_another_size_is_named_with_both_sizes(tmp_path):
    root = write(tmp_path, [Image.new("L", (5, 4))])
    message = r'"mask" in row 0 .* is 5 x 4 pixels, its image 3 x 2 as it is shown; resize'
    raises_on_item_and_check(root, DatasetError, message)


def test_values_beyond_sixteen_bits_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 70000]] * 2, np.int32)).save(stream, format="TIFF")
    root = write(tmp_path, [stream.getvalue()])
    message = r'"mask" in row 0 .* has values from 0 to 70000; expected .*0 to 65535'
    raises_on_item_and_check(root, DatasetError, message)


def rows_with(tmp_path, column, content):
    if column == "mask":
        return write(tmp_path, [content])
    return write(tmp_path, [picture(FIRST)], images=[content])


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_damaged_picture_is_named(tmp_path, column):
    noise = np.random.default_rng(0).integers(0, 3, (64, 64), dtype=np.uint8)
    root = rows_with(tmp_path, column, png(Image.fromarray(noise))[:300])
    message = rf'"{column}" in row 0 of train of .* cannot be decoded'
    raises_on_item_and_check(root, ImageError, message)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_what_is_no_picture_is_named(tmp_path, column):
    root = rows_with(tmp_path, column, b"no picture")
    message = rf'"{column}" in row 0 of train of .* is not a picture that Pillow can read'
    raises_on_item_and_check(root, ImageError, message)


@pytest.mark.parametrize("column", ["image", "mask"])
@pytest.mark.parametrize("content", [None, b""])
def test_a_row_without_a_picture_is_named(tmp_path, column, content):
    root = rows_with(tmp_path, column, content)
    message = rf'"{column}" in row 0 of train of .* is empty; remove the row'
    raises_on_item_and_check(root, DatasetError, message)


@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_picture_too_large_to_be_safe_is_named(tmp_path, column, monkeypatch):
    root = rows_with(tmp_path, column, png(Image.new("L", (50, 50))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = rf'"{column}" in row 0 of train of .* is too large to be decoded safely'
    raises_on_item_and_check(root, ImageError, message)


# The check of all rows


def test_the_check_counts_what_it_saw_and_reports_progress(root):
    seen = []
    report = HubDataset(config(root), "train").check(progress=lambda *done: seen.append(done))
    assert report == CheckReport(images=2, sizes=1, class_pixels=(2, 7, 2), ignored_pixels=1)
    assert seen == [(1, 2), (2, 2)]


def test_the_check_counts_several_bad_rows_and_names_the_first(tmp_path):
    root = write(tmp_path, [Image.new("RGB", (3, 2))] * 2)
    with pytest.raises(DatasetError, match=r"row 0 .* RGB .*\(so far 2 files are wrong\)"):
        HubDataset(config(root), "train").check()


def test_masks_with_nothing_but_ignored_pixels_are_refused(tmp_path):
    root = write(tmp_path, [picture([[255, 255, 255]] * 2)])
    with pytest.raises(DatasetError, match="no pixel of the train masks has a class"):
        HubDataset(config(root), "train").check()
