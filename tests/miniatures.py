"""Official layouts in miniature: what a user downloads, with pictures of a few pixels.

A tree is a dict from the path of a file in an archive to its content.
"""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 6, 8

#: Colours of a palette mask; any will do.
PALETTE = [channel for value in range(256) for channel in (value, 255 - value, 128)]


def jpeg(width=WIDTH, height=HEIGHT):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(file, "JPEG")
    return file.getvalue()


def png(values, *, palette=False):
    """Return an index picture, of 16 bits if the values need them."""
    values = np.asarray(values)
    if values.ndim == 2:
        values = values.astype(np.uint16 if values.max() > 255 else np.uint8)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(PALETTE)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def mat(**variables):
    file = io.BytesIO()
    savemat(file, variables, do_compression=True)
    return file.getvalue()


def stripes(*values):
    """Return a label map (HEIGHT, WIDTH) whose first columns have the values, the rest the last."""
    label = np.full((HEIGHT, WIDTH), values[-1])
    label[:, : len(values)] = values
    return label


def lines(*names):
    return ("\n".join(names) + "\n").encode()


def lay(root, tree):
    """Write a tree below a folder."""
    for path, content in tree.items():
        file = Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def pack(path, tree):
    """Write a tree as an archive, of the kind that its name says."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in tree.items():
                packed.writestr(name, content)
        return path
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name, content in tree.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    content = file.getvalue()
    path.write_bytes(content if path.suffix == ".tar" else gzip.compress(content))
    return path


def inside(folder, tree):
    return {f"{folder}/{path}": content for path, content in tree.items()}


# PASCAL VOC 2012 and SBD

VOC_TRAIN, VOC_VAL = ("2007_000001", "2007_000002"), ("2007_000003",)
#: SBD has an image of VOC's train and one of its val, which must not be taught.
SBD_TRAIN, SBD_VAL = ("2007_000002", "2008_000004"), ("2008_000005", "2007_000003")


def voc2012():
    names = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})
    tree = {f"JPEGImages/{name}.jpg": jpeg() for name in names}
    for name in VOC_TRAIN + VOC_VAL:
        tree[f"SegmentationClass/{name}.png"] = png(stripes(255, 20, 1, 0), palette=True)
    tree["ImageSets/Segmentation/train.txt"] = lines(*VOC_TRAIN)
    tree["ImageSets/Segmentation/val.txt"] = lines(*VOC_VAL)
    return inside("VOCdevkit/VOC2012", tree)


def sbd():
    tree = {}
    for name in sorted({*SBD_TRAIN, *SBD_VAL}):
        part = {"Segmentation": stripes(5, 15, 0).astype(np.uint8), "CategoriesPresent": [5, 15]}
        tree[f"cls/{name}.mat"] = mat(GTcls=part)
        tree[f"inst/{name}.mat"] = mat(GTinst=part)
        tree[f"img/{name}.jpg"] = jpeg()
    tree["train.txt"], tree["val.txt"] = lines(*SBD_TRAIN), lines(*SBD_VAL)
    return inside("benchmark_RELEASE/dataset", tree)


# PASCAL Context

CONTEXT_TRAIN, CONTEXT_VAL = ("2008_000002", "2008_000003"), ("2010_006086",)

#: The publishers' list of 59 names, in its order: those of VOC first.
PUBLISHED_59 = """
aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
pottedplant sheep sofa train tvmonitor bag bed bench book building cabinet ceiling clothes computer
cup door fence floor flower food grass ground keyboard light mountain mouse curtain platform sign
plate road rock shelves sidewalk sky snow bedcloth track tree truck wall water window wood
"""


def voc2010():
    tree = {f"JPEGImages/{name}.jpg": jpeg() for name in CONTEXT_TRAIN + CONTEXT_VAL}
    tree["ImageSets/Main/train.txt"] = lines(*CONTEXT_TRAIN)
    tree["ImageSets/Main/val.txt"] = lines(*CONTEXT_VAL)
    return inside("VOCdevkit/VOC2010", tree)


def context_annotation():
    """Return the Matlab files: unlabelled, accordion (1), aeroplane (2), 255, wood (458), 459."""
    label = stripes(0, 1, 2, 255, 458, 459).astype(np.uint16)
    return {f"trainval/{name}.mat": mat(LabelMap=label) for name in CONTEXT_TRAIN + CONTEXT_VAL}


def context_pictures():
    """Return the publishers' pictures of 59 classes: background, aeroplane, dog, table, wood."""
    tree = {
        f"59_context_labels/{name}.png": png(stripes(0, 1, 12, 11, 59))
        for name in CONTEXT_TRAIN + CONTEXT_VAL
    }
    names = PUBLISHED_59.split()
    tree["59_labels.txt"] = lines(*(f"{n}: {name}" for n, name in enumerate(names, start=1)))
    return tree


