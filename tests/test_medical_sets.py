import hashlib
import io
import shutil
import sys
import zlib
from importlib import import_module
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from PIL import Image
from typer.testing import CliRunner

from zegment.commands.data import data_app
from zegment.config.loading import load_config
from zegment.data.benchmarks import benchmark
from zegment.data.folder import FolderDataset
from zegment.data.preparing import SPLITS, prepare_benchmark
from zegment.data.preparing.binary_masks import read_binary_mask
from zegment.data.preparing.medical_layouts import Sample, drawn
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError

# MedCLIPSeg's folder of each set, and the class that is not the background.
SETS = {
    "busi": ("BUSI", "breast tumor"),
    "btmri": ("BTMRI", "brain tumor"),
    "isic": ("ISIC", "skin lesion"),
    "kvasir": ("Kvasir", "polyp"),
    "qata": ("Covid19", "lung infection"),
    "eus": ("EUS", "pancreatic tumor"),
    "clinicdb": ("ClinicDB", "polyp"),
}

FOLDERS = {"train": "Train_Folder", "val": "Val_Folder", "test": "Test_Folder"}
TEXTS = {"train": "Train_text", "val": "Val_text", "test": "Test_text_original"}


class Recorder:
    """What a preparation tells of its progress."""

    def __init__(self):
        self.lines = []

    def start(self, what, total):
        self.lines.append([what, total, 0])

    def advance(self, n=1):
        self.lines[-1][2] += n


def prepare(name, root):
    report = Recorder()
    module = import_module(f"zegment.data.preparing.{benchmark(name).preparation}")
    module.prepare(root, report=report)
    return report


def opened(name, root, split, *settings):
    overrides = [f"data.benchmark={name}", f"data.root={root}", *settings]
    return FolderDataset(load_config(overrides=overrides).data, split)


# What the miniatures show


def pixels(name):
    """A picture of 32 x 24 pixels that is its name's own."""
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (24, 32, 3), np.uint8)


def target(name):
    """A box that is its name's own."""
    seed = zlib.crc32(name.encode())
    box = np.zeros((24, 32), bool)
    box[4 + seed % 5 : 14 + seed % 7, 3 + seed % 11 : 17 + seed % 13] = True
    return box


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def save_mask(path, shape, *, white=255):
    save(path, shape.astype(np.uint8) * np.uint8(white))


def save_table(path, rows, header=("Image", "Ground Truth", "Description")):
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    for row in (header, *rows):
        book.active.append(row)
    book.save(path)


def sentence(name):
    return f'one "medium", round target of {name}'


def release(base, *, texts=True, suffix=".png", mask="{}", white=255):
    """Lay out three images for each split as MedCLIPSeg does."""
    for split, folder in FOLDERS.items():
        names = [f"{split}_{number}" for number in (2, 0, 1)]
        for name in names:
            save(base / folder / "img" / f"{name}{suffix}", pixels(name))
            save_mask(
                base / folder / "label" / f"{mask.format(name)}.png", target(name), white=white
            )
        if texts:
            rows = [(f"{n}{suffix}", f"{mask.format(n)}.png", sentence(n)) for n in names]
            save_table(base / "Prompts_Folder" / f"{TEXTS[split]}.xlsx", rows)
    return base


def busi(base):
    """Ten images, one with two masks, one normal."""
    names = [f"benign ({n})" for n in range(1, 6)] + [f"malignant ({n})" for n in range(1, 5)]
    for name in names:
        folder = base / name.split()[0]
        save(folder / f"{name}.png", pixels(name))
        save_mask(folder / f"{name}_mask.png", target(name))
    corner = np.zeros((24, 32), bool)
    corner[20:] = True
    save_mask(base / "benign" / "benign (2)_mask_1.png", corner)
    save(base / "normal" / "normal (1).png", pixels("normal (1)"))
    save_mask(base / "normal" / "normal (1)_mask.png", np.zeros((24, 32), bool))
    expected = {name: target(name) for name in names}
    expected["benign (2)"] = target("benign (2)") | corner
    expected["normal (1)"] = np.zeros((24, 32), bool)
    return expected


