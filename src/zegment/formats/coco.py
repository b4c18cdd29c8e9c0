"""COCO annotations: run lengths or polygons of every class, in one file for the whole run.

Letters: H W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zegment.files import atomic_stream
from zegment.formats.labelled import LabelledImage, Legend
from zegment.formats.outlines import regions_of
from zegment.formats.streams import JsonRows, append, as_json, spool
from zegment.optional import optional

__all__ = ["Coco", "CocoPolygons"]

_DECIMALS = 6


class _CocoFile:
    """The file around the annotations."""

    file: ClassVar[str]

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture."""

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write one file for all images, annotation by annotation.

        Image ids are places in the run, category ids are class ids, both from 0. Annotation ids
        begin at 1, because evaluators take 0 for "no match".
        """
        path = out / self.file
        with atomic_stream(path) as stream, spool() as rows_of_images:
            stream.write(b'{"annotations": ')
            annotations, entries = JsonRows(stream), JsonRows(rows_of_images)
            number = 0
            for place, image in enumerate(images):
                height, width = image.size
                entries.add(
                    {"id": place, "file_name": image.file_name, "height": height, "width": width}
                )
                for found in self.annotations(image.labels(), image.confidence()):
                    number += 1
                    annotations.add({**found, "id": number, "image_id": place, "iscrowd": 0})
            annotations.close()
            entries.close()
            stream.write(b',\n"categories": ' + as_json(_categories(legend)) + b',\n"images": ')
            append(stream, rows_of_images)
            stream.write(b"}\n")
        return [path]

    @abstractmethod
    def annotations(
        self, labels: NDArray[np.int32], confidence: NDArray[np.float32] | None
    ) -> Iterator[dict[str, Any]]:
        """Yield what is known of each annotation of an image but for its ids."""


class Coco(_CocoFile):
    """``coco.json``: one annotation per class and image, as compressed run lengths.

    ``iscrowd`` is 0, as in COCO-Stuff: evaluators and loaders pass over crowds.
    """

    name: ClassVar[str] = "coco"
    file: ClassVar[str] = "coco.json"

    def check(self, images: Iterable[Path]) -> None:
        """Accept every picture if pycocotools is there.

        Raises:
            ConfigError: If it is not installed.
        """
        _mask_tools()

    def annotations(
        self, labels: NDArray[np.int32], confidence: NDArray[np.float32] | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one annotation per class that occurs."""
        tools = _mask_tools()
        for label in np.unique(labels[labels >= 0]).tolist():
            mask = labels == label
            code = tools.encode(np.asfortranarray(mask, dtype=np.uint8))
            height, width = mask.shape
            annotation = {
                "category_id": label,
                "area": int(np.count_nonzero(mask)),
                "bbox": [int(length) for length in tools.toBbox(code)],
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
            }
            if confidence is not None:
                mean = float(confidence[mask].mean(dtype=np.float64))
                annotation["score"] = round(mean, _DECIMALS)
            yield annotation


class CocoPolygons(_CocoFile):
    """``coco-polygons.json``: one annotation per connected region, as polygons along pixel edges.

    A region with holes is given as several polygons without holes that lie side by side.
    """

    name: ClassVar[str] = "coco-polygons"
    file: ClassVar[str] = "coco-polygons.json"

    def annotations(
        self, labels: NDArray[np.int32], confidence: NDArray[np.float32] | None
    ) -> Iterator[dict[str, Any]]:
        """Yield one annotation per region, by their first pixels."""
        found = regions_of(labels)
        scores = None if confidence is None else found.mean_scores(confidence)
        for place, region in enumerate(found.regions):
            annotation = {
                "category_id": region.label,
                "area": region.pixels,
                "bbox": list(region.box),
                "segmentation": [piece.ravel().tolist() for piece in region.pieces],
            }
            if scores is not None:
                annotation["score"] = round(scores[place], _DECIMALS)
            yield annotation


def _categories(legend: Legend) -> list[dict[str, Any]]:
    return [
        {"id": place, "name": name, "supercategory": name, "color": colour}
        for place, (name, colour) in enumerate(
            zip(legend.class_names, legend.colours.tolist(), strict=True)
        )
    ]


def _mask_tools() -> Any:  # noqa: ANN401 - a module
    return optional("pycocotools.mask", extra="data", purpose="the format coco")