# COCO

COCO_TRAIN, COCO_VAL = ("000000000009", "000000000025"), ("000000000139",)


def coco_images(split, names):
    return {f"{split}/{name}.jpg": jpeg() for name in names}


def coco_maps():
    """Return pixel maps: person, stop sign (12), toothbrush (89), banner (91), wood, nothing."""
    label = png(stripes(0, 12, 89, 91, 181, 255))
    tree = {f"train2017/{name}.png": label for name in COCO_TRAIN}
    return tree | {f"val2017/{name}.png": label for name in COCO_VAL}


# ADE20K


def ade_challenge():
    tree = {"sceneCategories.txt": b"", "objectInfo150.txt": b""}
    for split, prefix, count in (("training", "train", 2), ("validation", "val", 1)):
        for number in range(1, count + 1):
            name = f"ADE_{prefix}_{number:08}"
            tree[f"images/{split}/{name}.jpg"] = jpeg()
            tree[f"annotations/{split}/{name}.png"] = png(stripes(0, 1, 150))
    return inside("ADEChallengeData2016", tree)


def ade_colours(*numbers):
    """Return a picture with object numbers in R and G, and instances in B."""
    numbers = stripes(*numbers)
    pixels = np.zeros((*numbers.shape, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = numbers // 256 * 10, numbers % 256
    pixels[..., 2] = 77
    return png(pixels)


def ade_full(numbers):
    tree = {"index_ade20k.pkl": b"cos\nsystem\n(S'false'\ntR.", "objects.txt": b""}
    for split, prefix in (("training", "train"), ("validation", "val")):
        name = f"ADE_{prefix}_00000001"
        folder = f"images/ADE/{split}/urban/street"
        tree[f"{folder}/{name}.jpg"] = jpeg()
        tree[f"{folder}/{name}_seg.png"] = ade_colours(*numbers)
        tree[f"{folder}/{name}_parts_1.png"] = ade_colours(0)
        tree[f"{folder}/{name}.json"] = b"{}"
        tree[f"{folder}/{name}/instance_000_{name}.png"] = png(stripes(0, 255))
    return inside("ADE20K_2021_17_01", tree)


# Cityscapes

CITIES = {"train": "aachen", "val": "munster", "test": "bonn"}


def city_images():
    tree = {"README": b"", "license.txt": b""}
    for split, city in CITIES.items():
        stem = f"leftImg8bit/{split}/{city}/{city}_000000_000019_leftImg8bit.png"
        tree[stem] = png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return tree


def city_masks():
    """Return masks with unlabelled (0), road (7), parking (9), bicycle (33), plate (255)."""
    tree = {"README": b"", "license.txt": b""}
    for split, city in CITIES.items():
        stem = f"gtFine/{split}/{city}/{city}_000000_000019_gtFine"
        tree[f"{stem}_labelIds.png"] = png(stripes(0, 7, 9, 33, 255))
        tree[f"{stem}_instanceIds.png"] = png(stripes(0, 7, 26001))
        tree[f"{stem}_color.png"] = png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        tree[f"{stem}_polygons.json"] = b"{}"
    return tree


# All of them


def every_data_set(root, *, ade847=(0, 1)):
    """Lay every natural data set below a folder, prepared where it has to be; return the folder.

    ``ade847`` are the object numbers in the pictures of ADE20K's full release.
    """
    from zegment.data.preparing import prepare_benchmark

    for tree in (voc2012(), voc2010(), ade_challenge(), ade_full(ade847)):
        lay(root, tree)
    lay(root / "VOCdevkit" / "VOC2012", sbd())
    lay(root / "VOCdevkit" / "VOC2010", context_annotation())
    coco = root / "coco_stuff164k"
    lay(coco / "images", coco_images("train2017", COCO_TRAIN) | coco_images("val2017", COCO_VAL))
    lay(coco / "annotations", coco_maps())
    lay(root / "cityscapes", city_images() | city_masks())
    prepare_benchmark("voc20", root / "VOCdevkit" / "VOC2012")
    prepare_benchmark("context459", root / "VOCdevkit" / "VOC2010")
    prepare_benchmark("ade847", root / "ADE20K_2021_17_01")
    return root
