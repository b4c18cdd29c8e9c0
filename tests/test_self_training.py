"""The transductive setting: where pseudo labels are, whose they are, and what never gets one."""

import pytest
import torch
from torch import Tensor, nn

from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.data.transforms import normalize
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.dense_clip import DenseClip, ValuePath
from zegment.objectives import NonMutuallyExclusive, SegmentationLoss, SoftmaxCrossEntropy
from zegment.self_training import (
    ClipGuide,
    Oracle,
    Region,
    SegmenterGuide,
    TransductiveObjective,
    Unlabelled,
    likeliest,
)
from zegment.teaching.teacher import Renormalization, Teacher
from zegment.training.stage_run import Joined
from zegment.training.state import training_tensors

SEEN = torch.tensor([True, False, True, True, False])
TEXTS = torch.eye(5, 8)
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def labels() -> Tensor:
    label = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(1))
    label[:, 0] = IGNORE_INDEX
    label[:, :, 7] = PADDING_INDEX
    return label


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(3, 8, generator=generator))

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        return torch.einsum("bchw,cd,kd->bkhw", image, self.weight, text_embeddings)


@pytest.fixture(params=[NonMutuallyExclusive(), SoftmaxCrossEntropy()], ids=["nel", "ce"])
def loss(request: pytest.FixtureRequest) -> SegmentationLoss:
    return request.param


def objective(region: Region | None = None, **options: object) -> TransductiveObjective:
    options = {"loss": NonMutuallyExclusive(), **options}
    return TransductiveObjective(TEXTS, seen=SEEN, region=region or Oracle(), **options)


@pytest.mark.parametrize("region", [Oracle(), Unlabelled()])
def test_targets_equal_a_loop_over_pixels(region: Region) -> None:
    label = labels()
    logits = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(3))
    target = objective(region).target(label, logits)
    for b, y, x in torch.cartesian_prod(*map(torch.arange, label.shape)).tolist():
        truth = int(label[b, y, x])
        guess = 1 if logits[b, 1, y, x] >= logits[b, 4, y, x] else 4
        if truth in (0, 2, 3):
            expected = truth
        elif truth == PADDING_INDEX:
            expected = IGNORE_INDEX
        elif truth == IGNORE_INDEX:
            expected = guess if isinstance(region, Unlabelled) else IGNORE_INDEX
        else:
            expected = guess
        assert int(target[b, y, x]) == expected, (b, y, x)


@pytest.mark.parametrize("size", [(11, 7), (4, 5), (3, 3)])
def test_likeliest_is_the_best_of_all_resized_logits(size: tuple[int, int]) -> None:
    logits = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(4))
    full = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(likeliest(logits, size), full.argmax(dim=1))
    assert not likeliest(torch.ones(1, 3, 2, 2), size).any()  # the first of equal ones


def test_pseudo_labels_come_from_resized_logits() -> None:
    logits = torch.zeros(2, 5, 2, 2)
    logits[:, 4, :, 1] = 1  # the other unseen class is ahead on the right
    logits[:, 1, :, 0] = 1
    label = torch.full((2, 8, 8), 4)
    target = objective(Oracle()).target(label, logits)
    assert (target[..., :4] == 1).all()
    assert (target[..., 4:] == 4).all()


def test_unlabelled_training_does_not_depend_on_where_unseen_classes_are(
    loss: SegmentationLoss,
) -> None:
    """Hiding the unseen classes in the labels changes no gradient; for the oracle it does."""
    hidden = labels()
    hidden[(hidden == 1) | (hidden == 4)] = IGNORE_INDEX

    def gradient(region: Region, label: Tensor) -> Tensor:
        own, model = objective(region, loss=loss), Linear()
        sum(own(model, own.prepare(IMAGE, label)).values()).backward()
        assert model.weight.grad is not None
        return model.weight.grad

    assert torch.equal(gradient(Unlabelled(), labels()), gradient(Unlabelled(), hidden))
    assert not torch.equal(gradient(Oracle(), labels()), gradient(Oracle(), hidden))


def test_which_unseen_class_a_pixel_has_is_never_known(loss: SegmentationLoss) -> None:
    swapped = labels()
    swapped[labels() == 1], swapped[labels() == 4] = 4, 1
    logits = torch.randn(2, 5, 8, 8)
    for region in (Oracle(), Unlabelled()):
        own = objective(region, loss=loss)
        assert torch.equal(own.target(labels(), logits), own.target(swapped, logits))


def test_targets_carry_no_gradient_and_train(loss: SegmentationLoss) -> None:
    own, model = objective(loss=loss), Linear()
    batch = own.prepare(IMAGE, labels())
    assert batch.count is None
    sum(own(model, batch).values()).backward()
    assert model.weight.grad is not None
    assert model.weight.grad.any()


