"""Properties of label maps: what the packaged models make of pictures and words.

Classes do not see each other in any of these models: ZegCLIP's decoder has no attention among its
queries, and the others compare each text with each patch. So permuting the names permutes the
labels in all of them. Scores of ZegCLIP are independent too, and a class that wins nowhere can be
left out whatever the windows. The others' scores are shares of one sum, in which every class
counts: there it holds of a picture in one window at its own size, where the scores of all classes
change alike. Seen classes are held back only where there are others, so a threshold may then
decide otherwise.

Letters: H W pixels, K classes.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from soaks.properties_windows import ROUNDING, window_configs
from soaks.property_running import holds

from zegment.config import WindowConfig
from zegment.data.shapes import CLASS_NAMES, ShapesDataset
from zegment.inference.running import Execution
from zegment.results import UNKNOWN, Segmentation
from zegment.segmenter import Segmenter, load

ZEGCLIP, ONE_STAGE, STUDENT, DENSE = (
    "shapes-zegclip", "shapes-one-stage", "shapes-clip-zss", "shapes-clip",
)  # fmt: skip
MODELS = (ZEGCLIP, ONE_STAGE, STUDENT, DENSE)
NAMES = (*CLASS_NAMES, "background")
POLICIES = (None, "threshold:0.3", "threshold:0.9", "helpers:a wall|a lamp")

Pixels = NDArray[np.uint8]
Blend = Literal["average", "smooth"]


@cache
def segmenter(name: str) -> Segmenter:
    """Return a packaged model on the CPU; it is not changed."""
    return load(name, device="cpu")


def running(name: str, windows: WindowConfig) -> Segmenter:
    """Return a packaged model with other windows."""
    own = copy(segmenter(name))
    own.run_as(Execution(windows=windows))
    return own


@cache
def _scenes() -> list[Pixels]:
    scenes = ShapesDataset("val", length=12)
    return [np.ascontiguousarray(scenes[i][0].permute(1, 2, 0).numpy()) for i in range(len(scenes))]


@st.composite
def pictures(draw: st.DrawFn, *, multiple: int = 1, least: int = 1, most: int = 110) -> Pixels:
    """Draw scenes at any size, uint8 (H, W, 3), whose sides are multiples of a number."""
    sides = st.integers(-(-least // multiple), most // multiple).map(lambda n: n * multiple)
    height, width = draw(sides), draw(sides)
    scene = Image.fromarray(_scenes()[draw(st.integers(0, len(_scenes()) - 1))])
    return np.array(scene.resize((width, height), Image.Resampling.BICUBIC))


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """Draw class names, from one to all, of which one may be the background."""
    names = draw(st.permutations(NAMES))[: draw(st.integers(1, len(NAMES)))]
    return names if names != ["background"] else [CLASS_NAMES[0]]


def clear(result: Segmentation, policy: str | None) -> NDArray[np.bool_]:
    """Return where rounding cannot change the label, bool (H, W); needs the margin."""
    assert result.margin is not None
    assert result.confidence is not None
    asked = [name for name in result.class_names if name != "background" or policy is None]
    alone = len(asked) == 1 and not (policy or "").startswith("helpers")
    sure = (result.margin > 2 * ROUNDING) | alone
    kind, _, least = (policy or "").partition(":")
    if kind == "threshold":
        sure &= np.abs(result.confidence - float(least)) > ROUNDING
    return sure


windows_of_any_kind = window_configs(largest=128, short_side=128).filter(
    lambda w: w.size is None or (w.size >= 16 and (w.stride or w.size) >= 16)
)


@holds(
    short=8,
    published=75,
    each={"model": MODELS},
    pixels=pictures(),
    names=words(),
    order=st.randoms(use_true_random=False),
    windows=st.none() | windows_of_any_kind,
    policy=st.sampled_from(POLICIES),
)
def permuting_the_classes_permutes_the_labels(
    model: str,
    pixels: Pixels,
    names: list[str],
    order: Any,  # noqa: ANN401 - a generator of hypothesis
    windows: WindowConfig | None,
    policy: str | None,
) -> None:
    """And leaves scores alone, with and without a background policy."""
    own = segmenter(model) if windows is None else running(model, windows)
    other = list(names)
    order.shuffle(other)
    first, second = (
        own.segment(pixels, own.query(asked, background=policy), extras=("margin", "scores"))
        for asked in (names, other)
    )
    place = [other.index(name) for name in names]
    expected = np.array([*place, UNKNOWN])[first.labels]
    sure = clear(first, policy)
    np.testing.assert_array_equal(second.labels[sure], expected[sure])
    np.testing.assert_allclose(second.confidence, first.confidence, rtol=0, atol=ROUNDING)
    assert first.scores is not None
    assert second.scores is not None
    np.testing.assert_allclose(second.scores[place], first.scores, rtol=0, atol=1e-3)  # float16


@holds(
    short=8,
    published=125,
    each={"model": MODELS},
    pixels=pictures(),
    names=words(),
    more=st.lists(st.booleans(), min_size=len(NAMES), max_size=len(NAMES)),
    windows=windows_of_any_kind,
)
def a_class_that_wins_nowhere_can_be_left_out(
    model: str, pixels: Pixels, names: list[str], more: list[bool], windows: WindowConfig
) -> None:
    """So adding one changes nothing; see the head of this file for when."""
    own = running(model, windows if model == ZEGCLIP else WindowConfig())
    query = own.query(names)
    whole = own.segment(pixels, query, extras=("margin",))
    won = set(np.unique(whole.labels).tolist())
    kept = [k for k in range(len(names)) if k in won or more[k]]
    fewer = own.query([names[k] for k in kept])
    result = own.segment(pixels, fewer, extras=("margin",))
    sure = clear(whole, None)
    np.testing.assert_array_equal(np.array(kept)[result.labels][sure], whole.labels[sure])
    if model == ZEGCLIP and bool(fewer.seen.any()) == bool(query.seen.any()):
        np.testing.assert_allclose(result.confidence, whole.confidence, rtol=0, atol=ROUNDING)


@holds(
    short=6,
    published=75,
    each={"model": MODELS},
    pixels=pictures(),
    names=words(),
    policy=st.sampled_from(POLICIES),
    windows=windows_of_any_kind,
)
def a_result_has_the_size_of_its_picture_whatever_the_windows(
    model: str, pixels: Pixels, names: list[str], policy: str | None, windows: WindowConfig
) -> None:
    """And every map in it is in its range."""
    own = running(model, windows)
    query = own.query(names, background=policy)
    result = own.segment(pixels, query, extras=("margin", "entropy", "scores"))
    size = pixels.shape[:2]
    assert result.labels.shape == size
    assert set(np.unique(result.labels)) <= set(range(-1 if policy else 0, len(names)))
    assert result.scores is not None
    assert result.scores.shape == (len(names), *size)
    for low, values in ((-0.11, result.confidence), (0, result.margin), (0, result.entropy)):
        assert values is not None
        assert values.shape == size
        assert low <= values.min()
        assert values.max() <= 1.11
    assert sum(result.share().values()) <= 1 + 1e-9


@holds(
    short=6,
    published=75,
    each={"model": MODELS},
    pixels=pictures(),
    names=words(),
    more=st.integers(0, 40),
    blend=st.sampled_from(["average", "smooth"]),
)
def a_picture_that_fits_into_a_window_is_labelled_as_without_windows(
    model: str, pixels: Pixels, names: list[str], more: int, blend: Blend
) -> None:
    """To the last bit."""
    size = max(pixels.shape[:2]) + more
    plain, windowed = (
        own.segment(pixels, own.query(names), extras=("scores",))
        for own in (
            running(model, WindowConfig()),
            running(model, WindowConfig(size=size, stride=max(1, size // 2), blend=blend)),
        )
    )
    for name in ("labels", "scores"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(windowed, name))
    tolerance = 0 if blend == "average" else ROUNDING
    np.testing.assert_allclose(plain.confidence, windowed.confidence, rtol=0, atol=tolerance)


@holds(
    short=6,
    published=60,
    each={"model": MODELS},
    pixels=pictures(least=40),
    names=words(),
    size=st.integers(16, 40),
)
def a_crop_along_the_windows_is_labelled_as_in_the_whole(
    model: str, pixels: Pixels, names: list[str], size: int
) -> None:
    """Windows side by side do not know of what lies around them."""
    own = running(model, WindowConfig(size=size))
    query = own.query(names)
    rows, columns = (side // size * size for side in pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels[:rows, :columns])
    whole = own.segment(pixels, query, extras=("margin",))
    sure = clear(whole, None)
    for top in range(0, rows, size):
        for left in range(0, columns, size):
            place = slice(top, top + size), slice(left, left + size)
            crop = own.segment(np.ascontiguousarray(pixels[place]), query)
            there = sure[place]
            np.testing.assert_array_equal(crop.labels[there], whole.labels[place][there])


@holds(
    short=5,
    published=50,
    each={"model": MODELS},
    pixels=pictures(),
    others=st.lists(st.integers(0, 11), min_size=0, max_size=3),
    names=words(),
    at_once=st.integers(1, 4),
)
def an_image_of_a_batch_is_labelled_as_alone(
    model: str, pixels: Pixels, others: list[int], names: list[str], at_once: int
) -> None:
    """Whatever the other images are, and however many windows go through the model together."""
    size = (pixels.shape[1], pixels.shape[0])
    more = [np.array(Image.fromarray(_scenes()[i]).resize(size)) for i in others]
    own = copy(segmenter(model))
    own.run_as(Execution(window_batch=at_once))
    query = own.query(names)
    batch = torch.from_numpy(np.stack([*more, pixels])).permute(0, 3, 1, 2)
    labels, confidence = own.label(batch, query)
    alone = segmenter(model).segment(pixels, query, extras=("margin",))
    sure = clear(alone, None)
    np.testing.assert_array_equal(labels[-1].numpy()[sure], alone.labels[sure])
    np.testing.assert_allclose(confidence[-1].numpy(), alone.confidence, rtol=0, atol=ROUNDING)


PROPERTIES = (
    permuting_the_classes_permutes_the_labels,
    a_class_that_wins_nowhere_can_be_left_out,
    a_result_has_the_size_of_its_picture_whatever_the_windows,
    a_picture_that_fits_into_a_window_is_labelled_as_without_windows,
    a_crop_along_the_windows_is_labelled_as_in_the_whole,
    an_image_of_a_batch_is_labelled_as_alone,
)
