"""What datasets of pictures have in common: their items, and a check of all of them.

H W pixels; K classes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX, Split
from zegment.errors import ConfigError, DatasetError, ImageError

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


class CheckedDataset(Dataset[tuple[Tensor, Tensor]], ABC):
    """Images and label maps of one split, wherever they are kept.

    Args:
        config: Where they are, class names and the meaning of labels.
        split: Which of the configured splits.

    Raises:
        ConfigError: If the split is not configured.
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
        self._files = files
        self._descriptions: list[str] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return self._class_names

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that must not have a mask in inductive training."""
        return self._unseen

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what to call an image in a message."""

    @abstractmethod
    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return one image, uint8 (H, W, 3), and its label map, int64 (H, W).

        Raises:
            IndexError: If there are not so many.
            ImageError: If a picture cannot be decoded.
            DatasetError: If image and label do not fit together, or a label is no class.
        """

    def description(self, index: int) -> str | None:
        """Return a sentence about an image's class that is not the background, if there is one."""
        return self._descriptions[index] if self._descriptions else None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, uint8 (3, H, W), and its label map, int64 (H, W).

        A label is a class id or `IGNORE_INDEX`.

        Raises:
            ImageError: If the image or the mask cannot be decoded.
            DatasetError: If the mask has colours, another size, or a value that is no class.
            DatasetError: If the image has another size than its outlines, or one of them is broken.
        """
        image, label = self._read(index)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label)

    def check(self, *, progress: Callable[[int, int], None] | None = None) -> CheckReport:
        """Read every image once, exactly as training will, and count the labelled pixels.

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
        """Refuse counts, int64 (65536,), that masks have only by mistake."""
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
