"""Finished runs for tests of formats: pictures on disk and label maps in memory."""

from pathlib import Path

import numpy as np
from PIL import Image

from zegment.formats import LabelledImage, Legend, format_named

NAMES = ("sky", 'a "<b>" & ö', "potted plant", "a: b")
COLOURS = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
LEGEND = Legend(class_names=NAMES, colours=COLOURS)
NESTED = np.array(
    [
        [0, 0, 0, 0, 0, 0, -1],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 1, 0, 2, 1, 0, 2],
        [0, 1, 2, -1, 1, 0, -1],
        [0, 1, 1, 1, 1, 0, 2],
    ],
    np.int32,
)


def labelled(path: Path, labels, *, stem=None, confidence=None) -> LabelledImage:
    """Return a finished image, whose picture is written to ``path``."""
    labels = np.asarray(labels, dtype=np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return LabelledImage(
        image=path,
        stem=stem or path.stem,
        size=labels.shape,
        read_labels=lambda: labels,
        read_confidence=None if confidence is None else lambda: confidence,
    )


def three_images(photos: Path) -> list[LabelledImage]:
    """Return a run of three images, one of them in a folder inside and one without a class."""
    confidence = np.linspace(0, 1, NESTED.size, dtype=np.float32).reshape(NESTED.shape)
    other = np.array([[3, 3], [-1, 0]])
    return [
        labelled(photos / "a b.png", NESTED, confidence=confidence),
        labelled(photos / "sub" / "ä&c.jpg", other, stem="sub/ä&c"),
        labelled(photos / "none.png", np.full((1, 4), -1)),
    ]


def write(name: str, run, out: Path, legend=LEGEND) -> list[Path]:
    chosen = format_named(name)
    chosen.check([image.image for image in run])
    return chosen.write(iter(run), legend, out)
