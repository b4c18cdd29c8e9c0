"""Two stages, proposals and CLIP: regions first, then a class for each; nothing is learnt.

This is the way to segment that ZegCLIP and CLIP-ZSS do without. ZegFormer and SimBaseline take
their regions from a MaskFormer that was trained on masks; here they come from the picture alone, so
the model needs no weights but CLIP's, and no mask of a training can leak into what it finds. It is
a yardstick: to see what one pass through CLIP saves, and what whole regions are worth.

Letters: B images, K classes, D embedding, R regions, H W pixels, h w grid of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from zegment.clip import ImageTower
from zegment.models.base import SegmentationModel
from zegment.optional import optional

CROP_BATCH = 32
"""Most regions that go through CLIP at a time."""


class Proposals(Protocol):
    """What finds the regions of a picture, without a class in mind."""

    def __call__(self, cells: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return regions (R, h, w), which may overlap and together cover every cell.

        Args:
            cells: RGB in [0, 1], float (h, w, 3).
        """


class FelzenszwalbRegions:
    """The segments of Felzenszwalb and Huttenlocher at several scales, as overlapping regions.

    At each scale neighbouring cells are merged for as long as the difference between two segments
    is small against those within them, so segments have any outline and size. Superpixels of one
    size (SLIC) would have to be merged by another rule to become objects, and a trained
    class-agnostic MaskFormer would bring weights of its own and the masks it has seen.

    The segments of the coarsest scale are always there and cover the picture. Those of the others
    join them, the largest first, while there is room. What several scales find counts once.

    Args:
        scales: How much difference is merged, in the unit of scikit-image's ``scale``; a larger one
            gives larger segments.
        smallest_share: Share of the cells below which a segment is merged with a neighbour.
        most: Most regions of a picture, at least ``1 / smallest_share``.

    Raises:
        ConfigError: If scikit-image is not installed.

    Source:
        Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 2004.
    """

    def __init__(self, *, scales: Sequence[float], smallest_share: float, most: int) -> None:
        module = optional("skimage.segmentation", extra="two-stage", purpose="a two_stage model")
        self._segments = module.felzenszwalb
        self.scales = sorted(scales, reverse=True)
        self.smallest_share = smallest_share
        self.most = most

    def __call__(self, cells: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return regions (R, h, w) of cells (h, w, 3); see `Proposals`."""
        # Rounded up, so that no scale has more segments than 1 / smallest_share.
        smallest = math.ceil(self.smallest_share * cells.shape[0] * cells.shape[1])
        coarsest, *others = (self._partition(cells, scale, smallest) for scale in self.scales)
        # By their bits, so that what two scales agree on is there once, in a fixed order.
        kept = {mask.tobytes(): mask for mask in coarsest}
        finer = [mask for masks in others for mask in masks]
        for mask in sorted(finer, key=np.count_nonzero, reverse=True):
            if len(kept) >= self.most:
                break
            kept.setdefault(mask.tobytes(), mask)
        return np.stack(list(kept.values()))

    def _partition(
        self, cells: NDArray[np.float32], scale: float, smallest: int
    ) -> list[NDArray[np.bool_]]:
        """Return the segments of one scale, each (h, w), which do not overlap."""
        labels = self._segments(cells, scale=scale, sigma=0.8, min_size=smallest)
        return [labels == label for label in np.unique(labels)]


class MaskedCrop:
    """A square around a region, in which what is not of the region fades to the mean colour.

    Args:
        margin: What the square has on each side beyond its region, as a share of the region's
            longer side.
        outside: What is left of the contrast outside of the region, in [0, 1]: 0 shows the region
            alone, 1 all that lies in the square.

    Source:
        ZegFormer (Ding et al., CVPR 2022), which crops and masks what CLIP is to see.
    """

    def __init__(self, *, margin: float = 0.0, outside: float = 0.0) -> None:
        self.margin = margin
        self.outside = outside

    def __call__(self, picture: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """Return a region as CLIP is to see it, float (3, *size).

        Args:
            picture: Normalised, so that the mean colour is 0, float (3, H, W).
            mask: Pixels of the region, bool (H, W), at least one of them true.
            size: Height and width of CLIP's input.
        """
        height, width = mask.shape
        top, left, side = self.square(mask)
        # Negative padding cuts off; what lies beyond the picture has the mean colour too.
        reach = (-left, left + side - width, -top, top + side - height)
        share = F.pad(mask, reach).to(picture).clamp(min=self.outside)
        seen = F.pad(picture, reach) * share
        return F.interpolate(
            seen[None], size=size, mode="bilinear", align_corners=False, antialias=True
        )[0]

    def square(self, mask: Tensor) -> tuple[int, int, int]:
        """Return top, left and side of the square around a mask (H, W); it may stick out."""
        rows, columns = (mask.any(dim=other).nonzero()[:, 0].tolist() for other in (1, 0))
        height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        longer = max(height, width)
        side = longer + 2 * round(self.margin * longer)
        return rows[0] - (side - height) // 2, columns[0] - (side - width) // 2, side


class TwoStage(SegmentationModel):
    """Region proposals, a class posterior of CLIP for each, and a vote of those that cover a cell.

    CLIP sees each region by itself, at the size of its own input, and its class token is compared
    with the texts. A cell gets the mean of the posteriors of the regions that cover it, each with
    the same weight.

    Args:
        tower: The image tower; it is frozen.
        proposals: What finds regions.
        crop: What CLIP sees of a region.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.
        cell: Pixels per side of a cell, in which regions are found and scores are given.
        temperature: Divides the cosines before the softmax; CLIP's own is 0.01.

    Source:
        ZegFormer (Ding et al., CVPR 2022) and SimBaseline (Xu et al., ECCV 2022), without their
        trained proposals.
    """

    def __init__(
        self,
        tower: ImageTower,
        proposals: Proposals,
        crop: MaskedCrop,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        cell: int = 4,
        temperature: float = 0.01,
    ) -> None:
        super().__init__(mean=mean, std=std, patch_size=cell)
        self.tower = tower.requires_grad_(False)
        self.proposals = proposals
        self.crop = crop
        self.temperature = temperature

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return the mean posterior of each cell's regions, float (B, K, h, w), in [0, 1].

        These are probabilities already, and are brought to full size as such: between two sure
        cells of different classes, a third class that both find unlikely must not win.

        Args:
            image: See the base class.
            text_embeddings: See the base class.

        Raises:
            ValueError: If a side is not a multiple of ``patch_size``.
        """
        self.check_sides(image)
        regions = [self.regions(picture) for picture in image]
        counts = [len(own) for own in regions]
        embeddings = self.embeddings(image, regions).split(counts)
        texts = text_embeddings.expand(len(image), -1, -1)  # B, K, D
        votes = [
            vote(own, ((classes @ text.T) / self.temperature).softmax(dim=1))
            for own, classes, text in zip(regions, embeddings, texts, strict=True)
        ]
        return torch.stack(votes)

    def scores(self, logits: Tensor) -> Tensor:
        """Return ``logits``, which are probabilities that sum to one over classes."""
        return logits

    def regions(self, picture: Tensor) -> Tensor:
        """Return the proposals of a normalised picture (3, H, W), bool (R, h, w), on the CPU."""
        coloured = picture.float() * self.std[:, None, None] + self.mean[:, None, None]
        cells = F.avg_pool2d(coloured[None], self.patch_size)[0].clamp(0, 1)
        return torch.from_numpy(self.proposals(cells.permute(1, 2, 0).contiguous().cpu().numpy()))

    def embeddings(self, image: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """Return unit embeddings of the regions of all images in turn, float (sum of R, D).

        Args:
            image: Normalised, float (B, 3, H, W).
            regions: Of each image, bool (R, h, w).
        """
        pairs = [(own, one) for own, some in zip(image, regions, strict=True) for one in some]
        batches = [pairs[i : i + CROP_BATCH] for i in range(0, len(pairs), CROP_BATCH)]
        return torch.cat([self._class_embeddings(batch) for batch in batches])

    def _class_embeddings(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        shape, cell = self.tower.shape, self.patch_size
        size = (shape.grid[0] * shape.patch_size, shape.grid[1] * shape.patch_size)
        pixels = (one.repeat_interleave(cell, 0).repeat_interleave(cell, 1) for _, one in pairs)
        crops = [self.crop(own, mask, size) for (own, _), mask in zip(pairs, pixels, strict=True)]
        class_embeddings: Tensor = self.tower(torch.stack(crops))[0]
        return class_embeddings


def vote(regions: Tensor, posteriors: Tensor) -> Tensor:
    """Return the mean of the posteriors of the regions that cover each cell, float (K, h, w).

    Args:
        regions: bool (R, h, w); each cell is in at least one.
        posteriors: Class probabilities of each region, float (R, K).
    """
    covered = regions.to(posteriors)  # R, h, w
    total = torch.einsum("rhw,rk->khw", covered, posteriors)
    return total / covered.sum(dim=0)
