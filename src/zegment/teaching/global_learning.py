"""The Global Learning Module: the student's pooled image must be known by CLIP's class token.

Letters: B images, D embedding, h w feature grid, V tokens in the bank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zegment.distributed import gather
from zegment.losses import info_nce


def attention_pool(features: Tensor, class_token: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's features, pooled by how much its class token attends to them.

    Ŝ = W Rᵀ with W = softmax(Sᵀ R / √D) over places; there is nothing to learn in it.

    Args:
        features: R of the student, float (B, D, h, w).
        class_token: S of CLIP, one per image, float (B, D).

    Returns:
        The pooled features Ŝ, float (B, D), and the attention W, float (B, h, w), which sums to
        one over places.

    Source:
        CLIP-ZSS, the Global Learning Module's attention.
    """
    scores = torch.einsum("bd,bdhw->bhw", class_token, features) / features.shape[1] ** 0.5
    attention = scores.flatten(1).softmax(dim=1).view_as(scores)
    return torch.einsum("bhw,bdhw->bd", attention, features), attention


class ClassTokenBank(nn.Module):
    """The latest class tokens of CLIP, negatives beyond those of the batch; first in, first out.

    Args:
        size: V, how many tokens are kept; 0 keeps none.
        embed_dim: D.

    Source:
        CLIP-ZSS: 24 tokens at a batch of 16.
    """

    tokens: Tensor

    def __init__(self, size: int, embed_dim: int) -> None:
        super().__init__()
        self.size = size
        # Empty at first: made-up tokens would be negatives that no image can resemble.
        self.register_buffer("tokens", torch.empty(0, embed_dim))

    @torch.no_grad()
    def enqueue(self, class_token: Tensor) -> None:
        """Append the tokens of all processes, in the order of their ranks, and drop the oldest.

        Args:
            class_token: Of this process's images, float (B, D); every process has the same B.
        """
        tokens = torch.cat([self.tokens, gather(class_token.detach()).to(self.tokens)])
        self.tokens = tokens[max(len(tokens) - self.size, 0) :]


class GlobalLearning(nn.Module):
    """Attention pooling and the contrastive loss against the batch's and the bank's class tokens.

    Args:
        embed_dim: D.
        bank_size: V; see `ClassTokenBank`.
        temperature: τ of the contrastive loss.
        weight: Of the loss.

    Source:
        CLIP-ZSS, L_global.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        bank_size: int = 24,
        temperature: float = 0.07,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.bank = ClassTokenBank(bank_size, embed_dim)
        self.temperature, self.weight = temperature, weight

    def forward(self, features: Tensor, class_token: Tensor, negatives: Tensor) -> Tensor:
        """Return the weighted loss, averaged over images, a scalar.

        Args:
            features: R of the student, float (B, D, h, w).
            class_token: Unit S of CLIP, float (B, D).
            negatives: Further unit class tokens that are of none of these images, float (V, D).
        """
        pooled, _ = attention_pool(features, class_token)
        loss = info_nce(pooled, class_token, negatives, temperature=self.temperature)
        return self.weight * loss
