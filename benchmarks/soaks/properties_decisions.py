"""Properties of what is decided about scores that are given, exactly and without a model.

Letters: B images, K classes, H W pixels.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
from hypothesis import strategies as st
from soaks.properties_labels import STUDENT, segmenter, words
from soaks.property_running import holds
from torch import Tensor

from zegment.inference import decisions
from zegment.inference.decisions import best_class
from zegment.inference.fields import HeldScores
from zegment.labelling import draw_maps


@st.composite
def held_scores(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw scores with many ties, float (B, K, H, W), and seen flags, bool (K,)."""
    shape = draw(
        st.tuples(
            st.integers(1, 3), st.sampled_from([1, 2, 3, 20, 300]), st.integers(1, 24),
            st.integers(1, 24),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    steps = draw(st.sampled_from([2, 9, 2**20]))
    scores = torch.randint(0, steps, shape, generator=generator) / steps
    return scores, torch.rand(shape[1], generator=generator) < 0.5


@holds(
    short=40,
    published=1500,
    drawn=held_scores(),
    tiles=st.tuples(st.sampled_from([2**6, 2**11, 2**20]), st.sampled_from([5, 96])),
    seed=st.integers(0, 2**31),
)
def of_given_scores_the_first_largest_wins_and_what_never_wins_changes_nothing(
    drawn: tuple[Tensor, Tensor], tiles: tuple[int, int], seed: int
) -> None:
    """Exactly, ties included: nothing is computed but differences."""
    scores, seen = drawn
    size = (scores.shape[2], scores.shape[3])
    best, winners = (scores - 0.25 * seen[:, None, None].float()).max(dim=1)
    place = torch.randint(0, scores.shape[1] + 1, (), generator=torch.Generator().manual_seed(seed))
    at = int(place)
    loser = (best - 1)[:, None]  # below the best class at every pixel
    more = torch.cat([scores[:, :at], loser, scores[:, at:]], dim=1)
    told = torch.cat([seen[:at], torch.tensor([False]), seen[at:]])
    numbers, side = tiles
    with (
        patch.dict(decisions.TILE_NUMBERS, cpu=numbers),
        patch.object(decisions, "TILE_SIDE", side),
    ):
        labels, confidence = best_class(HeldScores(scores), seen, margin=0.25, size=size)
        again, same = best_class(HeldScores(more), told, margin=0.25, size=size)
    assert torch.equal(labels, winners)
    assert torch.equal(confidence, best)
    assert torch.equal(again, winners + (winners >= at))
    assert torch.equal(same, best)


@holds(
    short=60,
    published=2000,
    names=words(),
    seed=st.integers(0, 2**31),
    bars=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def a_higher_threshold_only_turns_pixels_into_unknown(
    names: list[str], seed: int, bars: tuple[float, float]
) -> None:
    """Or into the class "background", if there is one; scores stay as they are."""
    own = segmenter(STUDENT)
    low, high = (own.query(names, background=f"threshold:{bar}") for bar in sorted(bars))
    asked = len(low.asked.class_names)
    scores = torch.rand(1, asked, 9, 11, generator=torch.Generator().manual_seed(seed))
    loose, strict = (
        draw_maps(HeldScores(scores), query, seen_penalty=0, size=(9, 11)) for query in (low, high)
    )
    turned = loose.labels != strict.labels
    assert (strict.labels[turned] == low.rejected).all()
    rejected = scores.amax(dim=1) < max(bars)
    assert torch.equal(strict.labels == low.rejected, rejected)
    assert torch.equal(loose.confidence, strict.confidence)


PROPERTIES = (
    of_given_scores_the_first_largest_wins_and_what_never_wins_changes_nothing,
    a_higher_threshold_only_turns_pixels_into_unknown,
)
