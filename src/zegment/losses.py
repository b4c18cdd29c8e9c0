"""The losses of both papers, as pure functions of logits and targets, as the papers print them.

`zegment.grid_losses` and `zegment.grid_cross_entropy` compute some of them in less memory.

Letters: B images, K classes, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.data import IGNORE_INDEX

SMALLEST_ERROR = 1e-8
"""What 1 − p_t is at least: a power below 1 has no slope at 0, where saturated pixels are."""


def check_labels(label: Tensor, num_classes: int) -> None:
    """Check that labels are classes.

    Args:
        label: Class ids 0 … K − 1 or `IGNORE_INDEX`, int (B, H, W).
        num_classes: K.

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.
    """
    outside = ((label < 0) | (label >= num_classes)) & (label != IGNORE_INDEX)
    if outside.any():
        raise ValueError(f"label {int(label[outside][0])} is no class id below {num_classes}")


def present_classes(label: Tensor, num_classes: int) -> Tensor:
    """Return which classes have a pixel in each image, bool (B, K).

    Args:
        label: Class ids 0 … K − 1 or `IGNORE_INDEX`, int (B, H, W).
        num_classes: K.

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.
    """
    check_labels(label, num_classes)
    # Ignored pixels are counted as one class more, which is left out.
    ids = label.flatten(1).long().clamp(max=num_classes)
    present = torch.zeros(len(label), num_classes + 1, dtype=torch.bool, device=label.device)
    return present.scatter_(1, ids, value=True)[:, :num_classes]


def class_masks(label: Tensor, num_classes: int) -> Tensor:
    """Return one binary mask per class, float (B, K, H, W); ignored pixels are 0 in all of them.

    Args:
        label: Class ids 0 … K − 1 or `IGNORE_INDEX`, int (B, H, W).
        num_classes: K.

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.
    """
    check_labels(label, num_classes)
    ids = torch.arange(num_classes, device=label.device)[:, None, None]
    return (label[:, None] == ids).float()


def focal_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid focal loss of each class map, averaged over its pixels, float (B, K).

    Args:
        logits: Mask logits, float (B, K, H, W).
        masks: Binary targets, float (B, K, H, W).
        alpha: Weight of positive pixels against 1 − alpha of negative ones; None for neither.
        gamma: How strongly well-classified pixels are discounted.
        weight: Pixel weights, float (B, 1, H, W); None counts every pixel. The average is over
            the weight.

    Source:
        ZegCLIP eq. 7 (alpha None); the released code balances with alpha 0.25.
    """
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    error = probability + masks - 2 * probability * masks  # 1 − p_t for binary masks
    loss = entropy * error.clamp(min=SMALLEST_ERROR) ** gamma
    if alpha is not None:
        loss = loss * (alpha * masks + (1 - alpha) * (1 - masks))
    if weight is None:
        return loss.mean(dim=(2, 3))
    return (loss * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1)


def dice_loss(
    logits: Tensor, masks: Tensor, *, squared: bool = False, weight: Tensor | None = None
) -> Tensor:
    """Return one minus the smoothed Dice overlap of each class map, float (B, K), in [0, 1].

    Args:
        logits: Mask logits, float (B, K, H, W).
        masks: Binary targets, float (B, K, H, W).
        squared: Square the terms of the denominator, as the paper prints; the released code
            does not.
        weight: Pixel weights, float (B, 1, H, W); None counts every pixel.

    Source:
        ZegCLIP eq. 8 and released code.
    """
    probability = torch.sigmoid(logits)
    if weight is not None:
        probability, masks = probability * weight, masks * weight
    overlap = 2 * (probability * masks).sum(dim=(2, 3))
    power = 2 if squared else 1
    total = (probability**power).sum(dim=(2, 3)) + (masks**power).sum(dim=(2, 3))
    return 1 - (overlap + 1) / (total + 1)


