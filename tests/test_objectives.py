"""Settings: what reaches the loss, and what cannot, however hard one tries."""

import pytest
import torch
from torch import Tensor, nn

from zegment.clip import Clip
from zegment.config import LossConfig, ModelConfig, ZegClipConfig
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.described import DescribedObjective
from zegment.errors import LeakError
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model
from zegment.objectives import (
    InductiveObjective,
    NonMutuallyExclusive,
    Objective,
    SegmentationLoss,
    SoftmaxCrossEntropy,
)
from zegment.self_training import TransductiveObjective, Unlabelled
from zegment.training.mask_losses import mask_loss, taught_losses


class Layered(SegmentationModel):
    """A model of two layers, the masks of both of which are looked at."""

    def __init__(self) -> None:
        super().__init__(mean=(0, 0, 0), std=(1, 1, 1), patch_size=4)
        generator = torch.Generator().manual_seed(2)
        self.first = nn.Parameter(torch.randn(3, 8, generator=generator))
        self.last = nn.Parameter(torch.randn(3, 8, generator=generator))

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        return self.training_logits(image, text_embeddings)[0]

    def training_logits(self, image: Tensor, text_embeddings: Tensor) -> list[Tensor]:
        rows = "kd" if text_embeddings.dim() == 2 else "bkd"
        return [
            torch.einsum(f"bchw,cd,{rows}->bkhw", image[..., ::4, ::4], weight, text_embeddings)
            for weight in (self.last, self.first)
        ]

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class Recorder(nn.Module):
    """A model that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))
        self.given: list[Tensor] = []

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        self.given.append(text_embeddings)
        return torch.einsum("bchw,cd,kd->bkhw", image[..., ::4, ::4], self.weight, text_embeddings)


@pytest.fixture(params=[NonMutuallyExclusive(), SoftmaxCrossEntropy()], ids=["nel", "ce"])
def loss(request: pytest.FixtureRequest) -> SegmentationLoss:
    return request.param


SEEN = [0, 2, 3]
TEXTS = torch.eye(5, 8)
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABEL = torch.randint(0, 5, (2, 8, 8), generator=torch.Generator().manual_seed(1))


def gradient(objective: InductiveObjective, label: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    model = Recorder()
    sum(objective(model, objective.prepare(IMAGE, label)).values()).backward()
    return model.weight.grad, model.given


def test_seen_labels_become_ranks_and_all_others_are_ignored() -> None:
    objective = InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=SoftmaxCrossEntropy())
    target = objective.target(torch.tensor([[[0, 1, 2, 3, 4, IGNORE_INDEX, 200]]]))
    assert target.tolist() == [[[0, IGNORE_INDEX, 1, 2, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]]]


def test_unseen_ids_never_reach_the_loss(loss: SegmentationLoss) -> None:
    """Whatever unseen pixels are called, losses and gradients stay the same to the last bit."""
    objective = InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=loss)
    swapped = LABEL.clone()
    swapped[LABEL == 1], swapped[LABEL == 4] = 4, 1
    hidden = torch.where(torch.isin(LABEL, torch.tensor(SEEN)), LABEL, IGNORE_INDEX)
    expected, _ = gradient(objective, LABEL)
    assert expected.any()
    for label in (swapped, hidden):
        assert torch.equal(gradient(objective, label)[0], expected)


def test_model_is_given_seen_embeddings_only(loss: SegmentationLoss) -> None:
    objective = InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=loss)
    _, given = gradient(objective, LABEL)
    assert len(given) == 1
    assert torch.equal(given[0], TEXTS[SEEN])


def test_embeddings_of_all_classes_are_refused() -> None:
    with pytest.raises(LeakError, match="5 text embeddings for 3 seen classes"):
        InductiveObjective(TEXTS, seen=SEEN, loss=SoftmaxCrossEntropy())


@pytest.mark.parametrize("seen", [[0, 0, 1], [0, -1, 2], [0, 1, IGNORE_INDEX]])
def test_seen_ids_must_be_distinct_labels(seen: list[int]) -> None:
    with pytest.raises(ValueError, match="seen ids"):
        InductiveObjective(TEXTS[:3], seen=seen, loss=SoftmaxCrossEntropy())


@pytest.mark.parametrize("label", [-1, PADDING_INDEX + 1])
def test_labels_outside_the_table_are_refused(label: int) -> None:
    objective = InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=SoftmaxCrossEntropy())
    with pytest.raises(IndexError):
        objective.target(torch.tensor([[[label]]]))


def test_parts_of_a_batch_add_up_to_the_whole(loss: SegmentationLoss) -> None:
    objective = InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=loss)
    model, batch = Recorder(), objective.prepare(IMAGE, LABEL)
    parts = batch.split(1)
    assert len(parts) == 2
    total = sum(sum(objective(model, part).values()) for part in parts)
    torch.testing.assert_close(sum(objective(model, batch).values()), total)


def settings(loss: SegmentationLoss) -> dict[str, Objective]:
    flags = torch.zeros(5, dtype=torch.bool)
    flags[SEEN] = True
    return {
        "inductive": InductiveObjective(TEXTS[SEEN], seen=SEEN, loss=loss),
        "transductive": TransductiveObjective(TEXTS, seen=flags, loss=loss, region=Unlabelled()),
        "described": DescribedObjective(TEXTS[:2], place=1, sentences=TEXTS[2:], loss=loss),
    }


@pytest.mark.parametrize("name", ["inductive", "transductive", "described"])
def test_every_logits_of_a_model_has_the_same_losses(loss: SegmentationLoss, name: str) -> None:
    """However a batch is split, losses and gradients are those of each logits by itself."""
    objective, item = settings(loss)[name], torch.tensor([2, 0])
    label = LABEL.clamp(max=1) if name == "described" else LABEL
    model = Layered()
    batch = objective.prepare(IMAGE, label, item)
    found: dict[str, Tensor] = {}
    for part in batch.split(1):
        for key, value in objective(model, part).items():
            found[key] = found.get(key, torch.zeros(())) + value
    found = {key: value * objective.gradient_scale() for key, value in found.items()}
    sum(found.values()).backward()

    plain, text = Layered(), batch.text_embeddings
    text = objective.text_embeddings if text is None else text
    logits = plain.training_logits(IMAGE, text)
    target = batch.label
    if name == "transductive":  # the last layer guesses, for all
        target = objective.target(label, logits[0])
    expected = loss(logits[0], target)
    expected |= {f"{key}_0": value for key, value in loss(logits[1], target).items()}
    sum(expected.values()).backward()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert theirs.grad.any()
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("kind", "expected"), [("zegclip", NonMutuallyExclusive), ("one_stage", SoftmaxCrossEntropy)]
)
def test_the_loss_is_chosen_by_how_a_model_scores(
    tiny_clip: Clip, kind: str, expected: type[SegmentationLoss]
) -> None:
    zegclip = ZegClipConfig(decoder_heads=2)
    model = build_model(ModelConfig(kind=kind, zegclip=zegclip), tiny_clip)
    assert isinstance(mask_loss(LossConfig(), model), expected)
    for chosen, other in CHOSEN.items():
        assert isinstance(mask_loss(LossConfig(kind=chosen), model), other)


CHOSEN = {"non_mutually_exclusive": NonMutuallyExclusive, "cross_entropy": SoftmaxCrossEntropy}


def test_a_student_is_taught_by_both_losses_or_by_the_one_that_is_chosen() -> None:
    both = taught_losses(LossConfig(dice_weight=3.0))
    assert [type(loss) for loss in both] == [NonMutuallyExclusive, SoftmaxCrossEntropy]
    assert both[0] == NonMutuallyExclusive(dice_weight=3.0)
    for chosen, other in CHOSEN.items():
        (only,) = taught_losses(LossConfig(kind=chosen))
        assert isinstance(only, other)