def kvasir(base):
    """Ten images whose masks are JPEG files."""
    names = [f"cju{n}" for n in range(10)]
    for name in names:
        save(base / "images" / f"{name}.jpg", pixels(name))
        save(base / "masks" / f"{name}.jpg", target(name).astype(np.uint8) * 255, quality=75)
    (base / "kavsir_bboxes.json").write_text("{}")
    return {name: target(name) for name in names}


def clinicdb(base):
    """Ten images in TIFF files, as their masks are."""
    names = [str(n) for n in range(1, 11)]
    for name in names:
        save(base / "Original" / f"{name}.tif", pixels(name))
        save_mask(base / "Ground Truth" / f"{name}.tif", target(name))
    return {name: target(name) for name in names}


def qata(base):
    """Ten images for training, three for the test."""
    names = {"Train Set": range(10), "Test Set": range(10, 13)}
    for part, numbers in names.items():
        for name in (f"covid_{n}" for n in numbers):
            save(base / part / "Images" / f"{name}.png", pixels(name))
            save_mask(base / part / "Ground-truths" / f"mask_{name}.png", target(name))
    return {f"covid_{n}": target(f"covid_{n}") for n in range(13)}


def isic(base):
    """Ten images for training, three for the test."""
    names = {"Training": range(10), "Test": range(10, 13)}
    for part, numbers in names.items():
        folder = f"ISBI2016_ISIC_Part1_{part}"
        for name in (f"ISIC_{n:07}" for n in numbers):
            save(base / f"{folder}_Data" / f"{name}.jpg", pixels(name))
            save_mask(base / f"{folder}_GroundTruth" / f"{name}_Segmentation.png", target(name))
    return {f"ISIC_{n:07}": target(f"ISIC_{n:07}") for n in range(13)}


# Of every set that its publishers offer: how it is laid out, in which folder, and the split.
PUBLISHERS = {
    "busi": (busi, "Dataset_BUSI_with_GT", (8, 1, 1)),
    "kvasir": (kvasir, "Kvasir-SEG", (8, 1, 1)),
    "clinicdb": (clinicdb, "CVC-ClinicDB", (8, 1, 1)),
    "qata": (qata, "QaTa-COV19/QaTa-COV19-v2", (8, 2, 3)),
    "isic": (isic, ".", (9, 1, 3)),
}

publishers = pytest.mark.parametrize("name", PUBLISHERS)
sets = pytest.mark.parametrize("name", SETS)


def contents(root):
    """Bytes of every file by its path."""
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def prepared(root):
    """Whether anything was written."""
    return any((root / name).exists() for name in (*SPLITS, "prepared.txt"))


# MedCLIPSeg's release


@sets
def test_a_release_keeps_its_split_its_masks_and_its_sentences(name, tmp_path):
    release(tmp_path)
    prepare(name, tmp_path)
    for split in SPLITS:
        sentences = f"data.{split}.descriptions={split}/descriptions.csv"
        dataset = opened(name, tmp_path, split, sentences)
        assert dataset.class_names == ("background", SETS[name][1])
        assert dataset.unseen == ()
        assert [Path(dataset.name(i)).stem for i in range(3)] == [f"{split}_{i}" for i in range(3)]
        for index, (image, label) in enumerate(dataset):
            own = f"{split}_{index}"
            assert np.array_equal(image.permute(1, 2, 0), pixels(own))
            assert np.array_equal(label, target(own))
            assert dataset.description(index) == sentence(own)
        assert dataset.check().images == 3


@sets
def test_counts_are_those_of_the_publication(name):
    counts = benchmark(name).counts
    published = {
        "busi": (624, 78, 78),
        "btmri": (2738, 1321, 1005),
        "isic": (810, 90, 379),
        "kvasir": (800, 100, 100),
        "qata": (5716, 1429, 2113),
        "eus": (26318, 1758, 10090),
        "clinicdb": (490, 61, 61),
    }
    assert tuple(counts[split] for split in SPLITS) == tuple((n,) for n in published[name])


