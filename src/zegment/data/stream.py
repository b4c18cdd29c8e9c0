"""Training draws without end, each a pure function of the seed and its number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zegment.data import SegmentationDataset, describe
from zegment.data.transforms import TrainTransform


class TrainingStream(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """Draw i is item i of an endless sequence of shuffled epochs, augmented by its own generator.

    Workers, processes and resumed runs therefore see the same images whoever reads them, and a
    plain sequential sampler walks through it.

    Args:
        dataset: Images and labels.
        transform: Augmentation and normalisation.
        seed: Of order and augmentation.
        length: Number of draws.
        first: Draws that came before, in an earlier part of the run.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        transform: TrainTransform,
        *,
        seed: int,
        length: int,
        first: int = 0,
    ) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.length = length
        self.first = first
        self._described = len(dataset) > 0 and describe(dataset, 0) is not None
        self._epoch = -1
        self._order: list[int] = []

    def __len__(self) -> int:
        """Return the number of draws."""
        return self.length

    def item(self, draw: int) -> int:
        """Return which item of the data set a draw takes."""
        epoch, place = divmod(draw, len(self.dataset))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_mix(self.seed, 2 * epoch + 1))
            self._order = torch.randperm(len(self.dataset), generator=generator).tolist()
            self._epoch = epoch
        return self._order[place]

    def __getitem__(self, draw: int) -> tuple[Tensor, ...]:
        """Return a normalised image, float (3, h, w), and its label, int64 (h, w).

        Where the data describes its images in sentences, the item follows, int64 ().
        """
        return self.__getitems__([draw])[0]

    def __getitems__(self, draws: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Return several draws, as a data loader asks for a batch."""
        draws = [self.first + draw for draw in draws]
        pairs = read_items(self.dataset, [self.item(draw) for draw in draws])
        augmented: list[tuple[Tensor, ...]] = []
        for draw, (image, label) in zip(draws, pairs, strict=True):
            generator = torch.Generator().manual_seed(_mix(self.seed, 2 * draw))
            item = (torch.tensor(self.item(draw)),) if self._described else ()
            augmented.append((*self.transform(image, label, generator), *item))
        return augmented


def read_items(dataset: SegmentationDataset, items: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return several items, in one call where the data set can do that faster."""
    read = getattr(dataset, "__getitems__", None)
    return read(items) if read else [dataset[i] for i in items]


def _mix(seed: int, number: int) -> int:
    # Neighbouring seeds must not share draws; any odd multiplier near 2**63 / φ spreads them.
    return (seed * 0x4F1BBCDCBFA53E0B + number) % 2**63
