"""Proposals, cut-outs and votes against slow versions of themselves, and the model as a whole."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

pytest.importorskip("skimage")

from test_models import ModelContract

from zegment import cli
from zegment.checkpoint import load_trained
from zegment.clip import Clip
from zegment.config import ModelConfig
from zegment.config.loading import load_config
from zegment.config.model import TwoStageConfig
from zegment.data.shapes import ShapesDataset
from zegment.errors import ConfigError
from zegment.evaluation import evaluate
from zegment.models import two_stage
from zegment.models.build import build_model
from zegment.models.dense_clip import DenseClip
from zegment.models.two_stage import FelzenszwalbRegions, MaskedCrop, TwoStage, vote
from zegment.segmenter import Segmenter

# A warm softmax, because CLIP's own makes a hundred of a rounding error.
WARM = ModelConfig(kind="two_stage", two_stage=TwoStageConfig(cell=8, temperature=1.0))
PAGE = Path(__file__).parent.parent / "docs" / "models.md"


class TestTwoStage(ModelContract):
    config = WARM


@pytest.fixture
def model(tiny_clip: Clip) -> TwoStage:
    return build_model(ModelConfig(kind="two_stage"), tiny_clip).eval()


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Return the file that the page tells to write."""
    path = tmp_path / "two.toml"
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    path.write_text(block)
    return path


def texts(n: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def blocks(height: int, width: int, seed: int) -> np.ndarray:
    """Return a picture of patches of colour with some noise, float32 (height, width, 3)."""
    random = np.random.default_rng(seed)
    rows, columns = -(-height // 6), -(-width // 6)
    colours = random.random((rows, columns, 3)).repeat(6, axis=0).repeat(6, axis=1)
    noisy = colours[:height, :width] + 0.05 * random.standard_normal((height, width, 3))
    return noisy.clip(0, 1).astype(np.float32)


def regions_of(share: float = 0.01, most: int = 100) -> FelzenszwalbRegions:
    return FelzenszwalbRegions(scales=(20, 400, 100), smallest_share=share, most=most)


# Proposals


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (24, 31), (40, 40)])
def test_regions_cover_every_cell_and_none_occurs_twice(size: tuple[int, int], seed: int) -> None:
    masks = regions_of()(blocks(*size, seed))
    assert masks.shape[1:] == size
    assert masks.any(axis=0).all()
    assert masks.any(axis=(1, 2)).all()
    assert len({mask.tobytes() for mask in masks}) == len(masks)


