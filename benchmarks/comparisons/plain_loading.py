"""Training images as one would first write their way: floats from the start, a tensor per step.

The random draws are those of `zegment.data.transforms`, in the same order, so that the same
generator gives the same item but for rounding. H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor
from torch.nn import functional as F

from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.data.chance import chance, uniform
from zegment.data.transforms import CROP_TRIES, RandomResize


def plain_image(path: Path) -> Tensor:
    """Return a picture as it is shown, RGB float (3, H, W) in 0 to 255."""
    with Image.open(path) as picture:
        pixels = np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float()


def plain_mask(path: Path) -> Tensor:
    """Return the labels of a mask in which 255 is ignored, int64 (H, W)."""
    with Image.open(path) as picture:
        label = torch.from_numpy(np.array(picture)).long()
    return torch.where(label == 255, IGNORE_INDEX, label)


class PlainTransform:
    """The released training pipeline, as `zegment.data.transforms.TrainTransform` configures it.

    Args:
        crop_size: (height, width).
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, in the same unit.
        short_side: Length of the shorter side at ratio 1.
        long_side: Length of the longer side that is not exceeded at ratio 1.
        photometric: Whether colours vary.
    """

    def __init__(
        self,
        crop_size: tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        short_side: int = 512,
        long_side: int = 2048,
        photometric: bool = True,
    ) -> None:
        self.crop_size, self.photometric = crop_size, photometric
        self.mean, self.std = (torch.tensor(x).view(3, 1, 1) for x in (mean, std))
        self.resize = RandomResize(short_side, long_side, scale_range=(0.5, 2.0))

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the normalised crop, float (3, h, w), and its label, int64 (h, w)."""
        size = self.resize.size(*label.shape, uniform(generator, *self.resize.scale_range))
        image = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
        label = F.interpolate(label[None, None].float(), size, mode="nearest")[0, 0].long()
        for attempt in range(CROP_TRIES + 1):
            place = self._place(label, generator)
            if attempt == CROP_TRIES or varied(label[place]):
                break
        image, label = image[:, *place], label[place]
        if chance(generator, 0.5):
            image, label = image.flip(-1), label.flip(-1)
        if self.photometric:
            image = plain_distortion(image, generator)
        image = (image / 255 - self.mean) / self.std
        missing = [crop - side for crop, side in zip(self.crop_size, label.shape, strict=True)]
        pad = (0, max(missing[1], 0), 0, max(missing[0], 0))
        return F.pad(image, pad), F.pad(label, pad, value=PADDING_INDEX)

    def _place(self, label: Tensor, generator: Generator) -> tuple[slice, slice]:
        starts = [
            int(torch.randint(max(side - crop, 0) + 1, (), generator=generator))
            for side, crop in zip(label.shape, self.crop_size, strict=True)
        ]
        return tuple(slice(s, s + c) for s, c in zip(starts, self.crop_size, strict=True))


def varied(label: Tensor) -> bool:
    """Return whether labels have several classes, none on 3/4 of what has one."""
    counts = label[label != IGNORE_INDEX].unique(return_counts=True)[1]
    return len(counts) > 1 and float(counts.max() / counts.sum()) < 0.75


def plain_distortion(image: Tensor, generator: Generator) -> Tensor:
    """Return an image (3, H, W) in other colours."""
    if chance(generator, 0.5):
        image = (image + uniform(generator, -32, 32)).clamp(0, 255)
    contrast_first = chance(generator, 0.5)
    if contrast_first and chance(generator, 0.5):
        image = (image * uniform(generator, 0.5, 1.5)).clamp(0, 255)
    if chance(generator, 0.5):
        hue, saturation, value = to_hsv(image)
        saturation = (saturation * uniform(generator, 0.5, 1.5)).clamp(max=1)
        image = to_rgb(hue, saturation, value)
    if chance(generator, 0.5):
        hue, saturation, value = to_hsv(image)
        image = to_rgb(hue + uniform(generator, -36, 36) / 60, saturation, value)
    if not contrast_first and chance(generator, 0.5):
        image = (image * uniform(generator, 0.5, 1.5)).clamp(0, 255)
    return image


def to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in sixths of the circle, saturation in [0, 1] and value, each (H, W)."""
    red, green, blue = image
    value, chroma = image.amax(0), image.amax(0) - image.amin(0)
    divisor = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return hue, chroma / torch.where(value == 0, 1, value), value


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB, (3, H, W), of hue in sixths of the circle, saturation and value."""
    channels = []
    for n in (5, 3, 1):
        k = (n + hue) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels)
