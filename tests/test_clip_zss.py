"""The setting of CLIP-ZSS: losses against loops, parts, processes, and what must not leak."""

import math
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from zegment.clip_zss import ClipZss, Lesson, fuse_labels
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.distributed import gather, mean_over_processes, others
from zegment.errors import LeakError
from zegment.objectives import NonMutuallyExclusive, SeenLabels, SoftmaxCrossEntropy
from zegment.teaching.global_learning import ClassTokenBank, GlobalLearning
from zegment.teaching.local_distillation import LocalDistillation
from zegment.teaching.pixel_learning import NOWHERE, PixelLearning
from zegment.teaching.synthesizer import Synthesizer
from zegment.teaching.teacher import Tokens

SEEN, CLASSES, DIM = [4, 0, 2], 6, 8  # 1, 3 and 5 are unseen


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXTS = F.normalize(random(CLASSES, DIM, seed=7), dim=-1)
LOSSES = {"loss_mask", "loss_dice", "loss_ce", "loss_bce", "loss_global", "loss_local"}


def teach(image: Tensor) -> Tokens:
    """A teacher of one linear layer, with tokens of eight pixels."""
    patches = F.avg_pool2d(image, 8)
    tokens = torch.einsum("bchw,cd->bhwd", patches, random(3, DIM, seed=8).to(image))
    pooled = torch.einsum("bc,cd->bd", image.mean(dim=(2, 3)), random(3, DIM, seed=9).to(image))
    return Tokens(F.normalize(pooled, dim=-1), F.normalize(tokens, dim=-1))


class LinearStudent(nn.Module):
    """Features of cells of ``cell`` pixels."""

    def __init__(self, cell: int = 4) -> None:
        super().__init__()
        self.cell, self.weight = cell, nn.Parameter(random(DIM, 3, seed=10))

    def features(self, image: Tensor) -> Tensor:
        return torch.einsum("bchw,dc->bdhw", F.avg_pool2d(image, self.cell), self.weight)


def make_objective(seen: list[int] = SEEN, **changes: Any) -> ClipZss:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "teacher": teach,
        "mask_losses": [NonMutuallyExclusive(), SoftmaxCrossEntropy()],
        "global_learning": GlobalLearning(DIM, bank_size=5, temperature=0.3),
        "pixel_learning": PixelLearning((0.25, 0.5), threshold=0.6),
        "synthesizer": Synthesizer(DIM, heads=2).eval(),
        "local_distillation": LocalDistillation(teach, temperature=0.3),
        "temperature": 0.2,
        "pseudo_temperature": 0.4,
    }
    return ClipZss(TEXTS[seen], seen=seen, **(settings | changes))


