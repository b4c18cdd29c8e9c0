"""The Shapes world: procedurally drawn scenes with exact masks and captions.

Twenty classes in the proportions of PASCAL VOC, fifteen seen and, by default, five unseen. Twelve
are things: each has its own outline and its own look, one of four hues times three coarse patterns,
and one object in ten wears the look of another class. Eight are stuff: textured ground. The default
unseen things sit on the diagonal of hues and patterns, so that every hue and every pattern is also
worn by seen classes. A scene needs no file: it is computed from a seed and its number.

N scenes; H W pixels; K classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zegment.data import IGNORE_INDEX
from zegment.data.shapes_classes import (
    CLASS_NAMES,
    HUES,
    LOOKS,
    PATTERNS,
    STUFF,
    THINGS,
    UNSEEN,
)
from zegment.data.shapes_drawing import Thing, light_up, paint_thing
from zegment.data.shapes_ground import paint_ground
from zegment.errors import did_you_mean

__all__ = [
    "CAPTION_TEMPLATES",
    "CLASS_NAMES",
    "HUES",
    "LOOKS",
    "PATTERNS",
    "SPLIT_LENGTHS",
    "SPLIT_SEEDS",
    "STUFF",
    "THINGS",
    "UNSEEN",
    "VISIBLE_SHARE",
    "Scenes",
    "ShapesDataset",
    "caption",
    "compose_things",
    "draw_scenes",
    "mentioned",
]

#: The splits draw from different seeds, so no scene can be in two of them.
SPLIT_SEEDS: Final[dict[str, int]] = {"train": 101, "val": 102, "test": 103}
SPLIT_LENGTHS: Final[dict[str, int]] = {"train": 4000, "val": 400, "test": 400}

#: A class that covers less of the image than this is too small to be named in a caption.
VISIBLE_SHARE: Final = 0.01

# The adjectives carry no information: they teach the text tower to look past them, as the
# prompt templates in use with CLIP expect.
CAPTION_TEMPLATES: Final[tuple[str, ...]] = (
    "a photo of {}",
    "a photo of {}",
    "a photo of {}",
    "a photo of {} in the scene",
    "a photo of the {}",
    "there is {} in the scene",
    "a picture of {}",
    "an image of {}",
    "a rendering of {}",
    "a drawing of {}",
    "a good photo of {}",
    "a bad photo of {}",
    "a close-up photo of {}",
    "a cropped photo of {}",
    "a blurry photo of {}",
    "a bright photo of {}",
    "a dark photo of {}",
    "itap of {}",
    "this is {}",
    "{}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        images: RGB, uint8 (N, H, W, 3).
        labels: Class ids, uint8 (N, H, W); every pixel has a class.
        visible: Which classes cover enough pixels to be named, bool (N, K).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    visible: NDArray[np.bool_]


def draw_scenes(
    seed: int,
    indices: Sequence[int],
    *,
    size: int = 96,
    max_things: int = 4,
    exceptions: float = 0.1,
) -> Scenes:
    """Draw scenes; each depends on the arguments and its own index, never on the rest of the batch.

    Args:
        seed: Number of the world, at least 0.
        indices: Numbers of the scenes, each at least 0.
        size: Image side in pixels, at least 16.
        max_things: Most things in one scene, 0 to 12; every scene has at least one unless it is 0.
        exceptions: Share of things that wear the look of another class, in [0, 1].

    Returns:
        The scenes, in the order of ``indices``.

    Raises:
        ValueError: If a seed, an index, ``size``, ``max_things`` or ``exceptions`` is out of range.
    """
    if seed < 0 or any(index < 0 for index in indices):
        raise ValueError(f"Seed and indices must be at least 0, got seed {seed}.")
    if size < 16:
        raise ValueError(f"size must be at least 16 pixels, got {size}.")
    if not 0 <= max_things <= len(THINGS):
        raise ValueError(f"max_things must be in 0..{len(THINGS)}, got {max_things}.")
    if not 0 <= exceptions <= 1:
        raise ValueError(f"exceptions must be in [0, 1], got {exceptions}.")
    images = np.empty((len(indices), size, size, 3), dtype=np.uint8)
    labels = np.empty((len(indices), size, size), dtype=np.uint8)
    visible = np.empty((len(indices), len(CLASS_NAMES)), dtype=np.bool_)
    for slot, index in enumerate(indices):
        rng = np.random.default_rng((seed, index))
        # The layout comes first, so that a scene keeps it at every size.
        things = compose_things(rng, max_things=max_things, exceptions=exceptions)
        images[slot], labels[slot] = _paint(rng, things, size)
        pixels = np.bincount(labels[slot].ravel(), minlength=len(CLASS_NAMES))
        visible[slot] = pixels >= VISIBLE_SHARE * size * size
    return Scenes(images=images, labels=labels, visible=visible)


def compose_things(
    rng: np.random.Generator, *, max_things: int, exceptions: float
) -> tuple[Thing, ...]:
    """Return the things of one scene, back to front and of different classes.

    Args:
        rng: Source of the layout.
        max_things: Most things in the scene.
        exceptions: Probability that a thing wears the look of another class, in [0, 1].

    Returns:
        One to ``max_things`` things, or none if ``max_things`` is 0.
    """
    if max_things == 0:
        return ()
    count = int(rng.integers(1, max_things + 1))
    cover = rng.uniform(0.10, 0.20) + 0.03 * count
    sizes = np.exp(rng.uniform(-0.45, 0.45, count))
    areas = np.minimum(cover * sizes / sizes.sum(), 0.22)
    centres: list[tuple[float, float]] = []
    things = []
    for class_id, area in zip(rng.permutation(len(THINGS))[:count], areas, strict=True):
        worn = int(class_id)
        if rng.random() < exceptions:
            worn = (worn + int(rng.integers(1, len(THINGS)))) % len(THINGS)
        hue, pattern = LOOKS[THINGS[worn]]
        color = np.clip(
            np.array(HUES[hue]) * rng.uniform(0.88, 1.08) + rng.normal(0, 0.025, 3), 0, 1
        )
        centres.append(_place(rng, centres))
        things.append(
            Thing(
                name=THINGS[class_id],
                color=(float(color[0]), float(color[1]), float(color[2])),
                pattern=pattern,
                x=centres[-1][0],
                y=centres[-1][1],
                area=float(area),
                angle=float(rng.uniform(-0.6, 0.6)),
            )
        )
    return tuple(things)


def _place(rng: np.random.Generator, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Choose a centre: the loneliest of three, so that things seldom hide each other."""
    candidates = [(float(x), float(y)) for x, y in rng.uniform(0.16, 0.84, (3, 2))]
    return max(candidates, key=lambda c: min((math.dist(c, t) for t in taken), default=0.0))


