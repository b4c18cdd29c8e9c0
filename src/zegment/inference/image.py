"""Images as the model sees them: resized, normalised, and given out in parts.

Letters: B images of one size, n m sides of a part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.data.transforms import normalize
from zegment.inference.windows import working_size


class WorkingImage:
    """Images of one size, as windows are cut from them.

    Args:
        images: RGB in 0 to 255, uint8 (B, 3, H₀, W₀).
        mean: Of each channel, in [0, 1], float (3,); where it lies is computed.
        std: Likewise.
        windows: Whose ``short_side`` decides about the size.

    Attributes:
        size: H and W after resizing.

    Note:
        A large image is made smaller with antialiasing; ZegCLIP's released pipeline has none.
    """

    def __init__(self, images: Tensor, mean: Tensor, std: Tensor, windows: WindowConfig) -> None:
        given = (images.shape[-2], images.shape[-1])
        self.size = working_size(*given, windows)
        self.mean, self.std = mean, std
        self._kept = self.size == given
        self._pixels = images if self._kept else self._resized(images)

    def __len__(self) -> int:
        return len(self._pixels)

    def crop(self, rows: slice, columns: slice) -> Tensor:
        """Return a part, normalised, float (B, 3, n, m).

        What keeps its size is normalised here, part by part: as floats, a large picture would take
        four times its memory.
        """
        part = self._pixels[..., rows, columns]
        return normalize(part.to(self.mean.device), self.mean, self.std) if self._kept else part

    def _resized(self, images: Tensor) -> Tensor:
        channels = []
        for c in range(3):  # one at a time, because floats take four times the memory
            own = slice(c, c + 1)
            plane = images[:, own].to(self.mean.device)
            plane = normalize(plane, self.mean[own], self.std[own])
            channels.append(
                F.interpolate(
                    plane, size=self.size, mode="bilinear", align_corners=False, antialias=True
                )
            )
        return torch.cat(channels, dim=1)


class NormalizedImage:
    """Images that are normalised already, which keep their size.

    Args:
        images: Float (B, 3, H, W).
    """

    def __init__(self, images: Tensor) -> None:
        self.size = (images.shape[-2], images.shape[-1])
        self._pixels = images

    def __len__(self) -> int:
        return len(self._pixels)

    def crop(self, rows: slice, columns: slice) -> Tensor:
        """Return a part, float (B, 3, n, m)."""
        return self._pixels[..., rows, columns]