def test_a_release_is_found_in_the_folder_of_its_name_beside_others(tmp_path):
    release(tmp_path / "data" / "Kvasir")
    release(tmp_path / "data" / "BUSI", suffix=".jpg")
    prepare("busi", tmp_path)
    assert opened("busi", tmp_path, "val").name(0).endswith("val_0.jpg")
    assert "BUSI" in (tmp_path / "prepared.txt").read_text()


@pytest.mark.parametrize("mask", ["{}", "mask_{}", "{}_mask", "{}_segmentation"])
def test_a_release_without_texts_pairs_by_name_and_has_no_descriptions(mask, tmp_path):
    release(tmp_path, texts=False, mask=mask)
    prepare("btmri", tmp_path)
    assert np.array_equal(opened("btmri", tmp_path, "test")[1][1], target("test_1"))
    assert not list(tmp_path.rglob("*.csv"))


def test_a_text_says_which_images_and_which_masks_count(tmp_path):
    base = release(tmp_path)
    save(base / "Train_Folder/img/other.png", pixels("other"))
    rows = [
        ("train_1.png", "train_2.png", "masked by\n another"),
        ("train_1.png", "train_2.png", "listed twice"),
        (None, None, None),
    ]
    save_table(base / "Prompts_Folder/Train_text.xlsx", rows)
    prepare("eus", tmp_path)
    dataset = opened("eus", tmp_path, "train", "data.train.descriptions=train/descriptions.csv")
    assert len(dataset) == 1
    assert np.array_equal(dataset[0][1], target("train_2"))
    assert dataset.description(0) == "masked by another"


def test_columns_are_found_by_name_and_numbers_name_images(tmp_path):
    base = release(tmp_path)
    for kind, array in (("img", pixels("7")), ("label", target("7").astype(np.uint8) * 255)):
        save(base / "Test_Folder" / kind / "7.png", array)
    header = (" description", "image ")
    save_table(base / "Prompts_Folder/Test_text_original.xlsx", [("seven", 7.0)], header)
    prepare("clinicdb", tmp_path)
    dataset = opened("clinicdb", tmp_path, "test", "data.test.descriptions=test/descriptions.csv")
    assert (len(dataset), dataset.description(0)) == (1, "seven")


def test_parts_of_the_training_and_other_sentences_come_along(tmp_path):
    base = release(tmp_path)
    rows = [("train_2.png", "train_2.png", sentence("train_2"))]
    save_table(base / "Prompts_Folder/Train_text_10.xlsx", rows)
    rows = [(f"test_{n}.png", f"test_{n}.png", f"no target in {n}") for n in range(3)]
    save_table(base / "Prompts_Folder/Test_text_contradictory.xlsx", rows)
    prepare("kvasir", tmp_path)
    part = opened("kvasir", tmp_path, "train", "data.train.list=train/10_percent.txt")
    assert [Path(part.name(i)).name for i in range(len(part))] == ["train_2.png"]
    file = "data.test.descriptions=test/descriptions_contradictory.csv"
    assert opened("kvasir", tmp_path, "test", file).description(2) == "no target in 2"


def test_texts_of_lvit_list_masks_inside_the_folders(tmp_path):
    base = release(tmp_path, texts=False, mask="mask_{}")
    for split, folder in FOLDERS.items():
        (base / folder / "label").rename(base / folder / "labelcol")
        rows = [(f"mask_{split}_{n}.png", sentence(n)) for n in range(3)]
        text = base / folder / f"{split.capitalize()}_text.xlsx"
        save_table(text, rows, ("Image", "Description"))
    prepare("qata", tmp_path)
    dataset = opened("qata", tmp_path, "test", "data.test.descriptions=test/descriptions.csv")
    assert (len(dataset), dataset.description(1)) == (3, sentence(1))
    assert np.array_equal(dataset[1][1], target("test_1"))


def eus(base):
    """Frames of two patients, one healthy, and of none in the validation split."""
    rows = {split: [] for split in SPLITS}
    for split, patient in (("train", "C01"), ("train", "H02"), ("val", "C03"), ("test", "H04")):
        for name in (f"{patient}_V1_{n:04}" for n in range(2)):
            frame = name.partition("_")[2] + ".tif"
            save(base / f"{patient}-2024-001" / patient / frame, pixels(name))
            if patient.startswith("C"):
                path = base / "Annotations-2024-001/Annotations" / patient / frame
                save_mask(path, target(name))
            rows[split].append((f"{name}.png", f"{name}.png", sentence(name)))
    for split, listed in rows.items():
        save_table(base / "Prompts_Folder" / f"{TEXTS[split]}.xlsx", listed)


