"""Files that a visitor can take home: label map, legend, overlay and COCO annotations.

K classes.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zegment.colours import as_hex
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.results import UNKNOWN, unknown_id
from zegment.text_files import json_text

if TYPE_CHECKING:
    from PIL import Image

    from zegment.results import Segmentation
    from zegment.serving.results import Finished


def legend_table(finished: Finished) -> dict[str, Any]:
    """Return what the numbers of the label map mean, ready for JSON.

    Returns:
        ``width`` and ``height`` in pixels, ``background`` in words, and ``classes``: ``id``,
        ``name``, ``colour`` (``#rrggbb``) and ``share`` (in [0, 1]) of each in the user's order;
        the last entry is the unknown.
    """
    result = finished.result
    height, width = result.labels.shape
    unknown = np.count_nonzero(result.labels == UNKNOWN) / result.labels.size
    rows: list[dict[str, Any]] = [
        {"id": place, "name": name, "colour": as_hex(result.colours[place]), "share": share}
        for place, (name, share) in enumerate(result.share().items())
    ]
    number = unknown_id(len(result.class_names))
    # Somebody may have asked for a class of that name.
    name = "unknown (none of the words)" if "unknown" in result.class_names else "unknown"
    rows.append({"id": number, "name": name, "colour": None, "share": unknown})
    return {"width": width, "height": height, "background": result.background, "classes": rows}


def write_labels(finished: Finished, folder: Path) -> Path:
    """Write the label map as an index PNG and return its path."""
    return _write_png(finished.result.index_png(), folder, f"{finished.stem}.labels.png")


def write_overlay(
    finished: Finished,
    folder: Path,
    *,
    opacity: float = 0.55,
    legend: bool = True,
    shown: Collection[int] | None = None,
) -> Path:
    """Write the picture with the classes painted over it and return its path.

    Args:
        finished: The answer.
        folder: Made if missing.
        opacity: Of the colours, in [0, 1].
        legend: Whether to set a legend below.
        shown: Ids of the found classes to paint; the others are left out of the legend, too, and
            count as unknown. None paints all.
    """
    result = finished.result if shown is None else _without_hidden(finished.result, shown)
    picture = result.overlay(opacity=opacity, legend=legend)
    return _write_png(picture, folder, f"{finished.stem}.overlay.png")


def _without_hidden(result: Segmentation, shown: Collection[int]) -> Segmentation:
    """Return a result without the classes that were found and are not to be shown."""
    shares = list(result.share().values())
    kept = [place for place, share in enumerate(shares) if place in shown or not share]
    if not kept:  # a legend has at least one name; this one says that nothing is painted
        return replace(result, labels=np.full_like(result.labels, UNKNOWN), scores=None)
    numbers = np.full(len(shares) + 1, UNKNOWN, dtype=np.int32)  # the last is the unknown
    numbers[kept] = np.arange(len(kept))
    return replace(
        result,
        labels=numbers[result.labels],
        class_names=tuple(result.class_names[place] for place in kept),
        colours=result.colours[kept],
        scores=None,
    )


def write_legend(finished: Finished, folder: Path) -> Path:
    """Write the legend as JSON and return its path."""
    path = folder / f"{finished.stem}.legend.json"
    atomic_write_text(path, json_text(legend_table(finished), sort_keys=True))
    return path


def write_coco(finished: Finished, folder: Path) -> Path:
    """Write COCO annotations of the found classes and return their path.

    Raises:
        ConfigError: If pycocotools is not installed.
    """
    from zegment.formats import FORMATS, LabelledImage, Legend  # noqa: PLC0415 - optional packages

    result = finished.result
    confidence = result.confidence
    image = LabelledImage(
        image=Path(f"{finished.stem}.png"),
        stem=finished.stem,
        size=(result.labels.shape[0], result.labels.shape[1]),
        read_labels=lambda: result.labels,
        read_confidence=None if confidence is None else lambda: confidence,
    )
    legend = Legend(class_names=result.class_names, colours=result.colours)
    written = FORMATS["coco"]().write([image], legend, folder)
    return written[0].rename(folder / f"{finished.stem}.coco.json")


def _write_png(picture: Image.Image, folder: Path, name: str) -> Path:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    atomic_write_bytes(folder / name, stream.getvalue())
    return folder / name
