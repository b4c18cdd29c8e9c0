"""Your own files as a dataset: a folder of images and a folder of label maps.

A label map is a single-channel picture whose pixel values are class numbers, as palette or grey
PNG files hold them. H W pixels; K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX, Split
from zegment.data.pairing import pair_files, read_descriptions
from zegment.errors import ConfigError, DatasetError, ImageError
from zegment.images import DECODE_ERRORS, open_image, read_image

#: Pillow's modes with one channel of whole numbers.
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

#: Number of values that a pixel of a mask can have.
_VALUES = 65536

#: Values that mean "unlabelled" in masks of 8 and of 16 bits, unless a class has them.
_ALWAYS_IGNORED = (255, 65535)

#: A check stops after this many bad files; by then the remedy is usually plain.
_MAX_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """What a check of every file found.

    Attributes:
        images: Number of images.
        sizes: Number of different image sizes.
        class_pixels: Labelled pixels of each class, in the order of the names.
        ignored_pixels: Pixels that count nowhere.
    """

    images: int
    sizes: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int


class FolderDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images and label maps of one split, paired by file name.

    Args:
        config: Folders, class names and the meaning of label values.
        split: Which of the configured splits.

    Raises:
        ConfigError: If the split is not configured.
        DatasetNotFoundError: If a folder or the list file does not exist.
        DatasetError: If there are no images, or images and masks do not pair up.
    """

    def __init__(self, config: DataConfig, split: Split) -> None:
        files: SplitFiles | None = getattr(config, split)
        if files is None:
            raise ConfigError(f"no {split} split: add [data.{split}] with images and masks")
        classes = config.named_classes()
        self.split = split
        self._class_names = classes.names
        self._unseen = classes.unseen
        self._config = config
        self._table = label_table(config)
        self._pairs = pair_files(config, split, files)
        self._descriptions = read_descriptions(config, split, files, self._pairs)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return self._class_names

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that must not have a mask in inductive training."""
        return self._unseen

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self._pairs[index][0])

    def description(self, index: int) -> str | None:
        """Return a sentence about an image's class that is not the background, if there is one."""
        return self._descriptions[index] if self._descriptions else None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, uint8 (3, H, W), and its label map, int64 (H, W).

        A label is a class id or `IGNORE_INDEX`.

        Raises:
            ImageError: If the image or the mask cannot be decoded.
            DatasetError: If the mask has colours, another size, or a value that is no class.
        """
        image, label = self._read(index)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label)

    def check(self, *, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """Read every file once, exactly as training will, and count the labelled pixels.

        Args:
            progress: Called after each image with the number of images done and of all.

        Returns:
            The counts.

        Raises:
            DatasetError: If a file cannot be used; names the first, and others like it.
            DatasetError: If no pixel has a class.
            DatasetError: If training masks hold only 0 and 255, as black and white pictures do.
        """
        pixels = np.zeros(IGNORE_INDEX + 1, dtype=np.int64)
        sizes: set[tuple[int, ...]] = set()
        problems: list[DatasetError | ImageError] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, found in enumerate(pool.map(self._inspect, range(len(self))), start=1):
                if isinstance(found, DatasetError | ImageError):
                    problems.append(found)
                else:
                    pixels += found[1]
                    sizes.add(found[0])
                if progress is not None:
                    progress(done, len(self))
                if len(problems) == _MAX_PROBLEMS:
                    break
        if problems:
            others = f" (so far {len(problems)} files are wrong)" if len(problems) > 1 else ""
            raise DatasetError(f"{problems[0]}{others}") from problems[0]
        self._check_counts(pixels)
        return CheckReport(
            images=len(self),
            sizes=len(sizes),
            class_pixels=tuple(int(count) for count in pixels[: len(self.class_names)]),
            ignored_pixels=int(pixels[IGNORE_INDEX]),
        )

    def _inspect(
        self, index: int
    ) -> tuple[tuple[int, ...], NDArray[np.int64]] | DatasetError | ImageError:
        """Return the size and the pixels of each label, or what is wrong with the files."""
        try:
            _, label = self._read(index)
        except (DatasetError, ImageError) as error:
            return error
        return label.shape, np.bincount(label.ravel(), minlength=IGNORE_INDEX + 1)

    def _check_counts(self, pixels: NDArray[np.int64]) -> None:
        if not pixels[:IGNORE_INDEX].any():
            raise DatasetError(
                f"no pixel of the {self.split} masks has a class: all are ignored; check "
                "data.ignore_value and data.reduce_zero_label"
            )
        only_first = not pixels[1:IGNORE_INDEX].any() and pixels[IGNORE_INDEX] > 0
        if self.split == "train" and only_first and len(self.class_names) > 1:
            raise DatasetError(
                f'every training pixel is "{self.class_names[0]}" or ignored; if the masks are '
                f'black and white, save "{self.class_names[1]}" as 1, because 255 is ignored, or '
                "set data.label_values = [0, 255]"
            )

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return one image, uint8 (H, W, 3), and its label map, int64 (H, W)."""
        image_path, mask_path = self._pairs[index]
        image, mask = read_image(image_path), read_mask(mask_path)
        if image.shape[:2] != mask.shape:
            (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
            raise DatasetError(
                f"mask {mask_path} is {mask_width} x {mask_height} pixels, its image {image_path} "
                f"{width} x {height} as it is shown; resize the mask without interpolation"
            )
        label: NDArray[np.int64] = self._table[mask]
        if (label < 0).any():
            raise DatasetError(self._explain(mask_path, np.unique(mask[label < 0])))
        return image, label

    def _explain(self, path: Path, values: NDArray[np.integer]) -> str:
        """Return what is wrong with values that are neither a class nor ignored."""
        count, own = len(self.class_names), self._config.class_values()
        found = ", ".join(str(value) for value in values[:5])
        more = ", ..." if len(values) > 5 else ""
        word = "values" if len(values) > 1 else "value"
        meant = f"{min(own)} to {max(own)}"
        if self._config.label_values:
            meant = "those in data.label_values"
        if self._config.benchmark is not None:
            return (
                f"mask {path}: {word} {found}{more} found, but {self._config.benchmark} has "
                f"{count} classes (values {meant}, {self._config.unlabelled_value} is ignored); it "
                "is of another release, or was made by another converter"
            )
        background = ""
        if values.tolist() == [count] and not self._config.reduce_zero_label:
            background = ", set data.reduce_zero_label = true if 0 is a background"
        return (
            f"mask {path}: {word} {found}{more} found, but there are {count} classes (values "
            f"{meant}, {self._config.unlabelled_value} is ignored); complete data.classes"
            f"{background}, set data.ignore_value = {values[0]} if it means unlabelled, or "
            'data.other_values = "ignore" if whatever is no class does'
        )


def label_table(config: DataConfig) -> NDArray[np.int64]:
    """Return the label of every pixel value that a mask can hold, int64 (65536,).

    The label is the class id, `IGNORE_INDEX`, or -1 for a value that means nothing.

    Raises:
        ConfigError: If the class set is unknown.
    """
    others = {"error": -1, "ignore": IGNORE_INDEX}.get(config.other_values)
    if others is None:
        others = config.named_classes().names.index(config.other_values)
    table = np.full(_VALUES, others, dtype=np.int64)
    if config.reduce_zero_label:
        table[0] = IGNORE_INDEX
    table[[config.unlabelled_value, *_ALWAYS_IGNORED]] = IGNORE_INDEX
    for label, value in enumerate(config.class_values()):
        if value >= 0:
            table[value] = label
    return table


def read_mask(path: Path) -> NDArray[np.integer]:
    """Return the pixel values of a mask, (H, W), in 0 to 65535.

    Args:
        path: A picture with one channel; of a palette picture the indices are read.

    Raises:
        ImageError: If the file cannot be decoded.
        DatasetError: If it has colours, transparency or fractions, or values beyond 16 bits.
    """
    with open_image(path) as picture:
        if picture.mode not in MASK_MODES:
            raise DatasetError(
                f"mask {path} is a {picture.mode} picture; save masks as single-channel index PNG, "
                "where the pixel value is the class number"
            )
        try:
            values = np.asarray(picture)
        except DECODE_ERRORS as error:
            raise ImageError(
                f"mask {path} cannot be decoded ({error}); if it is damaged or cut off, copy it "
                "again"
            ) from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype.itemsize > 2 and not 0 <= values.min() <= values.max() < _VALUES:
        raise DatasetError(
            f"mask {path} has values from {values.min()} to {values.max()}; expected class numbers "
            f"of at most 16 bits, 0 to {_VALUES - 1}"
        )
    return values
