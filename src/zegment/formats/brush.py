"""The run-length code of Label Studio's brush.

Source:
    The rle-pack format that Label Studio's editor reads. A head: 32 bits for the number of values,
    5 for the bits of a value less one, and four times 4 for the bits of a run's length less one.
    Then runs: a bit that says that one value is repeated, 2 bits that choose one of the four
    lengths, the length less one, and the value. The first bit of a number is its highest.
"""

import numpy as np
from numpy.typing import NDArray

from zegment.errors import OutputError

__all__ = ["encode_brush"]

_VALUE_BITS = 8
_LENGTH_BITS = np.array([3, 4, 8, 16], dtype=np.int64)
_LONGEST_RUN = 1 << 16
_CHANNELS = 4


def encode_brush(mask: NDArray[np.bool_]) -> list[int]:
    """Return a mask as the code of a picture of four equal channels, 255 inside and 0 outside.

    Args:
        mask: bool (H, W), at least one pixel.

    Returns:
        Bytes, each 0 to 255.

    Raises:
        OutputError: If the picture has too many pixels for the code.
    """
    if mask.size * _CHANNELS >= 1 << 32:
        raise OutputError(
            f"a picture of {mask.shape[1]} x {mask.shape[0]} pixels is too large for the brush of "
            "Label Studio; cut it into tiles"
        )
    lengths, values = _runs(mask)
    sizes = np.searchsorted(1 << _LENGTH_BITS, lengths)
    bits = _LENGTH_BITS[sizes]
    codes = (((4 | sizes) << bits | lengths - 1) << _VALUE_BITS) | values
    head = (mask.size * _CHANNELS << 5 | _VALUE_BITS - 1) << 16
    for length_bits, shift in zip(_LENGTH_BITS.tolist(), (12, 8, 4, 0), strict=True):
        head |= (length_bits - 1) << shift
    head_bits = np.array([int(bit) for bit in f"{head:053b}"], dtype=np.uint8)
    packed: list[int] = np.packbits(
        np.concatenate([head_bits, _as_bits(codes, 3 + bits + _VALUE_BITS)])
    ).tolist()
    return packed


def _runs(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many values of the picture are equal in a row, and those values."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size) * _CHANNELS
    values = flat[starts].astype(np.int64) * 255
    parts = -(-lengths // _LONGEST_RUN)  # runs too long for the code are split
    split = np.repeat(np.full(len(parts), _LONGEST_RUN), parts)
    split[np.cumsum(parts) - 1] = lengths - (parts - 1) * _LONGEST_RUN
    return split, np.repeat(values, parts)


def _as_bits(codes: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the lowest bits of each number, the highest first, one after the other."""
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1])
    shifts = np.repeat(ends, lengths) - 1 - places
    return ((np.repeat(codes, lengths) >> shifts) & 1).astype(np.uint8)
