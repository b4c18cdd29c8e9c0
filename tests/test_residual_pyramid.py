"""The sizes of the residual pyramid: what every model promises, and how much each weighs."""

import pytest
from test_models import TestResidualPyramidStudent as SmallContract

from zegment.config import ModelConfig, StudentConfig
from zegment.config.loading import load_config
from zegment.errors import ModelNotFoundError
from zegment.models.residual_pyramid import SIZES, residual_pyramid


class TestTinyResidualPyramid(SmallContract):
    config = ModelConfig(kind="student", student=StudentConfig(encoder="tiny"))


class TestBaseResidualPyramid(SmallContract):
    config = ModelConfig(kind="student", student=StudentConfig(encoder="base"))


# Imported for its methods; as the size by default it is tested where it stands.
del SmallContract


@pytest.mark.parametrize(("size", "millions"), [("tiny", 0.24), ("small", 0.92), ("base", 3.65)])
def test_each_size_has_about_four_times_the_weights_of_the_one_before(size, millions) -> None:
    model = residual_pyramid(size, weights=None, embed_dim=128)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_the_default_size_stays_small() -> None:
    config = load_config(preset="shapes-clip-zss")
    assert (config.model.student.architecture, config.model.student.encoder) == (
        "residual_pyramid", "small",
    )  # fmt: skip


def test_an_unknown_size_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r'no size "huge"; there are tiny, small, base'):
        residual_pyramid("huge", weights=None, embed_dim=8)
    assert list(SIZES) == ["tiny", "small", "base"]
