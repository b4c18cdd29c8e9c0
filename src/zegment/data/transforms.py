"""What is done to a training image and its label map, each random choice drawn from one generator.

An image is RGB (3, H, W) in 0 to 255, a label map int64 (H, W) of class ids and
`IGNORE_INDEX`. H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from zegment.config import AugmentConfig
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.data.chance import chance, uniform
from zegment.data.photometric import PhotometricDistortion

#: Crops that are tried in search of one in which no class covers too much.
CROP_TRIES = 10

JointTransform: TypeAlias = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]


def normalize(
    image: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Return an image on the scale that a model expects: ``(image / 255 - mean) / std``.

    Args:
        image: RGB in 0 to 255, or some of its channels, uint8 or float (..., c, H, W).
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, in the same unit.

    Returns:
        float32 (..., c, H, W), on the device of ``image``.
    """
    shift = torch.as_tensor(mean, dtype=torch.float32, device=image.device).view(-1, 1, 1)
    scale = torch.as_tensor(std, dtype=torch.float32, device=image.device).view(-1, 1, 1)
    return image.to(torch.float32, copy=True).div_(255).sub_(shift).div_(scale)


class TrainTransform:
    """Scales, crops, flips, distorts, normalises and pads, in this order.

    Args:
        config: How much of each.
        mean: Mean of each channel, in [0, 1].
        std: Standard deviation of each channel, in the same unit.

    Source:
        ZegCLIP released code, ``train_pipeline``, on the transforms of mmsegmentation 0.24.
    """

    def __init__(
        self,
        config: AugmentConfig,
        *,
        mean: Sequence[float] | Tensor,
        std: Sequence[float] | Tensor,
    ) -> None:
        self.mean, self.std, self.crop_size = mean, std, config.crop_size
        self.steps: list[JointTransform] = []
        if config.short_side is not None or config.scale_range != (1, 1):
            self.steps.append(
                RandomResize(config.short_side, config.long_side, scale_range=config.scale_range)
            )
        if config.crop_size is not None:
            crop = RandomCrop(config.crop_size, max_class_share=config.max_class_share)
            self.steps.append(crop)
        if config.flip > 0:
            self.steps.append(RandomFlip(config.flip))
        if config.photometric:
            self.steps.append(PhotometricDistortion())

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the image, float32 (3, h, w), and its label map, int64 (h, w).

        Args:
            image: RGB, uint8 (3, H, W).
            label: Class ids, int64 (H, W).
            generator: Source of every random choice.

        Returns:
            Normalised image and label map of the crop size, or of the size that scaling gave.
            What a crop lacks is padded on the right and below: image 0, label `PADDING_INDEX`.
        """
        for step in self.steps:
            image, label = step(image, label, generator)
        image = normalize(image, self.mean, self.std)
        if self.crop_size is None:
            return image, label
        return pad_to(image, self.crop_size, value=0), pad_to(
            label, self.crop_size, value=PADDING_INDEX
        )


class RandomResize:
    """Scales by a random ratio and keeps the proportions.

    Args:
        short_side: Length of the shorter side at ratio 1; None takes that of the image.
        long_side: Length beyond which the longer side does not grow at ratio 1; None has no limit.
        scale_range: Smallest and largest ratio.

    Source:
        mmsegmentation 0.24 ``Resize(img_scale=(long_side, short_side), ratio_range=scale_range)``;
        bilinear without antialiasing and rounded to bytes, labels by nearest neighbour.
    """

    def __init__(
        self,
        short_side: int | None,
        long_side: int | None = None,
        *,
        scale_range: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.short_side, self.long_side, self.scale_range = short_side, long_side, scale_range

    def size(self, height: int, width: int, ratio: float) -> tuple[int, int]:
        """Return the (height, width) that an image is scaled to."""
        scale = ratio
        if self.short_side is not None:
            # The sides are cut to whole pixels before they are compared, as in the source.
            scale = int(self.short_side * ratio) / min(height, width)
            if self.long_side is not None:
                scale = min(scale, int(self.long_side * ratio) / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the scaled image, of the type it has, and label map.

        Bytes stay bytes: they are scaled many times as fast as floats.
        """
        height, width = label.shape
        size = self.size(height, width, uniform(generator, *self.scale_range))
        if size == (height, width):
            return image, label
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
        # Whole numbers cannot be resized, but copying them as floats of their size is the same.
        bits = F.interpolate(label.view(torch.float64)[None, None], size, mode="nearest")
        return image, bits[0, 0].view(torch.int64)


class RandomCrop:
    """Cuts out a random part; what is smaller than the crop is left as it is.

    Args:
        size: (height, width) of the crop.
        max_class_share: A crop is drawn again, up to ten times, while only one class has pixels in
            it, or one has at least this share of those not ignored; 1 takes the first crop.

    Source:
        mmsegmentation 0.24 ``RandomCrop(cat_max_ratio=...)``.
    """

    def __init__(self, size: tuple[int, int], *, max_class_share: float = 1.0) -> None:
        self.size, self.max_class_share = size, max_class_share

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the same part of the image and of the label map."""
        place = self._draw(label, generator)
        if self.max_class_share < 1:
            for _ in range(CROP_TRIES):
                if self._varied(label[place]):
                    break
                place = self._draw(label, generator)
        return image[:, *place], label[place]

    def _draw(self, label: Tensor, generator: Generator) -> tuple[slice, slice]:
        top, left = (
            int(torch.randint(max(length - crop, 0) + 1, (), generator=generator))
            for length, crop in zip(label.shape, self.size, strict=True)
        )
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def _varied(self, label: Tensor) -> bool:
        counts = label.flatten().bincount(minlength=IGNORE_INDEX)[:IGNORE_INDEX]
        largest = int(counts.max()) / max(int(counts.sum()), 1)
        return int(counts.count_nonzero()) > 1 and largest < self.max_class_share


class RandomFlip:
    """Mirrors left and right.

    Args:
        probability: How often, in [0, 1].
    """

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return both, mirrored or not."""
        if chance(generator, self.probability):
            return image.flip(-1), label.flip(-1)
        return image, label


def pad_to(image: Tensor, size: tuple[int, int], *, value: float) -> Tensor:
    """Return a map, (..., H, W), padded on the right and below to at least a (height, width)."""
    height, width = image.shape[-2:]
    if height >= size[0] and width >= size[1]:
        return image  # padding by nothing would be a copy
    return F.pad(image, (0, max(size[1] - width, 0), 0, max(size[0] - height, 0)), value=value)
