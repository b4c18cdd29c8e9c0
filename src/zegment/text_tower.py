"""CLIP's text tower: sentences to unit embeddings, computed or remembered.

Letters: n sentences, T tokens of a sentence, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.errors import CheckpointError, VocabularyError
from zegment.vocabulary import Vocabulary

SAME_EMBEDDING = 0.999
"""Cosine from which on two embeddings of a class are of one text tower."""


class TextTower:
    """Sentences to unit embeddings, each sentence encoded once and remembered.

    Args:
        encode: Token ids, int64 (n, T), to embeddings, float (n, D).
        tokenize: Sentences to token ids (n, T); called as ``tokenize(sentences, T)``.
        context_length: T, the longest sentence in tokens, start and end included.
        device: Where ``encode`` computes.
    """

    batch_size = 256

    def __init__(
        self,
        *,
        encode: Callable[[Tensor], Tensor],
        tokenize: Callable[[list[str], int], Tensor],
        context_length: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._encode = encode
        self._tokenize = tokenize
        self.context_length = context_length
        self.device = torch.device(device)
        self._memory: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return unit text embeddings, float (n, D), one row per sentence in the given order.

        Raises:
            VocabularyError: If a sentence has more tokens than the tower can read.
        """
        new = list(dict.fromkeys(s for s in sentences if s not in self._memory))
        for start in range(0, len(new), self.batch_size):
            batch = new[start : start + self.batch_size]
            self._memory.update(zip(batch, self._embed(batch), strict=True))
        return torch.stack([self._memory[s] for s in sentences])

    def _embed(self, sentences: list[str]) -> Tensor:
        embeddings = self._encode(self._tokens(sentences).to(self.device))
        return F.normalize(embeddings.float(), dim=-1)

    def _tokens(self, sentences: list[str]) -> Tensor:
        # Tokenizers cut long sentences in silence; with twice the room the overflow shows.
        roomy = self._tokenize(["", *sentences], 2 * self.context_length)
        overflow = (roomy[1:, self.context_length :] != roomy[0, -1]).any(dim=1)
        if overflow.any():
            culprit = sentences[int(overflow.nonzero()[0])]
            raise VocabularyError(
                f"“{culprit[:60]}…” is longer than the {self.context_length} tokens that this "
                "CLIP's text tower reads; use a shorter name"
            )
        return roomy[1:, : self.context_length]


class RememberedText(TextTower):
    """Embeddings of a vocabulary, and the tower they came from, loaded when others are asked for.

    The tower is then compared with what is known of the first class, which is the mean over its
    sentences: where an embedding was published for a class, it stands for each of them.

    Args:
        embeddings: Unit embedding (D,) of each sentence of the vocabulary.
        load: Returns the tower that they came from.
        vocabulary: Whose sentences they are.
        device: Where the embeddings are wanted.

    Raises:
        CheckpointError: On the first unknown sentence, if the tower embeds the first class
            differently.
    """

    def __init__(
        self,
        embeddings: Mapping[str, Tensor],
        load: Callable[[], TextTower],
        *,
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self._memory = {s: row.to(self.device) for s, row in embeddings.items()}
        self._first = replace(vocabulary, class_names=vocabulary.class_names[:1])
        self._load = load
        self._tower: TextTower | None = None

    def _embed(self, sentences: list[str]) -> Tensor:
        if self._tower is None:
            tower = self._load()
            ours, theirs = self._first.embed(self), self._first.embed(tower)
            # Published embeddings were computed in half precision, so a cosine decides.
            if ours.shape != theirs.shape or not (ours * theirs).sum() >= SAME_EMBEDDING:
                raise CheckpointError(
                    f"this CLIP's text tower embeds “{self._first.class_names[0]}” differently "
                    "from the one that the model was trained with; use the CLIP it was trained "
                    "with, or only the words it was trained for"
                )
            self._tower = tower
        return self._tower(sentences)
