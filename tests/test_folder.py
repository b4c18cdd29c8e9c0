import subprocess
import sys
import zlib
from pathlib import Path

import hostile_builders as build
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from zegment.config import DataConfig, SplitFiles
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, build_dataset
from zegment.data.checked import CheckReport
from zegment.data.folder import FolderDataset
from zegment.data.masks import read_mask
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError

NAMES = ("sky", "road", "car")
SPLIT = SplitFiles(images="images", masks="masks")


def config(root, **options):
    return DataConfig(
        **{"source": "folder", "root": str(root), "classes": NAMES, "train": SPLIT, **options}
    )


def add(root, name, label, *, image_name=None, mode=None, suffix=".png", folders=SPLIT):
    """Write an image, whose red channel is ten times the label, and its mask."""
    label = np.asarray(label)
    image = np.zeros((*label.shape, 3), np.uint8)
    image[..., 0] = np.minimum(label * 10, 255)
    picture = Image.fromarray(label.astype(np.uint16 if label.max() > 255 else np.uint8), mode=mode)
    if mode == "P":
        picture.putpalette([9, 8, 7] * 256)
    for folder, file, content in (
        (folders.images, image_name or f"{name}.png", Image.fromarray(image)),
        (folders.masks, f"{name}{suffix}", picture),
    ):
        path = Path(root, folder, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save(path)


@pytest.fixture
def root(tmp_path):
    """Two images of 2 x 3 pixels with all three classes and an ignored pixel."""
    add(tmp_path, "b", [[0, 1, 2], [2, 1, 255]])
    add(tmp_path, "a", [[1, 1, 1], [1, 1, 0]])
    return tmp_path


# What an item is


def test_an_item_is_the_image_and_its_label_map(root):
    dataset = FolderDataset(config(root, unseen=("car",)), "train")
    image, label = dataset[1]
    assert (image.dtype, image.shape, image.is_contiguous()) == (torch.uint8, (3, 2, 3), True)
    assert label.dtype == torch.int64
    assert label.tolist() == [[0, 1, 2], [2, 1, IGNORE_INDEX]]
    assert image[0].tolist() == [[0, 10, 20], [20, 10, 255]]
    assert dataset.class_names == NAMES
    assert dataset.unseen == ("car",)


def test_items_stand_in_the_order_of_their_names_and_end(root):
    dataset = FolderDataset(config(root), "train")
    assert len(dataset) == 2
    assert [Path(dataset.name(i)).name for i in range(2)] == ["a.png", "b.png"]
    with pytest.raises(IndexError):
        dataset[2]


def test_a_loader_makes_batches_in_worker_processes(root):
    loader = DataLoader(FolderDataset(config(root), "train"), batch_size=2, num_workers=1)
    images, labels = next(iter(loader))
    assert images.shape == (2, 3, 2, 3)
    assert labels.shape == (2, 2, 3)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_grey_and_palette_masks_hold_class_numbers(tmp_path, mode):
    add(tmp_path, "a", [[0, 2], [1, 255]], mode=mode)
    assert FolderDataset(config(tmp_path), "train")[0][1].tolist() == [[0, 2], [1, IGNORE_INDEX]]


def test_masks_of_sixteen_bits_are_read(tmp_path):
    add(tmp_path, "a", [[0, 2], [1, 40000]])
    dataset = FolderDataset(config(tmp_path, ignore_value=40000), "train")
    assert dataset[0][1].tolist() == [[0, 2], [1, IGNORE_INDEX]]


def test_a_mask_of_one_bit_has_two_classes(tmp_path):
    add(tmp_path, "a", [[0, 1]])
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "masks" / "a.png")
    assert FolderDataset(config(tmp_path), "train")[0][1].tolist() == [[0, 1]]


