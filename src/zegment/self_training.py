"""The transductive setting: names of unseen classes, and pseudo labels where they may be.

Letters: B images, S classes, D embedding, H W pixels, h w feature grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.distributed import divisor
from zegment.models.base import SegmentationModel, cosine_logits
from zegment.objectives import (
    LabelledBatch,
    Objective,
    SegmentationLoss,
    named_losses,
    training_logits,
)
from zegment.teaching.teacher import Renormalization, Teacher, to_multiple


class Region(ABC):
    """Where unseen classes are guessed; never in the padding of a crop."""

    @abstractmethod
    def __call__(self, label: Tensor, unseen: Tensor) -> Tensor:
        """Return which pixels get a pseudo label, bool (B, H, W).

        Args:
            label: Ids of all classes, `IGNORE_INDEX` or `PADDING_INDEX`, int (B, H, W).
            unseen: Ids of the unseen classes, int (n,).
        """


class Unlabelled(Region):
    """Every pixel without an annotation of a seen class: no true location of an unseen one.

    Source:
        ZegCLIP section 3.5, the paper's ST; it was not released.
    """

    def __call__(self, label: Tensor, unseen: Tensor) -> Tensor:
        """Return which pixels get a pseudo label; see `Region`."""
        return torch.isin(label, unseen) | (label == IGNORE_INDEX)


class Oracle(Region):
    """Where the true labels hold an unseen class, whichever: location known, class not.

    Source:
        ZegCLIP released code (``self_training``), the paper's ST†.
    """

    def __call__(self, label: Tensor, unseen: Tensor) -> Tensor:
        """Return which pixels get a pseudo label; see `Region`."""
        return torch.isin(label, unseen)


REGIONS: dict[str, type[Region]] = {"unlabelled": Unlabelled, "oracle": Oracle}


class Guide(Protocol):
    """Guesses in place of the model."""

    def __call__(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return class logits of normalised images (B, 3, H, W), float (B, S, h, w)."""

    def facts(self) -> Mapping[str, str]:
        """Return what must be the same when a run goes on; see `Objective.facts`."""


class ClipGuide(nn.Module):
    """Training-free CLIP: which text each of its dense tokens is most like.

    Args:
        teacher: Takes the images as the model does.

    Source:
        Zhou et al., MaskCLIP, ECCV 2022, section 3.3 (MaskCLIP+).
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return cosines as class logits; see `Guide`."""
        tokens = self.teacher(image).patch_tokens  # B, h, w, D
        grid = (tokens.shape[1], tokens.shape[2])
        return cosine_logits(tokens.flatten(1, 2), text_embeddings, grid=grid, temperature=1.0)

    def facts(self) -> Mapping[str, str]:
        """Return nothing: every run remembers its CLIP."""
        return {}


