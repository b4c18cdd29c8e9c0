"""Windows, parts of scores, and winners tile by tile, against their straightforward versions."""

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from comparisons.plain_prediction import plain_labels, plain_scores, starts
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.errors import ConfigError, NotFiniteError
from zegment.inference import decisions
from zegment.inference.decisions import Judgement, best_class, decide, entropy
from zegment.inference.fields import HeldScores, WindowedScores
from zegment.inference.image import NormalizedImage, WorkingImage
from zegment.inference.resizing import axis, resize
from zegment.inference.running import Execution, Runner
from zegment.inference.windows import shared_stretches, window_places, window_starts, working_size
from zegment.models.base import SegmentationModel


class PatchModel(SegmentationModel):
    """Logits are a random projection of patches: cheap, and different for every class."""

    def __init__(self, classes: int, *, separate: bool, patch_size: int = 8) -> None:
        super().__init__(mean=(0.5,) * 3, std=(0.5,) * 3, patch_size=patch_size)
        self.separate = separate
        generator = torch.Generator().manual_seed(classes)
        self.filters = torch.randn(classes, 3, patch_size, patch_size, generator=generator)
        self.batches: list[int] = []

    @property
    def separate_scores(self) -> bool:
        return self.separate

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        self.batches.append(len(image))
        filters = self.filters[: len(text_embeddings)] / self.patch_size
        return F.conv2d(image, filters, stride=self.patch_size)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.separate else logits.softmax(dim=1)


def image_of(size: tuple[int, int], batch: int = 1, seed: int = 0) -> Tensor:
    """Return a normalised image with large and small structures."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, 3, 4, generator=generator)
    fine = torch.randn(batch, 3, *size, generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic") + 0.3 * fine


def own_resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as torch does it for large pictures, also where those of torch are small."""
    device = planes.device
    rows, columns = axis(planes.shape[2], size[0], device), axis(planes.shape[3], size[1], device)
    return resize(planes, rows, columns)


def field_of(
    model: SegmentationModel, image: Tensor, classes: int, windows: WindowConfig
) -> WindowedScores:
    return WindowedScores(Runner(model), NormalizedImage(image), torch.zeros(classes, 4), windows)


@pytest.fixture(params=[2**14, 2**20], ids=["small tiles", "large tiles"])
def tile_numbers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(decisions.TILE_NUMBERS, "cpu", request.param)
    return


class TestPlaces:
    @pytest.mark.parametrize(
        ("length", "size", "stride", "expected"),
        [
            (512, 512, 426, [0]),
            (513, 512, 426, [0, 1]),
            (1024, 512, 426, [0, 426, 512]),
            (100, 512, 426, [0]),
            (10, 4, 3, [0, 3, 6]),
        ],
    )
    def test_windows_cover_a_side_and_end_with_it(
        self, length: int, size: int, stride: int, expected: list[int]
    ) -> None:
        assert window_starts(length, size, stride) == expected
        assert starts(length, size, stride) == expected

    def test_stretches_cover_what_is_asked_for_once_and_name_every_window(self) -> None:
        places = window_places(100, 30, 20)
        found = list(shared_stretches(places, slice(7, 93)))
        pixels = [p for stretch, _ in found for p in range(stretch.start, stretch.stop)]
        assert pixels == list(range(7, 93))
        for stretch, numbers in found:
            for pixel in range(stretch.start, stretch.stop):
                wanted = [i for i, p in enumerate(places) if p.start <= pixel < p.stop]
                assert list(numbers) == wanted

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
        self, size: tuple[int, int], short_side: int | None, expected: tuple[int, int]
    ) -> None:
        assert working_size(*size, WindowConfig(short_side=short_side)) == expected


