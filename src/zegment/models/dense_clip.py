"""Training-free dense CLIP: the last layer's attention exchanged, nothing learnt.

Letters: B images, K classes, D embedding, N patches, C tower width, A heads, h w patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zegment.clip import Block, ImageTower, LastLayer
from zegment.models.base import SegmentationModel, cosine_logits


class ValuePath:
    """Every patch reads its own value only; residual and feed-forward stay.

    Source:
        MaskCLIP (Zhou et al., ECCV 2022), section 3.3.
    """

    def __call__(self, block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the last block's output (B, 1 + N, C); see `zegment.clip.LastLayer`."""
        del grid
        value = block.attn.query_key_value(block.ln_1(tokens))[2]
        return _with_residual(block, tokens, block.attn.merge_heads(value))


class CorrelativeSelfAttention:
    """Attention of queries with queries plus keys with keys; residual and feed-forward stay.

    Source:
        SCLIP (Wang et al., ECCV 2024), eq. 4.
    """

    def __call__(self, block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the last block's output (B, 1 + N, C); see `zegment.clip.LastLayer`."""
        del grid
        q, k, v = block.attn.query_key_value(block.ln_1(tokens))
        attention = _similarity(q).softmax(dim=-1) + _similarity(k).softmax(dim=-1)
        return _with_residual(block, tokens, block.attn.merge_heads(attention @ v))


class ClearAttention:
    """Attention of queries with queries, without residual and without feed-forward.

    Source:
        ClearCLIP (Lan et al., ECCV 2024), section 3.3.
    """

    def __call__(self, block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the last block's output (B, 1 + N, C); see `zegment.clip.LastLayer`."""
        del grid
        q, _, v = block.attn.query_key_value(block.ln_1(tokens))
        return block.attn.merge_heads(_similarity(q).softmax(dim=-1) @ v)


class NeighbourAwareAttention:
    """Attention of keys with keys that favours near patches; no residual, no feed-forward.

    Args:
        spread: Standard deviation of the Gaussian added to the logits, in patches.

    Source:
        NACLIP (Hajimiri et al., WACV 2025), eq. 6 to 8.
    """

    def __init__(self, spread: float = 5.0) -> None:
        self.spread = spread

    def __call__(self, block: Block, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the last block's output (B, 1 + N, C); see `zegment.clip.LastLayer`."""
        _, k, v = block.attn.query_key_value(block.ln_1(tokens))
        logits = _similarity(k)
        logits[:, :, 1:, 1:] += self.neighbourhood(grid).to(logits)
        return block.attn.merge_heads(logits.softmax(dim=-1) @ v)

    def neighbourhood(self, grid: tuple[int, int]) -> Tensor:
        """Return a Gaussian of the distance between patches, float (N, N), 1 on the diagonal."""
        height, width = grid
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
        # Along each side by itself, and without cdist, which ONNX does not have.
        down = (rows[:, None] - rows).square()[:, None, :, None]  # h, 1, h, 1
        across = (columns[:, None] - columns).square()[:, None]  # w, 1, w
        distances = (down + across).sqrt().reshape(height * width, height * width)  # N, N
        return torch.exp(-distances.square() / (2 * self.spread**2))


ATTENTIONS: Mapping[str, type[LastLayer]] = {
    "value": ValuePath,
    "sclip": CorrelativeSelfAttention,
    "clearclip": ClearAttention,
    "naclip": NeighbourAwareAttention,
}
"""The last layers by the name that configurations use."""


class DenseClip(SegmentationModel):
    """Cosine of text embeddings and dense patch embeddings of an untouched CLIP.

    Args:
        tower: The image tower; it is frozen.
        attention: How the tower's last block runs.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        temperature: Divides the cosines before the softmax; CLIP's own is 0.01.
    """

    def __init__(
        self,
        tower: ImageTower,
        attention: LastLayer,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float = 0.01,
    ) -> None:
        super().__init__(mean=mean, std=std, patch_size=tower.shape.patch_size)
        self.tower = tower.requires_grad_(False)
        self.attention = attention
        self.temperature = temperature

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits on the patch grid, float (B, K, h, w); see the base class."""
        _, patch_tokens = self.tower(image, last_layer=self.attention)
        grid = self.tower.grid(image)
        return cosine_logits(patch_tokens, text_embeddings, grid=grid, temperature=self.temperature)

    def scores(self, logits: Tensor) -> Tensor:
        """Return class probabilities that sum to one over classes, same shape as ``logits``."""
        return logits.softmax(dim=1)


def _similarity(x: Tensor) -> Tensor:
    """Return scaled products (B, A, N, N) of vectors (B, A, N, C / A) with one another."""
    return x @ x.transpose(-1, -2) * float(x.shape[-1] ** -0.5)


def _with_residual(block: Block, tokens: Tensor, read: Tensor) -> Tensor:
    """Return the block's output (B, 1 + N, C) when its attention read ``read``."""
    tokens = tokens + read
    return tokens + block.mlp(block.ln_2(tokens))  # type: ignore[no-any-return]