def non_mutually_exclusive_loss(  # noqa: PLR0913 - the two halves of one published loss
    logits: Tensor,
    label: Tensor,
    *,
    n_masks: Tensor,
    focal_weight: float = 100.0,
    dice_weight: float = 1.0,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    squared_dice: bool = False,
    ignored_are_negatives: bool = True,
) -> dict[str, Tensor]:
    """Return ZegCLIP's NEL: ``loss_mask`` and ``loss_dice``, weighted scalars to be added.

    Args:
        logits: Mask logits, float (B, K, H, W).
        label: Class ids or `IGNORE_INDEX`, int (B, H, W).
        n_masks: How many (image, class) masks the batch holds, averaged over processes, at
            least 1; see `count_masks`.
        focal_weight: Weight of the focal half.
        dice_weight: Weight of the Dice half.
        alpha: See `focal_loss`.
        gamma: See `focal_loss`.
        squared_dice: See `dice_loss`.
        ignored_are_negatives: As released, pixels without annotation (unseen classes among
            them) count as negatives of every class; False leaves them out of both halves.

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.

    Source:
        ZegCLIP eq. 6 to 9; released ``SegPlusCriterion``.
    """
    masks = class_masks(label, logits.shape[1]).to(logits)
    weight = None if ignored_are_negatives else (label != IGNORE_INDEX).to(logits)[:, None]
    focal = focal_loss(logits, masks, alpha=alpha, gamma=gamma, weight=weight)
    dice = dice_loss(logits, masks, squared=squared_dice, weight=weight)
    present = masks.flatten(2).any(dim=2)
    return {
        "loss_mask": focal_weight * focal.sum() / n_masks,
        "loss_dice": dice_weight * (dice * present).sum() / n_masks,
    }


def count_masks(label: Tensor, num_classes: int) -> Tensor:
    """Return how many (image, class) masks a batch holds, float scalar, not yet bounded below.

    Args:
        label: Class ids or `IGNORE_INDEX`, int (B, H, W).
        num_classes: K.
    """
    return present_classes(label, num_classes).sum().float()


def cross_entropy(logits: Tensor, label: Tensor, *, n_pixels: Tensor) -> Tensor:
    """Return the softmax cross-entropy summed over annotated pixels and divided by ``n_pixels``.

    Args:
        logits: Class logits, float (B, K, H, W).
        label: Class ids or `IGNORE_INDEX`, int (B, H, W).
        n_pixels: How many annotated pixels to average over, at least 1.
    """
    return F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX, reduction="sum") / n_pixels


def info_nce(anchor: Tensor, positive: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Return −log of how surely each anchor picks its own positive among all candidates, (B,) mean.

    −(1/B) Σᵢ log( exp(sᵢᵀŝᵢ/τ) / Σⱼ exp(sⱼᵀŝᵢ/τ) ), j over all positives and all negatives.

    Args:
        anchor: ŝ, float (B, D); normalised here.
        positive: s, float (B, D); normalised here.
        negatives: Further candidates, which are right for no anchor, float (V, D), V ≥ 0.
        temperature: τ.

    Source:
        CLIP-ZSS, L_global, which is printed without −log and without saying whether vectors are
        normalised.
    """
    candidates = F.normalize(torch.cat([positive, negatives]), dim=-1)
    logits = F.normalize(anchor, dim=-1) @ candidates.T / temperature
    return F.cross_entropy(logits, torch.arange(len(anchor), device=anchor.device))


def prototype_loss(
    prototypes: Tensor, text_embeddings: Tensor, present: Tensor, *, count: Tensor
) -> Tensor:
    """Return −log σ(tᵀp), summed over the seen classes that images have, over ``count``, a scalar.

    Args:
        prototypes: P_seen, float (B, S, D), not normalised.
        text_embeddings: T_seen, unit rows, float (S, D).
        present: Which seen classes an image has, bool (B, S).
        count: How many there are in the whole batch, at least 1.

    Source:
        CLIP-ZSS, L_bce, which is printed as a sum.
    """
    products = torch.einsum("bsd,sd->bs", prototypes, text_embeddings)
    return -(F.logsigmoid(products) * present).sum() / count
