"""One colour per class id, the same in every picture, whichever classes it shows."""

import colorsys
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Colour: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

# Okabe and Ito's seven, then the colours farthest from all earlier ones (CIELAB distance, the
# smallest over normal, protanopic and deuteranopic sight), none too pale or dark for a photo.
_FIRST = (
    "e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7",
    "783c1e", "3c78ff", "3cf087", "870f69", "69f0f0", "f02d5a", "96d2a5",
    "3c3ca5", "872d4b", "c3a54b", "a5f069", "6996f0", "a53c0f",
)  # fmt: skip
_GOLDEN_RATIO = 0.618033988749895

UNKNOWN_COLOUR = (96, 96, 96)
"""RGB of pixels without a class."""


def class_colours(num_classes: int) -> NDArray[np.uint8]:
    """Return the colours of class ids 0, 1, …: the first twenty chosen, then golden-ratio hues.

    Args:
        num_classes: How many; the colour of an id does not depend on it.

    Returns:
        RGB, uint8 (K, 3).
    """
    colours = [tuple(bytes.fromhex(colour)) for colour in _FIRST[:num_classes]]
    for place in range(len(_FIRST), num_classes):
        # Three unrelated irrational steps: neighbours in hue differ in saturation or value.
        saturation, value = 0.3 + 0.6 * (place * sqrt(2) % 1), 0.55 + 0.45 * (place * sqrt(3) % 1)
        rgb = colorsys.hsv_to_rgb(place * _GOLDEN_RATIO % 1, saturation, value)
        colours.append(tuple(round(255 * channel) for channel in rgb))
    return np.array(colours, dtype=np.uint8).reshape(-1, 3)


def paint(label: NDArray[np.integer], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a label map as a picture.

    Args:
        label: Class ids, integer (H, W); any other number, such as an ignore index, is painted
            in `UNKNOWN_COLOUR`.
        colours: RGB of each class, uint8 (K, 3).

    Returns:
        RGB, uint8 (H, W, 3).
    """
    num_classes = len(colours)
    table = np.concatenate([colours, np.array([UNKNOWN_COLOUR], dtype=np.uint8)])
    label = label.astype(np.int32)  # the number of classes may not fit into a uint8
    is_class = (label >= 0) & (label < num_classes)
    picture: NDArray[np.uint8] = table[np.where(is_class, label, num_classes)]
    return picture


def as_hex(colour: NDArray[np.uint8] | tuple[int, int, int]) -> str:
    """Return an RGB colour as ``#rrggbb``."""
    return "#" + bytes(int(channel) for channel in colour).hex()
