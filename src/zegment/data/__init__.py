"""Datasets, their splits, and the transforms that feed a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    from zegment.config import DataConfig

#: Label of a pixel that counts nowhere, whatever its file holds; no data set has so many classes.
IGNORE_INDEX = 65535

#: Label of what a crop has beyond the picture; training ignores it, and looks for nothing there.
PADDING_INDEX = 65536

Split: TypeAlias = Literal["train", "val", "test"]


class SegmentationDataset(Protocol):
    """Images with label maps; what training and evaluation read, whatever is behind it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that must not have a mask in inductive training."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]:
        """Return one image, RGB uint8 (3, H, W), and its label map, int64 (H, W).

        A label is a class id or `IGNORE_INDEX`.
        """

    def name(self, index: int, /) -> str:
        """Return what to call an image in a message: its path, if it has one."""

    def check(self) -> object:
        """Look at every image and label map once.

        Raises:
            DatasetError: If something does not fit together.
        """


def build_dataset(config: DataConfig, split: Split) -> SegmentationDataset:
    """Return one split of the configured data.

    Args:
        config: Where the images come from.
        split: Which of them.

    Returns:
        The dataset; the files of a folder have been paired but not read.

    Raises:
        ConfigError: If the configuration has no such split.
        DatasetNotFoundError: If a folder or a list file does not exist.
        DatasetError: If images and masks do not pair up.
    """
    # Here, because drawing and decoding import torch and Pillow, and configuration must not.
    if config.source == "shapes":
        from zegment.data.shapes import ShapesDataset  # noqa: PLC0415

        lengths = {
            "train": config.train_length,
            "val": config.val_length,
            "test": config.test_length,
        }
        return ShapesDataset(
            split,
            length=lengths[split],
            size=config.image_size,
            unannotated_share=config.unannotated_share if split == "train" else 0.0,
            unseen=config.named_classes().unseen,
        )
    if config.source == "coco_json":
        from zegment.data.coco_json import CocoJsonDataset  # noqa: PLC0415

        return CocoJsonDataset(config, split)
    if config.source == "huggingface":
        from zegment.data.hub import HubDataset  # noqa: PLC0415

        return HubDataset(config, split)
    from zegment.data.folder import FolderDataset  # noqa: PLC0415

    return FolderDataset(config, split)


def checked_dataset(config: DataConfig, split: Split) -> SegmentationDataset:
    """Return one split of the configured data after looking at every file of it.

    Raises:
        ConfigError: If the configuration has no such split.
        DatasetNotFoundError: If a folder or a list file does not exist.
        DatasetError: If images, masks and class names do not fit together.
    """
    dataset = build_dataset(config, split)
    dataset.check()
    return dataset


def describe(dataset: SegmentationDataset, item: int) -> str | None:
    """Return the sentence about an image's one class beside the background, if the data has one."""
    description = getattr(dataset, "description", None)
    sentence: str | None = None if description is None else description(item)
    return sentence