def _paint(
    rng: np.random.Generator, things: Sequence[Thing], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    regions = rng.permutation(len(STUFF))[: rng.integers(1, 3)]
    image, second = paint_ground(rng, size, tuple(STUFF[region] for region in regions))
    label = np.where(second, regions[-1], regions[0]) + len(THINGS)
    label = label.astype(np.uint8)
    angle = rng.uniform(-0.8, 0.8) - math.pi / 2  # from above, as people expect light
    light = (math.cos(angle), math.sin(angle))
    for thing in things:
        paint_thing(image, label, thing, CLASS_NAMES.index(thing.name), light)
    return light_up(rng, image, light), label


def caption(
    rng: np.random.Generator, visible_names: Sequence[str], *, partial: float = 0.35
) -> str:
    """Return a sentence that names visible classes, in any order, sometimes only some of them.

    Args:
        rng: Source of the choice.
        visible_names: Classes that may be named, at least one.
        partial: Probability that some classes may be left out, in [0, 1].

    Returns:
        A sentence such as ``"a photo of a ball, grass and a kite"``.

    Raises:
        ValueError: If there is nothing to name.
    """
    if not visible_names:
        raise ValueError("A caption needs at least one visible class to name.")
    count = len(visible_names)
    if rng.random() < partial:
        count = int(rng.integers(1, count + 1))
    names = [visible_names[i] for i in rng.permutation(len(visible_names))[:count]]
    template = CAPTION_TEMPLATES[rng.integers(len(CAPTION_TEMPLATES))]
    # Stuff takes the article now and then: prompts say "a photo of a {}" for every class.
    bare = template.endswith("the {}")
    words = [
        name if bare or rng.random() < (0.1 if name in LOOKS else 0.6) else f"a {name}"
        for name in names
    ]
    phrase = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return template.format(phrase) + ("." if rng.random() < 0.3 else "")


def mentioned(sentence: str) -> tuple[str, ...]:
    """Return the classes whose names occur as words in a sentence, in the order of their ids."""
    words = set(re.findall(r"[a-z]+", sentence.lower()))
    return tuple(name for name in CLASS_NAMES if name in words)


class ShapesDataset(Dataset[tuple[Tensor, Tensor]]):
    """Scenes of one split with their label maps, drawn when they are asked for.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        length: Number of scenes; by default 4000, 400 and 400.
        size: Image side in pixels.
        unannotated_share: Share of the classes in each scene whose pixels nobody annotated, drawn
            once and for all.
        unseen: Classes that must not have a mask in inductive training; their scenes and labels
            are the same.

    Raises:
        ValueError: If the split is unknown or ``length`` is negative.
        ValueError: If an unseen class is none of Shapes.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        length: int | None = None,
        size: int = 96,
        unannotated_share: float = 0.0,
        unseen: Sequence[str] = UNSEEN,
    ) -> None:
        if split not in SPLIT_SEEDS:
            raise ValueError(f"Unknown split {split!r}: choose one of {', '.join(SPLIT_SEEDS)}.")
        if length is not None and length < 0:
            raise ValueError(f"length must be at least 0, got {length}.")
        for name in unseen:
            if name not in CLASS_NAMES:
                raise ValueError(
                    f"Shapes has no class {name!r}, only {', '.join(CLASS_NAMES)}"
                    f"{did_you_mean(name, CLASS_NAMES)}"
                )
        self.split = split
        self.size = size
        self.unannotated_share = unannotated_share
        self._unseen = tuple(unseen)
        self._length = SPLIT_LENGTHS[split] if length is None else length

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return CLASS_NAMES

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that must not have a mask in inductive training."""
        return self._unseen

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self._length

    def name(self, index: int) -> str:
        """Return what to call a scene in a message, such as ``shapes/train/17``."""
        return f"shapes/{self.split}/{index}"

    def check(self) -> None:
        """Do nothing: scenes are drawn right."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one image, uint8 (3, H, W), and its label map, int64 (H, W).

        Raises:
            IndexError: If the index is outside the split.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return several images and label maps in one call, as a DataLoader asks for a batch.

        Raises:
            IndexError: If an index is outside the split.
        """
        for index in indices:
            if not 0 <= index < self._length:
                raise IndexError(f"{self.name(index)} does not exist: {self._length} scenes.")
        scenes = draw_scenes(SPLIT_SEEDS[self.split], indices, size=self.size)
        images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
        labels = torch.from_numpy(scenes.labels).long()
        if self.unannotated_share:
            for label, index in zip(labels, indices, strict=True):
                self._leave_out(label, index)
        return list(zip(images, labels, strict=True))

    def _leave_out(self, label: Tensor, index: int) -> None:
        # A generator of its own, so that scenes stay as they are.
        rng = np.random.default_rng((SPLIT_SEEDS[self.split], index, 1))
        missing = rng.random(len(CLASS_NAMES)) < self.unannotated_share
        label[torch.from_numpy(missing)[label]] = IGNORE_INDEX
