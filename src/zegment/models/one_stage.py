"""The one-stage baseline that ZegCLIP is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from zegment.clip import ImageTower
from zegment.models.base import SegmentationModel, cosine_logits


class OneStageBaseline(SegmentationModel):
    """Cosine of text and patch embeddings, with CLIP's whole image tower tuned.

    Args:
        tower: The image tower; all of it is trained.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        temperature: Divides the cosines before the softmax.

    Source:
        ZegCLIP section 3.1, the baseline version: learns seen classes and loses unseen ones.
    """

    def __init__(
        self,
        tower: ImageTower,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float = 0.07,
    ) -> None:
        super().__init__(mean=mean, std=std, patch_size=tower.shape.patch_size)
        self.tower = tower.requires_grad_(True)
        self.temperature = temperature

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits on the patch grid, float (B, K, h, w); see the base class."""
        _, patch_tokens = self.tower(image)
        grid = self.tower.grid(image)
        return cosine_logits(patch_tokens, text_embeddings, grid=grid, temperature=self.temperature)

    def scores(self, logits: Tensor) -> Tensor:
        """Return class probabilities that sum to one over classes, same shape as ``logits``."""
        return logits.softmax(dim=1)

    def use_gradient_checkpointing(self) -> None:
        """Keep only what is between the tower's blocks for the backward pass; see the base."""
        self.tower.gradient_checkpointing = True
