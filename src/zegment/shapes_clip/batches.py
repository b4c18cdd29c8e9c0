"""Scenes and captions, and which captions are true of which scenes.

B batch; T tokens; K classes; S the side of a square image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from zegment.data import shapes
from zegment.shapes_clip.recipe import CONTEXT_LENGTH, Phase


def visible_names(visible: NDArray[np.bool_]) -> list[str]:
    """Return the names of the classes marked in a bool (K,) array."""
    return [name for name, shown in zip(shapes.CLASS_NAMES, visible, strict=True) if shown]


class CaptionedBatches(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Batches of images, tokens and which captions are true of which images.

    Yields uint8 (B, 3, S, S), int64 (B, T) and bool (B, B), whose entry (i, j) says that
    caption j names only classes visible in image i.

    Args:
        phase: How many scenes of which kind; the last batch is filled up.
        seed: Number of the world that they are drawn from.
    """

    def __init__(self, phase: Phase, seed: int) -> None:
        self.phase = phase
        self.seed = seed
        self.tokenizer = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(self.phase.images / self.phase.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Draw the batches, each time the same."""
        for step in range(len(self)):
            start = step * self.phase.batch_size
            indices = range(start, start + self.phase.batch_size)
            scenes = shapes.draw_scenes(
                self.seed, indices, size=self.phase.size, max_things=self.phase.max_things
            )
            sentences = [
                shapes.caption(np.random.default_rng((self.seed, index, 1)), visible_names(visible))
                for index, visible in zip(indices, scenes.visible, strict=True)
            ]
            named = np.array(
                [[name in shapes.mentioned(s) for name in shapes.CLASS_NAMES] for s in sentences]
            )
            # (B, 1, K) lacks (1, B, K): no class is named that is not visible.
            true_of = ~(named[None] & ~scenes.visible[:, None]).any(-1)
            images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).contiguous()
            yield images, self.tokenizer(sentences), torch.from_numpy(true_of)
