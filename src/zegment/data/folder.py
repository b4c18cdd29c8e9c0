"""Your own files as a dataset: a folder of images and a folder of label maps.

H W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zegment.config import DataConfig
from zegment.data import Split
from zegment.data.checked import CheckedDataset
from zegment.data.masks import MaskLabels, read_mask, refuse_other_size
from zegment.data.pairing import pair_files, read_descriptions
from zegment.images import read_image


class FolderDataset(CheckedDataset):
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
        super().__init__(config, split)
        self._labels = MaskLabels(config)
        self._pairs = pair_files(config, split, self._files)
        self._descriptions = read_descriptions(config, split, self._files, self._pairs)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self._pairs[index][0])

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return one image, uint8 (H, W, 3), and its label map, int64 (H, W)."""
        image_path, mask_path = self._pairs[index]
        image, values = read_image(image_path), read_mask(mask_path)
        refuse_other_size(values, image, mask=mask_path, image=f"its image {image_path}")
        return image, self._labels.translate(values, mask_path)
