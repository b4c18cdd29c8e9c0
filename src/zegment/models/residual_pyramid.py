"""A small residual network with a feature pyramid: the student for images of a hundred pixels.

Large encoders start from ImageNet and reduce 512 pixels to a fourth before they look closely;
from random weights and on small pictures this one learns more in the same time.

Letters: B images, C channels, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from zegment.errors import ConfigError, ModelNotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidSize:
    """The numbers of one residual pyramid.

    Attributes:
        stem: Channels after the first convolution.
        stages: Channels of the stages, which see every 4th, 8th, 16th … pixel.
        width: C of the pyramid.
    """

    stem: int
    stages: tuple[int, ...]
    width: int


SIZES: Mapping[str, PyramidSize] = {
    "tiny": PyramidSize(stem=16, stages=(32, 48, 64), width=64),
    "small": PyramidSize(stem=32, stages=(64, 96, 128), width=128),
    "base": PyramidSize(stem=64, stages=(128, 192, 256), width=256),
}
"""By the name that configurations use; each has about four times the weights of the one before."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut, (B, C, h, w) to the same shape.

    Source:
        ResNet (He et al., CVPR 2016), the basic block.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways, after ReLU."""
        return F.relu(x + self.second(self.first(x)))


class ResidualPyramid(nn.Module):
    """Images (B, 3, H, W) to dense features (B, D, H / 4, W / 4).

    Args:
        size: Its numbers.
        embed_dim: D.

    Attributes:
        multiple: Image sides must be multiples of this many pixels.

    Source:
        Stages of ResNet, joined from coarse to fine as in FPN (Lin et al., CVPR 2017).
    """

    multiple = 4

    def __init__(self, size: PyramidSize, *, embed_dim: int) -> None:
        super().__init__()
        self.stem = _convolution(3, size.stem, stride=2)
        channels = [size.stem, *size.stages]
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(before, after, stride=2), Residual(after))
            for before, after in pairwise(channels)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, size.width, 1) for c in size.stages)
        self.smooth = _convolution(size.width, size.width)
        self.projection = nn.Conv2d(size.width, embed_dim, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return dense features, float (B, D, H / 4, W / 4), of any length."""
        x, maps = self.stem(image), []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            maps.append(lateral(x))  # B, C, h, w
        joined = maps.pop()
        while maps:
            finer = maps.pop()
            joined = F.interpolate(
                joined, size=finer.shape[-2:], mode="bilinear", align_corners=False
            )
            joined = finer + joined
        features: Tensor = self.projection(self.smooth(joined))
        return features

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that pretrained weights would fill."""
        return chain(self.stem.parameters(), self.stages.parameters())

    def check_batch(self, size: tuple[int, int], *, batch: int, training: bool) -> None:
        """Raise ConfigError if batches of this shape cannot be processed; see the model's."""
        coarsest = 2 ** (1 + len(self.stages))
        cells = batch * -(-size[0] // coarsest) * -(-size[1] // coarsest)
        if training and cells < 2:
            raise ConfigError(
                f"a residual pyramid cannot be trained on one image of {size[0]} × {size[1]} per "
                "batch, because its last stage sees one cell and normalises over all cells of "
                "the batch; use at least two images on every device, or larger ones"
            )


def residual_pyramid(size: str, *, weights: str | None, embed_dim: int) -> ResidualPyramid:
    """Return a residual pyramid by the name of its size.

    Args:
        size: One of `SIZES`.
        weights: None; there are no pretrained ones.
        embed_dim: D.

    Raises:
        ModelNotFoundError: If there is no such size, or weights are asked for.
    """
    if size not in SIZES:
        raise ModelNotFoundError(
            f'a residual pyramid has no size "{size}"; there are {", ".join(SIZES)}'
        )
    if weights is not None:
        raise ModelNotFoundError(
            f'no weights "{weights}" are published for a residual pyramid; use weights = "none"'
        )
    return ResidualPyramid(SIZES[size], embed_dim=embed_dim)


def _convolution(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
