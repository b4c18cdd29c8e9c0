"""A vocabulary made ready for one segmenter: what is asked, and what the answers stand for.

Letters: K classes of the user, A classes asked for, N names asked for, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from zegment.background import Background, NoBackground, rejected_label
from zegment.data.classes import BACKGROUND, natural_name
from zegment.errors import VocabularyError
from zegment.text_tower import TextTower
from zegment.vocabulary import Vocabulary

_ROUNDING = 1e-6
"""Numbers of unit rows differ by less than this where nothing but rounding does."""


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

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        background: Background,
        text_tower: TextTower,
        *,
        device: torch.device,
    ) -> Self:
        """Return a vocabulary made ready, of which no class had masks.

        Args:
            vocabulary: The names.
            background: Decides what else to ask for.
            text_tower: Encodes the names.
            device: Where to have the embeddings.

        Raises:
            VocabularyError: If two classes are the same to the text tower, or a name is too long.
        """
        asked, labels = background.asked(vocabulary)
        rows = asked.embed(text_tower).to(device)
        _refuse_twins(asked, rows)
        return cls(
            vocabulary=vocabulary,
            asked=asked,
            labels=torch.tensor(labels, device=device),
            text_embeddings=rows,
            seen=torch.zeros(len(labels), dtype=torch.bool, device=device),
            background=background,
        )

    def described(self, sentence: str, text_tower: TextTower) -> Self:
        """Return the query in which a sentence, as it is, stands for what is not the background.

        Args:
            sentence: Words about the picture.
            text_tower: Encodes them.

        Raises:
            VocabularyError: If there is not exactly one such class, or the sentence is too long.
        """
        names = self.asked.class_names
        places = [i for i, name in enumerate(names) if natural_name(name) != BACKGROUND]
        if len(places) != 1:
            raise VocabularyError(
                f"a sentence describes one class beside the background, but the classes are "
                f"{', '.join(names)}"
            )
        embeddings = self.text_embeddings.clone()
        embeddings[places[0]] = text_tower([sentence])[0].to(embeddings)
        return replace(self, text_embeddings=embeddings)

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


def _refuse_twins(asked: Vocabulary, rows: Tensor) -> None:
    """Refuse classes that are one to the text tower, of which the second could never win.

    Rows that were made on another machine, as those of a checkpoint, differ in their last bits.
    """
    values, owners = rows.cpu().numpy(), asked.owners()
    order = np.argsort(values[:, 0], kind="stable")
    for place, one in enumerate(order):
        for other in order[place + 1 :]:  # few are that close even in their first number
            if values[other, 0] - values[one, 0] > _ROUNDING:
                break
            first, second = sorted((owners[one], owners[other]))
            if first != second and np.abs(values[one] - values[other]).max() <= _ROUNDING:
                names = asked.class_names
                raise VocabularyError(
                    f"{names[first]!r} and {names[second]!r} are the same to this CLIP's text "
                    "tower; keep one, or make the second a synonym of the first"
                )
