"""CVAT: an archive in its format "Segmentation mask 1.1".

Letters: H W pixels, K classes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.colours import class_colours
from zegment.files import atomic_stream
from zegment.formats.labelled import LabelledImage, Legend
from zegment.formats.streams import add_to_archive, png_bytes

__all__ = ["Cvat"]

_BLACK = (0, 0, 0)
_MOST_OBJECTS = 255


class Cvat:
    """``cvat.zip``: a label map, a list of images, and pictures of classes and objects.

    Unknown pixels are ``background``, which is black; if a class has that name, ``unknown``. Every
    class has a colour of its own: where two share one, or one is black, the later gets another.
    """

    name: ClassVar[str] = "cvat"

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture."""

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write the archive, image by image.

        Note:
            CVAT numbers labels with 8 bits. A longer list is written without the classes that no
            image shows.
        """
        path = out / "cvat.zip"
        palette = np.array([_BLACK, *distinct_colours(legend.colours)], dtype=np.uint8)
        seen: set[int] = set()
        stems = []
        with atomic_stream(path) as stream, zipfile.ZipFile(stream, "w") as archive:
            for image in images:
                stems.append(image.stem)
                labels = image.labels()
                found = np.unique(labels[labels >= 0]).tolist()
                seen.update(found)
                picture = png_bytes(Image.fromarray(palette[labels + 1]))
                add_to_archive(archive, f"SegmentationClass/{image.stem}.png", [picture])
                if len(found) <= _MOST_OBJECTS:
                    picture = png_bytes(Image.fromarray(_objects(labels, found)))
                    add_to_archive(archive, f"SegmentationObject/{image.stem}.png", [picture])
            subset = (f"{stem}\n".encode() for stem in stems)
            add_to_archive(archive, "ImageSets/Segmentation/default.txt", subset)
            shown = range(len(legend.class_names))
            kept = [place for place in shown if place in seen or len(shown) <= _MOST_OBJECTS]
            label_map = _label_map(legend.class_names, palette, kept).encode("utf-8")
            add_to_archive(archive, "labelmap.txt", [label_map])
        return [path]


def distinct_colours(colours: NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """Return a colour for each class, none of them black and no two equal.

    Args:
        colours: RGB, uint8 (K, 3); each is kept unless it is black or an earlier class has it.
    """
    wanted = [(int(red), int(green), int(blue)) for red, green, blue in colours.tolist()]
    spare = _spare_colours(set(wanted) | {_BLACK})
    taken = {_BLACK}
    distinct = []
    for colour in wanted:
        chosen = next(spare) if colour in taken else colour
        taken.add(chosen)
        distinct.append(chosen)
    return distinct


def cvat_names(class_names: Sequence[str]) -> list[str]:
    """Return names that a label map can hold: without ":", without "#" in front, no two equal."""
    free = set(class_names)
    names: list[str] = []
    for name in class_names:
        plain = name.replace(":", "-")
        plain = "-" + plain[1:] if plain.startswith("#") else plain
        if plain != name:
            tries = (plain if number == 1 else f"{plain} {number}" for number in count(1))
            plain = next(candidate for candidate in tries if candidate not in free)
            free.add(plain)
        names.append(plain)
    return names


def _label_map(
    class_names: Sequence[str], palette: NDArray[np.uint8], places: Sequence[int]
) -> str:
    names = cvat_names(class_names)
    tries = chain(["background", "unknown"], (f"unknown {number}" for number in count(2)))
    nothing = next(name for name in tries if name not in names)
    rows = [(nothing, palette[0]), *((names[place], palette[place + 1]) for place in places)]
    lines = [f"{name}:{','.join(map(str, colour.tolist()))}::\n" for name, colour in rows]
    return "# label:color_rgb:parts:actions\n" + "".join(lines)


def _objects(labels: NDArray[np.int32], found: Sequence[int]) -> NDArray[np.uint8]:
    """Return the picture of objects, RGB (H, W, 3): each class is one, in the colours of VOC."""
    places = np.searchsorted(np.array([-1, *found]), labels)
    return voc_colours()[places]


def voc_colours() -> NDArray[np.uint8]:
    """Return the 256 colours of PASCAL VOC, uint8 (256, 3).

    Source:
        VOC 2012 development kit, ``VOCcolormap``: three bits of the number, from the lowest, make
        the next lower bit of red, green and blue.
    """
    number = np.arange(256)[:, None]
    colours = np.zeros((256, 3), dtype=np.int64)
    for bit in range(3):
        colours |= (number >> (3 * bit + np.arange(3)) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def _spare_colours(taken: set[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Yield colours that are not taken: those of classes, then every other in order."""
    tried = set(taken)
    chosen = ((red, green, blue) for red, green, blue in class_colours(len(taken) + 64).tolist())
    others = ((n >> 16 & 255, n >> 8 & 255, n & 255) for n in range(1 << 24))
    for candidate in chain(chosen, others):
        if candidate not in tried:
            tried.add(candidate)
            yield candidate