class TestResizing:
    @pytest.mark.parametrize(
        ("samples", "pixels"),
        [((32, 32), (512, 512)), ((7, 9), (65, 83)), ((37, 41), (518, 574)), ((200, 90), (70, 61))],
    )
    def test_numbers_are_those_of_torch(
        self, samples: tuple[int, int], pixels: tuple[int, int]
    ) -> None:
        planes = torch.randn(2, 5, *samples)
        expected = F.interpolate(planes, size=pixels, mode="bilinear", align_corners=False)
        assert torch.equal(own_resize(planes, pixels), expected)

    def test_a_part_has_the_numbers_of_the_whole(self) -> None:
        planes = torch.randn(1, 4, 13, 9)
        y, x = axis(13, 200, planes.device), axis(9, 33, planes.device)
        whole = resize(planes, y, x)
        for rows, columns in [
            (slice(0, 1), slice(0, 33)),
            (slice(3, 97), slice(5, 6)),
            (slice(120, 200), slice(30, 33)),
        ]:
            own_y, own_x = y.part(rows), x.part(columns)
            part = resize(planes[..., own_y.samples, own_x.samples], own_y, own_x)
            assert torch.equal(part, whole[..., rows, columns])

    @pytest.mark.parametrize("pixels", [(3, 3), (16, 20), (5, 60)])
    def test_all_of_a_much_smaller_picture_is_a_part_too(self, pixels: tuple[int, int]) -> None:
        # Its first and last pixels need neither the first nor the last sample.
        planes = torch.randn(1, 5, 50, 96)
        y, x = axis(50, pixels[0], planes.device), axis(96, pixels[1], planes.device)
        rows, columns = y.part(slice(0, pixels[0])), x.part(slice(0, pixels[1]))
        expected = F.interpolate(planes, size=pixels, mode="bilinear", align_corners=False)
        for complete in (True, False):
            source = planes[..., rows.samples, columns.samples]
            torch.testing.assert_close(resize(source, rows, columns, complete=complete), expected)

    def test_a_part_of_a_part_counts_from_the_samples_of_the_whole(self) -> None:
        y = axis(10, 100, torch.device("cpu")).part(slice(20, 80)).part(slice(30, 40))
        assert (y.low, y.high) == (4, 7)
        assert torch.equal(y.first + y.low, axis(10, 100, torch.device("cpu")).first[50:60])


SETTINGS = [
    pytest.param((200, 310), WindowConfig(size=96, stride=64), None, id="windows"),
    pytest.param((150, 90), WindowConfig(), None, id="one window, odd sides"),
    pytest.param((60, 100), WindowConfig(size=96, stride=64), (233, 391), id="enlarged"),
    pytest.param((200, 310), WindowConfig(size=128), (71, 103), id="made smaller"),
    pytest.param((96, 128), WindowConfig(size=64, stride=48), (16, 20), id="made much smaller"),
    pytest.param((130, 131), WindowConfig(size=80, stride=16), None, id="many windows per pixel"),
]