def test_frames_of_patients_go_where_the_texts_say(tmp_path):
    eus(tmp_path / "EUS")
    prepare("eus", tmp_path)
    file = "data.train.descriptions=train/descriptions.csv"
    dataset = opened("eus", tmp_path, "train", file)
    names = [Path(dataset.name(i)).name for i in range(len(dataset))]
    assert names == [f"{patient}_V1_{n:04}.tif" for patient in ("C01", "H02") for n in range(2)]
    assert np.array_equal(dataset[1][1], target("C01_V1_0001"))
    assert not dataset[2][1].any()
    assert dataset.description(3) == sentence("H02_V1_0001")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("Prompts_Folder", r"no Train_text in .*Prompts_Folder.*copy data/EUS/Prompts_Folder"),
        ("H04-2024-001", r'Test_text_original\.xlsx lists "H04_V1_0000", .*a folder H04; download'),
        (
            "Annotations-2024-001/Annotations/C03",
            r"C03/V1_0000\.tif has no mask in .*Annotations/C03",
        ),
    ],
)
def test_a_missing_part_of_the_frames_is_named(gone, message, tmp_path):
    eus(tmp_path)
    remove(tmp_path / gone)
    with pytest.raises((DatasetError, DatasetNotFoundError), match=message):
        prepare("eus", tmp_path)
    assert not prepared(tmp_path)


# The publishers' own files


@publishers
def test_the_publishers_files_become_a_split_in_which_no_image_is_twice(name, tmp_path):
    fabricate, folder, sizes = PUBLISHERS[name]
    expected = fabricate(tmp_path / folder)
    report = prepare(name, tmp_path)
    found = {}
    for split, size in zip(SPLITS, sizes, strict=True):
        dataset = opened(name, tmp_path, split)
        assert len(dataset) == size
        for index, (_, label) in enumerate(dataset):
            found[Path(dataset.name(index)).stem] = label.numpy().astype(bool)
    assert len(found) == sum(sizes)
    assert found.keys() == expected.keys()
    for own, mask in expected.items():
        assert np.array_equal(found[own], mask)
    assert [(total, done) for _, total, done in report.lines] == [(sum(sizes), sum(sizes))] * 2
    assert "drawn here, not as published" in report.lines[-1][0]
    assert "drawn here, not as published" in (tmp_path / "prepared.txt").read_text()


@publishers
def test_images_are_copied_unchanged_and_the_originals_stay(name, tmp_path):
    fabricate, folder, _ = PUBLISHERS[name]
    fabricate(tmp_path / folder)
    before = contents(tmp_path)
    prepare(name, tmp_path)
    after = contents(tmp_path)
    assert before.items() <= after.items()
    copied = [data for path, data in after.items() if path.match("t*/images/*")]
    assert len(copied) > 5
    assert set(copied) <= set(before.values())


@pytest.mark.parametrize("name", ["qata", "isic"])
def test_an_official_test_split_is_kept(name, tmp_path):
    fabricate, folder, _ = PUBLISHERS[name]
    fabricate(tmp_path / folder)
    prepare(name, tmp_path)
    dataset = opened(name, tmp_path, "test")
    numbers = [int(Path(dataset.name(i)).stem.rpartition("_")[2]) for i in range(len(dataset))]
    assert numbers == [10, 11, 12]


def test_a_release_is_preferred_to_the_publishers_files(tmp_path):
    busi(tmp_path / "Dataset_BUSI_with_GT")
    release(tmp_path / "BUSI")
    prepare("busi", tmp_path)
    assert len(opened("busi", tmp_path, "train")) == 3


def test_a_normal_image_needs_no_mask(tmp_path):
    busi(tmp_path)
    (tmp_path / "normal" / "normal (1)_mask.png").unlink()
    prepare("busi", tmp_path)
    masks = {path.name: path for path in tmp_path.glob("*/masks/*")}
    assert not np.asarray(Image.open(masks["normal (1).png"])).any()