@pytest.mark.parametrize("size", [1, 2])
def test_parts_of_a_batch_count_together(loss: SegmentationLoss, size: int) -> None:
    """However a batch is split, loss and gradient are those of one loss over all of it."""
    own, model = objective(Unlabelled(), loss=loss), Linear()
    batch = own.prepare(IMAGE, labels())
    total = sum(sum(own(model, part).values()) for part in batch.split(size))
    (total * own.gradient_scale()).backward()
    again = Linear()
    logits = again(IMAGE, TEXTS)
    expected = sum(loss(logits, own.target(labels(), logits)).values())
    expected.backward()
    torch.testing.assert_close(total * own.gradient_scale(), expected)
    torch.testing.assert_close(model.weight.grad, again.weight.grad)


def test_a_guide_guesses_in_the_first_steps_only() -> None:
    def guide(image: Tensor, text_embeddings: Tensor) -> Tensor:
        logits = torch.zeros(len(image), len(text_embeddings), 8, 8)
        logits[:, 4] = 1
        return logits

    own, model, seen = objective(Oracle(), guide=guide, guided_steps=2), Linear(), []
    own.target = lambda label, logits: seen.append(logits) or label.clamp(max=4)  # type: ignore[method-assign]
    for _ in range(3):
        own(model, own.prepare(IMAGE, labels()))
    assert [bool((guess[:, 4] == 1).all()) for guess in seen] == [True, True, False]


def test_clip_guides_with_the_pixels_that_it_is_used_to(tiny_clip) -> None:
    tiny_tower = tiny_clip.image_tower
    mean, std = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
    clip = DenseClip(tiny_tower, ValuePath(), mean=mean, std=std, temperature=1.0)
    side = 2 * tiny_tower.shape.patch_size
    pixels = torch.rand(2, 3, side, side)
    text = nn.functional.normalize(torch.randn(4, tiny_tower.shape.embed_dim), dim=1)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    teacher = Teacher(
        tiny_tower, ValuePath(), mean=mean, std=std,
        student_mean=IMAGENET_MEAN, student_std=IMAGENET_STD,
    )  # fmt: skip
    guide = ClipGuide(teacher)
    ours = guide(normalised(IMAGENET_MEAN, IMAGENET_STD), text)
    torch.testing.assert_close(ours, clip(normalised(mean, std), text), rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in guide.parameters())


class Graded(SegmentationModel):
    """A model with dropout and statistics, so that it shows how it is used."""

    def __init__(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__(mean=mean, std=std, patch_size=4)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Dropout(0.5)
        )

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        assert all(side % 4 == 0 for side in image.shape[-2:])
        return torch.einsum("bchw,kc->bkhw", self.layers(image), text_embeddings)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


@pytest.mark.parametrize("size", [(8, 12), (9, 11)])
def test_a_segmenter_guides_with_the_pixels_that_it_is_used_to(size: tuple[int, int]) -> None:
    model = Graded(mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3)).eval()
    renormalize = Renormalization(
        given_mean=IMAGENET_MEAN, given_std=IMAGENET_STD, mean=(0.3, 0.4, 0.5), std=(0.2, 0.25, 0.3)
    )
    pixels = torch.rand(2, 3, *size)
    guide = SegmenterGuide(model, renormalize, fingerprint="")
    guess = guide(normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)), TEXTS)
    own = normalize(pixels, model.mean, model.std)
    own = nn.functional.interpolate(
        own, size=(guess.shape[2] * 4, guess.shape[3] * 4), mode="bilinear"
    )
    torch.testing.assert_close(guess, model(own, TEXTS), rtol=1e-4, atol=1e-4)
    assert not guess.requires_grad


def test_a_segmenter_that_guides_learns_nothing_and_is_not_saved() -> None:
    model = Graded(mean=IMAGENET_MEAN, std=IMAGENET_STD).train()
    same = Renormalization(
        given_mean=IMAGENET_MEAN, given_std=IMAGENET_STD, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    guide = SegmenterGuide(model, same, fingerprint="0123")
    own = objective(Unlabelled(), guide=guide, guided_steps=9)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    joined = Joined(Linear(), own)
    joined.train()
    targets = []
    own.target = lambda label, logits: targets.append(logits) or label.clamp(max=4)  # type: ignore[method-assign]
    for _ in range(2):
        sum(joined(own.prepare(IMAGE, labels())).values()).backward()
    assert torch.equal(targets[0], targets[1]), "it drops nothing out"
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert training_tensors(joined).keys() == {"model.weight", "objective.steps"}
    assert [name for name, _ in joined.named_parameters()] == ["model.weight"]
    assert own.facts() == {"guide": "0123"}
    assert objective().facts() == {}


def test_without_unseen_classes_there_is_nothing_to_guess() -> None:
    with pytest.raises(ValueError, match="no class is unseen"):
        TransductiveObjective(
            TEXTS, seen=torch.ones(5, dtype=torch.bool), loss=SoftmaxCrossEntropy(), region=Oracle()
        )
