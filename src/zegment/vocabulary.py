"""Class names in the user's order, the sentences made of them, and their text embeddings.

A class has one id everywhere: its place in `Vocabulary.class_names`.

Letters: K classes, T templates, D embedding.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from zegment.errors import VocabularyError

if TYPE_CHECKING:
    from torch import Tensor

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "single": ("a photo of a {}",),
        "zegclip15": (
            "a photo of a {}.",
            "a photo of a small {}.",
            "a photo of a medium {}.",
            "a photo of a large {}.",
            "This is a photo of a {}.",
            "This is a photo of a small {}.",
            "This is a photo of a medium {}.",
            "This is a photo of a large {}.",
            "a {} in the scene.",
            "a photo of a {} in the scene.",
            "There is a {} in the scene.",
            "There is the {} in the scene.",
            "This is a {} in the scene.",
            "This is the {} in the scene.",
            "This is one {} in the scene.",
        ),
    }
)
"""Named sets of sentences; ``{}`` stands for the class name.

Source:
    ZegCLIP released code: ``single`` for PASCAL VOC, ``zegclip15`` for COCO-Stuff.
"""

# Control characters, line and paragraph separators, and lone surrogates, which no file can hold.
_REFUSED_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Class names in order, and the templates that turn each into sentences.

    Names reach the text tower verbatim: ``pottedplant`` stays ``pottedplant``.

    Args:
        class_names: One name per class; the place of a name is the id of its class.
        templates: Sentences with one ``{}`` each, shared by all classes.

    Raises:
        VocabularyError: If there is no name, or no template.
        VocabularyError: If a name is empty, occurs twice, or begins or ends with a space.
        VocabularyError: If a name or template contains a line end or another control character.
        VocabularyError: If a template does not contain exactly one ``{}``.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...] = TEMPLATES["single"]

    def __post_init__(self) -> None:
        for field in ("class_names", "templates"):
            if not isinstance(getattr(self, field), tuple):
                raise VocabularyError(
                    f"{field} is {getattr(self, field)!r}, not a tuple; "
                    "Vocabulary.of() also takes one string or a list"
                )
        _check_names(self.class_names)
        _check_templates(self.templates)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the vocabulary of a comma-separated list such as ``cat, sofa, potted plant``.

        Args:
            text: The names; spaces around each are dropped.

        Raises:
            VocabularyError: If a name is empty, occurs twice or contains a control character.
        """
        return cls(class_names=tuple(name.strip() for name in text.split(",")))

    @classmethod
    def of(cls, names: "str | Sequence[str] | Vocabulary") -> "Vocabulary":
        """Return the vocabulary that ``names`` stands for.

        Args:
            names: A comma-separated list, a sequence of names (which may contain commas), or a
                vocabulary, which is returned as it is.

        Raises:
            VocabularyError: If ``names`` has no order, as a set or a generator.
            VocabularyError: If an entry is not text.
            VocabularyError: If a name is empty, occurs twice or contains a control character.
        """
        if isinstance(names, Vocabulary):
            return names
        if isinstance(names, str):
            return cls.parse(names)
        if not isinstance(names, Sequence):
            raise VocabularyError(
                f"class names came as {type(names).__name__}, which has no fixed order; "
                "give a list or a tuple, because the order decides the ids"
            )
        for place, name in enumerate(names):
            if not isinstance(name, str):
                raise VocabularyError(f"class name {place} is {name!r}, not text; write it as text")
        return cls(class_names=tuple(name.strip() for name in names))

    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """Return the T sentences of each of the K classes, both in order."""
        return tuple(
            tuple(template.replace("{}", name) for template in self.templates)
            for name in self.class_names
        )

    def embed(self, encoder: Callable[[Sequence[str]], "Tensor"]) -> "Tensor":
        """Return one text embedding per class: the mean over its sentences, at length one.

        Args:
            encoder: Maps n sentences to unit rows, float (n, D). Called once, with all sentences.

        Returns:
            Unit rows in the order of ``class_names``, float (K, D).

        Raises:
            ValueError: If the encoder does not return one row per sentence.

        Source:
            ZegCLIP released code, prompt ensembling: each sentence is normalised, then the mean.
        """
        sentences = [sentence for group in self.sentences() for sentence in group]
        rows = encoder(sentences)  # (K * T, D)
        if rows.ndim != 2 or len(rows) != len(sentences):
            raise ValueError(
                f"the text encoder returned shape {tuple(rows.shape)} for {len(sentences)} "
                "sentences; expected one row per sentence"
            )
        rows = rows.reshape(len(self.class_names), len(self.templates), -1).mean(1)  # (K, D)
        return rows / rows.square().sum(-1, keepdim=True).sqrt()


def _check_names(names: tuple[str, ...]) -> None:
    if not names:
        raise VocabularyError('there is no class name; give at least one, such as "cat, sofa"')
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        if not name.strip():
            raise VocabularyError(
                f"class name {place} (counted from 0) is empty; remove the extra comma or entry"
            )
        _check_characters("class name", name)
        if name != name.strip():
            raise VocabularyError(f"class name {name!r} begins or ends with a space; remove it")
        if name in first:
            raise VocabularyError(
                f"class name {name!r} occurs twice, at {first[name]} and {place} (counted from 0); "
                "remove one"
            )
        first[name] = place


def _check_templates(templates: tuple[str, ...]) -> None:
    if not templates:
        raise VocabularyError(f"there is no template; give at least one, or one of {_known_sets()}")
    for template in templates:
        _check_characters("template", template)
        if template.count("{}") != 1:
            raise VocabularyError(
                f"template {template!r} has {template.count('{}')} places for the class name; "
                'write exactly one {}, as in "a photo of a {}"'
            )


def _known_sets() -> str:
    return ", ".join(f'TEMPLATES["{name}"]' for name in TEMPLATES)


def _check_characters(kind: str, text: str) -> None:
    for character in text:
        if unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise VocabularyError(
                f"{kind} {text!r} contains the control character U+{ord(character):04X}; "
                "write it on one line, and separate names with commas"
            )
