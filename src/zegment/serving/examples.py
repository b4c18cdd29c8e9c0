"""Pictures to try at once: scenes of the Shapes world, drawn when the server starts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from zegment.data.shapes import CLASS_NAMES, SPLIT_SEEDS, draw_scenes

#: Scenes of the test split with several things each, some of them never seen in training.
_SCENES: Final = (40, 13, 89, 87)


def draw_examples(folder: Path) -> list[tuple[Path, str]]:
    """Draw scenes that no model of Shapes was trained with, and the words for what they show.

    Args:
        folder: Where the pictures go.
    """
    scenes = draw_scenes(SPLIT_SEEDS["test"], _SCENES)
    (folder / "examples").mkdir()
    examples = []
    for index, image, visible in zip(_SCENES, scenes.images, scenes.visible, strict=True):
        path = folder / "examples" / f"shapes-{index}.png"
        Image.fromarray(image).save(path)
        words = ", ".join(CLASS_NAMES[k] for k in np.flatnonzero(visible))
        examples.append((path, words))
    return examples
