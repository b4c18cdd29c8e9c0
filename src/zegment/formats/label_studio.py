"""Label Studio: predictions to import, and the labelling configuration that fits them.

Letters: H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2s
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from zegment.colours import as_hex
from zegment.files import atomic_stream, atomic_write_text
from zegment.formats.brush import encode_brush
from zegment.formats.labelled import LabelledImage, Legend
from zegment.formats.streams import JsonRows

__all__ = ["LabelStudio"]

_CONTROL, _OBJECT = "label", "image"  # names of the two tags, which every result refers to


class LabelStudio:
    """``label-studio.json``, tasks with a prediction each, and ``label-studio.xml``.

    Pictures are found through local storage: addresses begin with the name of the folder that
    holds them, so ``LOCAL_FILES_DOCUMENT_ROOT`` is the folder above it.
    """

    name: ClassVar[str] = "label-studio"

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture."""

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write both files; a class that an image shows is one brush region of its prediction."""
        tasks, configuration = out / "label-studio.json", out / "label-studio.xml"
        with atomic_stream(tasks) as stream:
            rows = JsonRows(stream)
            for image in images:
                rows.add(_task(image, legend))
            rows.close()
            stream.write(b"\n")
        atomic_write_text(configuration, _configuration(legend))
        return [tasks, configuration]


def _task(image: LabelledImage, legend: Legend) -> dict[str, Any]:
    labels, confidence = image.labels(), image.confidence()
    results = []
    for label in np.unique(labels[labels >= 0]).tolist():
        mask = labels == label
        region: dict[str, Any] = {
            "id": blake2s(f"{image.stem}\n{label}".encode(), digest_size=5).hexdigest(),
            "type": "brushlabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_height": image.size[0],
            "original_width": image.size[1],
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": encode_brush(mask),
                "brushlabels": [legend.class_names[label]],
            },
        }
        if confidence is not None:
            region["score"] = round(float(confidence[mask].mean(dtype=np.float64)), 6)
        results.append(region)
    prediction: dict[str, Any] = {"model_version": "zegment", "result": results}
    if confidence is not None:
        prediction["score"] = round(float(confidence.mean(dtype=np.float64)), 6)
    return {"data": {"image": _address(image)}, "predictions": [prediction]}


def _address(image: LabelledImage) -> str:
    """Return where local storage serves the picture."""
    below, path = PurePosixPath(image.file_name).parts, image.image.absolute().parts
    if path[-len(below) :] != below:  # results are not in the same folders as pictures
        below = path[-1:]
    above = path[-len(below) - 1 : -len(below)]
    return "/data/local-files/?d=" + quote("/".join((*above, *below)))


def _configuration(legend: Legend) -> str:
    labels = "\n".join(
        f"    <Label value={quoteattr(name)} background={quoteattr(as_hex(colour))}/>"
        for name, colour in zip(legend.class_names, legend.colours, strict=True)
    )
    return (
        f'<View>\n  <Image name="{_OBJECT}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{_CONTROL}" toName="{_OBJECT}">\n{labels}\n  </BrushLabels>\n'
        "</View>\n"
    )
