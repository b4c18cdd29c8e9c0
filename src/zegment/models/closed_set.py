"""Any closed-set segmenter of segmentation_models_pytorch, its classifier become a projection.

Letters: B images, C decoder channels, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.error import URLError

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from zegment.clip_loading import is_offline, silent
from zegment.errors import (
    CheckpointError,
    ConfigError,
    ModelNotFoundError,
    UnsupportedModelError,
    did_you_mean,
)
from zegment.hub.connection import cache_if_unreachable
from zegment.hub.verification import arrivals_verified
from zegment.wording import first_line

ARCHITECTURES = tuple(smp.MODEL_ARCHITECTURES_MAPPING)

WIDTH = 256
"""C at which DeepLab, UPerNet, SegFormer and DPT hand their features to the classifier."""

STRIDE = 4
"""Pixels per side of a feature, at least: the grid of most decoders, and of ZegCLIP's rivals."""

# How timm's transformers are told to take any image size; other encoders need no telling.
_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {},
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)

# Times the encoder's stride. Powers of two keep every stage of a pyramid even (DPT), or large
# enough to be pooled again (PAN); the others are the windows of MaxViT at its training sizes.
_FACTORS = (1, 2, 4, 5, 7, 8, 12, 16)

_FAILURES = (
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ClosedSetNetwork(nn.Module):
    """Images (B, 3, H, W) to dense features (B, D, h, w) in CLIP's embedding space.

    The segmentation head is replaced by a 1 × 1 convolution without bias, at the decoder's own
    resolution or every fourth pixel, whichever is coarser: maps of D channels are never
    upsampled.

    A projection of C channels reaches no more than C dimensions of the embedding space, and
    decoders made for a few classes are narrow: 16 channels in the U-Net family, 32 in Linknet
    and PAN. Where C is less than D and less than `WIDTH`, a convolution with normalisation and
    ReLU therefore widens the features to the smaller of the two. Its kernel is the cell of the
    feature grid (4 × 4 pixels for a U-Net), so that it takes the place of the average pooling
    that wide decoders of high resolution get (DPT), and the decoder itself stays as published:
    a U-Net of 256 channels at full resolution would cost several times its encoder.

    Parameters that the network never uses, such as the classifier of a ViT or the last stages
    of the encoder under PSPNet, are frozen.

    Args:
        architecture: One of `ARCHITECTURES`.
        encoder: An encoder of segmentation_models_pytorch, or ``tu-`` and any model of timm.
        weights: Name of the encoder's pretrained weights: ``"imagenet"``, for timm's models its
            default ones, or one of timm's tags; None for random ones.
        embed_dim: D.

    Attributes:
        multiple: Image sides must be multiples of this many pixels; every multiple works.
        stride: Pixels per side of a feature.

    Raises:
        ModelNotFoundError: If the architecture, encoder or weights do not exist, or they need
            a download and there is no network.
        CheckpointError: If weights arrived that are not what their source says they are.
        UnsupportedModelError: If architecture and encoder do not work together at any size.
    """

    def __init__(
        self, architecture: str, encoder: str, *, weights: str | None, embed_dim: int
    ) -> None:
        super().__init__()
        self.name = f"{architecture} with encoder {encoder}"
        encoder = _resolve(architecture, encoder, weights)
        fit = _fit(architecture, encoder)
        self.multiple = fit.multiple
        self.stride = max(fit.stride, STRIDE)
        self.network = fit.network
        if weights is not None:
            self.network = _load(architecture, encoder, weights, fit.settings)
        width = max(fit.channels, min(embed_dim, WIDTH))
        self.neck = _neck(fit.channels, width, self.stride // fit.stride)
        self.projection = nn.Conv2d(width, embed_dim, 1, bias=False)
        self._freeze_unused()

    def forward(self, image: Tensor) -> Tensor:
        """Return dense features, float (B, D, h, w), of any length.

        Args:
            image: Normalised images, float (B, 3, H, W), sides multiples of ``multiple``.
        """
        features: Tensor = self.projection(self.neck(self.network(image)))  # B, D, h, w
        return features

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that pretrained weights fill, frozen ones included."""
        return self.network.encoder.parameters()  # type: ignore[no-any-return]

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Raise ConfigError if batches of this shape cannot be processed; see the model's."""
        copied = _meta_copy(self).train(training)
        try:
            copied(torch.empty(batch, 3, *size, device="meta"))
        except _FAILURES as error:
            if training and batch == 1:
                self.check_batch(size, batch=2, training=True)
                raise ConfigError(
                    f"{self.name} cannot be trained on one image per batch, because it "
                    "normalises maps of one pixel over the batch; use batches of at least two "
                    "images on every device"
                ) from error
            raise ConfigError(
                f"{self.name} cannot process {batch} images of {size[0]} × {size[1]}: "
                f"{first_line(error)}; use another size or architecture"
            ) from error

    def _freeze_unused(self) -> None:
        """Freeze what gets no gradient, which optimisers of several processes stumble over."""
        copied = _meta_copy(self).train()
        copied(torch.empty(2, 3, self.multiple, self.multiple, device="meta")).sum().backward()
        for ours, theirs in zip(self.parameters(), copied.parameters(), strict=True):
            ours.requires_grad_(theirs.grad is not None)


def _resolve(architecture: str, encoder: str, weights: str | None) -> str:
    """Return the encoder's full name, with timm's tag if one was given, after checking all."""
    if architecture not in ARCHITECTURES:
        raise ModelNotFoundError(
            f'no architecture is called "{architecture}"'
            f"{did_you_mean(architecture, ARCHITECTURES) or ';'} known are "
            + ", ".join(ARCHITECTURES)
        )
    full = encoder
    if encoder in smp.encoders.encoders:
        known = list(smp.encoders.encoders[encoder]["pretrained_settings"])
    else:
        base, _, tag = encoder.partition(".")
        if not base.startswith("tu-") or not timm.is_model(base.removeprefix("tu-")):
            names = [*smp.encoders.encoders, *(f"tu-{name}" for name in timm.list_models())]
            raise ModelNotFoundError(
                f'no encoder is called "{encoder}"{did_you_mean(encoder, names) or ";"} known '
                "are those of segmentation_models_pytorch (resnet50, mit_b2) and, after tu-, all "
                "models of timm (tu-convnext_tiny)"
            )
        tags = [
            name.partition(".")[2]
            for name in timm.list_pretrained(f"{base.removeprefix('tu-')}*")
            if name.partition(".")[0] == base.removeprefix("tu-")
        ]
        if tag and tag not in tags:
            raise ModelNotFoundError(
                f'timm has no weights "{tag}" for {base}{did_you_mean(tag, tags) or ";"} it '
                f"has {', '.join(tags) or 'none'}"
            )
        known = ["imagenet", *([tag] if tag else tags)] if tags else []
        if weights in tags:
            full = f"{base}.{weights}"
    if weights is not None and weights not in known:
        raise ModelNotFoundError(
            f'encoder {encoder} has no weights "{weights}"{did_you_mean(weights, known) or ";"} '
            f"it has {', '.join([*known, 'none'])}"
        )
    return full


class _Fit(NamedTuple):
    """A random network that takes any size, and what was found out about it.

    Args:
        network: The library's, without its head.
        settings: What its encoder had to be told.
        multiple: See `ClosedSetNetwork`.
        channels: C.
        stride: Pixels per side of a cell of the decoder's features.
    """

    network: Any
    settings: dict[str, bool]
    multiple: int
    channels: int
    stride: int


def _fit(architecture: str, encoder: str) -> _Fit:
    """Build a random network such that it takes any size.

    Raises:
        UnsupportedModelError: If there is no such network.
    """
    reason = ""
    for settings in _ANY_SIZE if encoder.startswith("tu-") else _ANY_SIZE[:1]:
        try:
            network = _build(architecture, encoder, None, settings)
        except TypeError as error:  # the encoder does not know this setting
            reason = reason or first_line(error)
            continue
        except _FAILURES as error:
            reason = first_line(error)
            break
        probe = _meta_copy(network).eval()
        stride = int(network.encoder.output_stride)
        for multiple in (stride * factor for factor in _FACTORS):
            try:
                sizes = ((1, 1), (3, 2), (5, 7))
                layouts = {_layout(probe, (multiple * h, multiple * w)) for h, w in sizes}
            except _FAILURES as error:
                reason = first_line(error)
                continue
            if len(layouts) == 1:
                return _Fit(network, settings, multiple, *layouts.pop())
    raise UnsupportedModelError(
        f"architecture {architecture} does not work with encoder {encoder} on images of any "
        f"size ({reason}); choose a convolutional encoder such as resnet50 or tu-convnext_tiny, "
        "architecture upernet for pyramid transformers (mit_b2, tu-swin_tiny_patch4_window7_224), "
        "or dpt for those of timm with patches of 8, 16 or 32 pixels (tu-vit_base_patch16_224)"
    )


def _build(
    architecture: str, encoder: str, weights: str | bool | None, settings: dict[str, bool]
) -> Any:  # noqa: ANN401 - the library has no types
    """Return the library's network without its head."""
    with silent():
        network = smp.create_model(architecture, encoder, weights, **settings)
    network.segmentation_head = nn.Identity()
    return network


def _load(architecture: str, encoder: str, weights: str, settings: dict[str, bool]) -> Any:  # noqa: ANN401
    """Return the network with its encoder's pretrained weights."""
    try:
        tag = True if encoder.startswith("tu-") else weights
        with cache_if_unreachable(), arrivals_verified():
            return _build(architecture, encoder, tag, settings)
    except CheckpointError:  # a ValueError too
        raise
    except _FAILURES as error:
        if is_offline(error) or isinstance(error, URLError):
            raise ModelNotFoundError(
                f'cannot download weights "{weights}" of encoder {encoder}: no network, and no '
                "cached copy; load it once where there is a network and copy the cache (HF_HOME "
                'and TORCH_HOME), or start from random ones with weights = "none"'
            ) from error
        raise ModelNotFoundError(
            f'cannot load weights "{weights}" of encoder {encoder}: {first_line(error)}; remove '
            'its damaged copy from the cache (HF_HOME), or use weights = "none"'
        ) from error


def _meta_copy(module: nn.Module) -> Any:  # noqa: ANN401 - of the same class
    """Return a copy without numbers, which computes shapes alone and in no time."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in module.parameters()
    }
    memo |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    return copy.deepcopy(module, memo)


def _layout(probe: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return C and the pixels per side of a feature for images of one size.

    Raises:
        ValueError: If the features do not divide the image into square cells that tile those
            of `STRIDE`.
    """
    with torch.no_grad():
        features = probe(torch.empty(1, 3, *size, device="meta"))
    height, width = features.shape[-2:]
    stride = size[0] // max(height, 1)
    tiled = max(stride, STRIDE)
    if (height * stride, width * stride) != size or any(side % tiled for side in size):
        raise ValueError(f"features of {height} × {width} do not tile {size[0]} × {size[1]}")
    return features.shape[1], stride


def _neck(channels: int, width: int, cell: int) -> nn.Module:
    """Return what brings a decoder's features to the grid, and to ``width`` channels."""
    if channels == width:
        return nn.AvgPool2d(cell) if cell > 1 else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels, width, cell, stride=cell, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
