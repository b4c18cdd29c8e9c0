"""Class names in the user's order, the sentences made of them, and their text embeddings.

A class has one id everywhere: its place in `Vocabulary.class_names`.

Letters: K classes, N names with their synonyms, T templates, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zegment.colours import Colour, class_colours
from zegment.errors import VocabularyError
from zegment.vocabulary.checks import (
    check_colour,
    check_count,
    check_different,
    check_entries,
    check_templates,
)
from zegment.vocabulary.templates import TEMPLATES
from zegment.wording import brief

if TYPE_CHECKING:
    from torch import Tensor

    from zegment.vocabulary.files import ClassList

__all__ = ["TEMPLATES", "Combine", "TextEncoder", "Vocabulary"]

Combine: TypeAlias = Literal["mean", "max"]
"""How the names of a class make one score.

``mean``: one text embedding for all its sentences, as for templates. ``max``: each name has its own
embedding, and at every place the class has the score of its best name.
"""


class TextEncoder(Protocol):
    """What turns sentences into embeddings: `zegment.text_tower.TextTower`."""

    def ensembles(self, groups: Sequence[tuple[str, ...]]) -> Tensor:
        """Return unit rows, float (n, D): of each group the mean over its sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Class names in order, what else each is called, and the templates that make sentences.

    Names reach the text tower verbatim: ``pottedplant`` stays ``pottedplant``.

    Args:
        class_names: One name per class; the place of a name is the id of its class.
        templates: Sentences with one ``{}`` each, shared by all classes.
        synonyms: Further names of each class; empty if no class has any.
        colours: RGB of each class, 0 to 255, None where the palette may choose; empty if it may
            choose all.
        combine: How several names of a class make one score.

    Raises:
        VocabularyError: If there is no name, or no template, or more than 65535 names.
        VocabularyError: If a name is empty, occurs twice, or begins or ends with a space.
        VocabularyError: If a name or template is too long, or holds control characters.
        VocabularyError: If a template does not contain exactly one ``{}``.
        VocabularyError: If synonyms or colours are not one entry per class, or a colour is none.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...] = TEMPLATES["single"]
    synonyms: tuple[tuple[str, ...], ...] = ()
    colours: tuple[Colour | None, ...] = ()
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        for field in ("class_names", "templates", "synonyms", "colours"):
            if not isinstance(getattr(self, field), tuple):
                raise VocabularyError(
                    f"{field} is {brief(getattr(self, field))}, not a tuple; "
                    "Vocabulary.of() takes names as one string or a list"
                )
        check_count(len(self.class_names))
        check_entries(self.class_names, synonyms=self.synonyms, colours=self.colours)
        check_different([name for names in self.names for name in names])
        check_templates(self.templates)
        for name, colour in zip(self.class_names, self.colours, strict=False):
            check_colour(name, colour)
        if self.combine not in ("mean", "max"):
            raise VocabularyError(f'combine is {brief(self.combine)}; it can be "mean" or "max"')

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the vocabulary of a list such as ``cat, sofa|couch, potted plant``.

        Args:
            text: Classes between commas, names of one class between bars, the class's own first;
                spaces around each are dropped.

        Raises:
            VocabularyError: If a name is empty, occurs twice or contains a control character.
            VocabularyError: If the whole stands in brackets.
        """
        if text.strip().startswith("[") and text.strip().endswith("]"):
            raise VocabularyError(
                f"{brief(text)} is a list in brackets; write the names between commas, as in "
                '"cat, sofa", or put names with commas into a .json file'
            )
        check_count(text.count(",") + 1)
        classes = [[name.strip() for name in entry.split("|")] for entry in text.split(",")]
        synonyms = tuple(tuple(others) for _, *others in classes)
        return cls(
            class_names=tuple(name for name, *_ in classes),
            synonyms=synonyms if any(synonyms) else (),
        )

    @classmethod
    def of(
        cls,
        names: str | Path | Sequence[str | Sequence[str]] | Vocabulary,
        *,
        templates: tuple[str, ...] = TEMPLATES["single"],
    ) -> Vocabulary:
        """Return the vocabulary that ``names`` stands for.

        Args:
            names: A comma-separated list; a file (``.txt``, ``.toml``, ``.json``, see
                `zegment.vocabulary.files`); the name of a packaged class set, such as ``voc``; a
                sequence of names (which may contain commas), or of lists of the names of a class;
                or a vocabulary, which is returned as it is.
            templates: Sentences, unless ``names`` brings its own.

        Raises:
            VocabularyError: If ``names`` has no order, as a set or a generator.
            VocabularyError: If an entry is not text.
            VocabularyError: If a file cannot be read.
            VocabularyError: If a name is empty, occurs twice or contains a control character.
        """
        if isinstance(names, Vocabulary):
            return names
        if isinstance(names, str | Path):
            # Here, because the class sets of data sets import torch.
            from zegment.vocabulary.files import find_classes  # noqa: PLC0415

            found = find_classes(names)
            if found is None:
                return replace(cls.parse(str(names)), templates=templates)
            return cls._listed(found, templates)
        if not isinstance(names, Sequence):
            raise VocabularyError(
                f"class names came as {type(names).__name__}, which has no fixed order; "
                "give a list or a tuple, because the order decides the ids"
            )
        check_count(len(names))
        classes = [[name] if isinstance(name, str) else name for name in names]
        for place, entry in enumerate(classes):
            listed = isinstance(entry, list | tuple) and len(entry) > 0
            if not listed or not all(isinstance(name, str) for name in entry):
                raise VocabularyError(
                    f"class name {place} is {brief(names[place])}, not text; write it as text, or "
                    "a list of the names of one class"
                )
        synonyms = tuple(tuple(name.strip() for name in others) for _, *others in classes)
        return cls(
            class_names=tuple(name.strip() for name, *_ in classes),
            synonyms=synonyms if any(synonyms) else (),
            templates=templates,
        )

    @classmethod
    def _listed(cls, found: ClassList, templates: tuple[str, ...]) -> Vocabulary:
        """Return the vocabulary of a file, or say what the file has wrong."""
        try:
            vocabulary = cls(
                class_names=found.class_names,
                synonyms=found.synonyms if any(found.synonyms) else (),
                colours=found.colours if any(found.colours) else (),
                templates=templates if found.templates is None else found.templates,
                combine=found.combine,
            )
        except VocabularyError as error:
            raise VocabularyError(f"{found.source}: {error}") from error
        return vocabulary.with_plurals() if found.plurals else vocabulary

    @property
    def names(self) -> tuple[tuple[str, ...], ...]:
        """Return all names of each class, its own first."""
        others = self.synonyms or ((),) * len(self.class_names)
        return tuple((name, *more) for name, more in zip(self.class_names, others, strict=True))

    def with_plurals(self) -> Vocabulary:
        """Return the same classes, each also called by the English plural of its names.

        A plural that is the name of another class, or no different from the singular, is left out.
        """
        # Here, because it takes a while to import.
        from zegment.vocabulary.plurals import plural  # noqa: PLC0415

        taken = {name for names in self.names for name in names}
        synonyms = []
        for names in self.names:
            plurals = [p for p in dict.fromkeys(map(plural, names)) if p and p not in taken]
            taken.update(plurals)
            synonyms.append((*names[1:], *plurals))
        return replace(self, synonyms=tuple(synonyms) if any(synonyms) else ())

    def with_names_of(self, other: Vocabulary) -> Vocabulary:
        """Return the same classes, with the synonyms that they have in another vocabulary.

        Only classes without synonyms of their own get any; one that gets some takes along how they
        are combined.
        """
        theirs = dict(zip(other.class_names, other.synonyms, strict=False))
        found = [theirs.get(name, ()) if not others else () for name, *others in self.names]
        if not any(found):
            return self
        synonyms = zip(self.names, found, strict=True)
        return replace(
            self,
            synonyms=tuple(tuple(own[1:]) or more for own, more in synonyms),
            combine=other.combine,
        )

    def without(self, places: Sequence[int]) -> Vocabulary:
        """Return the vocabulary less the classes at some places."""
        kept = [k for k in range(len(self.class_names)) if k not in set(places)]
        return replace(
            self,
            class_names=tuple(self.class_names[k] for k in kept),
            synonyms=tuple(self.synonyms[k] for k in kept if self.synonyms),
            colours=tuple(self.colours[k] for k in kept if self.colours),
        )

    def palette(self) -> NDArray[np.uint8]:
        """Return the colour of each class, uint8 (K, 3): its own, or one that no other has."""
        given = self.colours or (None,) * len(self.class_names)
        own = {colour for colour in given if colour is not None}
        usual: list[Colour] = [(r, g, b) for r, g, b in class_colours(len(given) + len(own))]
        free = (colour for colour in usual[len(given) :] if colour not in own)
        chosen = [
            colour or (default if default not in own else next(free))
            for colour, default in zip(given, usual, strict=False)
        ]
        return np.array(chosen, dtype=np.uint8)

    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """Return the sentences of each of the K classes, name by name, in order."""
        return tuple(
            tuple(template.replace("{}", name) for name in names for template in self.templates)
            for names in self.names
        )

    def queries(self) -> tuple[tuple[str, ...], ...]:
        """Return which sentences make one text embedding: those of a class, or of a name."""
        if self.combine == "mean":
            return self.sentences()
        step = len(self.templates)
        return tuple(
            group[start : start + step]
            for group in self.sentences()
            for start in range(0, len(group), step)
        )

    def owners(self) -> tuple[int, ...]:
        """Return of each query the id of the class that it speaks for."""
        counts = [1 if self.combine == "mean" else len(names) for names in self.names]
        return tuple(id_ for id_, count in enumerate(counts) for _ in range(count))

    def embed(self, encoder: TextEncoder) -> Tensor:
        """Return one text embedding per query: the mean over its sentences, at length one.

        Args:
            encoder: Embeds sentences.

        Returns:
            Unit rows in the order of `queries`: float (K, D), or (N, D) if each name has its own.

        Raises:
            ValueError: If the encoder does not return one row per query.

        Source:
            ZegCLIP released code, prompt ensembling: each sentence is normalised, then the mean.
        """
        queries = self.queries()
        rows = encoder.ensembles(queries)
        if rows.ndim != 2 or len(rows) != len(queries):
            raise ValueError(
                f"the text encoder returned shape {tuple(rows.shape)} for {len(queries)} "
                "queries; expected one row per query"
            )
        return rows
