"""A vocabulary made ready for one segmenter: what is asked, and what the answers stand for.

Letters: K classes of the user, A classes asked for, N names asked for, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zegment.background import Background, NoBackground, rejected_label
from zegment.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A vocabulary made ready for one segmenter.

    Attributes:
        vocabulary: The names, in the user's order; labels count these.
        asked: What the model is asked for: the names, and the helpers of a background policy.
        labels: The label of each asked class, int64 (A,); an id of the user's, or -1.
        text_embeddings: Unit rows, float (N, D).
        seen: Which asked classes had masks in the model's training, bool (A,).
        background: What becomes of pixels that show none of the classes.
    """

    vocabulary: Vocabulary
    asked: Vocabulary
    labels: Tensor
    text_embeddings: Tensor
    seen: Tensor
    background: Background = field(default_factory=NoBackground)

    @property
    def owners(self) -> tuple[int, ...] | None:
        """Return the asked class that each row speaks for; None if each row is a class."""
        return self.asked.owners() if self.asked.combine == "max" else None

    @property
    def rejected(self) -> int:
        """Return the label of what the background policy rejects."""
        return rejected_label(self.vocabulary)

    def decide(self, winners: Tensor, scores: Tensor) -> Tensor:
        """Return labels, int64 (B, H, W), in the user's ids.

        Args:
            winners: Places among the asked classes, int64 (B, H, W).
            scores: Of the winners, float (B, H, W).
        """
        labels = self.labels[winners]
        return self.background.decide(labels, scores, rejected=self.rejected)

    def of_classes(self, scores: Tensor) -> Tensor:
        """Return the scores of the user's classes, float (K, H, W).

        Args:
            scores: Of the asked classes, float (A, H, W).

        Returns:
            Of each class the highest of what stands for it. A background that a threshold decides
            has the threshold; one that no policy and no word stands for does not occur.
        """
        size = (len(self.vocabulary.class_names), *scores.shape[1:])
        planes = scores.new_full(size, self.background.floor)
        for label in torch.unique(self.labels).tolist():
            if label >= 0:
                planes[label] = scores[self.labels == label].amax(dim=0)
        return planes
