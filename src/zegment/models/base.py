"""The one interface of every segmenter.

Letters: B images, K classes, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn

from zegment.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics of RGB in [0, 1]; ZegCLIP's released pipeline uses them, not CLIP's."""


class SegmentationModel(nn.Module, ABC):
    """Images and text embeddings to class logits; knows neither class names nor files.

    Args:
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        patch_size: Pixels per side of a cell of the feature grid; image sides are multiples.
    """

    mean: Tensor
    std: Tensor

    runs_clip: ClassVar[bool] = True
    """Whether CLIP's image tower is a part of the model."""

    @property
    def separate_scores(self) -> bool:
        """Return whether the score of a class grows with its own logit and depends on no other."""
        return False

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        patch_size: int,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.patch_size = patch_size

    def check_sides(self, image: Tensor) -> None:
        """Check that images (B, 3, H, W) fit the feature grid.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image of {height}×{width} pixels: both sides must be multiples of "
                f"{self.patch_size}; pad it first"
            )

    @abstractmethod
    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits on the feature grid, float (B, K, h, w).

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of ``patch_size``.
            text_embeddings: Unit rows, float (K, D), any K ≥ 1; or (B, K, D), where each image
                has its own.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Return what windows are averaged over: probabilities in [0, 1], same shape."""

    def training_logits(self, image: Tensor, text_embeddings: Tensor) -> list[Tensor]:
        """Return every logits that losses are computed of in training, each float (B, K, h, w).

        Those of `forward` come first; most models have no others.

        Args:
            image: See `forward`.
            text_embeddings: See `forward`.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """
        return [self(image, text_embeddings)]

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training may change, by name."""
        return {k: p for k, p in self.named_parameters() if p.requires_grad}

    def trained_state(self) -> dict[str, Tensor]:
        """Return what training may change, by name: parameters, and statistics of norm layers."""
        frozen = {k for k, p in self.named_parameters() if not p.requires_grad}
        return {k: v for k, v in self.state_dict().items() if k not in frozen}

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Check before any work that batches of this shape can be processed.

        Args:
            size: H and W.
            batch: B on one device.
            training: Whether they are trained on.

        Raises:
            ConfigError: If they cannot; says what can.
        """
        del batch, training
        if any(side % self.patch_size for side in size):
            height, width = (-(-side // self.patch_size) * self.patch_size for side in size)
            raise ConfigError(
                f"both sides of a training image must be multiples of {self.patch_size}, not "
                f"{list(size)}; use [{height}, {width}]"
            )

    def use_gradient_checkpointing(self) -> None:
        """From now on, train in less memory: compute activations again in the backward pass.

        The gradients stay the same; a step takes about a third longer.

        Raises:
            ConfigError: If the network offers no such thing.
        """
        raise ConfigError(
            f"optim.gradient_checkpointing: {type(self).__name__} offers none; set it to false, "
            "and lower optim.micro_batch_size where memory does not suffice"
        )

    def check_text_embeddings(self, text_embeddings: Tensor) -> None:
        """Check before any work that the model can be asked about these classes.

        Args:
            text_embeddings: Unit rows, float (K, D).

        Raises:
            VocabularyError: If it cannot; any model that is not exported can.
        """
        del text_embeddings

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that came pretrained and may want a smaller learning rate."""
        return iter(())


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Compute what decides between classes in float32, also under autocast; see `widened`.

    Scores of many classes lie close together. In bfloat16, which has eight bits, they would be
    rounded into ties; what comes before them, nearly all of the work, can bear it.
    """
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def widened(x: Tensor) -> Tensor:
    """Return what autocast may have made short as float32; without autocast, ``x`` as it is."""
    return x.float() if torch.is_autocast_enabled(x.device.type) else x


def cosine_logits(
    patch_tokens: Tensor, text_embeddings: Tensor, *, grid: tuple[int, int], temperature: float
) -> Tensor:
    """Return how well each patch matches each text, float (B, K, h, w).

    Args:
        patch_tokens: Unit patch embeddings, row by row, float (B, h w, D).
        text_embeddings: Unit rows, float (K, D) or (B, K, D).
        grid: h and w.
        temperature: Divides the cosines.
    """
    rows = "kd" if text_embeddings.dim() == 2 else "bkd"
    patch_tokens = widened(patch_tokens)
    with full_precision(patch_tokens.device):
        cosines = torch.einsum(f"bnd,{rows}->bkn", patch_tokens, text_embeddings)
    logits: Tensor = cosines.unflatten(2, grid) / temperature
    return logits


def penalize_seen(scores: Tensor, seen: Tensor, *, margin: float = 0.1) -> Tensor:
    """Lower the scores of seen classes so that unseen ones can win the argmax.

    Args:
        scores: Class scores, float (B, K, H, W), in [0, 1].
        seen: Which classes had masks in training, bool (K,).
        margin: Taken from every seen class, in the unit of ``scores``; 0 after self-training.

    Returns:
        Calibrated scores, float (B, K, H, W); the input is not changed.

    Raises:
        ValueError: If ``seen`` does not have K entries.

    Source:
        ZegCLIP released code, ``semantic_inference``; not in the paper.
    """
    if seen.shape != scores.shape[1:2]:
        raise ValueError(f"{tuple(seen.shape)} seen flags for {scores.shape[1]} classes")
    return scores - margin * seen.to(scores)[:, None, None]
