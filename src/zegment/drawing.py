"""Text, legends and class borders for the pictures of `zegment.results`.

Lengths are in pixels. Everything scales with the font size that a picture asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = "white", "#1f2328", "#6b7280"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font knows little beyond ASCII; these, where installed, know most other scripts.
_OTHER_FONTS = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "arial.ttf",
    "Arial Unicode.ttf", "msyh.ttc", "PingFang.ttc",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """One line of a legend.

    Attributes:
        name: What the colour stands for.
        colour: RGB; ``None`` draws an empty box.
        note: Set to the right of the name, such as a share.
    """

    name: str
    colour: tuple[int, int, int] | None
    note: str = ""


@lru_cache(maxsize=256)
def font_for(text: str, size: int) -> Font:
    """Return the font of ``size`` that lacks the fewest characters of ``text``.

    Note:
        ASCII text looks the same on every machine; other text needs an installed font.
    """
    best = _default_font(size)
    fewest = _missing(best, text)
    for name in _OTHER_FONTS:
        if not fewest:
            break
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if _missing(font, text) < fewest:
            best, fewest = font, _missing(font, text)
    return best


@lru_cache(maxsize=16)
def _default_font(size: int) -> Font:
    return ImageFont.load_default(size)


def _missing(font: Font, text: str) -> int:
    others = {character for character in text if not character.isascii()}
    blank = bytes(font.getmask("\U0010ffff")) if others else b""  # a code point no font draws
    return sum(bytes(font.getmask(character)) == blank for character in others)


def text_width(text: str, size: int) -> int:
    """Return how wide a line of text is."""
    return ceil(font_for(text, size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """Return ``text``, cut with an ellipsis where it is wider than ``width``."""
    if text_width(text, size) <= width:
        return text
    kept = next(
        (n for n in range(len(text), 0, -1) if text_width(text[:n] + "…", size) <= width), 0
    )
    return text[:kept].rstrip() + "…"


def wrap(words: Sequence[str], size: int, width: int, *, joint: str = " ") -> list[str]:
    """Return lines no wider than ``width``; a word that is wider has a line of its own, cut."""
    lines: list[str] = []
    for word in words:
        if lines and text_width(lines[-1] + joint + word, size) <= width:
            lines[-1] += joint + word
        else:
            if lines:
                lines[-1] += joint.rstrip()
            lines.append(shorten(word, size, width))
    return lines


def write(
    picture: Image.Image,
    place: tuple[float, float],
    text: str,
    size: int,
    *,
    fill: str = INK,
    anchor: str = "lm",
) -> None:
    """Write one line into ``picture``.

    Args:
        picture: Drawn into.
        place: (x, y) of the anchor.
        text: One line.
        size: Font size.
        fill: Colour of the text.
        anchor: Which point of the text ``place`` is, in Pillow's letters; "lm" is the middle of
            its left edge.
    """
    font = font_for(text, size)
    ImageDraw.Draw(picture).text(place, text, font=font, fill=fill, anchor=anchor)


def draw_legend(
    entries: Sequence[LegendEntry],
    *,
    width: int,
    margin: int,
    size: int,
    footer: Sequence[str] = (),
) -> Image.Image:
    """Return a legend in as many columns as fit, read downwards, over lines of small print.

    Args:
        entries: In the order in which they are shown.
        width: Of the whole legend.
        margin: Blank at its left and right.
        size: Font size.
        footer: Finished lines below the entries.
    """
    gap, row, small = round(0.55 * size), round(1.65 * size), round(0.85 * size)
    note_room = max((text_width(entry.note, size) for entry in entries), default=0)
    fixed = size + gap + (note_room + 2 * gap if note_room else 0)
    longest = max((text_width(entry.name, size) for entry in entries), default=0)
    column = min(width - 2 * margin, fixed + longest)
    pitch = column + round(1.8 * size)
    rows = ceil(len(entries) / max(1, (width - 2 * margin - column) // pitch + 1))
    top = round(0.9 * size)
    base = top + rows * row + (gap if footer and entries else 0)
    line = round(1.5 * small)
    picture = Image.new("RGB", (width, base + line * len(footer) + top), PAPER)
    for place, entry in enumerate(entries):
        left, middle = margin + place // rows * pitch, top + place % rows * row + row // 2
        _draw_swatch(picture, (left, middle - size // 2), size, entry.colour)
        name = shorten(entry.name, size, column - fixed)
        write(picture, (left + size + gap, middle), name, size)
        write(picture, (left + column, middle), entry.note, size, fill=FAINT, anchor="rm")
    for place, text in enumerate(footer):
        write(picture, (margin, base + (place + 0.5) * line), text, small, fill=FAINT)
    return picture


def _draw_swatch(
    picture: Image.Image, corner: tuple[int, int], size: int, colour: tuple[int, int, int] | None
) -> None:
    """Draw a square in ``colour``, or an empty one with a stroke through it."""
    (left, top), (right, bottom) = corner, (corner[0] + size - 1, corner[1] + size - 1)
    pencil = ImageDraw.Draw(picture)
    if colour is not None:
        pencil.rectangle((left, top, right, bottom), fill=colour)
    else:
        pencil.rectangle((left, top, right, bottom), outline=FAINT)
        pencil.line((left, bottom, right, top), fill=FAINT)


def class_borders(labels: NDArray[np.integer], thickness: int) -> Image.Image:
    """Return where two classes meet, as a mask for `PIL.Image.composite`.

    Args:
        labels: Class ids, integer (H, W).
        thickness: Of the lines.

    Returns:
        Mode "L", 255 on the lines.
    """
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return Image.fromarray(_widen(edges, thickness // 2).astype(np.uint8) * 255)


def _widen(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return a mask with all that is at most ``reach`` rows and columns away from it.

    Pillow's filter does the same, but lets no other thread run while it takes seconds.
    """
    for axis in (0, 1):
        reached = 0
        while reached < reach:
            # Leaves no gap in what is reached, not even beside an edge, where half is missing.
            step = min(reached + 1, reach - reached)
            wide = mask.copy()
            line, before = np.moveaxis(wide, axis, 0), np.moveaxis(mask, axis, 0)
            line[step:] |= before[:-step]
            line[:-step] |= before[step:]
            mask, reached = wide, reached + step
    return mask
