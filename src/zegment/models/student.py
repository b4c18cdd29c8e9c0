"""The student of CLIP-ZSS: a closed-set segmenter that works in CLIP's space, without CLIP.

Letters: B images, K classes, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.errors import ConfigError
from zegment.models.base import SegmentationModel, full_precision, widened

#: What timm's models call the method that switches gradient checkpointing on.
_TIMM_SWITCH = "set_grad_checkpointing"


class DenseNetwork(Protocol):
    """What a student is made of: `ClosedSetNetwork`, `SegNeXt` or `ResidualPyramid`."""

    @property
    def multiple(self) -> int:
        """Image sides must be multiples of this many pixels."""

    def __call__(self, image: Tensor) -> Tensor:
        """Return features, float (B, D, h, w), of images, float (B, 3, H, W)."""

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the pretrained part."""

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Raise ConfigError if batches of images (H, W) cannot be processed."""


class Student(SegmentationModel):
    """Cosine of text embeddings and the dense features of any segmenter.

    Args:
        network: The segmenter, its classifier replaced by a projection to D channels.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        temperature: 1/α, divides the cosines.

    Source:
        CLIP-ZSS: at test time the argmax of Rᵀ[T_seen; T_unseen]. Normalising R does not change
        the argmax, and gives α a unit.
    """

    runs_clip = False

    def __init__(
        self,
        network: DenseNetwork,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float = 0.07,
    ) -> None:
        super().__init__(mean=mean, std=std, patch_size=network.multiple)
        assert isinstance(network, nn.Module)  # noqa: S101 - for the type checker
        self.network: DenseNetwork = network
        self.temperature = temperature

    def features(self, image: Tensor) -> Tensor:
        """Return R, dense features that are not normalised, float (B, D, h, w).

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of ``patch_size``.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """
        self.check_sides(image)
        return self.network(image)

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits α cos(R, T) on the feature grid, float (B, K, h, w)."""
        features = F.normalize(widened(self.features(image)), dim=1)
        rows = "kd" if text_embeddings.dim() == 2 else "bkd"
        with full_precision(features.device):
            cosines = torch.einsum(f"bdhw,{rows}->bkhw", features, text_embeddings)
        logits: Tensor = cosines / self.temperature
        return logits

    def scores(self, logits: Tensor) -> Tensor:
        """Return class probabilities that sum to one over classes, same shape as ``logits``."""
        return logits.softmax(dim=1)

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that pretrained weights may fill."""
        return self.network.encoder_parameters()

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Check before any work that batches of this shape can be processed; see the base class."""
        super().check_batch(size, batch=batch, training=training)
        self.network.check_batch(size, batch=batch, training=training)

    def use_gradient_checkpointing(self) -> None:
        """Let the encoder compute its activations again; see the base class.

        Raises:
            ConfigError: If its library offers none, or it has statistics over the batch, which
                would be counted twice.
        """
        assert isinstance(self.network, nn.Module)  # noqa: S101 - for the type checker
        # Those of timm have it; the outermost module knows of the others.
        encoder = next((m for m in self.network.modules() if hasattr(m, _TIMM_SWITCH)), None)
        counts = encoder is not None and any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) for m in encoder.modules()
        )
        if encoder is None or counts:
            reason = "has batch normalisation, which would count every batch twice"
            raise ConfigError(
                "optim.gradient_checkpointing: the student's encoder "
                f"{reason if counts else 'offers none'}; set it to false, or use a transformer or "
                "ConvNeXt of timm (tu-convnext_tiny)"
            )
        getattr(encoder, _TIMM_SWITCH)(True)
