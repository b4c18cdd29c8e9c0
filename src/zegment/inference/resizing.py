"""Bilinear resizing of any part of a picture, with the very numbers that resizing all of it gives.

Letters: B images, K planes, h w samples, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """How each of some neighbouring pixels along a side is mixed of two samples.

    Attributes:
        first: The sample before each pixel, counted from ``low``, int64 (n,).
        second: The sample behind each pixel, likewise.
        first_weight: Weight of the first sample, float (n,).
        second_weight: Weight of the second sample, float (n,).
        low: The first sample that the pixels need.
        high: One more than the last sample that the pixels need.
        whole: Whether these are all pixels of the side.
    """

    first: Tensor
    second: Tensor
    first_weight: Tensor
    second_weight: Tensor
    low: int
    high: int
    whole: bool

    @property
    def samples(self) -> slice:
        """Return which samples the pixels need."""
        return slice(self.low, self.high)

    def part(self, pixels: slice) -> Axis:
        """Return the axis of some of the pixels."""
        first, second = self.first[pixels], self.second[pixels]
        if len(first) == len(self.first):
            return self  # with samples that no pixel needs: their number decides about the scale
        low, high = int(first[0]), int(second[-1]) + 1
        return Axis(
            first=first - low,
            second=second - low,
            first_weight=self.first_weight[pixels],
            second_weight=self.second_weight[pixels],
            low=self.low + low,
            high=self.low + high,
            whole=False,
        )


def _places(samples: int, pixels: int, *, fused: bool) -> Tensor:
    """Return where pixels lie among samples, float32 (n,), to the last bit as torch has it.

    Builds of torch differ in whether product and difference are rounded one by one or together.
    """
    scale = torch.tensor(samples, dtype=torch.float32) / pixels
    centres = torch.arange(pixels, dtype=torch.float32) + 0.5
    if fused:  # float64 holds the product of two float32 without rounding
        return (centres.double() * scale.double() - 0.5).float()
    return centres * scale - 0.5


@lru_cache(maxsize=8)
def _is_fused(device: torch.device) -> bool:
    """Return whether this torch rounds once where pixels lie, on this device."""
    samples, pixels = 7, 130
    # Even samples are 1: a pixel gets the weight of its even one, and nothing is added to it.
    probe = (torch.arange(samples) % 2 == 0).float().expand(1, 1, 2, samples).to(device)
    found = F.interpolate(probe, size=(2, pixels), mode="bilinear", align_corners=False)
    place = _places(samples, pixels, fused=True).clamp(min=0)
    first = place.long()
    weight = place - first
    expected = torch.where(first % 2 == 0, 1 - weight, weight)
    between = first < samples - 1  # beyond, both samples are the last one
    return torch.equal(expected[between], found[0, 0, 0].cpu()[between])


@lru_cache(maxsize=256)
def axis(samples: int, pixels: int, device: torch.device) -> Axis:
    """Return how all pixels of a side are mixed of its samples, corners not aligned."""
    place = _places(samples, pixels, fused=_is_fused(device)).clamp(min=0)
    first = place.long().clamp(max=samples - 1)
    weight = (place - first).clamp(0, 1)
    return Axis(
        first=first.to(device),
        second=(first + 1).clamp(max=samples - 1).to(device),
        first_weight=(1 - weight).to(device),
        second_weight=weight.to(device),
        low=0,
        high=samples,
        whole=True,
    )


def resize(planes: Tensor, rows: Axis, columns: Axis, *, complete: bool = False) -> Tensor:
    """Return a part of what bilinear resizing makes of planes, float (B, K, n, m).

    Every number depends on its four samples alone: neither on which part is asked for nor on what
    other planes there are. `torch.nn.functional.interpolate` gives the same numbers where the
    sides of its result add up to more than 128 and there are not exactly three planes. There it
    changes to other kernels, which round otherwise, by the number of planes and of threads.

    Args:
        planes: The samples that the axes need, float32 (B, K, h, w).
        rows: The rows to make, from `axis` and `Axis.part`.
        columns: The columns to make.
        complete: Whether these are all planes that there are. If all pixels are asked for, too,
            they are left to torch, so that small pictures become what torch makes of them.
    """
    if complete and rows.whole and columns.whole:
        size = (len(rows.first), len(columns.first))
        return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)
    # Columns first: there are few rows of samples.
    near, far = planes.index_select(-1, columns.first), planes.index_select(-1, columns.second)
    wide = far.mul_(columns.second_weight).addcmul_(near, columns.first_weight)
    near, far = _rows(wide, rows.first), _rows(wide, rows.second)
    # The sum of two products is rounded once, where the processor can do that, as torch does it.
    return far.mul_(rows.second_weight[:, None]).addcmul_(near, rows.first_weight[:, None])


def _rows(planes: Tensor, wanted: Tensor) -> Tensor:
    """Return rows of every plane, some of them repeatedly, (B, K, n, m)."""
    batch, classes, height, width = planes.shape
    # Whole rows one after the other: three times as fast as selecting along the third dimension.
    starts = torch.arange(batch * classes, device=planes.device)[:, None] * height
    chosen = planes.reshape(-1, width).index_select(0, (starts + wanted).flatten())
    return chosen.view(batch, classes, len(wanted), width)
