"""The Synthesizer: prototypes of classes nobody named, made from what they look like.

Letters: B images, L local classes (seen ones, then groups), D embedding, h w feature grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_means(features: Tensor, masks: Tensor) -> Tensor:
    """Return the weighted mean feature under each mask, float (B, L, D); zero under an empty one.

    Args:
        features: float (B, D, h, w).
        masks: How much of each cell a class covers, float (B, L, h, w), 0 to 1.
    """
    total = torch.einsum("blhw,bdhw->bld", masks, features)
    return total / masks.sum(dim=(2, 3)).clamp(min=1e-6)[..., None]


class Synthesizer(nn.Module):
    """A transformer decoder: masked means of the student ask, CLIP's class token answers.

    Args:
        embed_dim: D.
        layers: Decoder layers.
        heads: Attention heads of each.

    Source:
        CLIP-ZSS, latent embedding generation; depth and width are not published.
    """

    def __init__(self, embed_dim: int, *, layers: int = 1, heads: int = 8) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            embed_dim, heads, dim_feedforward=4 * embed_dim, dropout=0.0, batch_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers)

    def forward(self, means: Tensor, present: Tensor, class_token: Tensor) -> Tensor:
        """Return prototypes, float (B, L, D).

        Args:
            means: Masked means of the student's features, float (B, L, D).
            present: Which of them stand for pixels of this image, bool (B, L).
            class_token: S of CLIP, float (B, D).
        """
        # A row of absent classes alone would have nothing to attend to.
        absent = ~present & present.any(dim=1, keepdim=True)
        prototypes: Tensor = self.decoder(means, class_token[:, None], tgt_key_padding_mask=absent)
        return prototypes
