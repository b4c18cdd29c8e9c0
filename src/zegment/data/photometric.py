"""Random colours: brightness, contrast, saturation and hue of an image.

An image is RGB (3, H, W). H W pixels.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from zegment.data.chance import chance, uniform


class PhotometricDistortion:
    """Varies brightness, contrast, saturation and hue, each in half of the images.

    Contrast comes before or after the other two with equal probability. Saturation and hue are
    those of the HSV model.

    Args:
        brightness: Most that is added or taken, in 0 to 255.
        contrast: Smallest and largest factor.
        saturation: Smallest and largest factor.
        hue: Largest rotation in degrees, either way.

    Source:
        mmsegmentation 0.24 ``PhotoMetricDistortion``, after SSD. Its hue of 18 is in the half
        degrees of 8-bit OpenCV, hence 36 here.

    Note:
        Values stay fractions between the steps, where the source rounds down to whole numbers.
    """

    def __init__(
        self,
        *,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: float = 36.0,
    ) -> None:
        self.brightness, self.hue = brightness, hue
        self.contrast, self.saturation = contrast, saturation

    def __call__(self, image: Tensor, label: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the image in other colours, float in 0 to 255; the label map as it is."""
        image = image.float()
        if chance(generator, 0.5):
            change = uniform(generator, -self.brightness, self.brightness)
            image = (image + change).clamp(0, 255)
        contrast_first = chance(generator, 0.5)
        if contrast_first:
            image = self._vary_contrast(image, generator)
        if chance(generator, 0.5):
            image = scale_saturation(image, uniform(generator, *self.saturation))
        if chance(generator, 0.5):
            image = rotate_hue(image, uniform(generator, -self.hue, self.hue))
        if not contrast_first:
            image = self._vary_contrast(image, generator)
        return image, label

    def _vary_contrast(self, image: Tensor, generator: Generator) -> Tensor:
        if chance(generator, 0.5):
            return (image * uniform(generator, *self.contrast)).clamp(0, 255)
        return image


def scale_saturation(image: Tensor, factor: float) -> Tensor:
    """Return an image with its HSV saturation multiplied, at most to 1; hue and value stay.

    Args:
        image: RGB, float (3, H, W), of any scale from 0 up.
        factor: At least 0.
    """
    value = image.amax(dim=0)
    chroma = value - image.amin(dim=0)
    # The three distances from the largest channel all grow as saturation = chroma / value does.
    growth = (value / chroma.clamp(min=1e-6)).clamp(max=factor)
    return (value - (value - image) * growth).clamp(min=0)  # rounding must not go below black


def rotate_hue(image: Tensor, degrees: float) -> Tensor:
    """Return an image with its HSV hue turned; saturation and value stay.

    Args:
        image: RGB, float (3, H, W), of any scale from 0 up.
        degrees: Angle; 120 turns red to green.
    """
    red, green, blue = image
    value = image.amax(dim=0)
    chroma = value - image.amin(dim=0)
    divisor = chroma.clamp(min=1e-6)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    # Channel n of a colour at hue sector s, in sixths of the circle: how far it lies below value.
    offset = torch.tensor([5.0, 3.0, 1.0], device=image.device).view(3, 1, 1)
    position = (offset + sector + degrees / 60) % 6
    below = chroma * torch.minimum(position, 4 - position).clamp(0, 1)
    return (value - below).clamp(min=0)
