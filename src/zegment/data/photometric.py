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
        image = image.to(torch.float32, copy=True)  # changed in place from here on
        if chance(generator, 0.5):
            change = uniform(generator, -self.brightness, self.brightness)
            image.add_(change).clamp_(0, 255)
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
            return image.mul_(uniform(generator, *self.contrast)).clamp_(0, 255)
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
    growth = (value / chroma.clamp_(min=1e-6)).clamp_(max=factor)
    distances = (value - image).mul_(growth)
    return torch.sub(value, distances, out=distances).clamp_(min=0)  # rounding may go below black


def rotate_hue(image: Tensor, degrees: float) -> Tensor:
    """Return an image with its HSV hue turned; saturation and value stay.

    Args:
        image: RGB, float (3, H, W), of any scale from 0 up.
        degrees: Angle; 120 turns red to green.
    """
    red, green, blue = image
    value = image.amax(dim=0)
    chroma = value - image.amin(dim=0)
    # 1 where a channel is the (first) largest, else 0: torch.where takes several times as long.
    not_red, not_green, _ = (value - image).sign_()
    is_red, is_green, is_blue = 1 - not_red, not_red * (1 - not_green), not_red * not_green
    side = (green - blue).mul_(is_red)
    side.addcmul_(blue - red, is_green).addcmul_(red - green, is_blue)
    # Hues are in sixths of the circle: 0 is red, 2 green, 4 blue.
    hue = side.div_(chroma.clamp(min=1e-6)).add_(is_green, alpha=2).add_(is_blue, alpha=4)
    hue.add_(degrees / 60).remainder_(6)
    own = torch.tensor([0.0, 2.0, 4.0], device=image.device).view(3, 1, 1)
    # Up to a sixth from its own hue a channel is the largest, from two sixths on the smallest;
    # 3 - | |hue - own| - 3 | is how far it is, the shorter way around.
    below = (hue - own).abs_().sub_(3).abs_().neg_().add_(2).clamp_(0, 1).mul_(chroma)
    return torch.sub(value, below, out=below).clamp_(min=0)
