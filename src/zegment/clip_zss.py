"""The training setting of CLIP-ZSS: CLIP teaches a student what images and unnamed places mean.

L = L_global + L_nel(x, F) + CE(x, F) + L_bce, with x = cat(α cos(R, T_seen), β cos(R, P_pseudo)).

Letters: B images, S seen classes, G groups, D embedding, H W pixels, h w feature grid, V tokens in
the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.distributed import divisor, others
from zegment.losses import class_masks, count_masks, prototype_loss
from zegment.models.student import Student
from zegment.objectives import (
    Objective,
    SeenLabels,
    SegmentationLoss,
    count_targets,
    seen_embeddings,
)
from zegment.teaching.global_learning import GlobalLearning
from zegment.teaching.local_distillation import LocalDistillation
from zegment.teaching.pixel_learning import NOWHERE, PixelLearning
from zegment.teaching.synthesizer import Synthesizer, masked_means
from zegment.teaching.teacher import Tokens

ABSENT = -1e4
"""Logit of a group that an image does not have: no probability, and no gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The images of one optimizer step and what the teacher has to say of them.

    Attributes:
        image: Normalised images, float (B, 3, H, W).
        target: F, the fused labels: ranks of seen classes, then groups, which are numbered image
            by image, or `IGNORE_INDEX`, int64 (B, H / stride, W / stride).
        class_token: S, unit, float (B, D).
        centres: Mean dense token of each group, float (B, G, D).
        present: Groups that an image has, bool (B, G).
        local_tokens: Class token of each class's part of an image, float (B, S + G, D), if local
            distillation wants them.
        counts: What each mask loss is divided by.
        images: How many images the whole batch has.
        seen_masks: How many (image, seen class) masks it has, averaged over processes.
        masks: How many (image, class) masks it has, averaged over processes.
        negatives: Class tokens of other images, float (V, D).
    """

    image: Tensor
    target: Tensor
    class_token: Tensor
    centres: Tensor
    present: Tensor
    local_tokens: Tensor | None
    counts: tuple[Tensor, ...]
    images: int
    seen_masks: Tensor
    masks: Tensor
    negatives: Tensor

    def split(self, size: int) -> list[Lesson]:
        """Return parts of at most ``size`` images, each with the others as negatives."""
        parts = []
        for start in range(0, len(self.image), size):
            own = slice(start, start + size)
            rest = torch.cat([self.class_token[:start], self.class_token[start + size :]])
            parts.append(
                replace(
                    self,
                    image=self.image[own],
                    target=self.target[own],
                    class_token=self.class_token[own],
                    centres=self.centres[own],
                    present=self.present[own],
                    local_tokens=None if self.local_tokens is None else self.local_tokens[own],
                    negatives=torch.cat([rest, self.negatives]),
                )
            )
        return parts


class ClipZss(Objective[Student, Lesson]):
    """Teaches a student; inductive, so it knows names and masks of seen classes only.

    Args:
        text_embeddings: Unit embeddings of the seen classes alone, in the order of ``seen``,
            float (S, D).
        seen: Ids of the seen classes in the data set's labels.
        teacher: Images to class tokens and dense tokens, maybe remembered ones.
        mask_losses: Of logits x and fused labels F; L_nel and CE.
        global_learning: Of L_global; None leaves it out.
        pixel_learning: Finds groups; None ignores what nobody annotated.
        synthesizer: Makes prototypes of groups, with L_bce; None takes the mean of CLIP's dense
            tokens in each group.
        local_distillation: The later text's further loss.
        temperature: 1/α of text logits; also the student's at test time.
        pseudo_temperature: 1/β of group logits.
        stride: Pixels per side of a cell in which mask losses are computed.

    Raises:
        LeakError: If the number of embeddings differs from the number of seen classes.

    Source:
        CLIP-ZSS (arXiv 2310.02296 v2).
    """

    text_embeddings: Tensor

    def __init__(  # noqa: PLR0913 - the modules of the method, each of which can be left out
        self,
        text_embeddings: Tensor,
        *,
        seen: Sequence[int],
        teacher: Callable[[Tensor], Tokens],
        mask_losses: Sequence[SegmentationLoss],
        global_learning: GlobalLearning | None,
        pixel_learning: PixelLearning | None,
        synthesizer: Synthesizer | None,
        local_distillation: LocalDistillation | None = None,
        temperature: float = 0.07,
        pseudo_temperature: float = 0.07,
        stride: int = 4,
    ) -> None:
        super().__init__()
        self.seen_labels = SeenLabels(seen)
        own = seen_embeddings(text_embeddings, seen)
        self.register_buffer("text_embeddings", own, persistent=False)
        self.teacher = teacher
        self.mask_losses = tuple(mask_losses)
        self.global_learning = global_learning
        self.pixel_learning = pixel_learning
        self.synthesizer = synthesizer
        self.local_distillation = local_distillation
        self.temperature, self.pseudo_temperature = temperature, pseudo_temperature
        self.stride = stride

    @torch.no_grad()
    def prepare(self, image: Tensor, label: Tensor, item: Tensor | None = None) -> Lesson:
        """Return a batch with the teacher's tokens and fused labels; see `Objective`.

        The class tokens enter the bank here, once per optimizer step and before the update; the
        lesson's own negatives are those that were in the bank before.
        """
        del item
        tokens = self.teacher(image)
        with torch.autocast(image.device.type, enabled=False):
            return self._lesson(image, label, tokens)

    def _lesson(self, image: Tensor, label: Tensor, tokens: Tokens) -> Lesson:
        target, centres, present = self.fused_labels(label, tokens.patch_tokens)
        seen = len(self.text_embeddings)
        classes = seen + centres.shape[1]
        local_tokens = None
        if self.local_distillation is not None:
            local_tokens = self.local_distillation.tokens(image, class_masks(target, classes))
        # The middle of each cell, as nearest-neighbour resizing takes it.
        step = min(self.stride, *target.shape[1:])
        target = target[:, step // 2 :: step, step // 2 :: step]
        negatives = others(tokens.class_token)
        if self.global_learning is not None:
            negatives = torch.cat([negatives, self.global_learning.bank.tokens])
            self.global_learning.bank.enqueue(tokens.class_token)
        return Lesson(
            image=image,
            target=target,
            class_token=tokens.class_token,
            centres=centres,
            present=present,
            local_tokens=local_tokens,
            counts=tuple(count_targets(loss, target, classes) for loss in self.mask_losses),
            images=len(image),
            seen_masks=_count(target.where(target < seen, IGNORE_INDEX), seen),
            masks=_count(target, classes),
            negatives=negatives,
        )

    def fused_labels(self, label: Tensor, patch_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return F (B, H, W), and centres (B, G, D) and presence (B, G) of its groups.

        Args:
            label: Ids as the data set has them, int (B, H, W).
            patch_tokens: C_d of CLIP, float (B, h, w, D).
        """
        target, seen = self.seen_labels(label), len(self.text_embeddings)
        batch, _, _, dim = patch_tokens.shape
        if self.pixel_learning is None:
            nothing = patch_tokens.new_zeros(batch, 0, dim)
            return target, nothing, torch.zeros_like(nothing[..., 0], dtype=torch.bool)
        unannotated = (target == IGNORE_INDEX) & (label != PADDING_INDEX)
        groups = self.pixel_learning(patch_tokens, unannotated)
        target = fuse_labels(target, groups.label, num_seen=seen)
        return target, groups.centres, groups.present

    def forward(self, model: Student, lesson: Lesson) -> dict[str, Tensor]:
        """Return named losses; see `Objective`."""
        features = model.features(lesson.image).float()  # B, D, h, w
        with torch.autocast(features.device.type, enabled=False):
            return self.losses(features, lesson)

    def losses(self, features: Tensor, lesson: Lesson) -> dict[str, Tensor]:
        """Return named losses of the student's features R, float (B, D, h, w)."""
        losses: dict[str, Tensor] = {}
        masks = self.masks(lesson, features)
        means, present = masked_means(features, masks), masks.flatten(2).any(dim=2)
        pseudo = lesson.centres
        if self.synthesizer is not None:
            prototypes = self.synthesizer(means, present, lesson.class_token)
            named, pseudo = prototypes.tensor_split([len(self.text_embeddings)], dim=1)
            losses["loss_bce"] = prototype_loss(
                named,
                self.text_embeddings,
                present[:, : named.shape[1]],
                count=lesson.seen_masks,
            )
        logits = self.logits(features, pseudo, lesson.present)
        for loss, count in zip(self.mask_losses, lesson.counts, strict=True):
            losses |= loss(logits, lesson.target, count=count)
        if self.global_learning is not None:
            # A part of a batch has its share of the batch's mean.
            share = len(features) / lesson.images
            losses["loss_global"] = share * self.global_learning(
                features, lesson.class_token, lesson.negatives
            )
        if self.local_distillation is not None and lesson.local_tokens is not None:
            losses["loss_local"] = self.local_distillation(
                means, lesson.local_tokens, present, count=lesson.masks
            )
        return losses

    def logits(self, features: Tensor, pseudo: Tensor, present: Tensor) -> Tensor:
        """Return x = cat(α cos(R, T_seen), β cos(R, P_pseudo)), float (B, S + G, h, w).

        Args:
            features: R, float (B, D, h, w).
            pseudo: P_pseudo, float (B, G, D).
            present: Groups that an image has, bool (B, G); others get the logit `ABSENT`.
        """
        unit = F.normalize(features, dim=1)
        named = torch.einsum("bdhw,sd->bshw", unit, self.text_embeddings) / self.temperature
        unnamed = torch.einsum("bdhw,bgd->bghw", unit, F.normalize(pseudo, dim=-1))
        unnamed = unnamed / self.pseudo_temperature
        unnamed = unnamed.masked_fill(~present[..., None, None], ABSENT)
        return torch.cat([named, unnamed], dim=1)

    def masks(self, lesson: Lesson, features: Tensor) -> Tensor:
        """Return how much of each cell each class of F covers, float (B, S + G, h, w), 0 to 1."""
        classes = len(self.text_embeddings) + lesson.centres.shape[1]
        height, width = features.shape[-2:]
        return F.adaptive_avg_pool2d(class_masks(lesson.target, classes), (height, width))


def _count(target: Tensor, classes: int) -> Tensor:
    """Return the number of (image, class) masks; see `divisor`."""
    return divisor(count_masks(target, classes))


def fuse_labels(target: Tensor, groups: Tensor, *, num_seen: int) -> Tensor:
    """Return F: annotated pixels as they are, unannotated ones with their group, (B, H, W).

    Args:
        target: Ranks of seen classes or `IGNORE_INDEX`, int64 (B, H, W).
        groups: Group of each unannotated pixel, or `NOWHERE`, int64 (B, H, W).
        num_seen: S, where the ids of groups begin.

    Source:
        CLIP-ZSS, fused label map (C2S: Y_p).
    """
    free = (target == IGNORE_INDEX) & (groups != NOWHERE)
    return torch.where(free, groups + num_seen, target)
