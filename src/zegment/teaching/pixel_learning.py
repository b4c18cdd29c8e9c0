"""The Pixel Learning Module: what nobody annotated is clustered by CLIP and becomes a label.

Letters: B images, N tokens on the grid h w, D embedding, M clusters, G groups of clusters, H W
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

NOWHERE = -1
"""Group or cluster of a token that takes no part."""


def seed_starts(length: int, size: int) -> list[int]:
    """Return where windows begin along one side: 0, ⌊o/2⌋, 2⌊o/2⌋, …, and always length − o.

    Args:
        length: Tokens along the side.
        size: o, tokens of a window.

    Source:
        CLIP-ZSS (C2S eq. 1): start indices {0, [o/2], [o], …, H_d − o}.
    """
    last = max(length - size, 0)
    return sorted({*range(0, last, max(size // 2, 1)), last})


def window_seeds(tokens: Tensor, free: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the mean of the unannotated tokens in each of many windows.

    Args:
        tokens: CLIP's dense tokens, float (B, h, w, D).
        free: Which of them nobody annotated, bool (B, h, w).
        sizes: o, sides of the windows in tokens; what exceeds the grid is cut to it.

    Returns:
        Seeds, float (B, M, D), window sizes in the given order and row by row within each, and
        which of them saw an unannotated token, bool (B, M).
    """
    height, width = free.shape[1:]
    weight = free[:, None].to(tokens)  # B, 1, h, w
    masked = torch.cat([tokens.permute(0, 3, 1, 2) * weight, weight], dim=1)  # B, D + 1, h, w
    seeds = []
    for size in sizes:
        window = (min(size, height), min(size, width))
        rows = torch.tensor(seed_starts(height, window[0]), device=tokens.device)
        columns = torch.tensor(seed_starts(width, window[1]), device=tokens.device)
        means = F.avg_pool2d(masked, window, stride=1)[:, :, rows[:, None], columns]
        seeds.append(means.flatten(2).transpose(1, 2))  # B, windows, D + 1
    joined = torch.cat(seeds, dim=1)
    share = joined[..., -1:]
    return joined[..., :-1] / share.clamp(min=1e-12), share[..., 0] > 0


def nearest_centre(tokens: Tensor, centres: Tensor, alive: Tensor) -> Tensor:
    """Return the cluster with the nearest centre, by Euclidean distance, of each token, (B, N).

    Args:
        tokens: float (B, N, D).
        centres: float (B, M, D).
        alive: Clusters that may be chosen, bool (B, M).
    """
    # |x − c|² without what is the same for every centre.
    distance = centres.square().sum(dim=-1)[:, None] - 2 * tokens @ centres.transpose(1, 2)
    return distance.masked_fill(~alive[:, None], torch.inf).argmin(dim=-1)


def k_means(
    tokens: Tensor, free: Tensor, seeds: Tensor, alive: Tensor, *, iterations: int = 10
) -> tuple[Tensor, Tensor]:
    """Return clusters of the free tokens, by Lloyd's algorithm from the given seeds.

    Args:
        tokens: float (B, N, D).
        free: Tokens that take part, bool (B, N).
        seeds: First centres, float (B, M, D).
        alive: Seeds that take part, bool (B, M).
        iterations: How often the centres move.

    Returns:
        Cluster of each token, int64 (B, N), `NOWHERE` where not free, and centres, float
        (B, M, D). A cluster that loses all its tokens keeps its last centre.
    """
    centres = seeds
    for _ in range(iterations):
        clusters = nearest_centre(tokens, centres, alive).masked_fill(~free, NOWHERE)
        members = _members(clusters, seeds.shape[1])
        filled = members.any(dim=1)[..., None]
        centres = torch.where(filled, _means(tokens, members), centres)
    return nearest_centre(tokens, centres, alive).masked_fill(~free, NOWHERE), centres


