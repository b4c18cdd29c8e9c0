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

    scale: Tensor
    shift: Tensor

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
        own_mean, own_std, their_mean, their_std = (
            torch.tensor(x, dtype=torch.float32).view(3, 1, 1)
            for x in (mean, std, student_mean, student_std)
        )
        self.register_buffer("scale", their_std / own_std, persistent=False)
        self.register_buffer("shift", (their_mean - own_mean) / own_std, persistent=False)

    def renormalize(self, image: Tensor) -> Tensor:
        """Return the student's images (..., 3, H, W) as the tower wants them."""
        return image * self.scale + self.shift

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tokens:
        """Return the tokens of a batch, in float32 and without gradients.

        Args:
            image: Normalised as the student wants it, float (B, 3, H, W), any size; brought to
                the next multiple of the patch size.
        """
        patch = self.tower.shape.patch_size
        size = [-(-side // patch) * patch for side in image.shape[-2:]]
        image = self.renormalize(image)
        if size != list(image.shape[-2:]):
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        grid = self.tower.grid(image)
        tokens, dense = self.tower.encode_twice(image, self.attention)
        class_token = self.tower.project(tokens[:, :1])[:, 0]
        patch_tokens = self.tower.project(dense[:, 1:]).unflatten(1, grid)
        return Tokens(class_token.float(), patch_tokens.float())
