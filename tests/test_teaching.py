"""The modules of CLIP-ZSS, each against its equation written as a slow loop."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor
from torch.autograd import gradcheck

from zegment.clip import Clip, LastLayer
from zegment.losses import info_nce, prototype_loss
from zegment.models.dense_clip import ValuePath
from zegment.teaching.global_learning import ClassTokenBank, GlobalLearning, attention_pool
from zegment.teaching.local_distillation import LocalDistillation
from zegment.teaching.pixel_learning import (
    NOWHERE,
    Groups,
    PixelLearning,
    fuse_masks,
    k_means,
    mostly,
    nearest_centre,
    seed_starts,
    to_pixels,
    window_seeds,
)
from zegment.teaching.synthesizer import Synthesizer, masked_means
from zegment.teaching.teacher import Teacher, Tokens
from zegment.teaching.token_cache import TokenCache


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def coin(*shape: int, seed: int = 0, share: float = 0.5) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


# Attention pooling, InfoNCE and the bank.


@pytest.mark.parametrize(("b", "d", "h", "w"), [(1, 4, 1, 1), (1, 3, 5, 2), (3, 7, 3, 5)])
def test_attention_pooling_equals_a_loop(b: int, d: int, h: int, w: int) -> None:
    features, token = random(b, d, h, w, seed=d), random(b, d, seed=w)
    pooled, attention = attention_pool(features, token)
    assert attention.shape == (b, h, w)
    for i in range(b):
        scores = {
            (y, x): math.exp(sum((token[i] * features[i, :, y, x]).tolist()) / math.sqrt(d))
            for y in range(h)
            for x in range(w)
        }
        total, expected = sum(scores.values()), torch.zeros(d, dtype=torch.float64)
        for (y, x), score in scores.items():
            assert attention[i, y, x].item() == pytest.approx(score / total)
            expected += score / total * features[i, :, y, x]
        torch.testing.assert_close(pooled[i], expected)


@pytest.mark.parametrize(("b", "v"), [(1, 0), (1, 3), (4, 0), (3, 5)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_equals_a_loop(b: int, v: int, temperature: float) -> None:
    anchor, positive, negatives = random(b, 5, seed=1), random(b, 5, seed=2), random(v, 5, seed=3)
    candidates = [*positive.numpy(), *negatives.numpy()]
    expected = 0.0
    for i, a in enumerate(anchor.numpy()):
        weights = [math.exp(cosine(a, c) / temperature) for c in candidates]
        expected -= math.log(weights[i] / sum(weights)) / b
    loss = info_nce(anchor, positive, negatives, temperature=temperature)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)


def test_prototype_loss_equals_a_loop() -> None:
    prototypes, text = random(3, 4, 5), F.normalize(random(4, 5, seed=1), dim=-1)
    present = coin(3, 4, seed=2)
    expected = 0.0
    for i, k in present.nonzero().tolist():
        expected += math.log(1 + math.exp(-(prototypes[i, k] @ text[k]).item())) / 7
    loss = prototype_loss(prototypes, text, present, count=torch.tensor(7.0))
    assert expected > 0
    assert loss.item() == pytest.approx(expected)
    nothing = prototype_loss(prototypes, text, torch.zeros_like(present), count=torch.tensor(1.0))
    assert nothing == 0


def test_gradients_are_those_of_the_functions() -> None:
    leaf = [random(2, 3, 2, 3).requires_grad_(), random(2, 3, seed=1).requires_grad_()]
    assert gradcheck(attention_pool, leaf)
    rows = [random(n, 4, seed=n).requires_grad_() for n in (3, 3, 2)]
    assert gradcheck(lambda *x: info_nce(*x, temperature=0.3), rows)
    prototypes, text = random(2, 3, 4).requires_grad_(), F.normalize(random(3, 4, seed=1), dim=-1)
    present = torch.tensor([[True, False, True], [False, True, True]])
    count = torch.tensor(4.0)
    assert gradcheck(lambda x: prototype_loss(x, text, present, count=count), prototypes)
    masks = coin(2, 3, 2, 3, seed=4).double()
    assert gradcheck(lambda x: masked_means(x, masks), leaf[0])
    distil = LocalDistillation(lambda x: x, temperature=0.5)
    tokens = random(2, 3, 4, seed=5)
    assert gradcheck(lambda x: distil(x, tokens, present, count=count), prototypes)


@pytest.mark.parametrize("size", [0, 1, 3, 5, 24])
@pytest.mark.parametrize("batches", [[1, 1, 1, 1], [2, 2, 2], [4, 1], [7]])
def test_bank_keeps_the_latest_tokens_oldest_first(size: int, batches: list[int]) -> None:
    bank, expected, given = ClassTokenBank(size, 2), [], 0
    for n in batches:
        rows = [[float(given + i), -1.0] for i in range(n)]
        given += n
        bank.enqueue(torch.tensor(rows))
        expected = (expected + rows)[max(len(expected) + n - size, 0) :]
        assert bank.tokens.tolist() == expected
        assert not bank.tokens.requires_grad


def test_global_learning_contrasts_pooled_features_with_tokens() -> None:
    features, negatives = random(3, 6, 2, 5), F.normalize(random(4, 6, seed=1), dim=-1)
    token = F.normalize(random(3, 6, seed=2), dim=-1)
    module = GlobalLearning(6, bank_size=4, temperature=0.2, weight=3.0)
    scores = torch.einsum("bdhw,bd->bhw", features, token) / math.sqrt(6)
    attention = scores.flatten(1).softmax(dim=1).view(3, 2, 5)
    pooled = F.normalize(torch.einsum("bdhw,bhw->bd", features, attention), dim=-1)
    logits = pooled @ torch.cat([token, negatives]).mT / 0.2
    expected = 3 * F.cross_entropy(logits, torch.arange(3))
    torch.testing.assert_close(module(features, token, negatives), expected)


# Seeds and K-Means.

STARTS = {
    (32, 4): list(range(0, 29, 2)),
    (32, 8): [0, 4, 8, 12, 16, 20, 24],
    (32, 16): [0, 8, 16],
    (12, 3): list(range(10)),
    (7, 4): [0, 2, 3],
    (5, 5): [0],
    (3, 8): [0],
    (4, 1): [0, 1, 2, 3],
}


@pytest.mark.parametrize(("length", "size"), STARTS)
def test_windows_start_at_every_half_window_and_reach_the_end(length: int, size: int) -> None:
    assert seed_starts(length, size) == STARTS[length, size]


@pytest.mark.parametrize(("h", "w", "sizes"), [(7, 12, (4, 3)), (5, 3, (8, 2)), (1, 1, (1,))])
def test_seeds_are_means_of_free_tokens(h: int, w: int, sizes: tuple[int, ...]) -> None:
    tokens, free = random(2, h, w, 3), coin(2, h, w, seed=h, share=0.3)
    seeds, alive = window_seeds(tokens, free, sizes)
    for i in range(2):
        m = 0
        for size in sizes:
            for top in STARTS.get((h, size), seed_starts(h, size)):
                for left in STARTS.get((w, size), seed_starts(w, size)):
                    window = slice(top, top + size), slice(left, left + size)
                    members = tokens[i][window][free[i][window]]
                    assert alive[i, m].item() is (len(members) > 0)
                    if len(members):
                        torch.testing.assert_close(seeds[i, m], members.mean(dim=0))
                    m += 1
        assert seeds.shape[1] == alive.shape[1] == m


def test_nearest_centre_is_the_euclidean_one_among_those_alive() -> None:
    tokens, centres = random(2, 9, 3), 2 * random(2, 5, 3, seed=1)
    alive = torch.tensor([[True, False, True, True, False], [False, False, True, False, False]])
    chosen = nearest_centre(tokens, centres, alive)
    for i in range(2):
        for n in range(9):
            distance = {
                m: sum((x - y) ** 2 for x, y in zip(tokens[i, n], centres[i, m], strict=True))
                for m in range(5)
                if alive[i, m]
            }
            assert chosen[i, n] == min(distance, key=distance.get)


def alike(b: int, h: int, w: int, seed: int) -> Tensor:
    """Unit tokens around six directions, as float64 so that two implementations agree."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(0, 6, (b, h, w), generator=generator)
    noise = 0.6 * random(b, h, w, 5, seed=seed + 1)
    return F.normalize(random(6, 5, seed=seed + 2)[which] + noise, dim=-1)


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_k_means_equals_scikit_learn(share: float, iterations: int, seed: int) -> None:
    tokens, free = alike(2, 7, 9, seed), coin(2, 7, 9, seed=seed, share=share)
    seeds = torch.stack([t[f][::6][:6] for t, f in zip(tokens, free, strict=True)])
    labels, centres = k_means(
        tokens.flatten(1, 2),
        free.flatten(1),
        seeds,
        torch.ones(2, 6, dtype=torch.bool),
        iterations=iterations,
    )
    assert (labels == NOWHERE).equal(~free.flatten(1))
    for i in range(2):
        rows = tokens[i][free[i]]
        for step in range(iterations):
            full = len(slow_k_means(rows, seeds[i], step)[0].unique()) == 6
            assert full, "choose another seed: empty clusters are filled by the reference alone"
        reference = KMeans(6, init=seeds[i].numpy(), n_init=1, max_iter=iterations, tol=0)
        reference.fit(rows.numpy())
        assert labels[i][free[i].flatten()].tolist() == reference.labels_.tolist()
        np.testing.assert_allclose(centres[i].numpy(), reference.cluster_centers_, atol=1e-9)


