"""SegNeXt: a convolutional encoder with multi-scale attention, and a matrix-factorising head.

Modules carry the names of the published checkpoints, so that those load without translation.

Letters: B images, C channels, D embedding, N grid cells, R bases, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from zegment.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class SegNeXtVariant:
    """The numbers that make one SegNeXt.

    Attributes:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        ham_channels: Channels of the head, a multiple of its 32 normalisation groups.
        mlp_ratios: Hidden channels of the feed-forward networks over ``dims``, by stage.
        drop_path: How often the last block's residual branches are dropped; the first block's
            never are, and the rate grows linearly between.
        imagenet: What completes `zegment.models.segnext_import.IMAGENET_URL`; None if no
            encoder is published.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    ham_channels: int
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)
    drop_path: float = 0.1
    imagenet: tuple[str, str] | None = None


_WIDE = (64, 128, 320, 512)
VARIANTS: Mapping[str, SegNeXtVariant] = {
    "t": SegNeXtVariant(
        dims=(32, 64, 160, 256), depths=(3, 3, 5, 2), ham_channels=256, imagenet=("t", "119e8c9f")
    ),
    "s": SegNeXtVariant(
        dims=_WIDE, depths=(2, 2, 4, 2), ham_channels=256, imagenet=("s", "f33ccdf2")
    ),
    "b": SegNeXtVariant(
        dims=_WIDE, depths=(3, 3, 12, 3), ham_channels=512, imagenet=("b", "3ab7d230")
    ),
    "l": SegNeXtVariant(
        dims=_WIDE,
        depths=(3, 5, 27, 3),
        ham_channels=1024,
        drop_path=0.3,
        imagenet=("l", "cef260d4"),
    ),
}
"""The published sizes, from the paper's table of settings and its released configurations."""


def _named(**modules: nn.Module) -> nn.Sequential:
    """Return modules in a row under the names that checkpoints give them."""
    return nn.Sequential(OrderedDict(modules))


