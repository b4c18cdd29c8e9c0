"""Pixel accuracy and IoU of a whole data set, from one integer confusion matrix.

Scores are fractions in [0, 1]; a score that nothing was measured for is ``None``, never NaN.

Letters: K classes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

UNKNOWN = -1
"""A prediction that is none of the classes."""


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs over pixels, summed over a data set.

    Integers, so the order of images, the batch size and the number of processes cannot change
    them: sum ``state`` over processes and every score follows.

    Args:
        num_classes: K.
        ignore_index: Label of pixels that nobody scores.
        device: Where the counts live.

    Attributes:
        state: Counts, int64 (K, K + 1); rows are truth, columns are predictions, the last column
            is `UNKNOWN`, which is wrong for every class without being one.

    Raises:
        ValueError: If there is no class.
        ValueError: If ``ignore_index`` is the id of a class.
    """

    def __init__(
        self, num_classes: int, *, ignore_index: int = 255, device: torch.device | str = "cpu"
    ) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; a confusion matrix needs at least 1")
        if 0 <= ignore_index < num_classes:
            raise ValueError(
                f"ignore_index {ignore_index} is also the id of one of the {num_classes} classes; "
                "choose one outside, such as -1 or 65535"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.state = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count the pixels of one image or batch.

        Args:
            prediction: Class ids, `UNKNOWN` allowed, any integer dtype and shape. Where the label
                is ignored it is not looked at.
            label: Class ids or ``ignore_index``, any integer dtype, same shape.

        Raises:
            ValueError: If the shapes differ.
            ValueError: If one of them is not made of integers.
            ValueError: If an id is out of range.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in "
                "shape; resize the prediction to the label"
            )
        guess = _integers("prediction", prediction)
        truth = _integers("label", label).to(guess.device)  # counted where the prediction is
        counted = truth != self.ignore_index
        truth, guess = truth[counted], guess[counted]
        self._check_range("label", truth, lowest=0)
        self._check_range("prediction", guess, lowest=UNKNOWN)
        columns = self.num_classes + 1
        cell = truth * columns + guess % columns  # -1 % (K + 1) is K, the column of the unknown
        counts = torch.bincount(cell, minlength=self.state.numel()).view_as(self.state)
        self.state += counts.to(self.state.device)

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another part of the data set.

        Args:
            other: A matrix over the same classes; it is not changed.

        Raises:
            ValueError: If it has other classes or another ``ignore_index``.
        """
        ours, theirs = (
            f"{matrix.num_classes} classes with ignore_index {matrix.ignore_index}"
            for matrix in (self, other)
        )
        if ours != theirs:
            raise ValueError(f"cannot add a matrix of {theirs} to one of {ours}")
        self.state += other.state.to(self.state.device)

    def to(self, device: torch.device | str) -> "ConfusionMatrix":
        """Return a copy whose counts live on ``device``."""
        copy = ConfusionMatrix(self.num_classes, ignore_index=self.ignore_index, device=device)
        copy.merge(self)
        return copy

    def _check_range(self, name: str, ids: Tensor, *, lowest: int) -> None:
        outside = ids[(ids < lowest) | (ids >= self.num_classes)]
        if outside.numel():
            raise ValueError(
                f"{name} contains {int(outside[0])}, but ids of {self.num_classes} classes run "
                f"from {lowest} to {self.num_classes - 1} (ignore_index is {self.ignore_index})"
            )


class DiceScores:
    """The Dice coefficient 2 |P ∩ T| / (|P| + |T|) of each class in each image, averaged.

    An image that has a class in neither truth nor prediction counts 1 for it, as an empty picture
    found empty does in medical reports.

    Args:
        class_names: In the order of ids.

    Attributes:
        state: Sums over images of one coefficient each per class, in units of 2⁻⁴⁰, and their
            number, int64 (K + 1,); whole numbers, so that neither order nor processes matter.
    """

    _UNIT = 2**40

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.state = torch.zeros(len(self.class_names) + 1, dtype=torch.int64)

    def update(self, prediction: Tensor, label: Tensor, *, ignore_index: int) -> None:
        """Count a batch of images, both int (B, H, W); ignored pixels count nowhere."""
        count, images = len(self.class_names), len(label)
        guess, truth = prediction.flatten(1), label.flatten(1).long()
        counted = truth != ignore_index
        first = count * torch.arange(images, device=truth.device)[:, None]  # cell of class 0

        def pixels(ids: Tensor, chosen: Tensor) -> Tensor:
            cells = (first + ids)[chosen]
            return torch.bincount(cells, minlength=images * count).view(images, count)

        both = pixels(truth, counted & (guess == truth))
        either = pixels(truth, counted) + pixels(guess, counted & (guess >= 0))
        dice = torch.where(either > 0, 2 * both / either.clamp(min=1).double(), 1.0)
        self.state[:-1] += (dice * self._UNIT).round().long().sum(0)
        self.state[-1] += images

    def per_class(self) -> dict[str, float | None]:
        """Return the mean over images by class; None if there was no image."""
        *sums, images = self.state.tolist()
        return {
            name: _ratio(total, images * self._UNIT)
            for name, total in zip(self.class_names, sums, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return ``DSC``, the mean over classes but the background, and ``per_class_DSC``."""
        values = self.per_class()
        mean = _mean(v for name, v in values.items() if name != "background")
        return {"DSC": mean, "per_class_DSC": values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a generalised zero-shot evaluation reports, as fractions in [0, 1].

    A class is left out of the means only when no pixel has it in truth or prediction (``absent``);
    one that is predicted where it never occurs has IoU 0, as in the released evaluation code.

    Attributes:
        pAcc: Correct pixels over labelled pixels.
        mAcc: Mean over classes of correct pixels over labelled pixels of the class.
        mIoU: Mean IoU of all classes.
        mIoU_seen: Mean IoU of the seen classes.
        mIoU_unseen: Mean IoU of the unseen classes.
        hIoU: Harmonic mean of the two; ``None`` unless both kinds of class were measured.
        per_class: IoU by class name in the order of ids; ``None`` for an absent class.
        absent: Classes in neither truth nor prediction.
        no_truth: Classes without a labelled pixel; contains ``absent``.

    Source:
        ZegCLIP, section 4.2; means over classes as in its released evaluation code.
    """

    pAcc: float | None  # noqa: N815  the papers' names
    mAcc: float | None  # noqa: N815
    mIoU: float | None  # noqa: N815
    mIoU_seen: float | None  # noqa: N815
    mIoU_unseen: float | None  # noqa: N815
    hIoU: float | None  # noqa: N815
    per_class: dict[str, float | None]
    absent: tuple[str, ...]
    no_truth: tuple[str, ...]

    def subset_miou(self, names: Collection[str]) -> float | None:
        """Return the mean IoU of some classes, such as the things or the stuff.

        Args:
            names: Their names, in any order.

        Raises:
            ValueError: If a name is not one of the classes.
        """
        strangers = sorted(set(names) - set(self.per_class))
        if strangers:
            raise ValueError(
                f"no class is called {', '.join(map(repr, strangers))}; "
                f"the classes are {', '.join(self.per_class)}"
            )
        return _mean(self.per_class[name] for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores under the same names, ready for JSON."""
        return {
            "pAcc": self.pAcc,
            "mIoU": self.mIoU,
            "mIoU_seen": self.mIoU_seen,
            "mIoU_unseen": self.mIoU_unseen,
            "hIoU": self.hIoU,
            "mAcc": self.mAcc,
            "per_class": dict(self.per_class),
            "absent": list(self.absent),
            "no_truth": list(self.no_truth),
        }


def report(
    matrix: ConfusionMatrix, class_names: Sequence[str], *, seen: Sequence[bool] | None = None
) -> Scores:
    """Return the scores of a confusion matrix.

    Args:
        matrix: Counts over the whole data set.
        class_names: Names in the order of ids, all different.
        seen: For each class whether it had masks in training; without it, the scores that
            tell seen from unseen are ``None``.

    Raises:
        ValueError: If ``class_names`` or ``seen`` does not have K entries, or a name is repeated.
    """
    num_classes = matrix.num_classes
    if len(set(class_names)) != num_classes or len(class_names) != num_classes:
        raise ValueError(
            f"class_names has {len(class_names)} entries, {len(set(class_names))} of them "
            f"different; the matrix has {num_classes} classes"
        )
    if seen is not None and len(seen) != num_classes:
        raise ValueError(f"seen has {len(seen)} entries; the matrix has {num_classes} classes")
    counts = matrix.state.cpu()
    correct: list[int] = counts[:, :-1].diagonal().tolist()
    truth: list[int] = counts.sum(1).tolist()
    predicted: list[int] = counts[:, :-1].sum(0).tolist()
    iou = [
        _ratio(hit, labelled + guessed - hit)
        for hit, labelled, guessed in zip(correct, truth, predicted, strict=True)
    ]
    seen_ids = [] if seen is None else [k for k in range(num_classes) if seen[k]]
    unseen_ids = [] if seen is None else [k for k in range(num_classes) if not seen[k]]
    miou_seen = _mean(iou[k] for k in seen_ids)
    miou_unseen = _mean(iou[k] for k in unseen_ids)
    return Scores(
        pAcc=_ratio(sum(correct), sum(truth)),
        mAcc=_mean(map(_ratio, correct, truth)),
        mIoU=_mean(iou),
        mIoU_seen=miou_seen,
        mIoU_unseen=miou_unseen,
        hIoU=_harmonic_mean(miou_seen, miou_unseen),
        per_class=dict(zip(class_names, iou, strict=True)),
        absent=tuple(name for name, value in zip(class_names, iou, strict=True) if value is None),
        no_truth=tuple(name for name, total in zip(class_names, truth, strict=True) if total == 0),
    )


def _integers(name: str, ids: Tensor) -> Tensor:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name} has dtype {ids.dtype}; expected integer class ids")
    return ids.flatten().long()  # before any comparison: uint8 has no -1


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return fmean(measured) if measured else None


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