def slow_k_means(rows: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    centres = centres.clone()
    for step in range(iterations + 1):
        labels = ((rows[:, None] - centres) ** 2).sum(dim=2).argmin(dim=1)
        if step < iterations:
            for m in labels.unique():
                centres[m] = rows[labels == m].mean(dim=0)
    return labels, centres


def test_empty_clusters_keep_their_centres_and_dead_seeds_get_nothing() -> None:
    rows = torch.tensor([[0.0, 0], [1, 0], [10, 0], [11, 0]])
    seeds = torch.tensor([[0.0, 0], [99, 99], [0.4, 0], [12, 0]])
    alive, free = torch.tensor([[True, True, False, True]]), torch.ones(1, 4, dtype=torch.bool)
    labels, centres = k_means(rows[None], free, seeds[None], alive, iterations=5)
    assert labels.tolist() == [[0, 0, 3, 3]]
    assert centres[0, [0, 1, 3]].tolist() == [[0.5, 0], [99, 99], [10.5, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_k_means_equals_a_loop_also_where_clusters_run_empty(seed: int) -> None:
    rows, seeds = random(1, 12, 2, seed=seed), random(1, 9, 2, seed=seed + 50)
    every = torch.ones(1, 12, dtype=torch.bool), torch.ones(1, 9, dtype=torch.bool)
    labels, centres = k_means(rows, every[0], seeds, every[1], iterations=6)
    expected = slow_k_means(rows[0], seeds[0], 6)
    assert labels[0].equal(expected[0])
    torch.testing.assert_close(centres[0], expected[1])


# Fusion.


def slow_fusion(centres: np.ndarray, sizes: list[int], threshold: float) -> list[set[int]]:
    """Return the groups as sets of clusters, in the order in which they start."""
    left = [m for m in sorted(range(len(sizes)), key=lambda m: (-sizes[m], m)) if sizes[m]]
    groups = []
    while left:
        first = left[0]
        group = {first} | {m for m in left if cosine(centres[m], centres[first]) > threshold}
        groups.append(group)
        left = [m for m in left if m not in group]
    return groups


def as_sets(group: Tensor) -> set[frozenset[int]]:
    found = {g: (group == g).nonzero().flatten().tolist() for g in group.tolist() if g != NOWHERE}
    return {frozenset(members) for members in found.values()}


def at_angles(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_fusion_by_hand_is_greedy_by_size_and_not_transitive() -> None:
    """Neighbours 30° apart are alike, 60° apart are not; cos 30° > 0.8 > cos 60°."""
    centres = at_angles(0, 30, 60)[None].expand(4, 3, 2)
    sizes = torch.tensor([[9, 5, 1], [5, 9, 1], [1, 5, 9], [1, 0, 9]])
    fused = [as_sets(g) for g in fuse_masks(centres, sizes, threshold=0.8)]
    chain = [{frozenset({0, 1}), frozenset({2})}, {frozenset({0, 1, 2})}]
    assert fused[:2] == chain
    assert fused[2:] == [{frozenset({0}), frozenset({1, 2})}, {frozenset({0}), frozenset({2})}]


def test_fusion_equals_a_loop() -> None:
    fused_some = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        count, threshold = int(generator.integers(1, 14)), float(generator.uniform(-0.2, 0.95))
        centres, sizes = generator.normal(size=(2, count, 3)), generator.integers(0, 5, (2, count))
        group = fuse_masks(torch.tensor(centres), torch.tensor(sizes), threshold=threshold)
        assert group.dtype == torch.int64
        for i in range(2):
            expected = slow_fusion(centres[i], sizes[i].tolist(), threshold)
            assert as_sets(group[i]) == {frozenset(g) for g in expected}
            assert (group[i] == NOWHERE).tolist() == (sizes[i] == 0).tolist()
            fused_some += any(len(g) > 1 for g in expected)
    assert fused_some > 100


def test_nothing_is_fused_where_every_cluster_is_empty() -> None:
    group = fuse_masks(random(1, 4, 3), torch.zeros(1, 4, dtype=torch.int64), threshold=0.5)
    assert (group == NOWHERE).all()


# Pixels.


def two_blocks(h: int, w: int, angles: tuple[float, float] = (0, 90)) -> Tensor:
    tokens = torch.empty(1, h, w, 2, dtype=torch.float64)
    tokens[:, :, : w // 2], tokens[:, :, w // 2 :] = at_angles(*angles)
    return tokens


def test_a_token_is_free_if_more_than_half_of_its_pixels_are() -> None:
    pixels = torch.zeros(1, 4, 6, dtype=torch.bool)
    pixels[0, :2, 0] = True  # 2 of 4
    pixels[0, :2, 2], pixels[0, 0, 3] = True, True  # 3 of 4
    pixels[0, 2:, 4:] = True
    assert mostly(pixels, (2, 3)).tolist() == [[[False, True, False], [False, False, True]]]


@pytest.mark.parametrize(("h", "w"), [(8, 8), (5, 7), (9, 4)])
def test_two_blocks_of_alike_tokens_are_two_groups(h: int, w: int) -> None:
    free = torch.ones(1, 8 * h, 8 * w, dtype=torch.bool)
    groups = PixelLearning()(two_blocks(h, w), free)
    assert groups.present.tolist() == [[True, True]]
    column = 8 * (w // 2)
    first, second = (1, 0) if w % 2 else tuple(groups.label[0, 0, [0, -1]].tolist())
    assert (groups.label[..., :column] == first).all()
    assert (groups.label[..., column:] == second).all()
    torch.testing.assert_close(groups.centres[0, [first, second]], at_angles(0, 90))


def test_threshold_decides_what_is_alike() -> None:
    free = torch.ones(1, 16, 16, dtype=torch.bool)
    for angle, count in [(30, 1), (45, 2)]:
        groups = PixelLearning(threshold=0.8)(two_blocks(8, 8, (0, angle)), free)
        assert groups.present.sum() == count


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_are_where_nobody_annotated_and_only_there(seed: int) -> None:
    tokens = alike(3, 9, 7, seed)
    free = coin(3, 70, 52, seed=seed, share=0.3)
    free[:, 20:, 11:] = True
    free[1], free[2] = False, True
    groups = PixelLearning()(tokens, free)
    assert (groups.label[~free] == NOWHERE).all()
    assert (groups.label[1] == NOWHERE).all()
    assert not groups.present[1].any()
    assert (groups.label[2] != NOWHERE).all()
    for i in (0, 2):
        ids = set(groups.label[i].unique().tolist()) - {NOWHERE}
        assert ids <= set(groups.present[i].nonzero().flatten().tolist())


def same_groups(a: Groups, i: int, b: Groups) -> bool:
    count = int(b.present.sum())
    return (
        torch.equal(a.label[i], b.label[0])
        and int(a.present[i].sum()) == count
        and torch.allclose(a.centres[i, :count], b.centres[0, :count])
    )


def test_each_image_has_its_own_groups() -> None:
    tokens, free = alike(4, 6, 9, 3), coin(4, 48, 72, seed=1, share=0.8)
    free[1], tokens[2] = False, F.pad(two_blocks(6, 9)[0], (0, 3))
    learn = PixelLearning(smallest=0.05)
    together = learn(tokens, free)
    for i in range(4):
        assert same_groups(together, i, learn(tokens[i : i + 1], free[i : i + 1]))
        count = int(together.present[i].sum())
        assert together.present[i, :count].all(), "ids of each image begin at 0"
    assert all(map(torch.equal, together, learn(tokens, free)))


def test_small_groups_go_to_the_nearest_that_stays() -> None:
    tokens, free = two_blocks(10, 10), torch.ones(1, 40, 40, dtype=torch.bool)
    tokens[0, 4, 1] = at_angles(-50)[0]  # one token of a hundred, nearer to the left block
    tokens[0, 1, 7] = at_angles(150)[0]  # nearer to the right one
    kept = PixelLearning((0.1, 0.5), smallest=0.01)(tokens, free)
    assert kept.present.sum() == 4
    gone = PixelLearning((0.1, 0.5), smallest=0.02)(tokens, free)
    assert gone.present.sum() == 2
    left, right = gone.label[0, 0, 0], gone.label[0, 0, -1]
    assert (gone.label[..., :20] == left).all()
    assert (gone.label[..., 20:] == right).all()


def test_the_largest_group_always_stays() -> None:
    free = torch.ones(1, 36, 36, dtype=torch.bool)
    groups = PixelLearning(smallest=0.9)(two_blocks(9, 9), free)
    assert groups.present.tolist() == [[True]]
    assert (groups.label == 0).all()


def test_groups_are_numbered_by_size() -> None:
    groups = PixelLearning()(alike(2, 9, 9, 5), torch.ones(2, 72, 72, dtype=torch.bool))
    for i in range(2):
        count = int(groups.present[i].sum())
        assert count > 1
        sizes = [int((groups.label[i, 4::8, 4::8] == g).sum()) for g in range(count)]
        assert sizes == sorted(sizes, reverse=True)


def test_groups_are_numbered_by_their_final_size() -> None:
    groups = PixelLearning(threshold=0.5, smallest=0.1)(
        alike(1, 9, 9, 59), torch.ones(1, 9, 9, dtype=torch.bool)
    )
    sizes = groups.label.flatten().bincount().tolist()
    assert len(sizes) == groups.present.sum()
    assert sizes == sorted(sizes, reverse=True)


def test_borders_run_where_the_resized_masks_cross() -> None:
    groups = torch.tensor([[[0, 0, 1, 1, NOWHERE], [2, 0, 1, 1, NOWHERE]]])
    present, free = torch.ones(1, 3, dtype=torch.bool), coin(1, 11, 23, seed=0, share=0.8)
    label = to_pixels(groups, present, free)
    masks = torch.stack([(groups == g).double() for g in range(3)], dim=1)
    masks = F.interpolate(masks, size=(11, 23), mode="bilinear", align_corners=False)[0]
    for y in range(11):
        for x in range(23):
            if not free[0, y, x]:
                assert label[0, y, x] == NOWHERE
            elif masks[:, y, x].max() > 0:
                chosen = masks[label[0, y, x], y, x]
                assert chosen == pytest.approx(masks[:, y, x].max().item())


# Masked means, prototypes, local distillation.


def test_masked_means_equal_a_loop() -> None:
    features, masks = random(2, 3, 4, 5), coin(2, 4, 4, 5, seed=1, share=0.3)
    masks[0, 1], masks[1, 2] = False, True
    means = masked_means(features, masks.double())
    for i in range(2):
        for k in range(4):
            rows = [features[i, :, y, x] for y, x in masks[i, k].nonzero().tolist()]
            expected = sum(rows) / len(rows) if rows else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(means[i, k], expected)


def test_absent_classes_and_other_images_leave_prototypes_alone() -> None:
    torch.manual_seed(0)
    synthesizer = Synthesizer(8, layers=2, heads=2).double().eval()
    means, token = random(3, 5, 8), random(3, 8, seed=1)
    present = torch.tensor([[True, True, False, True, False], [False] * 4 + [True], [False] * 5])
    expected = synthesizer(means, present, token)
    assert expected.isfinite().all()
    changed = torch.where(present[..., None], means, 7 * random(3, 5, 8, seed=2))
    torch.testing.assert_close(synthesizer(changed, present, token)[present], expected[present])
    for i in range(3):
        only = present[i].nonzero().flatten()
        if len(only):
            alone = synthesizer(means[i : i + 1, only], present[i : i + 1, only], token[i : i + 1])
            torch.testing.assert_close(alone[0], expected[i, only])
    assert not torch.allclose(synthesizer(means, present, -token)[present], expected[present])


def test_local_distillation_equals_a_loop() -> None:
    means, tokens = random(3, 5, 4), random(3, 5, 4, seed=1)
    present = coin(3, 5, seed=2, share=0.6)
    present[1], present[2] = False, torch.arange(5) == 3
    expected = 0.0
    for i, k in present.nonzero().tolist():
        mine = means[i, k].numpy()
        weights = {
            j: math.exp(cosine(mine, tokens[i, j].numpy()) / 0.3) for j in range(5) if present[i, j]
        }
        expected -= 2 * math.log(weights[k] / sum(weights.values())) / 9
    distil = LocalDistillation(lambda x: x, temperature=0.3, weight=2.0)
    means.requires_grad_()
    loss = distil(means, tokens, present, count=torch.tensor(9.0))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert means.grad.isfinite().all()
    assert not means.grad[~present].any()


def test_local_tokens_are_those_of_masked_images() -> None:
    def colour(image: Tensor) -> Tokens:
        assert len(image) <= 2
        return Tokens(image.mean(dim=(2, 3)), image.new_zeros(len(image), 1, 1, 3))

    image, masks = random(2, 3, 6, 5).float(), coin(2, 4, 6, 5, seed=1).float()
    masks[0, 2], masks[1] = 0, torch.eye(4)[:, :, None, None].sum(dim=1) * 0
    tokens = LocalDistillation(colour, batch_size=2).tokens(image, masks)
    assert tokens.shape == (2, 4, 3)
    for i in range(2):
        for k in range(4):
            torch.testing.assert_close(tokens[i, k], (image[i] * masks[i, k]).mean(dim=(1, 2)))


# The teacher and its memory.


class Counting(Teacher):
    """A teacher that counts how many images it was shown."""

    shown = 0

    def forward(self, image: Tensor) -> Tokens:
        self.shown += len(image)
        return super().forward(image)


def make_teacher(
    clip: Clip,
    attention: LastLayer | None = None,
    *,
    name: str | None = None,
    student_mean: tuple[float, float, float] = (0.4, 0.5, 0.6),
) -> Counting:
    return Counting(
        clip.image_tower,
        attention or ValuePath(),
        mean=clip.mean,
        std=clip.std,
        student_mean=student_mean,
        student_std=(0.2, 0.3, 0.4),
        name=clip.fingerprint if name is None else name,
    )


def shown_to_student(rgb: Tensor) -> Tensor:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    return (rgb - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (8, 8)])
def test_teacher_says_what_clip_says_of_its_own_normalisation(
    tiny_clip: Clip, size: tuple[int, int]
) -> None:
    rgb = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tokens = make_teacher(tiny_clip)(shown_to_student(rgb))
    own = (rgb - torch.tensor(tiny_clip.mean).view(3, 1, 1)) / torch.tensor(tiny_clip.std).view(
        3, 1, 1
    )
    with torch.no_grad():
        class_token = tiny_clip.image_tower(own)[0]
        patches = tiny_clip.image_tower(own, last_layer=ValuePath())[1]
    torch.testing.assert_close(tokens.class_token, class_token, atol=1e-5, rtol=1e-4)
    patches = patches.view(2, size[0] // 8, size[1] // 8, -1)
    torch.testing.assert_close(tokens.patch_tokens, patches, atol=1e-5, rtol=1e-4)
    ones = torch.ones(tokens.patch_tokens.shape[:3])
    torch.testing.assert_close(tokens.patch_tokens.norm(dim=-1), ones)


@pytest.mark.parametrize(
    ("size", "grid"), [((33, 40), (5, 5)), ((5, 17), (1, 3)), ((31, 1), (4, 1))]
)
def test_teacher_takes_any_size(
    tiny_clip: Clip, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tokens = make_teacher(tiny_clip)(image)
    assert tokens.patch_tokens.shape[1:3] == grid
    alone = make_teacher(tiny_clip)(image[1:])
    torch.testing.assert_close(tokens.patch_tokens[1:], alone.patch_tokens)
    torch.testing.assert_close(tokens.class_token[1:], alone.class_token)


def test_teacher_is_frozen(tiny_clip: Clip) -> None:
    image = torch.randn(1, 3, 16, 16, requires_grad=True)
    teacher = make_teacher(tiny_clip)
    expected = teacher(image)
    tokens = teacher.train()(image)
    assert all(map(torch.equal, tokens, expected))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(t.requires_grad for t in tokens)


IMAGES = torch.randn(3, 3, 24, 40, generator=torch.Generator().manual_seed(5))


def test_remembered_tokens_are_the_rounded_ones_to_the_last_bit(
    tiny_clip: Clip, tmp_path: Path
) -> None:
    teacher = make_teacher(tiny_clip)
    expected = teacher(IMAGES)
    teacher.shown = 0
    cache = TokenCache(teacher, tmp_path / "deep" / "cache")
    first = cache(IMAGES)
    assert teacher.shown == 3
    second = cache(IMAGES.flip(0))
    assert teacher.shown == 3
    for a, b, exact in zip(first, second, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b.flip(0))
        torch.testing.assert_close(a, exact, atol=1e-3, rtol=1e-3)
        assert torch.equal(a, a.half().float())
    mixed = cache(torch.cat([IMAGES[1:2], -IMAGES[:1], IMAGES[:1]]))
    assert teacher.shown == 6  # the whole batch, so that nothing depends on what was known
    assert torch.equal(mixed.class_token[[0, 2]], first.class_token[[1, 0]])


def test_whatever_changes_the_answer_changes_the_file(tiny_clip: Clip, tmp_path: Path) -> None:
    image, path = IMAGES[0], TokenCache(make_teacher(tiny_clip), tmp_path).path
    paths = [path(image), path(IMAGES[1]), path(image + 1e-6), path(image.flip(-1))]
    paths += [path(image.view(3, 40, 24)), path(image[:, :16])]
    paths.append(TokenCache(make_teacher(tiny_clip, name="other"), tmp_path).path(image))
    assert len(set(paths)) == len(paths)
    assert path(image) == TokenCache(make_teacher(tiny_clip), tmp_path).path(image.clone())


@pytest.mark.parametrize("change", ["student", "teacher"])
def test_another_normalisation_is_never_answered_from_memory(
    tiny_clip: Clip, tmp_path: Path, change: str
) -> None:
    """The same numbers stand for another image, or CLIP is shown other numbers for it."""
    TokenCache(make_teacher(tiny_clip), tmp_path)(IMAGES)
    if change == "student":
        teacher = make_teacher(tiny_clip, student_mean=(0.9, 0.1, 0.6))
    else:
        teacher = make_teacher(replace(tiny_clip, std=(0.5, 0.1, 0.3)))
    expected = teacher(IMAGES).class_token
    found = TokenCache(teacher, tmp_path)(IMAGES).class_token
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_truncated_file_is_asked_for_again(tiny_clip: Clip, tmp_path: Path) -> None:
    teacher = make_teacher(tiny_clip)
    cache = TokenCache(teacher, tmp_path)
    first, path = cache(IMAGES[:1]), cache.path(IMAGES[0])
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        teacher.shown = 0
        again = cache(IMAGES[:1])
        assert teacher.shown == 1
        assert all(map(torch.equal, first, again))
        cache(IMAGES[:1])
        assert teacher.shown == 1


def test_caches_share_a_folder(tiny_clip: Clip, tmp_path: Path) -> None:
    first, second = make_teacher(tiny_clip), make_teacher(tiny_clip)
    expected = TokenCache(first, tmp_path)(IMAGES)
    assert all(map(torch.equal, expected, TokenCache(second, tmp_path)(IMAGES)))
    assert (first.shown, second.shown) == (3, 0)
    other = make_teacher(tiny_clip, name="other")
    TokenCache(other, tmp_path)(IMAGES)
    assert other.shown == 3
