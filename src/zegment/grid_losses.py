"""ZegCLIP's mask loss at the size of the labels, from logits on the feature grid.

Resizing logits (B, K, h, w) to the labels first takes many tensors of B K H W numbers, for a
gradient of B K h w. Here a few planes at a time are resized and turned into losses and gradients,
which go back to the grid at once: nothing of full size outlives its turn. The equations to compare
with are `zegment.losses.focal_loss` and `zegment.losses.dice_loss`.

Letters: B images, K classes, H W pixels, h w feature grid, n planes at a time; a plane is what one
class has in one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.bilinear import Bilinear
from zegment.by_parts import map_parts, numbers_at_a_time, with_gradients
from zegment.data import IGNORE_INDEX
from zegment.losses import SMALLEST_ERROR, present_classes


def focal_and_dice(
    logits: Tensor,
    label: Tensor,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    squared_dice: bool = False,
    ignored_are_negatives: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return the focal loss summed over all planes and the Dice loss over those of present classes.

    They have no second derivatives.

    Args:
        logits: Mask logits, which are resized bilinearly, float (B, K, h, w).
        label: Class ids or `IGNORE_INDEX`, int (B, H, W).
        alpha: See `zegment.losses.focal_loss`.
        gamma: See `zegment.losses.focal_loss`.
        squared_dice: See `zegment.losses.dice_loss`.
        ignored_are_negatives: See `zegment.losses.non_mutually_exclusive_loss`.

    Raises:
        ValueError: If a label is neither a class id nor `IGNORE_INDEX`.

    Source:
        ZegCLIP eq. 6 to 9.
    """
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    planes = _Planes(
        label=label.to(torch.int32),
        present=present_classes(label, logits.shape[1]),
        known=None if ignored_are_negatives else label != IGNORE_INDEX,
        alpha=alpha,
        gamma=gamma,
        squared_dice=squared_dice,
        differentiable=torch.is_grad_enabled() and logits.requires_grad,
    )
    focal, dice = with_gradients(logits, *planes.compare(logits.detach()))
    return focal, dice


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planes:
    """What logits are compared with, and how.

    Attributes:
        label: Class ids or `IGNORE_INDEX`, int32 (B, H, W).
        present: Which classes each image has, bool (B, K).
        known: Pixels that count, bool (B, H, W); None counts every pixel.
        alpha: See `focal_and_dice`.
        gamma: See `focal_and_dice`.
        squared_dice: See `focal_and_dice`.
        differentiable: Whether gradients are wanted too.
    """

    label: Tensor
    present: Tensor
    known: Tensor | None
    alpha: float | None
    gamma: float
    squared_dice: bool
    differentiable: bool

    def compare(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return both losses, float (2,), and their gradients, float (2, B, K, h, w)."""
        resize = Bilinear.between(logits, self.label.shape[1:])
        grid = logits.flatten(0, 1)
        gradients = grid.new_zeros(2, *grid.shape) if self.differentiable else None

        def losses(part: tuple[Tensor, bool]) -> Tensor:
            places, has_positives = part
            compare = self._masks if has_positives else self._nothing
            own, slopes = compare(resize(grid[places]), places)
            if gradients is not None:
                # Those of the focal loss come first, and those of the Dice loss may be missing.
                for gradient, slope in zip(gradients, slopes, strict=False):
                    gradient[places] = resize.transposed(slope)
            return own

        pixels = self.label[0].numel()
        chunk = max(1, numbers_at_a_time(grid.device) // pixels)
        parts = [
            (places, has_positives)
            for has_positives in (True, False)
            for places in (self.present.flatten() == has_positives).nonzero()[:, 0].split(chunk)
            if len(places)
        ]
        found = map_parts(losses, parts, numbers=len(grid) * pixels, device=grid.device)
        total = torch.stack(found).sum(dim=0)
        return total, None if gradients is None else gradients.unflatten(1, logits.shape[:2])

    def _nothing(self, logits: Tensor, places: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return losses (2,) and slopes (n, H, W) where no pixel is positive: there is no Dice."""
        weight = self._weight(logits, places)
        if self.alpha is not None:
            weight = weight * (1 - self.alpha)
        focal, slopes = self._focal(logits, torch.sigmoid(logits), weight)
        return torch.stack([focal, torch.zeros_like(focal)]), slopes

    def _masks(self, logits: Tensor, places: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return losses (2,) and slopes (n, H, W) where every plane has positive pixels."""
        image, rank = self._image(places), places % self.present.shape[1]
        mask = (self.label[image] == rank[:, None, None]).to(logits)
        # To the focal loss, a positive pixel is a negative one whose logit has the other sign.
        sign = 1 - 2 * mask
        wrong = logits * sign
        error = torch.sigmoid(wrong)  # 1 − p_t
        weight = self._weight(logits, places)
        if self.alpha is not None:
            weight = weight * ((1 - self.alpha) + (2 * self.alpha - 1) * mask)
        focal, focal_slopes = self._focal(wrong, error, weight)
        dice, dice_slopes = self._dice(error, mask, places)
        return torch.stack([focal, dice]), [s.mul_(sign) for s in focal_slopes] + dice_slopes

    def _image(self, places: Tensor) -> Tensor:
        """Return whose planes these are, int (n,)."""
        return places // self.present.shape[1]

    def _weight(self, logits: Tensor, places: Tensor) -> Tensor:
        """Return what each pixel counts in its plane's mean, float (n, 1, 1) or (n, H, W)."""
        if self.known is None:
            return logits.new_full((len(places), 1, 1), 1 / self.label[0].numel())
        known = self.known[self._image(places)].to(logits)
        return known / known.sum(dim=(1, 2), keepdim=True).clamp(min=1)

    def _focal(self, wrong: Tensor, error: Tensor, weight: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the focal loss, float (), and its slopes if wanted, float (n, H, W).

        Args:
            wrong: Logits z of being wrong, float (n, H, W).
            error: σ(z).
            weight: See `_weight`.
        """
        entropy = F.softplus(wrong)  # −log p_t
        power = error.clamp(min=SMALLEST_ERROR).pow_(self.gamma).mul_(weight)
        loss = (power * entropy).sum()
        if not self.differentiable:
            return loss, []
        # The slope of σ(z)^gamma softplus(z) is
        # σ(z)^gamma (gamma (1 − σ(z)) softplus(z) + σ(z)); where σ(z) is clamped, and softplus(z)
        # is as small, the power is constant.
        slope = F.threshold(entropy, SMALLEST_ERROR, 0.0, inplace=True)
        slope *= torch.rsub(error, self.gamma, alpha=self.gamma)
        slope += error
        slope *= power
        return loss, [slope]

    def _dice(self, error: Tensor, mask: Tensor, places: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the Dice loss, float (), and its slopes if wanted, float (n, H, W).

        Args:
            error: 1 − p_t, float (n, H, W).
            mask: Binary targets, float (n, H, W).
            places: Of the planes.
        """
        probability = mask + (1 - 2 * mask) * error
        terms = probability**2 if self.squared_dice else probability
        known = None if self.known is None else self.known[self._image(places)].to(error)
        overlap, total = probability * mask, terms + mask
        if known is not None:
            overlap, total = overlap * known, total * known
        above = 2 * overlap.sum(dim=(1, 2), keepdim=True) + 1
        below = total.sum(dim=(1, 2), keepdim=True) + 1
        loss = (1 - above / below).sum()
        if not self.differentiable:
            return loss, []
        growth = 2 * probability if self.squared_dice else 1
        slope = (above / below**2) * growth - (2 / below) * mask
        slope *= error * (1 - error)  # the slope of σ, whichever sign the logit has
        return loss, [slope if known is None else slope * known]