def packed(values, bits):
    """Return rows of whole bytes in which each value has only some bits, the first the highest."""
    ones = (np.asarray(values)[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(ones.reshape(len(values), -1), axis=1)


@pytest.mark.parametrize("colour", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_mask_means_its_numbers_however_few_bits_they_have(tmp_path, bits, colour):
    values = np.arange(2**bits).reshape(2, -1)
    palette = build.chunk(b"PLTE", bytes(3 * 2**bits)) if colour == 3 else b""
    rows = zlib.compress(build.filtered(packed(values, bits)))
    size = values.shape[1], len(values)
    path = tmp_path / "a.png"
    path.write_bytes(build.png(*size, rows, depth=bits, colour=colour, before=palette))
    assert read_mask(path).tolist() == values.tolist()


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_tiff_mask_means_its_numbers_however_few_bits_they_have(tmp_path, bits, fill_order):
    values = np.arange(2**bits).reshape(2, -1)
    rows = packed(values, bits)
    if fill_order == 2:
        rows = np.packbits(np.unpackbits(rows), bitorder="little").reshape(rows.shape)
    size = [build.entry(256, 4, values.shape[1]), build.entry(258, 3, bits)]
    path = tmp_path / "a.tif"
    path.write_bytes(build.tiff(rows, tags=[*size, build.entry(266, 3, fill_order)]))
    assert read_mask(path).tolist() == values.tolist()


@pytest.mark.parametrize("bits", [2, 8])
def test_a_mask_that_counts_from_white_is_refused(tmp_path, bits):
    tags = [build.entry(262, 3, 0), build.entry(258, 3, bits), build.entry(256, 4, 8)]
    path = tmp_path / "a.tif"
    path.write_bytes(build.tiff(np.zeros((2, bits), np.uint8), tags=tags))
    with pytest.raises(DatasetError, match=r"a\.tif counts from white to black.*save masks as PNG"):
        read_mask(path)


def test_without_the_background_label_one_is_the_first_class(tmp_path):
    add(tmp_path, "a", [[0, 1, 2, 3, 255]])
    dataset = FolderDataset(config(tmp_path, reduce_zero_label=True), "train")
    assert dataset[0][1].tolist() == [[IGNORE_INDEX, 0, 1, 2, IGNORE_INDEX]]


def test_the_ignored_value_is_ignored_beside_255(tmp_path):
    add(tmp_path, "a", [[0, 1, 2, 200, 255]])
    dataset = FolderDataset(config(tmp_path, ignore_value=200), "train")
    assert dataset[0][1].tolist() == [[0, 1, 2, IGNORE_INDEX, IGNORE_INDEX]]


def test_an_image_is_turned_as_its_camera_says_and_its_mask_must_fit_that(tmp_path):
    add(tmp_path, "a", [[0, 1, 2]])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 1)).save(tmp_path / "images" / "a.png", exif=exif)
    with pytest.raises(DatasetError, match=r"is 3 x 1 pixels, its image .* 1 x 3 as it is shown"):
        FolderDataset(config(tmp_path), "train")[0]


# Which files belong together


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png", "a.bmp", "a.webp", "a.tif"])
def test_images_of_every_format_find_their_masks(tmp_path, name):
    add(tmp_path, "a", [[0, 1], [2, 0]], image_name=name)
    assert len(FolderDataset(config(tmp_path), "train")) == 1


def test_a_mask_suffix_tells_masks_from_other_files_of_the_folder(tmp_path):
    add(tmp_path, "a", [[0, 1]], suffix="_labelTrainIds.png")
    add(tmp_path, "a", [[77, 78]])  # the unconverted mask beside it, which is no class number
    dataset = FolderDataset(config(tmp_path, mask_suffix="_labelTrainIds.png"), "train")
    assert dataset[0][1].tolist() == [[0, 1]]


def test_images_and_masks_may_share_a_folder(tmp_path):
    both = SplitFiles(images="all", masks="all")
    add(tmp_path, "a", [[0, 1]], suffix="_mask.png", folders=both)
    dataset = FolderDataset(config(tmp_path, mask_suffix="_mask.png", train=both), "train")
    assert [Path(dataset.name(i)).name for i in range(len(dataset))] == ["a.png"]


def test_hidden_files_and_other_files_are_passed_over(root):
    for name in ("images/._a.png", "masks/._a.png", "images/Thumbs.db", "masks/readme.txt"):
        (root / name).write_bytes(b"")
    assert len(FolderDataset(config(root), "train")) == 2


def test_a_list_names_the_images_of_a_split(root):
    add(root, "c", [[0, 1, 2]])
    (root / "masks" / "stray.png").write_bytes(b"")
    (root / "train.txt").write_text("c\n\n  a \n")
    split = SplitFiles(images="images", masks="masks", list="train.txt")
    dataset = FolderDataset(config(root, train=split), "train")
    assert [Path(dataset.name(i)).stem for i in range(len(dataset))] == ["c", "a"]


def test_the_voc_preset_reads_the_layout_of_the_development_kit(tmp_path):
    base = tmp_path / "VOC2012"
    for name, masks in (
        ("2007_000032", "SegmentationClassAug"),
        ("2007_000033", "SegmentationClass"),
    ):
        files = SplitFiles(images="JPEGImages", masks=masks)
        add(base, name, [[0, 1], [20, 255]], image_name=f"{name}.jpg", folders=files, mode="P")
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2007_000033\n")
    data = load_config(preset="voc-zegclip", overrides=[f"data.root={base}"]).data
    train, val = build_dataset(data, "train"), build_dataset(data, "test")
    assert Path(train.name(0)).stem == "2007_000032"
    assert Path(val.name(0)).stem == "2007_000033"
    assert train[0][1].tolist() == [[IGNORE_INDEX, 0], [19, IGNORE_INDEX]]
    assert train.unseen == ("pottedplant", "sheep", "sofa", "train", "tvmonitor")


def test_the_coco_preset_reads_the_published_maps_whatever_lies_beside(tmp_path):
    for split in ("train2017", "val2017"):
        files = SplitFiles(images=f"images/{split}", masks=f"annotations/{split}")
        photo = "000000000009.jpg"
        add(tmp_path, "000000000009", [[0, 12, 181, 255]], image_name=photo, folders=files)
        beside = {"suffix": "_labelTrainIds.png", "image_name": photo}
        add(tmp_path, "000000000009", [[0, 11, 170, 255]], folders=files, **beside)
    data = load_config(preset="coco-zegclip", overrides=[f"data.root={tmp_path}"]).data
    for split in ("train", "test"):
        assert build_dataset(data, split)[0][1].tolist() == [[0, 11, 170, IGNORE_INDEX]]


def test_shapes_are_built_from_the_same_configuration():
    data = DataConfig(val_length=3, image_size=32)
    dataset = build_dataset(data, "val")
    image, label = dataset[0]
    assert len(dataset) == 3
    assert (image.shape, label.shape) == ((3, 32, 32), (32, 32))
    assert len(dataset.class_names) == 20
    assert len(build_dataset(data, "train")) == data.train_length


def test_importing_the_data_package_does_not_import_torch():
    code = "import sys, zegment.data, zegment.data.classes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Mistakes that show before a file is read


def test_a_split_that_is_not_configured_names_its_table(root):
    with pytest.raises(ConfigError, match=r"no val split: add \[data.val\]"):
        build_dataset(config(root), "val")


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_missing_folder_is_named_with_the_place_that_was_searched(root, folder):
    split = SplitFiles(**{"images": "images", "masks": "masks", folder: "gone"})
    with pytest.raises(
        DatasetNotFoundError, match=rf'data.train.{folder} = "gone": looked for /.*gone'
    ):
        FolderDataset(config(root, train=split), "train")


def test_a_missing_list_is_named_with_the_place_that_was_searched(root):
    split = SplitFiles(images="images", masks="masks", list="gone.txt")
    with pytest.raises(DatasetNotFoundError, match=r"data.train.list .*looked for /.*gone\.txt"):
        FolderDataset(config(root, train=split), "train")


def test_a_folder_without_images_is_refused(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DatasetError, match=r"no image in .*images; expected files .*\.jpg"):
        FolderDataset(config(tmp_path), "train")


def test_images_without_masks_are_counted_and_the_first_is_named(root):
    (root / "masks" / "a.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 2 images have no mask, first .*a\.png: expected .*masks/a\.png"
    ):
        FolderDataset(config(root), "train")


def test_masks_without_images_are_counted_and_the_first_is_named(root):
    (root / "images" / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 masks have no image .*first .*masks/a\.png"):
        FolderDataset(config(root), "train")


def test_two_images_of_one_name_are_refused(root):
    Image.new("RGB", (3, 2)).save(root / "images" / "a.jpg")
    with pytest.raises(DatasetError, match=r"a\.jpg and .*a\.png have one name"):
        FolderDataset(config(root), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ngone\n", r'1 of 2 lines of .*list\.txt name no image, first "gone"'),
        ("/images/a.png /masks/a.png\n", 'write names as "a" stands for'),
        ("a\nb\na\n", 'lists "a" 2 times'),
        ("\n\n", "lists no image"),
        (b"\xff\xfe", "cannot read"),
    ],
)
def test_a_list_that_names_no_images_is_refused(root, text, message):
    (root / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    split = SplitFiles(images="images", masks="masks", list="list.txt")
    with pytest.raises(DatasetError, match=message):
        FolderDataset(config(root, train=split), "train")


# Mistakes that show when files are read: by item, and by the check of all


def raises_on_item_and_check(dataset, index, error, message):
    with pytest.raises(error, match=message):
        dataset[index]
    with pytest.raises(DatasetError, match=message):
        dataset.check()


def test_a_value_that_is_no_class_is_named_with_the_number_of_classes(root):
    add(root, "a", [[0, 37, 36], [0, 0, 0]])
    message = (
        r"masks/a\.png: values 36, 37 found, but there are 3 classes \(values 0 to 2, 255 "
        r"is ignored\); complete data\.classes, set data\.ignore_value = 36 "
    )
    raises_on_item_and_check(FolderDataset(config(root), "train"), 0, DatasetError, message)


def test_one_value_too_many_suggests_that_zero_is_a_background(root):
    add(root, "a", [[0, 1, 3], [0, 0, 0]])
    message = r"value 3 found, .*set data\.reduce_zero_label = true if 0 is a background"
    raises_on_item_and_check(FolderDataset(config(root), "train"), 0, DatasetError, message)


def test_values_without_background_are_told_from_one(root):
    add(root, "a", [[0, 1, 4], [0, 0, 0]])
    dataset = FolderDataset(config(root, reduce_zero_label=True), "train")
    message = r"value 4 found, but there are 3 classes \(values 1 to 3"
    raises_on_item_and_check(dataset, 0, DatasetError, message)


@pytest.mark.parametrize("value", [-1, 70000])
def test_values_beyond_sixteen_bits_are_refused(root, value):
    label = np.array([[0, 1, value], [0, 0, 0]], np.int32)
    Image.fromarray(label).save(root / "masks" / "a.tif")
    for name in ("a", "b"):
        (root / "masks" / f"{name}.png").unlink()
    (root / "images" / "b.png").unlink()
    dataset = FolderDataset(config(root, mask_suffix=".tif"), "train")
    raises_on_item_and_check(
        dataset, 0, DatasetError, r"a\.tif has values from .*expected .*0 to 65535"
    )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_with_colours_is_refused_with_the_remedy(root, mode):
    Image.new(mode, (3, 2)).save(root / "masks" / "a.png")
    message = rf"a\.png is a {mode} picture; save masks as single-channel index PNG"
    raises_on_item_and_check(FolderDataset(config(root), "train"), 0, DatasetError, message)


def test_a_mask_of_another_size_is_named_with_both_sizes(root):
    Image.new("L", (5, 4)).save(root / "masks" / "a.png")
    message = r"masks/a\.png is 5 x 4 pixels, its image .*images/a\.png 3 x 2"
    raises_on_item_and_check(FolderDataset(config(root), "train"), 0, DatasetError, message)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_a_damaged_file_is_named(root, folder):
    noise = np.random.default_rng(0).integers(0, 3, (64, 64), dtype=np.uint8)
    path = root / folder / "a.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:300])
    message = rf"{folder}/a\.png cannot be decoded"
    raises_on_item_and_check(FolderDataset(config(root), "train"), 0, ImageError, message)


# The check of all files


def test_the_check_counts_what_it_saw_and_reports_progress(root):
    seen = []
    report = FolderDataset(config(root), "train").check(progress=lambda *done: seen.append(done))
    assert report == CheckReport(images=2, sizes=1, class_pixels=(2, 7, 2), ignored_pixels=1)
    assert seen == [(1, 2), (2, 2)]


def test_the_check_counts_different_sizes(root):
    add(root, "c", [[0, 1], [2, 0]])
    assert FolderDataset(config(root), "train").check().sizes == 2


def test_the_check_counts_several_bad_files_and_names_the_first(root):
    for name in ("a", "b"):
        Image.new("RGB", (3, 2)).save(root / "masks" / f"{name}.png")
    with pytest.raises(DatasetError, match=r"masks/a\.png is a RGB .*\(so far 2 files are wrong\)"):
        FolderDataset(config(root), "train").check()


def test_the_check_stops_after_ten_bad_files(tmp_path):
    for i in range(30):
        add(tmp_path, f"{i:02}", [[9]])
    seen = []
    with pytest.raises(DatasetError, match=r"masks/00\.png.*so far 10 files"):
        FolderDataset(config(tmp_path), "train").check(progress=lambda *done: seen.append(done))
    assert len(seen) == 10


def test_masks_with_nothing_but_ignored_pixels_are_refused(tmp_path):
    add(tmp_path, "a", [[255, 255]])
    with pytest.raises(DatasetError, match="no pixel of the train masks has a class"):
        FolderDataset(config(tmp_path), "train").check()


def test_black_and_white_masks_are_not_taken_for_a_class_and_ignored_pixels(tmp_path):
    add(tmp_path, "a", [[0, 255]])
    with pytest.raises(DatasetError, match='black and white, save "road" as 1'):
        FolderDataset(config(tmp_path), "train").check()
    test_split = config(tmp_path, train=None, test=SPLIT)
    assert FolderDataset(test_split, "test").check().class_pixels == (1, 0, 0)
