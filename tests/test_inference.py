"""Windows and the running argmax against their straightforward versions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment import inference
from zegment.config import WindowConfig
from zegment.inference import best_class, image_scores, window_starts, working_size
from zegment.models.base import SegmentationModel

TEXTS = torch.eye(3, 5)


class ColourModel(SegmentationModel):
    """Scores a patch by its mean colour: small, exact, and sensitive to shifts."""

    def __init__(self) -> None:
        super().__init__(mean=(0, 0, 0), std=(1, 1, 1), patch_size=4)
        self.largest_batch = 0

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        assert image.shape[-1] % 4 == 0
        assert image.shape[-2] % 4 == 0
        self.largest_batch = max(self.largest_batch, len(image))
        return F.avg_pool2d(image, 4)[:, : len(text_embeddings)]

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


@pytest.mark.parametrize(
    ("length", "size", "stride", "starts"),
    [
        (512, 512, 426, [0]),
        (513, 512, 426, [0, 1]),
        (1024, 512, 426, [0, 426, 512]),
        (100, 512, 426, [0]),
        (10, 4, 3, [0, 3, 6]),
    ],
)
def test_windows_cover_a_side_and_end_with_it(
    length: int, size: int, stride: int, starts: list[int]
) -> None:
    assert window_starts(length, size, stride) == starts


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (16, 16), (21, 40)])
def test_overlapping_windows_are_averaged(size: tuple[int, int]) -> None:
    model, image = ColourModel(), torch.randn(2, 3, *size)
    windows = WindowConfig(size=16, stride=10)
    total, count = torch.zeros(2, 3, *size), torch.zeros(size)
    for top in window_starts(size[0], 16, 10):
        for left in window_starts(size[1], 16, 10):
            rows, columns = slice(top, top + 16), slice(left, left + 16)
            total[..., rows, columns] += inference.window_scores(
                model, image[..., rows, columns], TEXTS
            )
            count[rows, columns] += 1
    assert count.min() >= 1
    torch.testing.assert_close(image_scores(model, image, TEXTS, windows), total / count)


def test_windows_go_through_the_model_in_batches() -> None:
    model = ColourModel()
    image_scores(model, torch.randn(1, 3, 64, 64), TEXTS, WindowConfig(size=16, stride=8))
    assert model.largest_batch == inference.WINDOW_BATCH


def test_odd_image_is_padded_and_cut_back() -> None:
    model, image = ColourModel(), torch.randn(1, 3, 13, 10)
    scores = image_scores(model, image, TEXTS, WindowConfig())
    assert scores.shape == (1, 3, 13, 10)
    padded = F.pad(image, (0, 2, 0, 3))
    logits = F.interpolate(F.avg_pool2d(padded, 4), size=(16, 12), mode="bilinear")
    torch.testing.assert_close(scores, logits.sigmoid()[..., :13, :10])


@pytest.mark.parametrize("classes", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("size", [(6, 7), (15, 11)])
def test_chunked_argmax_equals_one_argmax(classes: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(classes)
    # Few distinct values, so that ties are many.
    scores = torch.randint(0, 4, (2, classes, 6, 7), generator=generator) / 4
    seen = torch.rand(classes, generator=generator) > 0.5
    full = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    full = full if size != (6, 7) else scores
    expected_score, expected = (full - 0.1 * seen[:, None, None].float()).max(dim=1)
    labels, best = best_class(scores, seen, margin=0.1, size=size)
    assert torch.equal(labels, expected)
    assert torch.equal(best, expected_score)


def test_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="no class"):
        best_class(torch.zeros(1, 0, 2, 2), torch.zeros(0).bool(), margin=0, size=(2, 2))


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((375, 500), 512, (512, 683)),
        ((500, 375), 512, (683, 512)),
        ((96, 96), None, (96, 96)),
        ((2048, 512), 96, (384, 96)),
        ((2000, 10), 5, (20, 1)),
        ((1, 15_000), 96, (1, 384)),
    ],
)
def test_short_side_sets_the_working_size(
    size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
) -> None:
    assert working_size(*size, WindowConfig(short_side=short_side)) == expected