def make_batch(
    batch: int = 3, seed: int = 0, size: tuple[int, int] = (48, 64)
) -> tuple[Tensor, Tensor]:
    """Images and labels with all classes, without annotation, and with padding at the right."""
    image = F.interpolate(random(batch, 3, 6, 8, seed=seed), size=size) + 0.3 * random(
        batch, 3, *size, seed=seed + 1
    )
    generator = torch.Generator().manual_seed(seed + 2)
    label = torch.randint(0, CLASSES + 1, (batch, size[0] // 8, size[1] // 8), generator=generator)
    label[label == CLASSES] = IGNORE_INDEX
    label = label.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    label[..., -8:] = PADDING_INDEX
    return image, label


# Losses.


def slow_losses(objective: ClipZss, student: LinearStudent, lesson: Lesson) -> dict[str, Tensor]:
    """The equations, image by image and class by class, for features as large as the labels.

    Each image is given its own groups only. What is divided by is counted here anew.
    """
    text, s = objective.text_embeddings, len(SEEN)
    total = {name: torch.zeros(()) for name in LOSSES}
    n_masks = n_seen = n_pixels = 0
    for i in range(len(lesson.image)):
        features = student.features(lesson.image[i : i + 1])[0]  # D, h, w
        label, token = lesson.target[i], lesson.class_token[i]
        own = lesson.present[i].nonzero().flatten()
        ids = [*range(s), *(own + s).tolist()]
        found = [k for k in ids if (label == k).any()]
        assert set(label.unique().tolist()) <= {*found, IGNORE_INDEX}
        means = {k: features[:, label == k].mean(dim=1) for k in found}

        scores = torch.einsum("dhw,d->hw", features, token) / math.sqrt(DIM)
        attention = scores.exp() / scores.exp().sum()
        pooled = F.normalize((features * attention).sum(dim=(1, 2)), dim=0)
        rivals = [
            token,
            *lesson.negatives,
            *(t for j, t in enumerate(lesson.class_token) if j != i),
        ]
        similar = torch.stack([(pooled @ r / 0.3).exp() for r in rivals])
        total["loss_global"] = total["loss_global"] - (similar[0] / similar.sum()).log()

        for k in found:
            c = {j: F.cosine_similarity(means[k], lesson.local_tokens[i, j], 0) for j in found}
            z = sum((x / 0.3).exp() for x in c.values())
            total["loss_local"] = total["loss_local"] - ((c[k] / 0.3).exp() / z).log()

        stacked = torch.stack([means[k] for k in found])[None]
        every = torch.ones(1, len(found), dtype=torch.bool)
        made = dict(zip(found, objective.synthesizer(stacked, every, token[None])[0], strict=True))
        for k in found:
            if k < s:
                total["loss_bce"] = total["loss_bce"] - (text[k] @ made[k]).sigmoid().log()
                n_seen += 1

        planes = [F.cosine_similarity(features, text[k][:, None, None], 0) / 0.2 for k in range(s)]
        planes += [F.cosine_similarity(features, made[k][:, None, None], 0) / 0.4 for k in ids[s:]]
        x = torch.stack(planes)
        n_masks, n_pixels = n_masks + len(found), n_pixels + int((label != IGNORE_INDEX).sum())
        for row, k in enumerate(ids):
            truth, p = (label == k).float(), x[row].sigmoid()
            right = truth * p + (1 - truth) * (1 - p)
            balance = truth * 0.25 + (1 - truth) * 0.75
            focal = (balance * (1 - right) ** 2 * -right.log()).mean()
            total["loss_mask"] = total["loss_mask"] + 100 * focal
            if k in found:
                dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
                total["loss_dice"] = total["loss_dice"] + 1 - dice
            chosen = x.log_softmax(dim=0)[row][label == k].sum()
            total["loss_ce"] = total["loss_ce"] - chosen
    by = dict.fromkeys(LOSSES, n_masks) | {
        "loss_bce": n_seen, "loss_ce": n_pixels, "loss_global": len(lesson.image)
    }  # fmt: skip
    return {name: value / by[name] for name, value in total.items()}


@pytest.mark.parametrize("seed", [0, 10, 20])
@pytest.mark.parametrize("batch", [1, 3])
def test_losses_equal_loops_over_images_and_their_own_groups(batch: int, seed: int) -> None:
    objective, student = make_objective(), LinearStudent()
    objective.prepare(*make_batch(2, seed=50))  # fills the bank
    lesson = objective.prepare(*make_batch(batch, seed=seed))
    assert lesson.present.any()
    assert batch == 1 or not lesson.present.all(), "choose another seed: images differ in groups"
    losses, expected = objective(student, lesson), slow_losses(objective, student, lesson)
    assert set(losses) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(sum(x.values()), student.weight)[0] for x in (losses, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_each_module_can_be_left_out() -> None:
    batch, student = make_batch(), LinearStudent()
    without = {"pixel_learning": None, "synthesizer": None, "local_distillation": None}
    plain = make_objective(global_learning=None, **without)
    lesson = plain.prepare(*batch)
    assert lesson.present.shape[1] == 0
    assert set(plain(student, lesson)) == {"loss_mask", "loss_dice", "loss_ce"}
    assert "loss_bce" not in make_objective(synthesizer=None)(student, lesson)
    assert set(lesson.target.unique().tolist()) == {0, 1, 2, IGNORE_INDEX}


def test_logits_are_scaled_cosines_and_absent_groups_win_nowhere() -> None:
    objective = make_objective().double()
    features, pseudo = random(2, DIM, 3, 5).double(), random(2, 4, DIM, seed=1).double()
    present = torch.tensor([[True, True, False, True], [False, True, False, False]])
    logits = objective.logits(features, pseudo, present)
    assert logits.shape == (2, 7, 3, 5)
    for i in range(2):
        for k in range(7):
            other = objective.text_embeddings[k] if k < 3 else pseudo[i, k - 3]
            cosine = F.cosine_similarity(features[i], other[:, None, None].double(), dim=0)
            if k < 3 or present[i, k - 3]:
                torch.testing.assert_close(logits[i, k], cosine / (0.2 if k < 3 else 0.4))
            else:
                assert not logits[i].softmax(dim=0)[k].any()
                assert not logits[i, k].sigmoid().any()
    leaves = features.requires_grad_(), pseudo.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: objective.logits(*x, present), leaves)


@pytest.mark.parametrize("cell", [4, 8])
def test_gradients_are_those_of_every_loss(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # mixed precision ends in ``float``
    objective, student = make_objective().double(), LinearStudent(cell).double()
    image, label = make_batch(2)
    lesson = objective.prepare(image.double(), label)

    def losses(weight: Tensor) -> tuple[Tensor, ...]:
        model = LinearStudent(cell)
        del model.weight
        model.weight = weight
        found = objective(model, lesson)
        return tuple(found[name] for name in sorted(LOSSES))

    assert torch.autograd.gradcheck(losses, student.weight, fast_mode=True)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("cell", [4, 8])
def test_parts_of_a_batch_add_up_to_the_whole(size: int, cell: int) -> None:
    objective, student = make_objective(), LinearStudent(cell)
    objective.prepare(*make_batch(2, seed=50))
    lesson = objective.prepare(*make_batch(5))
    parameters = [student.weight, *objective.parameters()]
    whole = objective(student, lesson)
    expected = torch.autograd.grad(sum(whole.values()), parameters)
    parts = lesson.split(size)
    assert [len(part.image) for part in parts] == [min(size, 5 - i) for i in range(0, 5, size)]
    total: dict[str, Tensor] = dict.fromkeys(LOSSES, torch.zeros(()))
    gradients = [torch.zeros_like(p) for p in parameters]
    for part in parts:
        losses = objective(student, part)
        for name, loss in losses.items():
            total[name] = total[name] + loss.detach()
        found = torch.autograd.grad(sum(losses.values()), parameters)
        gradients = [a + b for a, b in zip(gradients, found, strict=True)]
    for name in LOSSES:
        torch.testing.assert_close(total[name], whole[name].detach(), rtol=1e-4, atol=1e-5)
    for mine, g in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, g, rtol=1e-3, atol=1e-3)


# The bank.


def test_batch_meets_the_bank_as_it_was_before() -> None:
    objective = make_objective(local_distillation=None)
    bank, seen_before = objective.global_learning.bank, torch.zeros(0, DIM)
    for seed in range(3):
        image, label = make_batch(2, seed=seed)
        lesson = objective.prepare(image, label)
        assert torch.equal(lesson.negatives, seen_before[-5:])
        for part in lesson.split(1):
            objective(LinearStudent(), part)
        seen_before = torch.cat([seen_before, teach(image).class_token])
        assert torch.equal(bank.tokens, seen_before[-5:]), "once per step, also when it is split"


# Fused labels.


def test_groups_fill_what_nobody_annotated() -> None:
    target = torch.tensor([[[0, 2, IGNORE_INDEX], [IGNORE_INDEX, IGNORE_INDEX, 1]]])
    groups = torch.tensor([[[NOWHERE, NOWHERE, 0], [2, NOWHERE, NOWHERE]]])
    fused = fuse_labels(target, groups, num_seen=3)
    assert fused.tolist() == [[[0, 2, 3], [5, IGNORE_INDEX, 1]]]
    assert fused.dtype == torch.int64


@pytest.mark.parametrize("seed", [0, 10, 20])
def test_lesson_keeps_annotation_and_gives_padding_no_group(seed: int) -> None:
    image, label = make_batch(3, seed=seed)
    target = make_objective(stride=1).prepare(image, label).target
    for rank, k in enumerate(SEEN):
        assert (target[label == k] == rank).all()
    assert (target[label == PADDING_INDEX] == IGNORE_INDEX).all()
    hidden = ~torch.isin(label, torch.tensor([*SEEN, PADDING_INDEX]))
    fused = target[hidden]
    assert ((fused >= len(SEEN)) & (fused != IGNORE_INDEX)).float().mean() > 0.9
    smaller = make_objective(stride=4).prepare(image, label).target
    assert smaller.shape == (3, 12, 16)


def test_batch_without_annotation_and_fully_annotated_batch_have_finite_losses() -> None:
    image, label = make_batch(2)
    for filled in (SEEN[1], IGNORE_INDEX, PADDING_INDEX):
        objective, student = make_objective(), LinearStudent()
        lesson = objective.prepare(image, torch.full_like(label, filled))
        assert bool(lesson.present.any()) is (filled == IGNORE_INDEX)
        losses = objective(student, lesson)
        sum(losses.values()).backward()
        assert torch.stack(list(losses.values())).isfinite().all()
        assert student.weight.grad.isfinite().all()


# What must not leak.


def same_lessons(a: Lesson, b: Lesson) -> bool:
    for field in fields(Lesson):
        x, y = getattr(a, field.name), getattr(b, field.name)
        pairs = zip(x, y, strict=True) if isinstance(x, tuple) else [(x, y)]
        if not all(torch.equal(*map(torch.as_tensor, pair)) for pair in pairs):
            return False
    return True


def swap_unseen(label: Tensor) -> Tensor:
    table = torch.arange(PADDING_INDEX + 1)
    table[[1, 3, 5]] = torch.tensor([3, 5, 1])
    return table[label]


def hide_unseen(label: Tensor) -> Tensor:
    return torch.where(torch.isin(label, torch.tensor([1, 3, 5])), IGNORE_INDEX, label)


@pytest.mark.parametrize("change", [swap_unseen, hide_unseen])
def test_names_of_unseen_pixels_reach_nothing(change: Callable[[Tensor], Tensor]) -> None:
    image, label = make_batch()
    assert not torch.equal(change(label), label)
    results = []
    for given in (label, change(label)):
        objective, student = make_objective(), LinearStudent()
        lesson = objective.prepare(image, given)
        losses = objective(student, lesson)
        results.append((lesson, losses, torch.autograd.grad(sum(losses.values()), student.weight)))
    (lesson, losses, gradient), (other, other_losses, other_gradient) = results
    assert same_lessons(lesson, other)
    assert not same_lessons(lesson, replace(other, target=1 - other.target))
    assert all(torch.equal(losses[name], other_losses[name]) for name in LOSSES)
    assert torch.equal(gradient[0], other_gradient[0])


def test_embeddings_of_all_classes_are_refused() -> None:
    with pytest.raises(LeakError, match="6 text embeddings for 3 seen classes"):
        ClipZss(
            TEXTS,
            seen=SEEN,
            teacher=teach,
            mask_losses=[],
            global_learning=None,
            pixel_learning=None,
            synthesizer=None,
        )


def test_nothing_has_a_row_per_class() -> None:
    objective = make_objective()
    objective.prepare(*make_batch())
    state = dict(objective.named_buffers()) | dict(objective.named_parameters())
    assert not [name for name, tensor in state.items() if CLASSES in tensor.shape]
    assert torch.equal(objective.text_embeddings, TEXTS[SEEN])


def test_table_sends_every_unseen_label_to_the_same_number() -> None:
    labels = SeenLabels(SEEN)
    expected = [SEEN.index(k) if k in SEEN else IGNORE_INDEX for k in range(PADDING_INDEX + 1)]
    assert labels(torch.arange(PADDING_INDEX + 1).view(1, 1, -1)).flatten().tolist() == expected
    for wrong in (-1, PADDING_INDEX + 1):
        with pytest.raises(IndexError):
            labels(torch.tensor([[[wrong]]]))


# Two processes.


def lesson_of(objective: ClipZss, part: slice) -> dict[str, Any]:
    for seed in (0, 10):  # the second batch meets the first in the bank
        image, label = make_batch(4, seed=seed)
        lesson = objective.prepare(image[part], label[part])
    losses = objective(LinearStudent(), lesson)
    return {
        "losses": {name: loss.detach() for name, loss in losses.items()},
        "negatives": lesson.negatives,
        "bank": objective.global_learning.bank.tokens,
    }


def work(rank: int, folder: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    rows = torch.tensor([[1.0, rank], [2.0, rank]], requires_grad=True)
    bank = ClassTokenBank(3, 2)
    bank.enqueue(rows)
    result = {
        "mean": mean_over_processes(torch.tensor([1.0 + rank, 5.0])),
        "gather": gather(rows),
        "others": others(rows),
        "small bank": bank.tokens,
        **lesson_of(make_objective(), slice(2 * rank, 2 * rank + 2)),
    }
    torch.save(
        {k: v.detach() if isinstance(v, Tensor) else v for k, v in result.items()},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)  # new processes import this file by its name
        worker = import_module(Path(__file__).stem).work
        torch.multiprocessing.spawn(worker, args=(str(folder),), nprocs=2)
    sys.modules.pop(worker.__module__, None)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_processes_tell_each_other_in_the_order_of_their_ranks(two: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(two):
        assert found["mean"].tolist() == [1.5, 5.0]
        assert found["gather"].tolist() == [[1, 0], [2, 0], [1, 1], [2, 1]]
        assert found["others"].tolist() == [[1, 1 - rank], [2, 1 - rank]]
        assert found["small bank"].tolist() == [[2, 0], [1, 1], [2, 1]]


def test_one_process_tells_itself() -> None:
    rows = random(2, 3)
    assert torch.equal(mean_over_processes(rows), rows)
    assert torch.equal(gather(rows), rows)
    assert others(rows).shape == (0, 3)


def test_processes_have_one_bank_and_each_others_tokens(two: list[dict[str, Any]]) -> None:
    first, second = (teach(make_batch(4, seed=seed)[0]).class_token for seed in (0, 10))
    for rank, found in enumerate(two):
        torch.testing.assert_close(found["bank"], torch.cat([first[-1:], second]))
        theirs = second[2:] if rank == 0 else second[:2]
        rows = sorted(found["negatives"].tolist())
        expected = sorted([*theirs.tolist(), *first.tolist()])
        torch.testing.assert_close(torch.tensor(rows), torch.tensor(expected))


def test_mean_of_two_processes_is_the_loss_of_one(two: list[dict[str, Any]]) -> None:
    alone = lesson_of(make_objective(), slice(None))
    for name in LOSSES:
        mean = (two[0]["losses"][name] + two[1]["losses"][name]) / 2
        assert two[0]["losses"][name] != two[1]["losses"][name]
        torch.testing.assert_close(mean, alone["losses"][name], rtol=1e-4, atol=1e-5)
