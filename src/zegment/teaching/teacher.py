"""CLIP as a teacher: one look at an image gives its class token and its dense tokens.

Letters: B images, D embedding, H W pixels, h w patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.clip import ImageTower, LastLayer


class Tokens(NamedTuple):
    """What CLIP says of images.

    Attributes:
        class_token: S, unit, float (B, D).
        patch_tokens: C_d, unit, float (B, h, w, D).
    """

    class_token: Tensor
    patch_tokens: Tensor


class Renormalization(nn.Module):
    """Takes images as they are normalised for one model, and gives them to another.

    Args:
        given_mean: Per-channel mean of RGB in [0, 1] that they were normalised with.
        given_std: Per-channel standard deviation, likewise.
        mean: What they are to be normalised with.
        std: Likewise.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        given_mean: Sequence[float],
        given_std: Sequence[float],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        own_mean, own_std, their_mean, their_std = (
            torch.tensor(x, dtype=torch.float32).view(3, 1, 1)
            for x in (mean, std, given_mean, given_std)
        )
        self.register_buffer("scale", their_std / own_std, persistent=False)
        self.register_buffer("shift", (their_mean - own_mean) / own_std, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return images, float (..., 3, H, W)."""
        return image * self.scale + self.shift


def to_multiple(image: Tensor, patch_size: int) -> Tensor:
    """Return images (B, 3, H, W), resized so that both sides are multiples, up to the next one."""
    size = [-(-side // patch_size) * patch_size for side in image.shape[-2:]]
    if size == list(image.shape[-2:]):
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


class Teacher(nn.Module):
    """A frozen image tower that takes the student's images.

    Args:
        tower: The image tower.
        attention: How the tower's last block runs for dense tokens; the class token always comes
            from the block as it was trained.
        mean: Per-channel mean of RGB in [0, 1] that the tower wants.
        std: Per-channel standard deviation, likewise.
        student_mean: What the student's images were normalised with.
        student_std: Likewise.
        name: Identifies the tower's weights, for caches.

    Source:
        CLIP-ZSS; which layer dense tokens come from is not published. The value path of MaskCLIP
        is the choice here.
    """

    def __init__(
        self,
        tower: ImageTower,
        attention: LastLayer,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        student_mean: Sequence[float],
        student_std: Sequence[float],
        name: str = "",
    ) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(False).eval()
        self.attention = attention
        self.name = name
        self.renormalize = Renormalization(
            given_mean=student_mean, given_std=student_std, mean=mean, std=std
        )

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tokens:
        """Return the tokens of a batch, in float32 and without gradients.

        Args:
            image: Normalised as the student wants it, float (B, 3, H, W), any size; brought to
                the next multiple of the patch size.
        """
        image = to_multiple(self.renormalize(image), self.tower.shape.patch_size)
        grid = self.tower.grid(image)
        tokens, dense = self.tower.encode_twice(image, self.attention)
        class_token = self.tower.project(tokens[:, :1])[:, 0]
        patch_tokens = self.tower.project(dense[:, 1:]).unflatten(1, grid)
        return Tokens(class_token.float(), patch_tokens.float())
