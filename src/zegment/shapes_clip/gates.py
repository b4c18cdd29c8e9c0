"""What the weights can do on validation scenes, and whether that is enough to be used.

N scenes; D embedding; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from zegment.data import shapes
from zegment.data.shapes import CLASS_NAMES, SPLIT_SEEDS, THINGS, UNSEEN, Scenes
from zegment.data.transforms import normalize
from zegment.shapes_clip.batches import visible_names
from zegment.shapes_clip.recipe import CONTEXT_LENGTH, MEAN, PROMPT, STD

SCENES, SINGLES, CAPTIONED = 400, 600, 200
"""Scenes that presence is measured on, scenes of one thing, and scenes with captions."""

Rows: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """What the weights can do on validation scenes; all in [-1, 1].

    Attributes:
        text_cosine: Largest cosine between the prompts of two classes.
        thing_top1: Single-thing scenes whose thing is ranked first among all things.
        thing_auc: Presence of a thing in a scene, area under the ROC curve, mean over classes.
        stuff_auc: The same for stuff.
        unseen_auc: The same for the classes that are unseen by default, which are no different
            here.
        odd_look_top1: As ``thing_top1``, but every thing wears another class's look. Not a gate:
            it says how much of a class is its outline rather than its look.
        recall_at_1: Scenes for which a caption of exactly their classes comes first of 200.
        recall_at_5: The same, among the first five.
    """

    text_cosine: float
    thing_top1: float
    thing_auc: float
    stuff_auc: float
    unseen_auc: float
    odd_look_top1: float
    recall_at_1: float
    recall_at_5: float

    def passed(self) -> bool:
        """Return whether the weights are good enough to be packaged."""
        return (
            self.text_cosine < 0.9
            and self.thing_top1 > 0.8
            and self.thing_auc > 0.9
            and self.stuff_auc > 0.99
        )


def measure_gates(model: open_clip.CLIP, device: torch.device, *, size: int) -> Gates:
    """Return what the weights can do on validation scenes of one size.

    Args:
        model: Is in evaluation mode afterwards.
        device: Where it is.
        size: Side of the scenes in pixels.
    """
    model.eval()
    prompts = encode_sentences(model, [PROMPT.format(name) for name in CLASS_NAMES], device)
    cosines = prompts @ prompts.T - 2 * np.eye(len(prompts))
    scenes = shapes.draw_scenes(SPLIT_SEEDS["val"], range(SCENES), size=size)
    rows = encode_scenes(model, scenes, device)
    scores = rows @ prompts.T
    auc = np.array(
        [area_under_curve(scores[:, k], scenes.visible[:, k]) for k in range(len(CLASS_NAMES))]
    )
    shown = scenes.visible[:CAPTIONED]
    rng = np.random.default_rng(0)
    sentences = [shapes.caption(rng, visible_names(visible), partial=0.0) for visible in shown]
    ranks = (rows[:CAPTIONED] @ encode_sentences(model, sentences, device).T).argsort(1)[:, ::-1]
    same = (shown[:, None] == shown[None]).all(-1)
    hits = np.take_along_axis(same, ranks, axis=1)
    return Gates(
        text_cosine=float(cosines.max()),
        thing_top1=thing_top1(model, prompts, device, size=size, odd=False),
        thing_auc=float(auc[: len(THINGS)].mean()),
        stuff_auc=float(auc[len(THINGS) :].mean()),
        unseen_auc=float(auc[[CLASS_NAMES.index(name) for name in UNSEEN]].mean()),
        odd_look_top1=thing_top1(model, prompts, device, size=size, odd=True),
        recall_at_1=float(hits[:, 0].mean()),
        recall_at_5=float(hits[:, :5].any(1).mean()),
    )


@torch.no_grad()
def encode_scenes(model: open_clip.CLIP, scenes: Scenes, device: torch.device) -> Rows:
    """Return unit image embeddings, float32 (N, D)."""
    parts = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).split(100)
    rows = [
        model.encode_image(normalize(part.to(device), MEAN, STD), normalize=True) for part in parts
    ]
    embeddings: Rows = torch.cat(rows).float().cpu().numpy()
    return embeddings


@torch.no_grad()
def encode_sentences(model: open_clip.CLIP, sentences: Sequence[str], device: torch.device) -> Rows:
    """Return unit text embeddings, float32 (N, D)."""
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)(list(sentences))
    embeddings: Rows = model.encode_text(tokens.to(device), normalize=True).float().cpu().numpy()
    return embeddings


def area_under_curve(scores: Rows, present: NDArray[np.bool_]) -> float:
    """Return the probability that a scene with the class scores above one without it."""
    positive, negative = scores[present], scores[~present]
    return float((positive[:, None] > negative[None]).mean())


def thing_top1(
    model: open_clip.CLIP, prompts: Rows, device: torch.device, *, size: int, odd: bool
) -> float:
    """Return how often the only thing of a scene is ranked first among things, in [0, 1].

    Args:
        model: In evaluation mode.
        prompts: Unit embeddings of the classes, float (K, D).
        device: Where the model is.
        size: Side of the scenes in pixels.
        odd: Whether every thing wears another class's look, rather than one in ten.
    """
    scenes = shapes.draw_scenes(
        SPLIT_SEEDS["val"], range(SINGLES), size=size, max_things=1, exceptions=1.0 if odd else 0.1
    )
    shown = scenes.visible[:, : len(THINGS)]
    scores = encode_scenes(model, scenes, device) @ prompts[: len(THINGS)].T
    right = shown[np.arange(len(shown)), scores.argmax(1)]
    return float(right[shown.any(1)].mean())
