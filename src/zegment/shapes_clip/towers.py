"""The two towers at any image size, with weights that may come from another size.

D width of the image tower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.shapes_clip.recipe import PATCH_SIZE, model_config


def build_model(size: int, weights: Mapping[str, Tensor] | None = None) -> open_clip.CLIP:
    """Return a model for square images, with weights that may come from another size.

    Args:
        size: Side of the images in pixels.
        weights: The state of such a model; None begins at random.
    """
    config = model_config(size)
    config["vision_cfg"] = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    config["text_cfg"] = open_clip.CLIPTextCfg(**config["text_cfg"])
    model = open_clip.CLIP(**config)
    if weights is not None:
        key = "visual.positional_embedding"
        resized = resize_positions(weights[key], size // PATCH_SIZE)
        model.load_state_dict({**weights, key: resized}, strict=True)
    return model


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """Return position embeddings, (1 + side * side, D), interpolated from those of another grid."""
    head, grid = positions[:1], positions[1:]
    old = math.isqrt(len(grid))
    if old == side:
        return positions
    square = grid.T.reshape(1, -1, old, old)
    square = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([head, square.flatten(2)[0].T])