def test_archives_unpacked_into_folders_of_their_names_are_found(tmp_path):
    isic(tmp_path)
    for folder in list(tmp_path.iterdir()):
        folder.rename(tmp_path / "moved")
        (tmp_path / folder.name).mkdir()
        (tmp_path / "moved").rename(tmp_path / folder.name / folder.name)
    prepare("isic", tmp_path)
    assert len(opened("isic", tmp_path, "test")) == 3


@pytest.mark.parametrize("name", ["busi", "kvasir", "clinicdb"])
def test_a_complete_set_is_drawn_in_the_published_sizes(name):
    sizes = {split: benchmark(name).counts[split][0] for split in SPLITS}
    samples = [
        Sample(name=f"image {n}", image=Path(f"{n}.png"), masks=())
        for n in range(sum(sizes.values()))
    ]
    splits = drawn(samples, sizes)
    assert {split: len(found) for split, found in splits.items()} == sizes
    assert drawn(reversed(samples), sizes) == splits
    names = [sample.name for found in splits.values() for sample in found]
    assert len(set(names)) == len(samples)
    # The last of the names in the order of their hashes, on every machine.
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert {sample.name for sample in splits["test"]} == set(ranked[-sizes["test"] :])


# Masks


@pytest.mark.parametrize("white", [1, 255])
def test_white_may_be_1_or_255(white, tmp_path):
    release(tmp_path, white=white)
    prepare("btmri", tmp_path)
    assert np.array_equal(opened("btmri", tmp_path, "val")[0][1], target("val_0"))


def test_a_miniature_mask_in_jpeg_has_other_values_than_black_and_white(tmp_path):
    kvasir(tmp_path)
    values = np.unique(np.asarray(Image.open(tmp_path / "masks" / "cju1.jpg")))
    assert len(values) > 2


def test_grey_is_split_in_the_middle(tmp_path):
    save(tmp_path / "mask.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert read_binary_mask(tmp_path / "mask.png").tolist() == [[False, False, True, True]]


def test_noise_in_an_empty_jpeg_is_no_target(tmp_path):
    save(tmp_path / "mask.jpg", np.full((8, 8), 1, np.uint8))
    assert np.asarray(Image.open(tmp_path / "mask.jpg")).max() == 1
    assert not read_binary_mask(tmp_path / "mask.jpg").any()


def as_colours(mask):
    return Image.fromarray(np.stack([mask.astype(np.uint8) * 255] * 3, axis=-1))


def as_numbers(mask):
    picture = Image.fromarray(mask.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0])  # dark red, as PASCAL VOC paints its first class
    return picture


def as_swapped_palette(mask):
    picture = Image.fromarray((~mask).astype(np.uint8), mode="P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    return picture


@pytest.mark.parametrize(
    "paint",
    [
        as_colours,
        as_numbers,
        as_swapped_palette,
        Image.fromarray,
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535),
        lambda mask: Image.fromarray(mask.astype(np.uint16) * 255),
        lambda mask: as_colours(mask).convert("RGBA"),
    ],
    ids=["RGB", "class numbers", "swapped", "1 bit", "16 bits", "8 of 16 bits", "RGBA"],
)
def test_a_mask_may_be_any_kind_of_black_and_white_picture(paint, tmp_path):
    paint(target("any")).save(tmp_path / "mask.png")
    assert np.array_equal(read_binary_mask(tmp_path / "mask.png"), target("any"))


# Archives


def pack(folder, archive):
    """Pack a folder as those who offer it do: with its own name around its files."""
    file = shutil.make_archive(str(archive), "zip", folder.parent, folder.name)
    shutil.rmtree(folder)
    return Path(file)


@sets
def test_an_archive_of_the_release_is_unpacked_and_prepared(name, tmp_path):
    archive = pack(release(tmp_path / SETS[name][0]), tmp_path / "release")
    root = tmp_path / "somewhere" / "else"
    done = prepare_benchmark(name, root, archives=[archive])
    assert (dict(done.images), dict(done.missing)) == ({"train": 3, "val": 3, "test": 3}, {})
    assert np.array_equal(opened(name, root, "test")[2][1], target("test_2"))


