"""The score below which a pixel shows none of the classes, chosen on a few masks.

Letters: K classes, T thresholds, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zegment.background import Threshold, background_to_dict, rejected_label
from zegment.data.masks import read_mask, refuse_other_size
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.files import atomic_write_text
from zegment.images import IMAGE_SUFFIXES, read_image
from zegment.query import Query
from zegment.results import unknown_id
from zegment.segmenter import Classes, Segmenter
from zegment.text_files import json_text

THRESHOLDS = np.linspace(0, 1, 1001, dtype=np.float32)
"""What is tried: 0, 0.001, ... 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdFit:
    """How good each threshold is on some masks.

    Attributes:
        data: What the masks are called, and how many there are.
        model: What the model was loaded as.
        class_names: K names in the user's order.
        miou: Mean IoU over the classes and the background at every threshold, float (T,).
    """

    data: str
    model: str
    class_names: tuple[str, ...]
    miou: NDArray[np.float64]

    @property
    def chosen(self) -> Threshold:
        """Return the threshold with the highest mean IoU, the middle one of equals."""
        best = np.flatnonzero(self.miou == self.miou.max())
        score = round(float(THRESHOLDS[best[len(best) // 2]]), 3)
        return Threshold(
            score=score, chosen_on=f"{self.data} with {self.model}", classes=self.class_names
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the choice and every tenth point of the curve as JSON can hold them."""
        return {
            "background": background_to_dict(self.chosen),
            "model": self.model,
            "mIoU": float(self.miou.max()),
            "mIoU_without": float(self.miou[0]),
            "curve": [
                [round(float(threshold), 3), float(miou)]
                for threshold, miou in zip(THRESHOLDS[::10], self.miou[::10], strict=True)
            ],
        }

    def save(self, path: Path) -> None:
        """Write the choice as a file that ``--background`` takes.

        Raises:
            OutputError: If it cannot be written.
        """
        atomic_write_text(path, json_text(self.to_dict()))


def fit_threshold(
    segmenter: Segmenter,
    classes: Classes | None,
    pairs: Sequence[tuple[Path, Path]],
    *,
    data: str,
    ignore_value: int | None = None,
    on_image: Callable[[int], object] | None = None,
) -> ThresholdFit:
    """Return how good every threshold is, from one pass over images with masks.

    Args:
        segmenter: Any.
        classes: See `zegment.segmenter.Segmenter.query`; the class "background" among them is what
            a threshold decides.
        pairs: Image and mask of each. Values of a mask are ids of the classes; where none of them
            is, the id of the class "background", or what an index map has for unknown: 255, with
            more than 255 classes 65535.
        data: What to call the masks.
        ignore_value: Mask value of pixels that count nowhere.
        on_image: Called with the number of images done.

    Raises:
        DatasetError: If masks and classes do not fit together, or every pixel has a class, so
            that no threshold can be chosen.
        ImageError: If a file cannot be read.
    """
    # What decides is the winner among the classes proper; a threshold asks for the same.
    query = segmenter.query(classes, background=Threshold(score=0))
    counts = _Counts(query, ignore_value)
    for done, (image, mask) in enumerate(pairs, start=1):
        pixels, values = read_image(image), read_mask(mask)
        refuse_other_size(values, pixels, mask=mask, image=f"its image {image}")
        result = segmenter.segment(pixels, query)
        assert result.confidence is not None  # noqa: S101 - for the type checker
        counts.update(result.labels, result.confidence, values, mask)
        if on_image is not None:
            on_image(done)
    if not counts.background.any():
        raise DatasetError(
            f"every pixel of the {len(pairs)} masks has a class, so no threshold can be chosen on "
            f"them; where none of the classes is, give the value {counts.rejected}"
        )
    return ThresholdFit(
        data=f"{data} ({len(pairs)} images)",
        model=segmenter.name,
        class_names=query.vocabulary.class_names,
        miou=counts.miou(),
    )


class _Counts:
    """Pixels by winner, truth and the place of the winner's score among the thresholds."""

    def __init__(self, query: Query, ignore_value: int | None) -> None:
        self._classes = len(query.vocabulary.class_names)
        label = rejected_label(query.vocabulary)
        #: Mask value of pixels that show none of the classes.
        self.rejected = label if label >= 0 else unknown_id(self._classes)
        self._ignore_value = ignore_value
        bins = len(THRESHOLDS) + 1
        self._right = np.zeros((self._classes, bins), dtype=np.int64)
        self._won = np.zeros((self._classes, bins), dtype=np.int64)
        self._truth = np.zeros(self._classes, dtype=np.int64)
        self.background = np.zeros(bins, dtype=np.int64)

    def update(
        self,
        labels: NDArray[np.int32],
        confidence: NDArray[np.float32],
        values: NDArray[np.integer],
        mask: Path,
    ) -> None:
        """Count the pixels of one image."""
        counted = np.ones(labels.shape, dtype=bool)
        if self._ignore_value is not None:
            counted = values != self._ignore_value
        labels, confidence, values = labels[counted], confidence[counted], values[counted]
        rejected = values == self.rejected
        strange = np.unique(values[~rejected & (values >= self._classes)])
        if strange.size:
            raise DatasetError(
                f"mask {mask}: value {strange[0]} found, but there are {self._classes} classes, "
                f"counted from 0, and {self.rejected} where none of them is; correct the mask, or "
                f"give --ignore-value {strange[0]} if such pixels count nowhere"
            )
        # A score of bin b is below the thresholds from place b on.
        place = np.searchsorted(THRESHOLDS, confidence, side="right")
        np.add.at(self._won, (labels, place), 1)
        right = labels == values
        np.add.at(self._right, (labels[right], place[right]), 1)
        np.add.at(self._truth, values[~rejected], 1)
        np.add.at(self.background, place[rejected], 1)

    def miou(self) -> NDArray[np.float64]:
        """Return the mean IoU over what occurs, background included, at each threshold."""
        right, won = (_at_least(table) for table in (self._right, self._won))
        below = self._won.sum() - won.sum(axis=0)  # what each threshold rejects
        rightly = self.background.sum() - _at_least(self.background[None])[0]
        intersections = np.concatenate([right, rightly[None]])  # K + 1, T
        unions = np.concatenate(
            [
                won + self._truth[:, None] - right,
                (below + self.background.sum() - rightly)[None],
            ]
        )
        present = unions > 0
        ious = np.divide(intersections, unions, where=present, out=np.zeros(unions.shape))
        means: NDArray[np.float64] = ious.sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        return means


def _at_least(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many pixels have a score of at least each threshold, (K, T)."""
    cumulated: NDArray[np.int64] = table[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    return cumulated


def pair_masks(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Return each image of a folder with the mask of its name.

    Raises:
        DatasetNotFoundError: If a folder does not exist, or an image has no mask.
        DatasetError: If there is no image.
    """
    for folder in (images, masks):
        if not folder.is_dir():
            raise DatasetNotFoundError(f"no folder '{folder}'; check the path")
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise DatasetError(f"folder '{images}' holds no image ({', '.join(IMAGE_SUFFIXES)})")
    pairs = []
    for image in found:
        names = (f"{image.stem}.png", f"{image.stem}.labels.png")
        mask = next((masks / name for name in names if (masks / name).is_file()), None)
        if mask is None:
            raise DatasetNotFoundError(
                f"image {image} has no mask: looked for {masks / names[0]} and {names[1]}; add it, "
                "or take the image away"
            )
        pairs.append((image, mask))
    return pairs
