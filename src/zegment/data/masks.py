"""What the values of a mask mean: from the pixels of a picture to class ids.

A mask is a single-channel picture whose pixel values are class numbers, as palette or grey PNG
files hold them. H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.config import DataConfig
from zegment.data import IGNORE_INDEX
from zegment.errors import DatasetError, ImageError
from zegment.images import DECODE_ERRORS, decode, open_image

#: Pillow's modes with one channel of whole numbers.
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

#: Formats of Pillow that keep one channel, but not its values.
_LOSSY = ("JPEG", "MPO")

#: What Pillow multiplies values of fewer than 8 bits with, by the name of its decoder for them.
_SCALES = {"L;2": 85, "L;4": 17}

#: Tag of TIFF files, and what it is if 0 stands for white; Pillow turns such values round.
_PHOTOMETRIC = 262
_FROM_WHITE = 0

#: Number of values that a pixel of a mask can have.
_VALUES = 65536

#: Values that mean "unlabelled" in masks of 8 and of 16 bits, unless a class has them.
_ALWAYS_IGNORED = (255, 65535)


class MaskLabels:
    """The label of every value that the masks of a data set may hold.

    Args:
        config: Class names and the meaning of label values.

    Raises:
        ConfigError: If the class set is unknown.
    """

    def __init__(self, config: DataConfig) -> None:
        self._config = config
        self._table = label_table(config)

    def translate(self, values: NDArray[np.integer], name: str | Path) -> NDArray[np.int64]:
        """Return the label map, int64 (H, W), of a mask; class ids or `IGNORE_INDEX`.

        Args:
            values: Pixel values, (H, W), in 0 to 65535.
            name: What an error calls the mask.

        Raises:
            DatasetError: If a value is neither a class nor ignored.
        """
        label: NDArray[np.int64] = self._table[values]
        if (label < 0).any():
            raise DatasetError(self._explain(name, np.unique(values[label < 0])))
        return label

    def _explain(self, name: str | Path, values: NDArray[np.integer]) -> str:
        """Return what is wrong with values that are neither a class nor ignored."""
        own, ignored = self._config.class_values(), self._config.unlabelled_value
        count = len(self._config.named_classes().names)
        found = ", ".join(str(value) for value in values[:5])
        more = ", ..." if len(values) > 5 else ""
        word = "values" if len(values) > 1 else "value"
        meant = f"{min(own)} to {max(own)}"
        if self._config.label_values:
            meant = "those in data.label_values"
        if self._config.benchmark is not None:
            return (
                f"mask {name}: {word} {found}{more} found, but {self._config.benchmark} has "
                f"{count} classes (values {meant}, {ignored} is ignored); it is of another "
                "release, or was made by another converter"
            )
        background = ""
        if values.tolist() == [count] and not self._config.reduce_zero_label:
            background = ", set data.reduce_zero_label = true if 0 is a background"
        return (
            f"mask {name}: {word} {found}{more} found, but there are {count} classes (values "
            f"{meant}, {ignored} is ignored); complete data.classes{background}, set "
            f"data.ignore_value = {values[0]} if it means unlabelled, or "
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
    """Return the pixel values of a mask file, (H, W), in 0 to 65535.

    Args:
        path: A picture with one channel; of a palette picture the indices are read.

    Raises:
        ImageError: If the file cannot be decoded.
        DatasetError: If it is lossy, has colours, transparency or fractions, or values beyond 16
            bits.
    """
    with open_image(path) as picture:
        return mask_values(picture, path)


def mask_values(picture: Image.Image, name: str | Path) -> NDArray[np.integer]:
    """Return the pixel values of a mask, (H, W), in 0 to 65535.

    Args:
        picture: One channel; of a palette picture the indices are read.
        name: What an error calls the mask.

    Raises:
        ImageError: If the picture cannot be decoded.
        DatasetError: If it is lossy, has colours, transparency or fractions, or values beyond 16
            bits.
        DatasetError: If it counts from white, so that other programs see other values.

    Note:
        Of a mask with one bit, 1 is what is shown as white, however the file counts.
    """
    if picture.format in _LOSSY:
        raise DatasetError(
            f"mask {name} is a {picture.format} file whatever it is called, and that format "
            "changes class numbers; save masks as PNG"
        )
    if picture.mode not in MASK_MODES:
        raise DatasetError(
            f"mask {name} is a {picture.mode} picture; save masks as single-channel index PNG, "
            "where the pixel value is the class number"
        )
    if picture.mode != "1" and getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _FROM_WHITE:
        raise DatasetError(
            f"mask {name} counts from white to black, so that programs disagree about its class "
            "numbers; save masks as PNG"
        )
    scale = _scale(picture)
    try:
        decode(picture)
        values = np.asarray(picture)
    except DECODE_ERRORS as error:
        raise ImageError(
            f"mask {name} cannot be decoded ({error}); if it is damaged or cut off, copy it again"
        ) from error
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if scale > 1:
        return values // scale
    if values.dtype.itemsize > 2 and not 0 <= values.min() <= values.max() < _VALUES:
        raise DatasetError(
            f"mask {name} has values from {values.min()} to {values.max()}; expected class numbers "
            f"of at most 16 bits, 0 to {_VALUES - 1}"
        )
    return values


def _scale(picture: Image.Image) -> int:
    """Return what Pillow will multiply the values of a picture with that is not loaded yet."""
    for tile in getattr(picture, "tile", ()):
        decoder = tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]
        for name, scale in _SCALES.items():
            if str(decoder).startswith(name):  # also "L;4R", where bits stand the other way round
                return scale
    return 1


def refuse_other_size(
    values: NDArray[np.integer], pixels: NDArray[np.uint8], *, mask: str | Path, image: str
) -> None:
    """Refuse a mask that has another size than its image.

    Args:
        values: The mask, (H, W).
        pixels: The image as it is shown, (H, W, 3).
        mask: What the error calls the mask.
        image: What it calls the image, such as "its image a.jpg".

    Raises:
        DatasetError: If the sizes differ.
    """
    if values.shape != pixels.shape[:2]:
        (mask_height, mask_width), (height, width) = values.shape, pixels.shape[:2]
        raise DatasetError(
            f"mask {mask} is {mask_width} x {mask_height} pixels, {image} {width} x {height} as it "
            "is shown; resize the mask without interpolation"
        )
