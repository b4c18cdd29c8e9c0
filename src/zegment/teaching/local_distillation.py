"""Local distillation: each class's part of an image must be recognised by CLIP's look at that part.

Letters: B images, L local classes (seen ones, then groups), D embedding, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.teaching.teacher import Tokens


class LocalDistillation:
    """Contrasts the student's class means with CLIP's class tokens of class-masked images.

    Args:
        teacher: Images to tokens.
        temperature: τ.
        weight: Of the loss.
        batch_size: Masked images that the teacher sees at a time.

    Source:
        CLIP-to-Seg, the later text of CLIP-ZSS, eq. 3 and 4. It costs the teacher one more look
        per class and image.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor], Tokens],
        *,
        temperature: float = 0.07,
        weight: float = 1.0,
        batch_size: int = 16,
    ) -> None:
        self.teacher = teacher
        self.temperature, self.weight = temperature, weight
        self.batch_size = batch_size

    @torch.no_grad()
    def tokens(self, image: Tensor, masks: Tensor) -> Tensor:
        """Return CLIP's class token of each class's part of each image, float (B, L, D).

        Args:
            image: Normalised images, float (B, 3, H, W); what a mask hides becomes the mean colour.
            masks: float (B, L, H, W), 0 or 1; where one is empty the token is zero.
        """
        which, local = masks.flatten(2).any(dim=2).nonzero(as_tuple=True)
        parts = [
            self.teacher(image[i] * masks[i, k][:, None]).class_token
            for i, k in zip(which.split(self.batch_size), local.split(self.batch_size), strict=True)
        ]
        found = torch.cat(parts)
        tokens = found.new_zeros(*masks.shape[:2], found.shape[-1])
        tokens[which, local] = found
        return tokens

    def __call__(self, means: Tensor, tokens: Tensor, present: Tensor, *, count: Tensor) -> Tensor:
        """Return the weighted loss, a scalar: within an image each class must pick its own token.

        Args:
            means: f, the student's masked means, float (B, L, D).
            tokens: c, from `tokens`, float (B, L, D).
            present: Which classes an image has, bool (B, L).
            count: How many there are in the whole batch, at least 1.
        """
        present = present & tokens.any(dim=-1)
        logits = F.normalize(means, dim=-1) @ F.normalize(tokens, dim=-1).transpose(1, 2)
        logits = (logits / self.temperature).masked_fill(~present[:, None], -torch.inf)
        own = logits.diagonal(dim1=1, dim2=2) - logits.logsumexp(dim=-1)  # B, L
        return -self.weight * own.where(present, 0).sum() / count
