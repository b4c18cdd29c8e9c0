"""Arrays of every accepted type and shape as RGB of 8 bits.

H W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zegment.errors import ImageError

#: Rounding that a float image may overshoot [0, 1] by.
_OVERSHOOT = 1e-4


def from_array(array: NDArray[np.generic], *, name: str) -> NDArray[np.uint8]:
    """Return an array as RGB, uint8 (H, W, 3); perhaps a view of it, perhaps read-only.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); bool, uint8, uint16, or float in [0, 1].
        name: What errors call it.

    Raises:
        ImageError: If it has another shape or type, is empty, or holds NaN or other numbers
            outside its range.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        remedy = "use array.transpose(1, 2, 0)" if first else "give one image"
        raise ImageError(f"{name} is not (height, width, 3); {remedy}")
    if array.size == 0:
        raise ImageError(f"{name} has no pixels; give an image of at least 1 x 1")
    pixels = _to_uint8(array, name=name)
    if pixels.shape[2] == 4:
        return over_white(pixels)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB (H, W, 3) of straight RGBA (H, W, 4) laid over white."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    # No sum is above 255 * 255 + 127, which 16 bits hold.
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def describe(array: NDArray[np.generic]) -> str:
    """Return what errors call an array."""
    return f"the given array {array.shape} of {array.dtype}"


def _to_uint8(array: NDArray[np.generic], *, name: str) -> NDArray[np.uint8]:
    """Return values of any accepted type on the scale 0 to 255."""
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(f"{name} is not bool, uint8, uint16 or float; convert it to uint8")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or infinity; remove them")
    low, high = values.min(), values.max()
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ImageError(
            f"{name} has float values from {low:g} to {high:g}, expected 0 to 1; scale them, or "
            "give 0 to 255 as uint8"
        )
    scaled: NDArray[np.float32] = np.rint(values.clip(0, 1) * 255)
    return scaled.astype(np.uint8)