class TestLabels:
    @pytest.mark.parametrize(("size", "windows", "result"), SETTINGS)
    @pytest.mark.parametrize("separate", [True, False], ids=["sigmoid", "softmax"])
    @pytest.mark.parametrize("classes", [1, 5, 40])
    @pytest.mark.usefixtures("tile_numbers")
    def test_they_are_exactly_those_of_the_straightforward_computation(
        self,
        size: tuple[int, int],
        windows: WindowConfig,
        result: tuple[int, int] | None,
        separate: bool,
        classes: int,
    ) -> None:
        model = PatchModel(classes, separate=separate)
        image = image_of(size, seed=classes)
        seen = torch.arange(classes) % 3 == 0
        expected = plain_labels(
            model, image, torch.zeros(classes, 4), windows, seen=seen, margin=0.1, size=result
        )
        field = field_of(model, image, classes, windows)
        labels, _ = best_class(field, seen, margin=0.1, size=result or size)
        assert torch.equal(labels, expected)
        assert classes < 5 or len(labels.unique()) > 1

    @pytest.mark.parametrize("seed", range(4))
    def test_two_images_are_each_labelled_as_alone(self, seed: int) -> None:
        model, windows = PatchModel(60, separate=True), WindowConfig(size=96, stride=64)
        image, seen = image_of((130, 140), batch=2, seed=seed), torch.arange(60) < 20
        together, _ = best_class(
            field_of(model, image, 60, windows), seen, margin=0.1, size=(130, 140)
        )
        for i in range(2):
            expected = plain_labels(
                model, image[i : i + 1], torch.zeros(60, 4), windows, seen=seen, margin=0.1
            )
            assert torch.equal(together[i : i + 1], expected)

    @pytest.mark.parametrize("size", [(20, 24), (64, 64), (61, 40)])
    def test_small_windows_equal_it_where_torch_itself_is_consistent(
        self, size: tuple[int, int]
    ) -> None:
        # Below 128 pixels of both sides together, torch rounds by the number of planes.
        model, windows = PatchModel(30, separate=True), WindowConfig(size=24, stride=16)
        image, seen = image_of(size), torch.zeros(30).bool()
        texts = torch.zeros(30, 4)
        plain = plain_labels(model, image, texts, windows, seen=seen, margin=0, resize=own_resize)
        labels, _ = best_class(field_of(model, image, 30, windows), seen, margin=0, size=size)
        assert torch.equal(labels, plain)

    def test_equal_scores_go_to_the_first_class(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scores = torch.randint(0, 4, (2, 33, 100, 110), generator=generator) / 4
        seen = torch.rand(33, generator=generator) > 0.5
        expected_best, expected = (scores - 0.25 * seen[:, None, None].float()).max(dim=1)
        labels, best = best_class(HeldScores(scores), seen, margin=0.25, size=(100, 110))
        assert torch.equal(labels, expected)
        assert torch.equal(best, expected_best)

    def test_classes_that_cannot_win_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        formed: list[int] = []

        class Spied(WindowedScores):
            def part(self, rows: slice, columns: slice, classes: Tensor | None = None) -> Tensor:
                formed.append(len(classes) if classes is not None else self.shape[1])
                return super().part(rows, columns, classes)

        model, windows = PatchModel(300, separate=True), WindowConfig(size=96, stride=64)
        # Patches of one colour, so that few classes share a tile.
        image = F.interpolate(torch.randn(1, 3, 4, 6), scale_factor=64, mode="nearest")
        field = Spied(Runner(model), NormalizedImage(image), torch.zeros(300, 4), windows)
        seen = torch.zeros(300).bool()
        labels, _ = best_class(field, seen, margin=0, size=(256, 384))
        expected = plain_labels(model, image, torch.zeros(300, 4), windows, seen=seen, margin=0)
        assert torch.equal(labels, expected)
        assert len(labels.unique()) > 5
        assert max(formed) < 200

    def test_no_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no class"):
            best_class(
                HeldScores(torch.zeros(1, 0, 2, 2)), torch.zeros(0).bool(), margin=0, size=(2, 2)
            )


class TestFields:
    @pytest.mark.parametrize("separate", [True, False])
    @pytest.mark.parametrize("blend", ["average", "smooth"])
    def test_no_score_leaves_its_bounds(self, separate: bool, blend: str) -> None:
        model = PatchModel(7, separate=separate)
        windows = WindowConfig(size=40, stride=24, blend=blend)
        field = field_of(model, image_of((70, 90)), 7, windows)
        for rows, columns in [(slice(0, 9), slice(30, 90)), (slice(21, 66), slice(5, 44))]:
            bounds = field.bounds(rows, columns)
            if not separate:
                assert bounds is None
                continue
            assert bounds is not None
            part = field.part(rows, columns)
            assert (part.amax(dim=(2, 3)) <= bounds[0] + 1e-6).all()
            assert (part.amin(dim=(2, 3)) >= bounds[1] - 1e-6).all()

    @pytest.mark.parametrize("separate", [True, False])
    def test_a_part_has_the_scores_of_the_whole(self, separate: bool) -> None:
        model, windows = PatchModel(6, separate=separate), WindowConfig(size=96, stride=64)
        image = image_of((140, 200))
        whole = plain_scores(model, image, torch.zeros(6, 4), windows)
        field = field_of(model, image, 6, windows)
        torch.testing.assert_close(field.all(), whole)
        ids = torch.tensor([4, 1])
        part = field.part(slice(11, 130), slice(90, 171), ids)
        # torch computes the last few numbers of a tensor by another route than the rest.
        expected = whole[:, ids, 11:130, 90:171]
        torch.testing.assert_close(part, expected, rtol=0, atol=1.2e-7)

    def test_smooth_windows_count_less_near_their_edges(self) -> None:
        windows = WindowConfig(size=80, stride=40, blend="smooth")
        model, image = PatchModel(3, separate=True), image_of((80, 200))
        found = field_of(model, image, 3, windows).all()
        total, weight = torch.zeros_like(found), torch.zeros(80, 200)
        places = (torch.arange(80) + 0.5) / 80
        bell = torch.sin(math.pi * places) ** 2
        own = bell[:, None] * bell
        for left in (0, 40, 80, 120):
            crop = slice(left, left + 80)
            full = F.interpolate(
                model(image[..., crop], torch.zeros(3, 4)), size=80, mode="bilinear"
            )
            total[..., crop] += full.sigmoid() * own
            weight[:, crop] += own
        torch.testing.assert_close(found, total / weight)
        plain = field_of(model, image, 3, WindowConfig(size=80, stride=40)).all()
        assert not torch.allclose(found, plain, atol=1e-3)

    def test_smooth_labels_equal_the_argmax_of_smooth_scores(self) -> None:
        windows = WindowConfig(size=80, stride=40, blend="smooth")
        model, image = PatchModel(90, separate=True), image_of((150, 200))
        seen = torch.zeros(90).bool()
        labels, _ = best_class(field_of(model, image, 90, windows), seen, margin=0, size=(150, 200))
        assert torch.equal(labels, field_of(model, image, 90, windows).all().argmax(dim=1))

    def test_each_window_goes_through_the_model_once(self) -> None:
        model, windows = PatchModel(40, separate=True), WindowConfig(size=64, stride=32)
        field = field_of(model, image_of((300, 200)), 40, windows)
        best_class(field, torch.zeros(40).bool(), margin=0, size=(300, 200))
        assert sum(model.batches) == len(window_starts(300, 64, 32)) * len(
            window_starts(200, 64, 32)
        )

    def test_logits_of_finished_rows_are_forgotten(self) -> None:
        model, windows = PatchModel(40, separate=True), WindowConfig(size=64, stride=32)
        field = field_of(model, image_of((900, 64)), 40, windows)
        held = []
        for _ in decide(field, Judgement(seen=torch.zeros(40).bool(), margin=0, size=(900, 64))):
            held.append(len(field._logits))
        assert max(held) <= 6  # a tile of 96 rows, and windows of 64 with 32 between them

    def test_pictures_are_normalised_where_they_are_looked_at(self) -> None:
        images = torch.randint(256, (1, 3, 40, 50), dtype=torch.uint8)
        mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
        expected = (images.float() / 255 - mean[:, None, None]) / std[:, None, None]
        rows, columns = slice(3, 20), slice(7, 9)
        whole = WorkingImage(images, mean, std, WindowConfig())
        torch.testing.assert_close(whole.crop(rows, columns), expected[..., rows, columns])
        smaller = WorkingImage(images, mean, std, WindowConfig(short_side=20))
        resized = F.interpolate(expected, size=(20, 25), mode="bilinear", antialias=True)
        torch.testing.assert_close(smaller.crop(slice(0, 20), slice(0, 25)), resized)


class TestSecondBest:
    @pytest.mark.parametrize("separate", [True, False])
    @pytest.mark.usefixtures("tile_numbers")
    def test_it_is_the_second_largest_score(self, separate: bool) -> None:
        model, windows = PatchModel(50, separate=separate), WindowConfig(size=96, stride=64)
        image, seen = image_of((150, 220)), torch.arange(50) % 2 == 0
        scores = plain_scores(model, image, torch.zeros(50, 4), windows)
        top = (scores - 0.1 * seen[:, None, None].float()).topk(2, dim=1).values
        judgement = Judgement(seen=seen, margin=0.1, size=(150, 220), second=True)
        for tile in decide(field_of(model, image, 50, windows), judgement):
            assert tile.second is not None
            own = (slice(None), tile.rows, tile.columns)
            # torch computes the last few numbers of a tensor by another route than the rest.
            torch.testing.assert_close(tile.best, top[:, 0][own], rtol=0, atol=1.2e-7)
            torch.testing.assert_close(tile.second, top[:, 1][own], rtol=0, atol=1.2e-7)

    def test_equal_scores_leave_no_margin(self) -> None:
        scores = torch.full((1, 4, 8, 9), 0.5)
        judgement = Judgement(seen=torch.zeros(4).bool(), margin=0, size=(8, 9), second=True)
        (tile,) = decide(HeldScores(scores), judgement)
        assert torch.equal(tile.second, tile.best)

    def test_of_one_class_it_is_its_own(self) -> None:
        scores = torch.rand(1, 1, 8, 9)
        judgement = Judgement(seen=torch.zeros(1).bool(), margin=0, size=(8, 9), second=True)
        (tile,) = decide(HeldScores(scores), judgement)
        assert torch.equal(tile.second, scores[:, 0])


class TestEntropy:
    def test_it_runs_from_certain_to_undecided(self) -> None:
        certain, even = torch.tensor([1.0, 0, 0]), torch.full((3,), 0.2)
        nothing = torch.zeros(3)
        scores = torch.stack([certain, even, nothing], dim=1)[None, :, None]
        assert entropy(scores).flatten().tolist() == pytest.approx([0, 1, 1], abs=1e-6)
        assert not entropy(torch.rand(1, 1, 2, 2)).any()


class TestRunner:
    def test_windows_go_through_the_model_in_batches(self) -> None:
        model = PatchModel(3, separate=True)
        Runner(model, Execution(window_batch=4))(torch.randn(10, 3, 16, 16), torch.zeros(3, 4))
        assert model.batches == [4, 4, 2]

    def test_odd_windows_are_padded_with_the_mean_colour(self) -> None:
        model = PatchModel(3, separate=True)
        image = torch.randn(1, 3, 13, 10)
        logits = Runner(model)(image, torch.zeros(3, 4))
        assert torch.equal(logits, model(F.pad(image, (0, 6, 0, 3)), torch.zeros(3, 4)))

    def test_the_batch_is_halved_when_memory_runs_out(self) -> None:
        class Greedy(PatchModel):
            def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
                if len(image) > 4:
                    raise MemoryError
                if len(image) > 2:
                    raise torch.OutOfMemoryError("tried to allocate too much")
                return super().forward(image, text_embeddings)

        runner = Runner(Greedy(3, separate=True), Execution(window_batch=8))
        images = torch.randn(7, 3, 16, 16)
        with pytest.warns(RuntimeWarning, match="out of memory with 4 windows.*going on with 2"):
            logits = runner(images, torch.zeros(3, 4))
        expected = Runner(PatchModel(3, separate=True))(images, torch.zeros(3, 4))
        torch.testing.assert_close(logits, expected)
        with warnings.catch_warnings():  # what was learnt is not forgotten
            warnings.simplefilter("error")
            runner(images, torch.zeros(3, 4))

    def test_one_window_that_does_not_fit_is_an_error(self) -> None:
        class Hungry(PatchModel):
            def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
                raise torch.OutOfMemoryError("tried to allocate too much")

        with pytest.raises(torch.OutOfMemoryError):
            Runner(Hungry(3, separate=True))(torch.randn(1, 3, 8, 8), torch.zeros(3, 4))

    def test_other_errors_are_not_taken_for_lack_of_memory(self) -> None:
        class Broken(PatchModel):
            def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
                raise RuntimeError("shapes do not fit")

        runner = Runner(Broken(3, separate=True), Execution(window_batch=8))
        with pytest.raises(RuntimeError, match="shapes"):
            runner(torch.randn(8, 3, 8, 8), torch.zeros(3, 4))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_logits_that_are_no_numbers_are_refused(self, value: float) -> None:
        model = PatchModel(3, separate=True)
        model.filters[1] = value
        image = torch.randn(1, 3, 8, 8), torch.zeros(3, 4)
        with pytest.raises(NotFiniteError, match=r"^the model's logits .*take another checkpoint"):
            Runner(model)(*image)
        with pytest.raises(NotFiniteError, match=r"^the logits of 'runs/a' are not all finite"):
            Runner(model, name="runs/a")(*image)

    def test_bfloat16_is_close_and_scores_stay_float32(self) -> None:
        model = PatchModel(5, separate=True)
        image = torch.randn(1, 3, 64, 64)
        exact = Runner(model)(image, torch.zeros(5, 4))
        short = Runner(model, Execution(precision="bfloat16"))(image, torch.zeros(5, 4))
        assert short.dtype == torch.float32
        assert not torch.equal(short, exact)
        torch.testing.assert_close(short, exact, rtol=0.05, atol=0.05)

    def test_unknown_precision_and_empty_batch_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
            Execution(precision="int4")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="window_batch"):
            Execution(window_batch=0)