def fuse_masks(centres: Tensor, sizes: Tensor, *, threshold: float) -> Tensor:
    """Return the group that each cluster is fused into, int64 (B, M), `NOWHERE` if it is empty.

    Greedily, the largest cluster that is in no group yet starts one and takes in every other such
    cluster whose centre has a cosine above λ to its own. Each cluster is used once.

    Args:
        centres: float (B, M, D).
        sizes: Tokens of each cluster, int (B, M).
        threshold: λ.

    Source:
        CLIP-ZSS, mask fusion. The order is not published; largest first is ours.
    """
    order = sizes.argsort(dim=1, descending=True, stable=True)
    unit = F.normalize(centres, dim=-1).gather(1, order[..., None].expand_as(centres))
    filled = sizes.gather(1, order) > 0
    similar = (unit @ unit.transpose(1, 2) > threshold) & filled[:, None] & filled[..., None]
    earlier = similar.tril(diagonal=-1)
    # A cluster starts a group unless one before it did and is similar. Each round settles at
    # least one more cluster for good, so this ends, and in the only answer that has no conflict.
    starts = filled
    while True:
        settled = filled & ~(earlier & starts[:, None]).any(dim=-1)
        if torch.equal(settled, starts):
            break
        starts = settled
    rank = (starts.cumsum(dim=1) - 1).masked_fill(~starts, -1)
    itself = torch.eye(sizes.shape[1], dtype=torch.bool, device=sizes.device)
    # The first similar start is the one that took the cluster in.
    first = ((earlier | itself) & starts[:, None]).to(torch.int8).argmax(dim=-1)
    group = rank.gather(1, first).masked_fill(~filled, NOWHERE)
    return torch.full_like(group, NOWHERE).scatter(1, order, group)


class Groups(NamedTuple):
    """Classes without a name, found in each image for itself.

    Attributes:
        label: Group of each pixel, int64 (B, H, W), or `NOWHERE`.
        centres: Mean token of each group, float (B, G, D).
        present: Which groups an image has, bool (B, G); images differ in how many they have.
    """

    label: Tensor
    centres: Tensor
    present: Tensor


