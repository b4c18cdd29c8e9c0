"""Pictures side by side: what the demo and the studies show."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.drawing import PAPER, LegendEntry, draw_legend, shorten, text_width, wrap, write


def comparison_figure(
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    column_titles: Sequence[str],
    *,
    row_titles: Sequence[str] = (),
    legend: Mapping[str, NDArray[np.uint8]] | None = None,
    unseen: Collection[str] = (),
    cell: int = 220,
) -> Image.Image:
    """Return pictures side by side under column titles, over one legend.

    Args:
        rows: Pictures, RGB, uint8 (H, W, 3), of any size; each is fitted into its cell. Use
            `zegment.colours.paint` for label maps: pictures of few colours stay crisp.
        column_titles: One per picture of a row.
        row_titles: One per row, set upright at its left; empty for none.
        legend: RGB of each class name, in the order to show.
        unseen: Names that the legend marks with ``*``.
        cell: Width of a picture in pixels.

    Returns:
        Mode "RGB".

    Raises:
        ValueError: If there is no picture.
        ValueError: If a row has not one picture per column title.
        ValueError: If there are row titles, but not one per row.
    """
    _check_table(rows, column_titles, row_titles)
    size, gap, margin = max(13, cell // 14), max(6, cell // 24), max(14, cell // 10)
    left = margin + (round(1.3 * size) + gap if row_titles else 0)
    width = left + len(column_titles) * (cell + gap) - gap + margin
    lefts = [left + column * (cell + gap) for column in range(len(column_titles))]
    strips = [_title_strip(column_titles, lefts, cell=cell, size=size, width=width)]
    for place, row in enumerate(rows):
        strips.append(_picture_strip(row, lefts, cell=cell, width=width))
        if row_titles:
            title = _upright(row_titles[place], size, strips[-1].height)
            strips[-1].paste(title, (margin, (strips[-1].height - title.height) // 2))
    bottom = Image.new("RGB", (width, margin - gap), PAPER)
    if legend:
        bottom = _class_legend(legend, unseen, width=width, margin=left, size=size)
    return _stack([*strips, bottom], top=margin, gap=gap)


def _check_table(
    rows: Sequence[Sequence[object]], column_titles: Sequence[str], row_titles: Sequence[str]
) -> None:
    if not rows or not column_titles:
        raise ValueError("there is nothing to compare; give at least one row and one column title")
    for place, row in enumerate(rows):
        if len(row) != len(column_titles):
            raise ValueError(
                f"row {place} has {len(row)} pictures for {len(column_titles)} column titles"
            )
    if row_titles and len(row_titles) != len(rows):
        raise ValueError(f"there are {len(row_titles)} row titles for {len(rows)} rows")


def _title_strip(
    titles: Sequence[str], lefts: Sequence[int], *, cell: int, size: int, width: int
) -> Image.Image:
    """Return the column titles, centred over their columns, the last lines level."""
    blocks = [wrap(title.split(), size, cell) for title in titles]
    line = round(1.3 * size)
    strip = Image.new("RGB", (width, line * max(map(len, blocks))), PAPER)
    for left, lines in zip(lefts, blocks, strict=True):
        for place, text in enumerate(reversed(lines)):
            middle = (left + cell / 2, strip.height - (place + 0.5) * line)
            write(strip, middle, text, size, anchor="mm")
    return strip


def _picture_strip(
    row: Sequence[NDArray[np.uint8]], lefts: Sequence[int], *, cell: int, width: int
) -> Image.Image:
    """Return one row of pictures, each in the middle of its cell."""
    pictures = [_fitted(picture, cell) for picture in row]
    strip = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    for left, picture in zip(lefts, pictures, strict=True):
        corner = (left + (cell - picture.width) // 2, (strip.height - picture.height) // 2)
        strip.paste(picture, corner)
    return strip


def _fitted(picture: NDArray[np.uint8], cell: int) -> Image.Image:
    """Return a picture scaled into a cell, whose height may be 1.5 times its width."""
    image = Image.fromarray(picture)
    scale = min(cell / image.width, 1.5 * cell / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    is_map = image.getcolors(256) is not None
    how = Image.Resampling.NEAREST if scale > 1 and is_map else Image.Resampling.LANCZOS
    return image.resize(size, how)


def _upright(text: str, size: int, height: int) -> Image.Image:
    """Return one line of text that reads upwards, at most ``height`` long."""
    text = shorten(text, size, height)
    strip = Image.new("RGB", (text_width(text, size), round(1.3 * size)), PAPER)
    write(strip, (0, strip.height / 2), text, size)
    return strip.rotate(90, expand=True)


def _class_legend(
    legend: Mapping[str, NDArray[np.uint8]],
    unseen: Collection[str],
    *,
    width: int,
    margin: int,
    size: int,
) -> Image.Image:
    entries = []
    for name, (red, green, blue) in legend.items():
        shown = f"{name} *" if name in unseen else name
        entries.append(LegendEntry(name=shown, colour=(int(red), int(green), int(blue))))
    footer = ["* unseen: never in a training mask"] if set(unseen) & set(legend) else []
    return draw_legend(entries, width=width, margin=margin, size=size, footer=footer)


def _stack(strips: Sequence[Image.Image], *, top: int, gap: int) -> Image.Image:
    """Return strips of one width below each other."""
    height = top + sum(strip.height + gap for strip in strips) - gap
    page = Image.new("RGB", (strips[0].width, height), PAPER)
    for strip in strips:
        page.paste(strip, (0, top))
        top += strip.height + gap
    return page
