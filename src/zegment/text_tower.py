"""CLIP's text tower: sentences to unit embeddings, computed or remembered.

Letters: n sentences, T tokens of a sentence, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.errors import CheckpointError, VocabularyError
from zegment.text_cache import TextCache
from zegment.vocabulary import Vocabulary

SAME_EMBEDDING = 0.999
"""Cosine from which on two embeddings of a class are of one text tower."""


MOST_REMEMBERED = 50_000
"""Rows kept in memory beside those that came with a model: 100 MB at 512 dimensions."""

Group: TypeAlias = tuple[str, ...]
"""Sentences whose mean is wanted."""


class TextTower:
    """Sentences to unit embeddings, each encoded once and remembered, in memory and on disk.

    Args:
        encode: Token ids, int64 (n, T), to embeddings, float (n, D).
        tokenize: Sentences to token ids (n, T); called as ``tokenize(sentences, T)``.
        context_length: T, the longest sentence in tokens, start and end included.
        device: Where ``encode`` computes.
        cache: Where rows outlive the process; None keeps them in memory alone.
    """

    def __init__(
        self,
        *,
        encode: Callable[[Tensor], Tensor],
        tokenize: Callable[[list[str], int], Tensor],
        context_length: int,
        device: torch.device | str = "cpu",
        cache: TextCache | None = None,
    ) -> None:
        self._encode = encode
        self._tokenize = tokenize
        self.context_length = context_length
        self.device = torch.device(device)
        # Every batch has this size: how a row is rounded depends on how many go with it, and must
        # not depend on which words were asked for before.
        self.batch_size = 8 if self.device.type == "cpu" else 128
        self._cache = cache
        self._given: Mapping[Group, Tensor] = {}
        self._memory: dict[Group, Tensor] = {}

    def __call__(self, sentences: Sequence[str]) -> Tensor:
        """Return unit text embeddings, float (n, D), one row per sentence in the given order.

        Raises:
            VocabularyError: If a sentence has more tokens than the tower can read.
        """
        return self.ensembles([(sentence,) for sentence in sentences])

    @torch.no_grad()
    def ensembles(self, groups: Sequence[Group]) -> Tensor:
        """Return the mean over the sentences of each group, at length one, float (n, D).

        Raises:
            VocabularyError: If a sentence has more tokens than the tower can read.
        """
        rows = {group: self._known(group) for group in groups}
        missing = [group for group, row in rows.items() if row is None]
        if missing:
            kept = {} if self._cache is None else self._cache.read(missing)
            rows.update({group: row.to(self.device) for group, row in kept.items()})
            new = self._encoded([group for group in missing if group not in kept])
            if new and self._cache is not None:
                self._cache.write(new)
            rows.update(new)
            self._remember({group: row for group in missing if (row := rows[group]) is not None})
        return torch.stack([row for group in groups if (row := rows[group]) is not None])

    def _known(self, group: Group) -> Tensor | None:
        """Return the row of a group from memory, or from its sentences if all are known."""
        row = self._given.get(group, self._memory.get(group))
        if row is None and len(group) > 1 and all((s,) in self._given for s in group):
            row = _mean(torch.stack([self._given[s,] for s in group]))
        return row

    def _remember(self, rows: Mapping[Group, Tensor]) -> None:
        self._memory.update(rows)
        while len(self._memory) > MOST_REMEMBERED:
            del self._memory[next(iter(self._memory))]

    def _encoded(self, groups: Sequence[Group]) -> dict[Group, Tensor]:
        """Return the rows of groups that nobody knows; memory holds one batch of sentences."""
        sums: dict[Group, Tensor] = {}
        pairs = [(group, sentence) for group in groups for sentence in group]
        for start in range(0, len(pairs), self.batch_size):
            batch = pairs[start : start + self.batch_size]
            different = list(dict.fromkeys(sentence for _, sentence in batch))
            known = dict(zip(different, self._embed(different), strict=True))
            for group, sentence in batch:
                row = known[sentence]
                sums[group] = sums[group] + row if group in sums else row
        return {g: row if len(g) == 1 else F.normalize(row, dim=0) for g, row in sums.items()}

    def _embed(self, sentences: list[str]) -> Tensor:
        tokens = self._tokens(sentences)
        missing = self.batch_size - len(tokens)
        tokens = torch.cat([tokens, tokens[-1:].expand(missing, -1)])
        embeddings = self._encode(tokens.to(self.device))[: len(sentences)]
        return F.normalize(embeddings.float(), dim=-1)

    def _tokens(self, sentences: list[str]) -> Tensor:
        # Tokenizers cut long sentences in silence; with twice the room the overflow shows.
        roomy = self._tokenize(["", *sentences], 2 * self.context_length)
        overflow = (roomy[1:, self.context_length :] != roomy[0, -1]).any(dim=1)
        if overflow.any():
            culprit = sentences[int(overflow.nonzero()[0])]
            raise VocabularyError(
                f"“{culprit[:200]}” is longer than the {self.context_length} tokens that this "
                "CLIP's text tower reads; use a shorter name or template"
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
        self._given = {(s,): row.to(self.device) for s, row in embeddings.items()}
        self._memory = {}
        self._cache = None  # the tower has its own
        self._first = vocabulary.without(range(1, len(vocabulary.class_names)))
        self._load = load
        self._tower: TextTower | None = None

    def _encoded(self, groups: Sequence[Group]) -> dict[Group, Tensor]:
        if not groups:
            return {}
        rows = self._joined().ensembles(groups)
        return dict(zip(groups, rows, strict=True))

    def _joined(self) -> TextTower:
        """Return the tower, loaded and compared at first use."""
        if self._tower is None:
            tower = self._load()
            if not same_words(self._first, self, tower):
                raise CheckpointError(
                    f"this CLIP's text tower embeds “{self._first.class_names[0]}” differently "
                    "from the one that the model was trained with; use the CLIP it was trained "
                    "with, or only the words it was trained for"
                )
            self._tower = tower
        return self._tower


def same_words(vocabulary: Vocabulary, tower: TextTower, other: TextTower) -> bool:
    """Return whether two towers embed the first class of a vocabulary alike."""
    first = vocabulary.without(range(1, len(vocabulary.class_names)))
    ours, theirs = first.embed(tower), first.embed(other)
    # Published embeddings were computed in half precision, so a cosine decides.
    return ours.shape == theirs.shape and bool((ours * theirs).sum() >= SAME_EMBEDDING)


def _mean(rows: Tensor) -> Tensor:
    """Return the mean of unit rows (T, D) at length one, (D,)."""
    return F.normalize(rows.mean(0), dim=0)
