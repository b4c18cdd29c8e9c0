"""What the formats of a whole run are made from, and what each of them can do.

Letters: H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Format", "LabelledImage", "Legend"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One finished image, whose maps are read only when a format comes to it.

    Attributes:
        image: The source picture, for formats that link, copy or read it.
        stem: Names the results; it may contain "/" for folders inside the folder of results.
        size: (height, width) of the label map.
        read_labels: Returns class ids, int32 (H, W); -1 is unknown.
        read_confidence: Returns the winning class's score, float32 (H, W); None if not kept.
    """

    image: Path
    stem: str
    size: tuple[int, int]
    read_labels: Callable[[], NDArray[np.int32]]
    read_confidence: Callable[[], NDArray[np.float32]] | None = None

    @property
    def file_name(self) -> str:
        """The picture's name below the folder of pictures, with "/" between folders."""
        return str(PurePosixPath(self.stem).parent / self.image.name)

    def labels(self) -> NDArray[np.int32]:
        """Return the label map, int32 (H, W).

        Raises:
            ValueError: If it is not of the announced size.
        """
        labels = self.read_labels()
        if labels.shape != self.size:
            raise ValueError(
                f"the label map of '{self.stem}' has {labels.shape} pixels, expected {self.size}; "
                "segment the image again"
            )
        return labels

    def confidence(self) -> NDArray[np.float32] | None:
        """Return the winning class's score, float32 (H, W), if it was kept."""
        return None if self.read_confidence is None else self.read_confidence()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Legend:
    """What the ids of a label map mean.

    Attributes:
        class_names: K names; the place of a name is its id.
        colours: RGB, uint8 (K, 3).

    Raises:
        ValueError: If there is not one colour for each name.
    """

    class_names: tuple[str, ...]
    colours: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.colours.shape != (len(self.class_names), 3) or self.colours.dtype != np.uint8:
            raise ValueError(
                f"colours is {self.colours.dtype} {self.colours.shape}; expected uint8 "
                f"({len(self.class_names)}, 3), one RGB colour for each class name"
            )


class Format(Protocol):
    """A way to hand the label maps of a whole run to another program."""

    name: ClassVar[str]

    def check(self, images: Iterable[Path]) -> None:
        """Refuse what could not be written, before time is spent on segmenting it.

        Args:
            images: The pictures of the run.

        Raises:
            ConfigError: If an optional package is missing.
            OutputError: If a picture lacks what the format needs.
        """

    def write(self, images: Iterable[LabelledImage], legend: Legend, out: Path) -> list[Path]:
        """Write the files of this format; only one image is held in memory at a time.

        Args:
            images: Finished images in their order; gone through once.
            legend: Names and colours of all classes.
            out: The folder of the run's results.

        Returns:
            What was written.

        Raises:
            ConfigError: If an optional package is missing.
            OutputError: If the folder cannot be written to.
        """