@pytest.mark.parametrize("size", [(11, 13), (10, 14), (7, 17)])
def test_nothing_makes_more_regions_than_are_allowed(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    masks = FelzenszwalbRegions(scales=(1e-6,), smallest_share=0.01, most=100)(noise)
    assert 20 < len(masks) <= 100


def test_regions_of_several_scales_overlap() -> None:
    masks = regions_of()(blocks(40, 40, 0))
    assert masks.sum(axis=0).max() > 1


@pytest.mark.parametrize("room", [0, 1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_few_regions_still_cover_everything_and_are_the_largest(seed: int, room: int) -> None:
    cells = blocks(48, 40, seed)
    coarsest = FelzenszwalbRegions(scales=(400,), smallest_share=0.01, most=1)(cells)
    most = len(coarsest) + room
    everything, few = regions_of(most=1000)(cells), regions_of(most=most)(cells)
    assert len(few) == most < len(everything)
    np.testing.assert_array_equal(few[: len(coarsest)], coarsest)
    kept = {mask.tobytes() for mask in few}
    largest_left_out = max(mask.sum() for mask in everything if mask.tobytes() not in kept)
    assert all(mask.sum() >= largest_left_out for mask in few[len(coarsest) :])


def test_the_same_picture_has_the_same_regions_in_the_same_order() -> None:
    first, second = (regions_of()(blocks(33, 47, 5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_halves_of_two_colours_are_the_regions() -> None:
    cells = np.zeros((16, 20, 3), np.float32)
    cells[:, 9:] = 1
    # Smoothing before the search leaves a cell at the edge undecided.
    masks = FelzenszwalbRegions(scales=(50,), smallest_share=0.3, most=4)(cells)
    assert len(masks) == 2
    for mask in masks:
        columns = np.flatnonzero(mask.any(axis=0))
        assert mask[:, columns].all()
        assert columns[0] == 0 or abs(columns[0] - 9) <= 2


def test_one_colour_is_one_region(model: TwoStage) -> None:
    picture = torch.full((1, 3, 40, 24), 0.3)
    assert len(model.regions(picture[0])) == 1
    scores = model(picture, texts(3))
    assert torch.equal(scores, scores[..., :1, :1].expand_as(scores))


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, tiny_clip: Clip
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ConfigError, match=r"zegment\[two-stage\]"):
        build_model(ModelConfig(kind="two_stage"), tiny_clip)


# Cut-outs


def crop_by_hand(picture: Tensor, mask: Tensor, extra: int, outside: float) -> Tensor:
    """Return a square pixel by pixel, ``extra`` pixels larger on each side than the region."""
    places = mask.nonzero()
    (top, left), (bottom, right) = places.amin(0).tolist(), (places.amax(0) + 1).tolist()
    side = max(bottom - top, right - left) + 2 * extra
    top -= (side - (bottom - top)) // 2
    left -= (side - (right - left)) // 2
    made = torch.zeros(3, side, side)
    for y in range(side):
        for x in range(side):
            row, column = top + y, left + x
            if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
                share = 1.0 if mask[row, column] else outside
                made[:, y, x] = share * picture[:, row, column]
    return made


@pytest.mark.parametrize("box", [(0, 0, 5, 3), (7, 9, 11, 15), (2, 4, 3, 5), (0, 0, 12, 15)])
@pytest.mark.parametrize(("margin", "outside"), [(0.0, 0.0), (0.5, 0.25), (0.2, 1.0)])
def test_a_cutout_is_the_square_around_its_region(
    box: tuple[int, int, int, int], margin: float, outside: float
) -> None:
    torch.manual_seed(0)
    picture, mask = torch.randn(3, 12, 15), torch.zeros(12, 15, dtype=torch.bool)
    top, left, bottom, right = box
    mask[top:bottom, left:right] = torch.rand(bottom - top, right - left) > 0.4
    mask[top, left] = mask[bottom - 1, right - 1] = True
    extra = round(margin * max(bottom - top, right - left))
    wanted = crop_by_hand(picture, mask, extra, outside)
    made = MaskedCrop(margin=margin, outside=outside)(picture, mask, tuple(wanted.shape[1:]))
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


def test_a_cutout_has_the_size_of_clips_input() -> None:
    mask = torch.zeros(50, 40, dtype=torch.bool)
    mask[3:30, 8:12] = True
    assert MaskedCrop()(torch.randn(3, 50, 40), mask, (32, 32)).shape == (3, 32, 32)


# Votes


@pytest.mark.parametrize("seed", range(3))
def test_a_vote_is_the_mean_posterior_of_the_covering_regions(seed: int) -> None:
    torch.manual_seed(seed)
    regions, posteriors = torch.rand(5, 4, 6) > 0.5, torch.rand(5, 3).softmax(dim=1)
    regions[0] = True
    votes = vote(regions, posteriors)
    for y in range(4):
        for x in range(6):
            own = [posteriors[r] for r in range(5) if regions[r, y, x]]
            torch.testing.assert_close(votes[:, y, x], torch.stack(own).mean(dim=0))


def test_scores_sum_to_one_and_one_class_has_all(model: TwoStage) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 24, 36)
    for n in (1, 5):
        total = model.scores(model(image, texts(n))).sum(dim=1)
        torch.testing.assert_close(total, torch.ones(2, 6, 9))


def test_a_class_that_both_sides_of_an_edge_doubt_does_not_win_on_it(model: TwoStage) -> None:
    """Where logarithms were averaged, a third class would win between two that are sure."""
    sure = torch.tensor([[1 - 1e-2, 1e-9], [1e-9, 1 - 1e-2], [1e-2, 1e-2]])
    scores = F.interpolate(model.scores(sure[None, :, None]), size=(1, 8), mode="bilinear")
    assert scores.argmax(dim=1).unique().tolist() == [0, 1]


# The whole


def test_each_region_is_asked_about_by_itself(model: TwoStage) -> None:
    torch.manual_seed(0)
    image, names = torch.randn(1, 3, 40, 56), texts(4)
    total, count = torch.zeros(4, 10, 14), torch.zeros(10, 14)
    for region in model.regions(image[0]):
        mask = region.repeat_interleave(4, 0).repeat_interleave(4, 1)
        token, _ = model.tower(model.crop(image[0], mask, (32, 32))[None])
        total[:, region] += (100 * token[0] @ names.T).softmax(dim=0)[:, None]
        count += region
    torch.testing.assert_close(model(image, names)[0], total / count, rtol=1e-3, atol=1e-4)


def test_each_image_may_have_texts_of_its_own(model: TwoStage) -> None:
    torch.manual_seed(0)
    image, names = torch.randn(2, 3, 24, 32), torch.stack([texts(3, 1), texts(3, 2)])
    together = model(image, names)
    for i in range(2):
        alone = model(image[i : i + 1], names[i])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-4)


def test_regions_go_through_clip_a_few_at_a_time(
    model: TwoStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    image, names, sizes = torch.randn(2, 3, 48, 48), texts(3), []
    wanted = model(image, names)
    monkeypatch.setattr(two_stage, "CROP_BATCH", 3)
    model.tower.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(model(image, names), wanted, rtol=1e-3, atol=1e-4)
    assert max(sizes) == 3
    assert sum(sizes) == sum(len(model.regions(picture)) for picture in image)


def test_regions_are_found_in_colours_and_not_in_normalised_ones(tiny_clip: Clip) -> None:
    """Whose statistics images are normalised with decides nothing about their regions."""
    torch.manual_seed(0)
    pixels = torch.rand(3, 32, 32)
    found = []
    for normalization in ("clip", "imagenet"):
        config = ModelConfig(kind="two_stage", normalization=normalization)
        model = build_model(config, tiny_clip)
        found.append(model.regions((pixels - model.mean[:, None, None]) / model.std[:, None, None]))
    assert torch.equal(*found)


def test_it_finds_what_shapes_show(settings: Path) -> None:
    segmenter = Segmenter.of(load_trained("shapes-clip", config=load_config(file=settings)))
    assert isinstance(segmenter.model, TwoStage)
    scores = evaluate(segmenter, ShapesDataset("val", length=6)).scores
    assert scores.pAcc > 0.6  # of 20 classes


def test_the_command_evaluates_it(settings: Path) -> None:
    settings.write_text(settings.read_text() + "\n[data]\ntest_length = 2\n")
    done = CliRunner().invoke(cli.app, ["evaluate", "shapes-clip", "--config", str(settings)])
    assert done.exit_code == 0, done.output
    assert "hIoU" in done.output


def test_a_clip_predicts_densely_unless_two_stages_are_asked_for() -> None:
    trained = load_trained("shapes-clip", config=load_config(preset="shapes-zegclip"))
    assert isinstance(trained.model, DenseClip)


def test_nothing_of_it_is_trained(model: TwoStage) -> None:
    assert not model.trained_parameters()
    assert not model.trained_state()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, "scales: is empty"),
        ({"proposals": 10, "smallest_share": 0.02}, "proposals: 10 regions.*at least 50"),
        ({"outside": 1.5}, "outside: must be at least 0 and at most 1"),
        ({"smallest_share": 0}, "smallest_share: must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TwoStageConfig(**options)