class PixelLearning:
    """Finds groups of alike unannotated places in an image, as CLIP sees it.

    Args:
        window_shares: O, sides of the seeds' windows, as shares of the token grid's shorter side.
        iterations: Of K-Means.
        threshold: λ of the mask fusion.
        smallest: Groups with a smaller share of the image's tokens are dissolved: each of their
            tokens goes to the nearest group that stays. The largest group of an image, or the
            first of several, always stays.

    Source:
        CLIP-ZSS, the Pixel Learning Module. Numbers are not published.
    """

    def __init__(
        self,
        window_shares: Sequence[float] = (0.125, 0.25, 0.5),
        *,
        iterations: int = 10,
        threshold: float = 0.8,
        smallest: float = 0.01,
    ) -> None:
        self.window_shares = tuple(window_shares)
        self.iterations, self.threshold, self.smallest = iterations, threshold, smallest

    @torch.no_grad()
    def __call__(self, tokens: Tensor, unannotated: Tensor) -> Groups:
        """Return the groups of each image and where they are.

        Args:
            tokens: CLIP's dense tokens, float (B, h, w, D).
            unannotated: Pixels without a label, bool (B, H, W).

        Returns:
            Groups, numbered by size, the largest first. Unannotated pixels in a token that is
            mostly annotated take the group around them, and none if there is none.
        """
        height, width = tokens.shape[1:3]
        free = mostly(unannotated, (height, width))
        clusters, centres = self.cluster(tokens, free, self.window_sizes(free.shape[1:]))
        sizes = _members(clusters, centres.shape[1]).sum(dim=1)
        group_of = fuse_masks(centres, sizes, threshold=self.threshold)
        group = group_of.gather(1, clusters.clamp(min=0)).masked_fill(clusters < 0, NOWHERE)
        groups, centres, present = self._dissolve(tokens.flatten(1, 2), group, group_of)
        label = to_pixels(groups.unflatten(1, free.shape[1:]), present, unannotated)
        return Groups(label=label, centres=centres, present=present)

    def window_sizes(self, grid: Sequence[int]) -> tuple[int, ...]:
        """Return O in tokens for a grid (h, w); a share of an eighth is 4 of 32."""
        sizes = (max(1, int(share * min(grid) + 0.5)) for share in self.window_shares)
        return tuple(dict.fromkeys(sizes))

    def cluster(
        self, tokens: Tensor, free: Tensor, window_sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return K-Means clusters (B, N) of the free tokens, and their centres (B, M, D).

        Args:
            tokens: float (B, h, w, D).
            free: bool (B, h, w).
            window_sizes: Of the seeds.
        """
        seeds, alive = window_seeds(tokens, free, window_sizes)
        flat = tokens.flatten(1, 2)
        return k_means(flat, free.flatten(1), seeds, alive, iterations=self.iterations)

    def _dissolve(
        self, tokens: Tensor, group: Tensor, group_of: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return groups (B, N) without small ones, their centres (B, G, D) and presence (B, G)."""
        count = int(group_of.max()) + 1
        if count == 0:
            nothing = tokens.new_zeros(len(tokens), 0, tokens.shape[2])
            return group, nothing, torch.zeros_like(nothing[..., 0], dtype=torch.bool)
        members = _members(group, count)  # B, N, G
        sizes = members.sum(dim=1)
        largest = F.one_hot(sizes.argmax(dim=1), count).bool()
        stays = (sizes > 0) & (largest | (sizes >= self.smallest * tokens.shape[1]))
        lost = (group >= 0) & ~stays.gather(1, group.clamp(min=0))
        means = F.normalize(_means(tokens, members), dim=-1)
        group = torch.where(lost, nearest_centre(tokens, means, stays), group)
        # Numbered anew, now that sizes are final.
        sizes = _members(group, count).sum(dim=1)
        order = sizes.argsort(dim=1, descending=True, stable=True)
        place = order.argsort(dim=1)
        group = place.gather(1, group.clamp(min=0)).where(group >= 0, NOWHERE)
        kept = int(stays.sum(dim=1).max())
        centres = _means(tokens, _members(group, kept))
        return group, centres, sizes.gather(1, order)[:, :kept] > 0


def mostly(unannotated: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return which tokens have more than half of their pixels unannotated, bool (B, h, w).

    Args:
        unannotated: bool (B, H, W).
        grid: h and w.
    """
    return F.adaptive_avg_pool2d(unannotated[:, None].float(), grid)[:, 0] > 0.5


def to_pixels(groups: Tensor, present: Tensor, unannotated: Tensor) -> Tensor:
    """Return the group of each unannotated pixel, int64 (B, H, W), else `NOWHERE`.

    Each group's mask is resized bilinearly and the strongest one wins, so that borders between
    groups run between the tokens and not along their edges.

    Args:
        groups: Group of each token or `NOWHERE`, int (B, h, w).
        present: bool (B, G).
        unannotated: bool (B, H, W).
    """
    if present.shape[1] == 0:
        return torch.full_like(unannotated, NOWHERE, dtype=torch.long)
    masks = _members(groups.flatten(1), present.shape[1]).transpose(1, 2)
    masks = masks.unflatten(2, groups.shape[1:]).float()  # B, G, h, w
    size = tuple(unannotated.shape[1:])
    strength, best = F.interpolate(masks, size=size, mode="bilinear", align_corners=False).max(1)
    return best.masked_fill(~unannotated | (strength == 0), NOWHERE)


def _members(assignment: Tensor, count: int) -> Tensor:
    """Return which token is in which cluster, int64 (B, N, M), for an assignment (B, N)."""
    members = F.one_hot(assignment.clamp(min=0), max(count, 1))[..., :count]
    return members * (assignment >= 0)[..., None]


def _means(tokens: Tensor, members: Tensor) -> Tensor:
    """Return the mean token (B, M, D) of each cluster; zero for an empty one."""
    weight = members.to(tokens)
    return weight.transpose(1, 2) @ tokens / weight.sum(dim=1).clamp(min=1)[..., None]
