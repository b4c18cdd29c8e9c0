"""Images per second that one worker makes ready for training, on files of COCO's size.

Photographs of 640 × 480 pixels as JPEG with masks as PNG, drawn here, and the augmentation of
ZegCLIP's released pipeline: decode, scale, crop, flip, vary colours, normalise, and collate. The
plain way works on floats from the start. The decoders alone stand beside it. For comparison: a GPU
that takes 4 steps of 16 images a second asks for 64 images a second, of all workers together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from comparisons.measuring import Work, in_turn
from comparisons.plain_loading import PlainTransform, plain_image, plain_mask
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from zegment.config import AugmentConfig, DataConfig, SplitFiles
from zegment.data.folder import FolderDataset
from zegment.data.stream import TrainingStream
from zegment.data.transforms import TrainTransform
from zegment.images import read_image
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD

CLASSES, PICTURES, BATCH = 171, 16, 16

NEEDED = 64
"""Images a second of 4 steps of 16 images."""

AUGMENT = AugmentConfig(
    short_side=512,
    long_side=2048,
    scale_range=(0.5, 2.0),
    crop_size=(512, 512),
    max_class_share=0.75,
    flip=0.5,
    photometric=True,
)


def draw_files(root: Path, *, pictures: int = PICTURES) -> None:
    """Write pictures of soft colours with grain, 640 × 480, and masks of 48 patches."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(pictures):
        rng = np.random.default_rng(number)
        soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(soft.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
        # As cameras and the web have them: colours at half the resolution.
        Image.fromarray(pixels).save(root / "images" / f"{number:03}.jpg", quality=92)
        patches = rng.integers(0, CLASSES, (6, 8), dtype=np.uint8)
        patches[0, 0] = 255
        mask = np.kron(patches, np.ones((80, 80), np.uint8))
        Image.fromarray(mask).save(root / "masks" / f"{number:03}.png")


def our_batches(root: Path, *, seed: int = 0) -> Callable[[int], list[Tensor]]:
    """Return what makes batch number n, as a worker of the trainer does."""
    split = SplitFiles(images="images", masks="masks")
    names = tuple(f"class {n}" for n in range(CLASSES))
    config = DataConfig(source="folder", root=str(root), classes=names, train=split)
    transform = TrainTransform(AUGMENT, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    stream = TrainingStream(FolderDataset(config, "train"), transform, seed=seed, length=10**9)

    def batch(number: int) -> list[Tensor]:
        draws = range(BATCH * number, BATCH * (number + 1))
        return default_collate(stream.__getitems__(draws))  # type: ignore[no-any-return]

    return batch


def plain_batches(root: Path) -> Callable[[int], list[Tensor]]:
    """Return what makes batch number n in the plain way."""
    assert AUGMENT.crop_size is not None
    transform = PlainTransform(AUGMENT.crop_size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = sorted((root / "images").iterdir())
    masks = sorted((root / "masks").iterdir())

    def batch(number: int) -> list[Tensor]:
        items = []
        for draw in range(BATCH * number, BATCH * (number + 1)):
            item, generator = draw % len(images), torch.Generator().manual_seed(draw)
            pair = plain_image(images[item]), plain_mask(masks[item])
            items.append(transform(*pair, generator))
        return default_collate(items)  # type: ignore[no-any-return]

    return batch


def decoders(root: Path) -> Mapping[str, Work]:
    """Return works that decode all pictures once, by the name of who decodes."""
    paths = sorted((root / "images").iterdir())
    ways: dict[str, Callable[[Path], object]] = {
        "decode: Pillow, as read_image uses it": read_image,
        "decode: torchvision": lambda path: decode_jpeg(
            read_file(str(path)), mode=ImageReadMode.RGB
        ),
    }
    return {name: partial(_each, way, paths) for name, way in ways.items()}


def _each(way: Callable[[Path], object], paths: list[Path]) -> None:
    for path in paths:
        way(path)


def compare(*, rounds: int) -> dict[str, Any]:
    """Return images per second of one worker on one core, which has no target."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "data"
            draw_files(root)
            plain, ours, numbers = plain_batches(root), our_batches(root), count()
            works: dict[str, Work] = {
                "batch: plain": lambda: plain(next(numbers)),
                "batch: ours": lambda: ours(next(numbers)),
                **decoders(root),
            }
            seconds = in_turn(works, rounds=rounds)
    finally:
        torch.set_num_threads(threads)
    rows = [
        {"what": name, "images per second": PICTURES / median(taken)}
        for name, taken in seconds.items()
    ]
    return {"rows": rows, "targets": [], "images per second that a GPU may need": NEEDED}
