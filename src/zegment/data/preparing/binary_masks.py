"""Black and white pictures as masks, whatever kind of picture they are.

H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.errors import DatasetError, ImageError
from zegment.images import DECODE_ERRORS, decode, open_image

#: Grey value from which a pixel is the target; the middle of 0 and 255, rounded up.
_THRESHOLD = 128


def read_binary_mask(path: Path) -> NDArray[np.bool_]:
    """Return where a black and white picture is white, bool (H, W).

    White is 1 or 255, and in lossy pictures whatever is nearer to 255 than to 0.

    Note:
        MedCLIPSeg's loader calls 127 white, too; `test_grey_is_split_in_the_middle` pins ours.

    Raises:
        ImageError: If the picture is damaged.
        DatasetError: If a lossless picture has nothing white, but other values than black.
    """
    with open_image(path) as picture:
        lossy = picture.format == "JPEG"
        try:
            decode(picture)
            grey = _grey(picture)
        except DECODE_ERRORS as error:
            raise ImageError(
                f"mask {path} cannot be decoded ({error}); if it is damaged or cut off, copy it "
                "again"
            ) from error
    largest = grey.max(initial=0)
    if largest == 1 and not lossy:
        return np.asarray(grey == 1)
    if 1 < largest < _THRESHOLD and not lossy:
        raise DatasetError(
            f"mask {path} is not black and white: its largest value is {largest:g}, expected 1 or "
            "255; save the target as 255"
        )
    return np.asarray(grey >= _THRESHOLD)


def _grey(picture: Image.Image) -> NDArray[np.integer | np.floating]:
    """Return one channel, (H, W), on the scale of 0 to 255 or of 0 to 1."""
    if picture.mode == "P":
        indices = np.asarray(picture)
        shades = np.asarray(picture.convert("L"))
        # Colours of class numbers may be dark, but then their number says what they are.
        is_number = indices.max(initial=0) == 1 and not shades[indices == 0].any()
        return indices if is_number else shades
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        return values // 257 if values.max(initial=0) > 255 else values
    return np.asarray(picture.convert("L"))
