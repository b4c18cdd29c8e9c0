"""What a query makes of the scores at every pixel: labels, and how sure they are.

Letters: B images, K classes of the user, A classes asked for, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zegment.inference.decisions import Judgement, decide, entropy
from zegment.inference.fields import ScoreField
from zegment.models.base import penalize_seen
from zegment.query import Query
from zegment.results import Segmentation

Extra: TypeAlias = Literal["entropy", "margin", "scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Maps:
    """One number per pixel, or one per class and pixel.

    Attributes:
        labels: Indices into the query's names or -1, int32 (B, H, W).
        confidence: Calibrated scores of the winners, float (B, H, W).
        entropy: See `zegment.inference.decisions.entropy`, float (B, H, W), if asked for.
        margin: By how much the winners lead, float (B, H, W), if asked for.
        scores: Calibrated scores of the user's classes, float16 (B, K, H, W), if asked for.
    """

    labels: Tensor
    confidence: Tensor
    entropy: Tensor | None = None
    margin: Tensor | None = None
    scores: Tensor | None = None

    def segmentation(self, pixels: NDArray[np.uint8], query: Query) -> Segmentation:
        """Return the maps of the one image of a batch, together with what they speak of.

        Args:
            pixels: The image, RGB, uint8 (H, W, 3).
            query: Whose maps these are.
        """
        names = ("labels", "confidence", "entropy", "margin", "scores")
        drawn = ((name, getattr(self, name)) for name in names)
        arrays: dict[str, Any] = {n: m[0].cpu().numpy() for n, m in drawn if m is not None}
        return Segmentation(
            **arrays,
            class_names=query.vocabulary.class_names,
            image=pixels,
            colours=query.vocabulary.palette(),
            background=query.background.describe(),
        )


@torch.inference_mode()
def draw_maps(
    field: ScoreField,
    query: Query,
    *,
    seen_penalty: float,
    size: tuple[int, int],
    extras: Collection[Extra] = (),
) -> Maps:
    """Return what a query makes of scores, in one pass over the pixels.

    Args:
        field: Scores of the A classes that the query asks for.
        query: Decides what winners stand for, and where nothing does.
        seen_penalty: Taken from the scores of classes that had masks in training.
        size: Height and width of the result in pixels.
        extras: What else to draw.
    """
    batch, device = field.shape[0], field.device
    plane = (batch, *size)
    maps = Maps(
        labels=torch.empty(plane, dtype=torch.int32, device=device),
        confidence=torch.empty(plane, device=device),
        entropy=torch.empty(plane, device=device) if "entropy" in extras else None,
        margin=torch.empty(plane, device=device) if "margin" in extras else None,
        scores=torch.empty(
            (batch, len(query.vocabulary.class_names), *size), dtype=torch.float16, device=device
        )
        if "scores" in extras
        else None,
    )
    judgement = Judgement(
        seen=query.seen,
        margin=seen_penalty,
        size=size,
        second="margin" in extras,
        scores="entropy" in extras or "scores" in extras,
    )
    for tile in decide(field, judgement):
        place = (..., tile.rows, tile.columns)
        maps.labels[place] = query.decide(tile.winners, tile.best).int()
        maps.confidence[place] = tile.best
        if maps.margin is not None and tile.second is not None:
            maps.margin[place] = tile.best - tile.second
        if maps.entropy is not None and tile.scores is not None:
            maps.entropy[place] = entropy(tile.scores)
        if maps.scores is not None and tile.scores is not None:
            calibrated = penalize_seen(tile.scores, query.seen, margin=seen_penalty)
            for own, planes in zip(maps.scores, calibrated, strict=True):
                own[place] = query.of_classes(planes).half()
    return maps
