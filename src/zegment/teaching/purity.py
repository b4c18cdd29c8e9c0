"""How well the Pixel Learning Module's groups agree with the true masks of unseen classes.

This reads the true labels of unseen classes. It judges a finished choice of windows and thresholds;
nothing in training may import it.

Letters: B images, K classes of the data set, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zegment.clip_zss import ClipZss
from zegment.data import IGNORE_INDEX, PADDING_INDEX, SegmentationDataset
from zegment.data.batching import same_size_batches
from zegment.data.transforms import normalize, pad_to
from zegment.distributed import sum_over_processes
from zegment.inference.running import pad_to_multiple
from zegment.models.student import Student
from zegment.teaching.pixel_learning import NOWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPurity:
    """Counts of pixels, which add up over batches.

    Attributes:
        images: How many were looked at.
        groups: How many groups they have together.
        unannotated: Pixels without an annotation of a seen class.
        grouped: Those of them that are in a group.
        truth: Pixels of each class, int64 (K,).
        pure: Those of them in a group most of whose pixels are of that class, int64 (K,).
    """

    images: int
    groups: int
    unannotated: int
    grouped: int
    truth: Tensor
    pure: Tensor

    def __add__(self, other: GroupPurity) -> GroupPurity:
        return GroupPurity(
            images=self.images + other.images,
            groups=self.groups + other.groups,
            unannotated=self.unannotated + other.unannotated,
            grouped=self.grouped + other.grouped,
            truth=self.truth + other.truth,
            pure=self.pure + other.pure,
        )

    def to_dict(self, class_names: Sequence[str], unseen: Sequence[str]) -> dict[str, Any]:
        """Return the shares as JSON can hold them, in [0, 1]; None where there is no pixel.

        Args:
            class_names: Of the data set, in the order of their ids.
            unseen: The classes that are reported.

        Returns:
            ``purity``, of all pixels of unseen classes together; ``per_class``; the mean number of
            ``groups_per_image``; ``grouped_share`` of the unannotated pixels.
        """
        ids = [class_names.index(name) for name in unseen]
        truth, pure = self.truth[ids].tolist(), self.pure[ids].tolist()
        return {
            "purity": _share(sum(pure), sum(truth)),
            "per_class": dict(zip(unseen, map(_share, pure, truth), strict=True)),
            "groups_per_image": _share(self.groups, self.images),
            "grouped_share": _share(self.grouped, self.unannotated),
        }


def group_purity(
    groups: Tensor, label: Tensor, unannotated: Tensor, *, num_classes: int
) -> GroupPurity:
    """Return how pure the groups of a batch are.

    The class of a group is the one that most of its pixels have, the first of equals. Pixels of no
    known class have no say in it.

    Args:
        groups: Group of each pixel, numbered image by image, or `NOWHERE`, int64 (B, H, W).
        label: True class ids, or `IGNORE_INDEX` where no class is known, int64 (B, H, W).
        unannotated: Pixels that training has no annotation of, bool (B, H, W).
        num_classes: K.
    """
    batch, most = len(groups), int(groups.max()) + 1
    first = most * torch.arange(batch, device=groups.device).view(-1, 1, 1)
    grouped, known = groups != NOWHERE, label < num_classes
    places = groups + first
    inhabited = places[grouped].bincount(minlength=batch * most) > 0
    cells = (places * num_classes + label)[grouped & known]
    counts = cells.bincount(minlength=batch * most * num_classes)
    largest, owner = counts.view(batch * most, num_classes).max(dim=1)
    pure = torch.zeros(num_classes, dtype=torch.int64, device=groups.device)
    return GroupPurity(
        images=batch,
        groups=int(inhabited.sum()),
        unannotated=int(unannotated.sum()),
        grouped=int((grouped & unannotated).sum()),
        truth=label[known].bincount(minlength=num_classes).cpu(),
        pure=pure.scatter_add(0, owner, largest).cpu(),
    )


@torch.no_grad()
def measure_purity(
    objective: ClipZss,
    model: Student,
    dataset: SegmentationDataset,
    *,
    batch_size: int = 16,
    on_image: Callable[[int], object] | None = None,
) -> GroupPurity:
    """Return how pure the groups are that a student is taught with, over a data set.

    Images are as they are, where training may flip, scale and crop them. Several processes share
    the images; each returns the counts of all.

    Args:
        objective: Of the student's training, whose teacher and Pixel Learning Module are judged.
        model: The student, trained or not, for what its images are normalised with.
        dataset: With the classes of the training, and masks of the unseen ones too.
        batch_size: Most images of one size that are looked at together.
        on_image: Called with the number of images done so far, by this process.
    """
    seen, classes = len(objective.text_embeddings), len(dataset.class_names)
    device = model.mean.device
    nothing = torch.zeros(classes, dtype=torch.int64)
    total = GroupPurity(images=0, groups=0, unannotated=0, grouped=0, truth=nothing, pure=nothing)
    for _, images, labels in same_size_batches(dataset, batch_size, on_image=on_image):
        height, width = labels.shape[1:]
        image = normalize(images.to(device), model.mean, model.std)
        image = pad_to_multiple(image, model.patch_size)
        padded = pad_to(labels.to(device), (image.shape[2], image.shape[3]), value=PADDING_INDEX)
        fused, _, _ = objective.fused_labels(padded, objective.teacher(image).patch_tokens)
        unannotated = objective.seen_labels(padded) == IGNORE_INDEX
        groups = (fused - seen).where(unannotated & (fused != IGNORE_INDEX), NOWHERE)
        inside = slice(None), slice(height), slice(width)
        total += group_purity(
            groups[inside], padded[inside], unannotated[inside], num_classes=classes
        )
    return _over_processes(total)


def _over_processes(own: GroupPurity) -> GroupPurity:
    numbers = torch.tensor([own.images, own.groups, own.unannotated, own.grouped])
    state = torch.cat([numbers, own.truth, own.pure])
    sum_over_processes(state)
    images, groups, unannotated, grouped = state[:4].tolist()
    truth, pure = state[4:].chunk(2)
    return GroupPurity(
        images=images,
        groups=groups,
        unannotated=unannotated,
        grouped=grouped,
        truth=truth,
        pure=pure,
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
