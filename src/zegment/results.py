"""What a prediction is, and the pictures and files made of it.

Letters: H W pixels, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.colours import UNKNOWN_COLOUR, as_hex, class_colours, paint
from zegment.drawing import PAPER, LegendEntry, class_borders, draw_legend, wrap

__all__ = ["UNKNOWN", "Segmentation", "legend", "unknown_id"]

UNKNOWN = -1
"""The label of pixels that are none of the classes."""

_LEGIBLE_WIDTH = 480
_MAX_CLASSES = 65535


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segmentation:
    """The label map of one image.

    Attributes:
        labels: Index into ``class_names``, int32 (H, W); -1 is unknown.
        class_names: K names in the user's order.
        image: The picture that was segmented, RGB, uint8 (H, W, 3).
        confidence: The winner's score, float32 (H, W), in [0, 1] and in the unit of the model; also
            of pixels that a background policy rejected.
        entropy: How undecided the scores are, float32 (H, W), in [0, 1]; see
            `zegment.inference.decisions.entropy`.
        margin: By how much the winner's score exceeds that of the second-best class, float32
            (H, W), in the unit of ``confidence``.
        scores: Calibrated scores of every class, float16 (K, H, W); see
            `zegment.query.Query.of_classes`.
        colours: RGB of each class, uint8 (K, 3); the usual ones if not given.
        background: The policy that decided which pixels show none of the classes.

    Raises:
        ValueError: If an array has another shape or dtype.
        ValueError: If a label is not an index into ``class_names``.
        ValueError: If there are more than 65535 classes.
    """

    labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    image: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    margin: NDArray[np.float32] | None = None
    scores: NDArray[np.float16] | None = None
    colours: NDArray[np.uint8] = field(default_factory=lambda: class_colours(0))
    background: str = "none"

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or not self.labels.size:
            raise ValueError(f"labels has shape {self.labels.shape}; expected pixels (H, W)")
        height, width = self.labels.shape
        _check_array("labels", self.labels, np.int32, (height, width))
        _check_array("image", self.image, np.uint8, (height, width, 3))
        classes = len(self.class_names)
        for name in ("confidence", "entropy", "margin"):
            if getattr(self, name) is not None:
                _check_array(name, getattr(self, name), np.float32, (height, width))
        if self.scores is not None:
            _check_array("scores", self.scores, np.float16, (classes, height, width))
        if classes > _MAX_CLASSES:
            raise ValueError(f"{classes} classes do not fit; {_MAX_CLASSES} do")
        if not len(self.colours):
            object.__setattr__(self, "colours", class_colours(classes))
        _check_array("colours", self.colours, np.uint8, (classes, 3))
        if not (self.labels.min() >= UNKNOWN and self.labels.max() < len(self.class_names)):
            raise ValueError(
                f"labels run from {self.labels.min()} to {self.labels.max()}; expected indices of "
                f"{len(self.class_names)} class names, or -1 for unknown"
            )

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Return where one class is, bool (H, W).

        Raises:
            ValueError: If ``name`` is not one of the classes.
        """
        if name not in self.class_names:
            known = ", ".join(self.class_names)
            raise ValueError(f"no class is called {name!r}; the classes are {known}")
        inside: NDArray[np.bool_] = self.labels == self.class_names.index(name)
        return inside

    def share(self) -> dict[str, float]:
        """Return the fraction of the image that each class covers, in the user's order."""
        counts = np.bincount(self.labels.ravel() + 1, minlength=len(self.class_names) + 1)[1:]
        return dict(zip(self.class_names, (counts / self.labels.size).tolist(), strict=True))

    def index_png(self) -> Image.Image:
        """Return the label map as an image file stores it.

        Returns:
            Up to 255 classes: mode "P" in the class colours, unknown is 255. More: mode "I;16",
            unknown is 65535.
        """
        stored = np.where(self.labels == UNKNOWN, unknown_id(len(self.class_names)), self.labels)
        if unknown_id(len(self.class_names)) > 255:
            return Image.fromarray(stored.astype(np.uint16))
        picture = Image.fromarray(stored.astype(np.uint8)).convert("P")
        palette = np.full((256, 3), UNKNOWN_COLOUR, dtype=np.uint8)
        palette[: len(self.class_names)] = self.colours
        picture.putpalette(palette.tobytes())
        return picture

    def overlay(self, *, opacity: float = 0.55, legend: bool = True) -> Image.Image:
        """Return the classes painted over the image, with white lines where two meet.

        Args:
            opacity: Of the colours, from 0 (the image alone) to 1 (the colours alone); unknown
                pixels stay unpainted.
            legend: Whether to set a legend below, with the share of each class that was found,
                in the user's order. A small image is enlarged so that the text can be read.

        Returns:
            Mode "RGB"; without a legend as large as the image.

        Raises:
            ValueError: If ``opacity`` is outside [0, 1].
        """
        if not 0 <= opacity <= 1:
            raise ValueError(f"opacity is {opacity}; expected a number from 0 to 1")
        height, width = self.labels.shape
        factor = _enlargement(height, width) if legend else 1
        labels = self.labels if factor == 1 else self.labels.repeat(factor, 0).repeat(factor, 1)
        photo = Image.fromarray(self.image).resize(
            (width * factor, height * factor), Image.Resampling.BICUBIC
        )
        tinted = Image.blend(photo, Image.fromarray(paint(labels, self.colours)), opacity)
        tinted = Image.composite(photo, tinted, Image.fromarray(labels == UNKNOWN))
        lines = class_borders(labels, round(min(photo.size) / 500))
        tinted.paste(Image.blend(tinted, Image.new("RGB", photo.size, PAPER), 0.85), mask=lines)
        return self._with_legend(tinted) if legend else tinted

    def _with_legend(self, picture: Image.Image) -> Image.Image:
        """Return ``picture`` over a legend of the classes found, and the names of the others."""
        shares = self.share()
        entries = [
            LegendEntry(name=name, colour=tuple(colour), note=_percent(shares[name]))
            for name, colour in zip(self.class_names, self.colours.tolist(), strict=True)
            if shares[name]
        ]
        if unknown := np.count_nonzero(self.labels == UNKNOWN):
            share = _percent(unknown / self.labels.size)
            # A class may have that name.
            name = "none of these" if "unknown" in self.class_names else "unknown"
            entries.append(LegendEntry(name=name, colour=None, note=share))
        width = max(picture.width, _LEGIBLE_WIDTH)
        size = round(min(max(width / 36, 14), 56))
        missing = [name for name in self.class_names if not shares[name]]
        footer = _not_found(missing, size=round(0.85 * size), width=width - 2 * size)
        panel = draw_legend(entries, width=width, margin=size, size=size, footer=footer)
        page = Image.new("RGB", (width, picture.height + panel.height), PAPER)
        page.paste(picture, ((width - picture.width) // 2, 0))
        page.paste(panel, (0, picture.height))
        return page


def unknown_id(num_classes: int) -> int:
    """Return the number that stands for unknown in an index map of K classes."""
    return 255 if num_classes <= 255 else 65535


def legend(
    class_names: Sequence[str],
    colours: NDArray[np.uint8] | None = None,
    synonyms: Sequence[Sequence[str]] = (),
) -> list[dict[str, Any]]:
    """Return what the numbers and colours of an index map mean, ready for JSON.

    Args:
        class_names: K names in the user's order.
        colours: RGB of each class, uint8 (K, 3); None takes the usual ones.
        synonyms: Further names of each class; empty if none has any.

    Returns:
        ``id``, ``name`` and ``colour`` (``#rrggbb``) of each class in order, and its ``synonyms``
        if it has any; the last entry is the unknown, whose id is no class's.
    """
    num_classes = len(class_names)
    painted = class_colours(num_classes) if colours is None else colours
    rows = [
        *zip(range(num_classes), class_names, painted, strict=True),
        (unknown_id(num_classes), "unknown", UNKNOWN_COLOUR),
    ]
    others = [*synonyms, *((),) * (len(rows) - len(synonyms))]
    return [
        {"id": id_, "name": name, "colour": as_hex(colour)}
        | ({"synonyms": list(more)} if more else {})
        for (id_, name, colour), more in zip(rows, others, strict=True)
    ]


def _check_array(
    name: str, array: NDArray[np.generic], dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}"
        )


def _enlargement(height: int, width: int) -> int:
    """Return by which whole factor to enlarge an image so that a legend below it can be read."""
    return max(1, min(ceil(_LEGIBLE_WIDTH / width), 2 * _LEGIBLE_WIDTH // height))


def _percent(share: float) -> str:
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _not_found(names: Sequence[str], *, size: int, width: int) -> list[str]:
    """Return at most two lines that name the classes without a pixel, or the first of them."""
    fitting: list[str] = []
    for shown in range(1, len(names) + 1):
        rest = [f"and {len(names) - shown} more"] if shown < len(names) else []
        words = [f"Not found: {names[0]}", *names[1:shown], *rest]
        lines = wrap(words, size, width, joint=", ")
        if len(lines) > 2:
            break
        fitting = lines
    return fitting