@publishers
def test_archives_of_the_publishers_are_unpacked_and_prepared(name, tmp_path):
    fabricate, folder, sizes = PUBLISHERS[name]
    fabricate(tmp_path / "made" / folder)
    archives = [pack(path, tmp_path / path.name) for path in sorted((tmp_path / "made").iterdir())]
    assert len(archives) == (4 if name == "isic" else 1)
    done = prepare_benchmark(name, tmp_path / "root", archives=archives)
    assert tuple(done.images[split] for split in SPLITS) == sizes


@sets
def test_the_command_prepares_a_set_and_says_how_many_images_it_has(name, tmp_path):
    archive = pack(release(tmp_path / SETS[name][0]), tmp_path / "release")
    root = tmp_path / "root"
    options = ["prepare", name, "--root", str(root), "--archive", str(archive)]
    result = CliRunner().invoke(data_app, options)
    assert result.exit_code == 0, result.output
    published = benchmark(name).counts["train"][0]
    assert f"train: 3 images, published {published:,}" in result.output
    assert f"{name} is ready for data.benchmark={name}" in result.output


@publishers
def test_the_command_checks_what_was_prepared_though_the_originals_are_gone(name, tmp_path):
    fabricate, folder, _ = PUBLISHERS[name]
    fabricate(tmp_path / "made" / folder)
    archives = [pack(path, tmp_path / path.name) for path in sorted((tmp_path / "made").iterdir())]
    root = tmp_path / "root"
    prepare_benchmark(name, root, archives=archives)
    for path in root.iterdir():
        if path.name not in (*SPLITS, "prepared.txt"):
            remove(path)
    result = CliRunner().invoke(data_app, ["check", name, "--root", str(root)])
    assert result.exit_code == 1, result.output  # fewer images than published
    assert SETS[name][1] in result.output
    assert "error:" not in result.output
    moved = pack(root, tmp_path / "prepared")
    assert prepare_benchmark(name, tmp_path / "new", archives=[moved]).missing == {}


def test_half_of_an_archive_is_named_and_leaves_nothing(tmp_path):
    archive = pack(release(tmp_path / "BUSI"), tmp_path / "BUSI-again")
    archive.write_bytes(archive.read_bytes()[:-500])
    with pytest.raises(
        DatasetError, match=r"BUSI-again\.zip is damaged or cut off.*download it again"
    ):
        prepare_benchmark("busi", tmp_path / "root", archives=[archive])
    assert not (tmp_path / "root").exists()


# A second run


