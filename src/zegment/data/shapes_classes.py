"""The classes of Shapes: their names, the look of each thing, and which have no mask by default."""

from __future__ import annotations

from typing import Final

HUES: Final[dict[str, tuple[float, float, float]]] = {
    "red": (0.88, 0.10, 0.14),
    "yellow": (0.98, 0.80, 0.08),
    "blue": (0.13, 0.27, 0.88),
    "purple": (0.66, 0.16, 0.74),
}
PATTERNS: Final = ("plain", "stripes", "checks")

#: Look of each thing; rows are hues, columns are patterns, in the order of the two tables above.
LOOKS: Final[dict[str, tuple[str, str]]] = {
    "heart": ("red", "plain"),
    "tent": ("red", "stripes"),
    "box": ("red", "checks"),
    "moon": ("yellow", "plain"),
    "star": ("yellow", "stripes"),
    "kite": ("yellow", "checks"),
    "ball": ("blue", "plain"),
    "pill": ("blue", "stripes"),
    "ring": ("blue", "checks"),
    "bowl": ("purple", "plain"),
    "flower": ("purple", "stripes"),
    "cross": ("purple", "checks"),
}

THINGS: Final[tuple[str, ...]] = tuple(LOOKS)
STUFF: Final[tuple[str, ...]] = (
    "grass",
    "water",
    "sand",
    "brick",
    "wood",
    "snow",
    "gravel",
    "tiles",
)
#: Class ids are positions in this tuple: things are 0 to 11, stuff is 12 to 19.
CLASS_NAMES: Final[tuple[str, ...]] = THINGS + STUFF
#: Without a mask in training, unless a configuration names others.
UNSEEN: Final[tuple[str, ...]] = ("heart", "star", "ring", "water", "brick")