def _depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    padding = (height // 2, width // 2)
    return nn.Conv2d(channels, channels, (height, width), padding=padding, groups=channels)


class MultiScaleAttention(nn.Module):
    """Attention weights from strips of several lengths, multiplied onto the input.

    A pair of strips stands in for a square kernel of the same side.

    Source:
        SegNeXt eqs. 1 and 2 (MSCA).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = _depthwise(channels, 5, 5)
        for i, length in enumerate((7, 11, 21)):
            self.add_module(f"conv{i}_1", _depthwise(channels, 1, length))
            self.add_module(f"conv{i}_2", _depthwise(channels, length, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated input, float (B, C, h, w), from the same shape."""
        near = self.conv0(x)
        scales = near
        for i in range(3):
            row, column = self.get_submodule(f"conv{i}_1"), self.get_submodule(f"conv{i}_2")
            scales = scales + column(row(near))
        gated: Tensor = self.conv3(scales) * x
        return gated


class SpatialAttention(nn.Module):
    """Multi-scale attention between two 1×1 convolutions, with a shortcut of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.spatial_gating_unit = MultiScaleAttention(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the input's shape, float (B, C, h, w)."""
        attended: Tensor = self.proj_2(self.spatial_gating_unit(F.gelu(self.proj_1(x))))
        return x + attended


class Block(nn.Module):
    """Spatial attention, then a feed-forward network with a 3×3 depth-wise convolution.

    Args:
        channels: C.
        mlp_ratio: Hidden channels of the feed-forward network over C.
        drop_path: How often an image skips each of the two branches in training.
    """

    def __init__(self, channels: int, *, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = SpatialAttention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = _named(
            fc1=nn.Conv2d(channels, hidden, 1),
            dwconv=_depthwise(hidden, 3, 3),
            act=nn.GELU(),
            fc2=nn.Conv2d(hidden, channels, 1),
        )
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 0.01))
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the input's shape, float (B, C, h, w)."""
        scale_1, scale_2 = (s[:, None, None] for s in (self.layer_scale_1, self.layer_scale_2))
        x = x + self.drop_path(scale_1 * self.attn(self.norm1(x)))
        return x + self.drop_path(scale_2 * self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def _halve(channels_in: int, channels_out: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    return _named(proj=conv, norm=nn.BatchNorm2d(channels_out))


def _stem(channels: int) -> nn.Sequential:
    halves = _halve(3, channels // 2), _halve(channels // 2, channels)
    return _named(proj=nn.Sequential(*halves[0], nn.GELU(), *halves[1]))


class MSCAN(nn.Module):
    """The encoder: four stages, each at half the resolution of the one before.

    Source:
        SegNeXt section 3.1, and its released code for what the paper leaves open.
    """

    def __init__(self, variant: SegNeXtVariant) -> None:
        super().__init__()
        rates = iter(
            torch.linspace(0, variant.drop_path, sum(variant.depths), device="cpu").tolist()
        )
        for i, (channels, ratio) in enumerate(zip(variant.dims, variant.mlp_ratios, strict=True)):
            embed = _halve(variant.dims[i - 1], channels) if i else _stem(channels)
            blocks = [
                Block(channels, mlp_ratio=ratio, drop_path=next(rates))
                for _ in range(variant.depths[i])
            ]
            self.add_module(f"patch_embed{i + 1}", embed)
            self.add_module(f"block{i + 1}", nn.Sequential(*blocks))
            self.add_module(f"norm{i + 1}", nn.LayerNorm(channels))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of the four stages, float (B, C, ⌈H/s⌉, ⌈W/s⌉), s = 4, 8, 16, 32.

        Args:
            image: Images normalised with ImageNet's statistics, float (B, 3, H, W).
        """
        features, x = [], image
        for stage in range(1, 5):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            x = self.get_submodule(f"block{stage}")(x)
            norm = self.get_submodule(f"norm{stage}")
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()  # B, C, h, w
            features.append(x)
        return features


def multiplicative_update(left: Tensor, right: Tensor, x: Tensor) -> Tensor:
    """Return a better non-negative left factor of x ≈ left rightᵀ, same shape as ``left``.

    Args:
        left: The factor to improve, float (B, I, R).
        right: The other one, float (B, J, R).
        x: What they approximate, float (B, I, J), not negative.

    Source:
        Lee and Seung 2000, for the squared error; 1e-6 as in the released Hamburger.
    """
    return left * (x @ right) / (left @ (right.mT @ right) + 1e-6)


class NMF2D(nn.Module):
    """Features rebuilt from a few non-negative bases: a global context of low rank.

    Args:
        channels: C.
        bases: R.
        train_steps: Updates of both factors in training; gradients flow through all of them.
        eval_steps: Likewise in evaluation.

    Source:
        Geng et al., Is Attention Better Than Matrix Decomposition?, ICLR 2021, and the released
        SegNeXt head. The released configurations set an inverse temperature of 100, but the
        released class overwrites it with 1.

    Note:
        The released head draws new bases in evaluation too, so the same image gets other masks
        each time. Ours start from fixed bases there; in training they are random
        (``test_evaluation_repeats_itself_and_training_draws_new_bases``). The updates run at
        least in float32, because sums over all cells overflow float16
        (``test_factorisation_survives_half_precision``).
    """

    fixed_bases: Tensor

    def __init__(
        self, channels: int, *, bases: int = 16, train_steps: int = 6, eval_steps: int = 7
    ) -> None:
        super().__init__()
        self.train_steps, self.eval_steps = train_steps, eval_steps
        # Drawn on the CPU, whatever the default device, so that every machine gets the same.
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = torch.rand(1, channels, bases, generator=generator, device="cpu")
        # Not persistent, because published checkpoints hold no bases.
        self.register_buffer("fixed_bases", drawn, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the approximation, float (B, C, h, w), not negative.

        Args:
            x: Features, float (B, C, h, w), not negative.
        """
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(x.dtype, torch.float32)
            bases, coefficients = self.factorise(x.flatten(2).to(dtype))
            rebuilt = bases @ coefficients.mT  # B, C, N
            return rebuilt.view(x.shape).to(x.dtype)

    def factorise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return bases, float (B, C, R), and coefficients, float (B, N, R).

        Args:
            x: Features, float (B, C, N), not negative.
        """
        bases = self.fixed_bases.to(x).expand(x.shape[0], -1, -1)
        if self.training:
            bases = torch.rand_like(bases)
        bases = F.normalize(bases, dim=1)
        coefficients = (x.mT @ bases).softmax(dim=-1)  # B, N, R
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coefficients = multiplicative_update(coefficients, bases, x.mT)
            bases = multiplicative_update(bases, coefficients, x)
        return bases, multiplicative_update(coefficients, bases, x.mT)


def _conv_norm(channels_in: int, channels_out: int) -> nn.Sequential:
    return _named(
        conv=nn.Conv2d(channels_in, channels_out, 1, bias=False),
        gn=nn.GroupNorm(32, channels_out),
    )


class Hamburger(nn.Module):
    """A matrix factorisation between two linear layers, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ham_in = _named(conv=nn.Conv2d(channels, channels, 1))
        self.ham = NMF2D(channels)
        self.ham_out = _conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the input's shape, float (B, C, h, w), not negative."""
        rebuilt: Tensor = self.ham_out(self.ham(F.relu(self.ham_in(x))))
        return F.relu(x + rebuilt)


class LightHamHead(nn.Module):
    """The last three stages at the resolution of the first of them, mixed and projected.

    Args:
        variant: Sizes of the stages and of the head.
        embed_dim: D.

    Source:
        SegNeXt section 3.2 and its released ``LightHamHead``, whose classifier is replaced by a
        projection without bias into the space that is compared with class names.
    """

    def __init__(self, variant: SegNeXtVariant, *, embed_dim: int) -> None:
        super().__init__()
        channels = variant.ham_channels
        self.squeeze = _conv_norm(sum(variant.dims[1:]), channels)
        self.hamburger = Hamburger(channels)
        self.align = _conv_norm(channels, channels)
        self.dropout = nn.Dropout2d(0.1)
        self.projection = nn.Conv2d(channels, embed_dim, 1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return projected features, float (B, D, ⌈H/8⌉, ⌈W/8⌉), from those of `MSCAN`."""
        grid = features[1].shape[2:]
        levels = [
            F.interpolate(x, size=grid, mode="bilinear", align_corners=False) for x in features[1:]
        ]
        x = F.relu(self.squeeze(torch.cat(levels, dim=1)))
        x = F.relu(self.align(self.hamburger(x)))
        projected: Tensor = self.projection(self.dropout(x))
        return projected


class SegNeXt(nn.Module):
    """Images to dense features in a space of ``embed_dim`` dimensions, not normalised.

    Any image size works. In training, a single image must have a side above 32 pixels: batch
    normalisation cannot take the statistics of the last stage's one cell.

    Args:
        variant: One of `VARIANTS`, or other numbers.
        embed_dim: D.

    Attributes:
        multiple: Sides that are multiples of this have a grid that covers the image exactly.
            The released evaluation pads to multiples of 32, where that holds for all stages.

    Source:
        Guo et al., SegNeXt, NeurIPS 2022.
    """

    multiple = 8

    def __init__(self, variant: SegNeXtVariant, *, embed_dim: int) -> None:
        super().__init__()
        self.variant = variant
        self.backbone = MSCAN(variant)
        self.decode_head = LightHamHead(variant, embed_dim=embed_dim)
        self.apply(_initialise)
        # As the classifier that it replaces.
        nn.init.normal_(self.decode_head.projection.weight, std=0.01)

    def forward(self, image: Tensor) -> Tensor:
        """Return features, float (B, D, ⌈H/8⌉, ⌈W/8⌉).

        Args:
            image: Images normalised with ImageNet's statistics, float (B, 3, H, W).
        """
        features: Tensor = self.decode_head(self.backbone(image))
        return features

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Raise ConfigError if batches of this shape cannot be processed; see the model's."""
        cells = batch * (-(-size[0] // 32)) * (-(-size[1] // 32))
        if training and cells < 2:
            raise ConfigError(
                f"SegNeXt cannot be trained on one image of {size[0]} × {size[1]} per batch, "
                "because its last stage sees one cell and normalises over all cells of the batch; "
                "use at least two images on every device, or larger ones"
            )

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the encoder's parameters; the head learns ten times as fast as released."""
        return self.backbone.parameters()


def _initialise(module: nn.Module) -> None:
    """Draw a convolution as the released encoder and head do before any training."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(
            module.weight, std=(2 / (module.weight[:, 0].numel() / module.groups)) ** 0.5
        )
        if module.bias is not None:
            nn.init.zeros_(module.bias)