def test_a_second_run_writes_no_picture(tmp_path):
    release(tmp_path)
    prepare("eus", tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*/*") if p.is_file()}
    before = contents(tmp_path)
    report = prepare("eus", tmp_path)
    assert [total for _, total, _ in report.lines] == [0, 0]
    assert contents(tmp_path) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_second_run_completes_what_is_missing_or_cut_off(tmp_path):
    kvasir(tmp_path)
    prepare("kvasir", tmp_path)
    before = contents(tmp_path)
    images, masks = (sorted((tmp_path / "train" / kind).iterdir()) for kind in ("images", "masks"))
    images[0].unlink()
    masks[1].unlink()
    images[2].write_bytes(images[2].read_bytes()[:-9])
    masks[3].write_bytes(masks[3].read_bytes()[:-9])
    report = prepare("kvasir", tmp_path)
    assert [total for _, total, _ in report.lines] == [4, 4]
    assert contents(tmp_path) == before


def test_an_interrupted_run_leaves_whole_files_only(tmp_path):
    class Interrupted(Recorder):
        def advance(self, n=1):
            super().advance(n)
            if self.lines[-1] == [*self.lines[-1][:2], 2] and len(self.lines) == 2:
                raise KeyboardInterrupt

    release(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        import_module("zegment.data.preparing.eus").prepare(tmp_path, report=Interrupted())
    for path in tmp_path.glob("t*/*/*"):
        Image.open(path).load()
    assert not list(tmp_path.rglob("*.partial"))
    prepare("eus", tmp_path)
    assert sum(len(opened("eus", tmp_path, split)) for split in SPLITS) == 9


def test_without_the_originals_a_finished_set_stays_as_it_is(tmp_path):
    busi(tmp_path / "Dataset_BUSI_with_GT")
    prepare("busi", tmp_path)
    shutil.rmtree(tmp_path / "Dataset_BUSI_with_GT")
    before = contents(tmp_path)
    prepare("busi", tmp_path)
    assert contents(tmp_path) == before


def test_another_split_is_not_mixed_into_an_earlier_one(tmp_path):
    busi(tmp_path / "Dataset_BUSI_with_GT")
    prepare("busi", tmp_path)
    release(tmp_path / "BUSI")
    before = contents(tmp_path)
    with pytest.raises(DatasetError, match=r"there already, but not in the train.*move train, val"):
        prepare("busi", tmp_path)
    assert contents(tmp_path) == before


# What is wrong with the files


@sets
def test_a_root_that_does_not_exist_or_holds_nothing_says_what_is_looked_for(name, tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"no folder .*nowhere.*data\.root"):
        prepare(name, tmp_path / "nowhere")
    with pytest.raises(
        DatasetNotFoundError, match=r"MedCLIPSeg.*Train_Folder/img.*data\.root"
    ) as e:
        prepare(name, tmp_path)
    others = [word for word in ("publishers", "challenge", "patients") if word in str(e.value)]
    assert len(others) == (name != "btmri")
    assert not prepared(tmp_path)


def test_the_release_of_another_set_is_refused(tmp_path):
    release(tmp_path / "Kvasir")
    for root in (tmp_path, tmp_path / "Kvasir"):
        with pytest.raises(
            DatasetError, match=r"Kvasir is MedCLIPSeg's release of another .* BUSI"
        ):
            prepare("busi", root)


def test_two_folders_that_could_be_meant_are_both_named(tmp_path):
    for folder in ("one", "two"):
        release(tmp_path / folder)
    with pytest.raises(DatasetError, match=r"any of .*one, .*two; set data\.root"):
        prepare("busi", tmp_path)


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("eus", "Val_Folder", r"no folder .*Val_Folder/img; unpack"),
        ("eus", "Test_Folder/label", r"no folder .*Test_Folder/label; unpack"),
        ("eus", "Train_Folder/img/train_1.png", r'Train_text\.xlsx lists "train_1", .*img; unpack'),
        ("eus", "Train_Folder/label/train_1.png", r'lists the mask "train_1", .*label; unpack'),
        ("busi", "malignant", r"no folder .*malignant; unpack"),
        (
            "busi",
            "benign/benign (3)_mask.png",
            r'benign \(3\)\.png has no mask: .*"benign \(3\)_mask',
        ),
        ("busi", "benign/benign (3).png", r"benign \(3\)_mask\.png has no image: .*unpack"),
        ("kvasir", "masks", r"no folder .*masks; unpack"),
        ("kvasir", "images/cju4.jpg", r"1 masks have no image, first .*cju4\.jpg; unpack"),
        ("clinicdb", "Ground Truth/4.tif", r'4\.tif has no mask: looked for "4" in .*Ground Truth'),
        ("clinicdb", "Original", r"no folder .*Original; unpack"),
        ("qata", "Test Set", r"no folder .*Test Set/Images; unpack"),
        (
            "qata",
            "Train Set/Ground-truths/mask_covid_2.png",
            r'covid_2\.png has no mask: .*"mask_cov',
        ),
        (
            "isic",
            "ISBI2016_ISIC_Part1_Test_GroundTruth",
            r"no folder .*Part1_Test_GroundTruth; unp",
        ),
    ],
)
def test_half_of_a_set_is_refused_by_the_name_of_what_is_missing(name, gone, message, tmp_path):
    PUBLISHERS[name][0](tmp_path) if name in PUBLISHERS else release(tmp_path)
    remove(tmp_path / gone)
    with pytest.raises((DatasetError, DatasetNotFoundError), match=message):
        prepare(name, tmp_path)
    assert not prepared(tmp_path)


def test_a_release_without_a_text_and_a_mask_names_the_image(tmp_path):
    release(tmp_path, texts=False)
    (tmp_path / "Test_Folder/label/test_2.png").unlink()
    with pytest.raises(DatasetError, match=r"test_2\.png has no mask: .*Test_Folder; unpack"):
        prepare("btmri", tmp_path)
    assert not prepared(tmp_path)


def test_an_empty_folder_says_so(tmp_path):
    kvasir(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"no picture in .*images; unpack"):
        prepare("kvasir", tmp_path)


def test_too_few_images_for_three_splits_say_so(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.jpg", pixels(name))
        save_mask(tmp_path / "masks" / f"{name}.jpg", target(name))
    with pytest.raises(DatasetError, match=r"2 images in .*images are too few for train and val"):
        prepare("kvasir", tmp_path)


@pytest.mark.parametrize("file", ["Test_Folder/img/test_1.png", "Test_Folder/label/test_1.png"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-40], lambda _: b"", lambda _: b"no picture"]
)
def test_a_damaged_picture_is_named_before_anything_is_written(file, damage, tmp_path):
    path = release(tmp_path) / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match=rf"{path}.*(again|convert)"):
        prepare("eus", tmp_path)
    assert not prepared(tmp_path)


def test_a_mask_of_another_size_is_named_with_its_image(tmp_path):
    release(tmp_path)
    save_mask(tmp_path / "Val_Folder/label/val_0.png", target("val_0")[:, :-2])
    message = r"label/val_0\.png is 30 x 24 pixels, its image .*img/val_0\.png 32 x 24; download"
    with pytest.raises(DatasetError, match=message):
        prepare("isic", tmp_path)
    assert not prepared(tmp_path)


def test_a_mask_of_class_numbers_is_no_black_and_white_picture(tmp_path):
    release(tmp_path, white=3)
    with pytest.raises(
        DatasetError, match=r"_0\.png .*largest value is 3, expected 1 or 255; save"
    ):
        prepare("btmri", tmp_path)
    assert not prepared(tmp_path)


def test_two_images_of_one_name_are_both_named(tmp_path):
    release(tmp_path)
    save(tmp_path / "Train_Folder/img/train_0.jpg", pixels("train_0"))
    with pytest.raises(DatasetError, match=r"train_0\.jpg and .*train_0\.png have one name; move"):
        prepare("eus", tmp_path)


def test_names_that_differ_in_capitals_only_are_refused(tmp_path):
    release(tmp_path, texts=False)
    for kind, array in (("img", pixels("x")), ("label", target("x").astype(np.uint8))):
        save(tmp_path / "Train_Folder" / kind / "TRAIN_0.png", array)
    with pytest.raises(DatasetError, match=r"TRAIN_0\.png and .*train_0\.png would have one name"):
        prepare("eus", tmp_path)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_off, r"Val_text\.xlsx cannot be read as an Excel file .*download it again"),
        (lambda path: path.write_text("Image"), r"Val_text\.xlsx cannot be read as an Excel file"),
        (lambda path: save_table(path, [], ("Image",)), r'no column "description", only image'),
        (lambda path: save_table(path, []), r"Val_text\.xlsx lists no image"),
        (
            lambda path: save_table(path, [("val_0.png", "val_0.png", " ")]),
            r'Val_text\.xlsx has no description of "val_0"',
        ),
    ],
)
def test_a_text_that_cannot_be_used_is_named(harm, message, tmp_path):
    release(tmp_path)
    harm(tmp_path / "Prompts_Folder/Val_text.xlsx")
    with pytest.raises(DatasetError, match=message):
        prepare("busi", tmp_path)
    assert not prepared(tmp_path)


def test_without_openpyxl_texts_name_the_remedy(tmp_path, monkeypatch):
    release(tmp_path)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(
        ConfigError, match=r"Train_text\.xlsx.*needs the package openpyxl.*pip install"
    ):
        prepare("busi", tmp_path)
    assert not prepared(tmp_path)


def test_masks_are_palette_pictures_in_which_people_see_the_target(tmp_path):
    release(tmp_path)
    prepare("eus", tmp_path)
    data = (tmp_path / "test/masks/test_0.png").read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        assert np.array_equal(np.asarray(picture.convert("L")), target("test_0") * np.uint8(255))