class SegmenterGuide:
    """Another trained segmenter, which learns nothing.

    It is no module: what it consists of is neither trained, nor saved with the run, nor exchanged
    between processes.

    Args:
        model: The segmenter; it is frozen, and in evaluation mode from now on.
        renormalize: Gives it the images of the model that is trained.
        fingerprint: Identifies its weights.

    Source:
        MaskCLIP+ (see `ClipGuide`), with a trained model where it has training-free CLIP.
    """

    def __init__(
        self, model: SegmentationModel, renormalize: Renormalization, *, fingerprint: str
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.renormalize = renormalize
        self.fingerprint = fingerprint

    @torch.no_grad()
    def __call__(self, image: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return its class logits; images of other sides than it takes are resized.

        Args:
            image: Normalised for the model that is trained, float (B, 3, H, W).
            text_embeddings: Unit rows, float (S, D).
        """
        image = to_multiple(self.renormalize(image), self.model.patch_size)
        logits: Tensor = self.model(image, text_embeddings)
        return logits

    def facts(self) -> Mapping[str, str]:
        """Return who it is; see `Guide`."""
        return {"guide": self.fingerprint}


class TransductiveObjective(Objective[SegmentationModel, LabelledBatch]):
    """Self-training: seen classes from their masks, unseen ones from pseudo labels.

    A pseudo label is the unseen class that the current model, as it trains, finds likeliest; no
    threshold, no second model. All other pixels without an annotation are learnt as the loss
    learns ignored ones.

    Args:
        text_embeddings: Unit embeddings of all classes, float (S, D).
        seen: Which of them have masks, bool (S,).
        loss: What the logits and targets are turned into.
        region: Where unseen classes are guessed.
        guide: Guesses instead of the model in the first steps; None never does.
        guided_steps: How many steps those are.

    Raises:
        ValueError: If there is not one seen flag per embedding, or no class is unseen.

    Source:
        ZegCLIP section 3.5 and released code.
    """

    text_embeddings: Tensor
    seen: Tensor
    unseen: Tensor
    steps: Tensor

    def __init__(
        self,
        text_embeddings: Tensor,
        *,
        seen: Tensor,
        loss: SegmentationLoss,
        region: Region,
        guide: Guide | None = None,
        guided_steps: int = 0,
    ) -> None:
        super().__init__()
        if seen.shape != text_embeddings.shape[:1]:
            raise ValueError(f"{len(seen)} seen flags for {len(text_embeddings)} embeddings")
        if seen.all():
            raise ValueError("no class is unseen, so there is nothing to guess")
        self.register_buffer("text_embeddings", text_embeddings.detach(), persistent=False)
        self.register_buffer("seen", seen, persistent=False)
        self.register_buffer("unseen", (~seen).nonzero().flatten(), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        # No buffer: the first process would overwrite what others have counted.
        self._amounts: list[Tensor] = []
        self.loss, self.region, self.guide, self.guided_steps = loss, region, guide, guided_steps

    def target(self, label: Tensor, logits: Tensor) -> Tensor:
        """Return labels in which the region holds the likeliest unseen class, (B, H, W).

        Args:
            label: Ids of all classes, `IGNORE_INDEX` or `PADDING_INDEX`, int (B, H, W).
            logits: Whose guess it is, of any size, float (B, S, h, w).
        """
        guess = self.unseen[likeliest(logits.detach()[:, self.unseen], label.shape[1:])]
        # Wherever an unseen class is, it is either guessed or not known of.
        unknown = torch.isin(label, self.unseen) | (label == PADDING_INDEX)
        known = label.masked_fill(unknown, IGNORE_INDEX)
        return torch.where(self.region(label, self.unseen), guess, known)

    def prepare(self, image: Tensor, label: Tensor, item: Tensor | None = None) -> LabelledBatch:
        """Return the batch as it is: pseudo labels, and so their count, come from a model."""
        del item
        self.steps += 1
        self._amounts.clear()
        return LabelledBatch(image=image, label=label)

    def forward(self, model: SegmentationModel, batch: LabelledBatch) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        logits = training_logits(model, batch.image, self.text_embeddings)
        guess = logits[0]
        if self.guide is not None and self.steps <= self.guided_steps:
            guess = self.guide(batch.image, self.text_embeddings)
        target = self.target(batch.label, guess)
        # What to divide by is known after the last part, see `gradient_scale`.
        self._amounts.append(self.loss.amount(target, len(self.seen)))
        one = torch.ones_like(self._amounts[-1])
        return named_losses(self.loss, logits, target, count=one)

    def facts(self) -> Mapping[str, str]:
        """Return who guides; see `Objective`."""
        return {} if self.guide is None else self.guide.facts()

    def gradient_scale(self) -> Tensor:
        """Return 1 over what the parts of this step held together; see `Objective`."""
        return 1 / divisor(torch.stack(self._amounts).sum())


def likeliest(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return which class has the highest bilinearly resized logit at every pixel, int64 (B, H, W).

    One class is resized at a time; of equal ones, the first is taken.

    Args:
        logits: Class logits, float (B, K, h, w).
        size: H and W.
    """
    best = logits.new_full((len(logits), *size), -torch.inf, dtype=torch.float32)
    index = torch.zeros_like(best, dtype=torch.long)
    for k, plane in enumerate(logits.float().split(1, dim=1)):
        score = F.interpolate(plane, size=size, mode="bilinear", align_corners=False)[:, 0]
        index.masked_fill_(score > best, k)
        best = torch.maximum(best, score)
    return index
