"""The property of mirrored pictures: a model that is its own mirror image mirrors the labels.

No packaged model is; their image towers are made so here, by averaging patch filters and positions
with their mirror images. What the towers do in between treats patches by their content and
distance alone. The student gets a small network of mirrored filters.
"""

from __future__ import annotations

from copy import copy, deepcopy
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st
from soaks.properties_labels import (
    MODELS,
    STUDENT,
    Pixels,
    clear,
    pictures,
    segmenter,
    words,
)
from soaks.property_running import holds
from torch import Tensor, nn

from zegment.config import WindowConfig
from zegment.inference.running import Execution
from zegment.models.student import Student
from zegment.segmenter import Segmenter

PATCH = 8
"""What the sides of pictures are multiples of, so that none is padded on one side only."""


class MirroredNetwork(nn.Module):
    """Patches, then their neighbours, by filters that are their own mirror images."""

    multiple = 4

    def __init__(self, embed_dim: int, axis: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(axis)
        shapes = ((16, 3, 4, 4), (embed_dim, 16, 3, 3))
        for name, shape in zip(("first", "second"), shapes, strict=True):
            filters = torch.randn(*shape, generator=generator) / shape[1]
            self.register_buffer(name, (filters + filters.flip(axis)) / 2)

    def forward(self, image: Tensor) -> Tensor:
        patches = nn.functional.conv2d(image, self.first, stride=4)
        return nn.functional.conv2d(patches.relu(), self.second, padding=1)


@cache
def mirrored(name: str, axis: int) -> Segmenter:
    """Return a model that is its own mirror image along an axis of pictures, -2 or -1."""
    own = copy(segmenter(name))
    if name == STUDENT:
        embed_dim = own.query(["ball"]).text_embeddings.shape[1]
        model = own.model
        own.model = Student(
            MirroredNetwork(embed_dim, axis), mean=model.mean.tolist(), std=model.std.tolist()
        ).eval()
        return own
    own.model = deepcopy(own.model)
    tower = own.model.tower
    with torch.no_grad():
        filters, positions = tower.conv1.weight, tower.positional_embedding
        filters.copy_((filters + filters.flip(axis)) / 2)
        plane = positions[1:].unflatten(0, tower.shape.grid)  # h, w, C
        positions[1:] = ((plane + plane.flip(axis + 2)) / 2).flatten(0, 1)
    return own


@st.composite
def symmetric_windows(draw: st.DrawFn, pixels: Pixels) -> WindowConfig:
    """Draw windows that lie alike from both ends of both sides of a picture."""
    height, width = pixels.shape[:2]
    strides = [
        (size, stride)
        for size in range(PATCH, max(height, width) + PATCH, PATCH)
        for stride in range(PATCH, size + 1, PATCH)
        if all(side <= size or (side - size) % stride == 0 for side in (height, width))
    ]
    chosen = draw(st.none() | st.sampled_from(strides))
    size, stride = chosen or (None, None)
    return WindowConfig(
        size=size, stride=stride, blend=draw(st.sampled_from(["average", "smooth"]))
    )


@st.composite
def mirrorable(draw: st.DrawFn) -> tuple[Pixels, WindowConfig]:
    """Draw a picture and windows that lie alike from both of its ends."""
    pixels = draw(pictures(multiple=PATCH, least=PATCH))
    return pixels, draw(symmetric_windows(pixels))


def check_mirror(own: Segmenter, pixels: Pixels, names: list[str], axis: int) -> None:
    """Compare the labels of a picture with those of its mirror image along -2 or -1."""
    query = own.query(names)
    first = own.segment(pixels, query, extras=("margin",))
    second = own.segment(np.ascontiguousarray(np.flip(pixels, axis + 2)), query)
    sure = clear(first, None)
    back = np.flip(second.labels, axis + 2)
    np.testing.assert_array_equal(back[sure], first.labels[sure])
    confidence = np.flip(second.confidence, axis + 2)
    np.testing.assert_allclose(confidence, first.confidence, rtol=0, atol=1e-4)


@holds(
    short=8,
    published=100,
    each={"model": MODELS},
    drawn=mirrorable(),
    names=words(),
    axis=st.sampled_from([-2, -1]),
)
def mirroring_the_picture_mirrors_the_labels_of_a_mirrored_model(
    model: str, drawn: tuple[Pixels, WindowConfig], names: list[str], axis: int
) -> None:
    """Along either axis, with windows that lie alike from both ends."""
    pixels, windows = drawn
    own = copy(mirrored(model, axis))
    own.run_as(Execution(windows=windows))
    check_mirror(own, pixels, names, axis)


PROPERTIES = (mirroring_the_picture_mirrors_the_labels_of_a_mirrored_model,)
