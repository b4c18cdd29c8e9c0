"""Bilinear resizing as matrix products, with its transpose.

Along an axis, bilinear resizing is a matrix. Its transpose, which brings gradients back to the
feature grid, is then as fast as resizing itself, and adds up in the same order on every device.

Letters: n planes, H W pixels, h w feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class Bilinear:
    """Resizing to a size, as ``F.interpolate`` does it with corners not aligned.

    Attributes:
        rows: What each row takes from the rows of the grid, float (H, h).
        columns: What each column takes from the columns of the grid, float (W, w).
        same: Whether the grid has that size already.
    """

    rows: Tensor
    columns: Tensor
    same: bool

    @classmethod
    def between(cls, grid: Tensor, size: Sequence[int]) -> Bilinear:
        """Return the resizing of planes like those of ``grid``, float (…, h, w), to H and W."""
        rows, columns = (
            _interpolation(old, new, like=grid)
            for old, new in zip(grid.shape[-2:], size, strict=True)
        )
        return cls(rows=rows, columns=columns, same=tuple(grid.shape[-2:]) == tuple(size))

    def __call__(self, planes: Tensor) -> Tensor:
        """Return planes (n, h, w) at full size, float (n, H, W)."""
        return planes if self.same else self.rows @ (planes @ self.columns.T)

    def transposed(self, gradient: Tensor) -> Tensor:
        """Return the gradient on the grid, (n, h, w), of one at full size, float (n, H, W)."""
        return gradient if self.same else (self.rows.T @ gradient) @ self.columns

    def stripe(self, rows: slice) -> tuple[slice, Bilinear]:
        """Return the rows of the grid that some full-size rows need, and their resizing."""
        needed = self.rows[rows].any(dim=0).nonzero()[:, 0]
        reach = slice(int(needed[0]), int(needed[-1]) + 1)
        return reach, replace(self, rows=self.rows[rows, reach])


def _interpolation(old: int, new: int, *, like: Tensor) -> Tensor:
    """Return the matrix (new, old) of linear interpolation: what becomes of each unit vector."""
    units = torch.eye(old, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(units, size=new, mode="linear", align_corners=False)[0].T.contiguous()
