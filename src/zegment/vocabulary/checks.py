"""What class names, templates and colours must not be."""

import unicodedata
from collections.abc import Sequence

from zegment.colours import Colour
from zegment.errors import VocabularyError
from zegment.vocabulary.templates import TEMPLATES

MOST_CLASSES = 65535
"""What a 16-bit index map can tell apart, beside the unknown."""

# Control characters, line and paragraph separators, and lone surrogates, which no file can hold.
_REFUSED_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
# Nobody sees them, so that two names would look the same.
_INVISIBLE = "\u200b\u2060\ufeff"


def check_class_names(names: tuple[str, ...]) -> None:
    """Refuse no names, and more than an index map can tell apart.

    Raises:
        VocabularyError: If there are none, or too many.
    """
    if not names:
        raise VocabularyError('there is no class name; give at least one, such as "cat, sofa"')
    if len(names) > MOST_CLASSES:
        raise VocabularyError(
            f"{len(names)} class names do not fit into an index map, {MOST_CLASSES} do; leave "
            "some out"
        )


def check_different(names: Sequence[str]) -> None:
    """Refuse what cannot be a name, and names that are the same in another Unicode form.

    Raises:
        VocabularyError: If a name is empty, occurs twice, or has spaces around it or control
            characters in it.
    """
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        if not name.strip():
            raise VocabularyError(
                f"class name {place} (counted from 0) is empty; remove the extra comma or entry"
            )
        _check_characters("class name", name)
        if name != name.strip():
            raise VocabularyError(f"class name {name!r} begins or ends with a space; remove it")
        same = unicodedata.normalize("NFC", name)
        if same in first:
            raise VocabularyError(
                f"class name {name!r} occurs twice, at {first[same]} and {place} (counted from 0); "
                "remove one"
            )
        first[same] = place


def check_templates(templates: tuple[str, ...]) -> None:
    """Refuse templates without exactly one place for the name.

    Raises:
        VocabularyError: If there is none, or one is no template.
    """
    if not templates:
        raise VocabularyError(
            f"there is no template; give at least one, or a set: {', '.join(TEMPLATES)}"
        )
    for template in templates:
        _check_characters("template", template)
        if template.count("{}") != 1:
            raise VocabularyError(
                f"template {template!r} has {template.count('{}')} places for the class name; "
                'write exactly one {}, as in "a photo of a {}"'
            )


def check_colour(name: str, colour: Colour | None) -> None:
    """Refuse what is not red, green and blue from 0 to 255.

    Raises:
        VocabularyError: If it is something else.
    """
    if colour is None:
        return
    whole = isinstance(colour, tuple) and all(type(c) is int and 0 <= c <= 255 for c in colour)
    if not whole or len(colour) != 3:
        raise VocabularyError(
            f"the colour of {name!r} is {colour!r}; give red, green and blue from 0 to 255"
        )


def _check_characters(kind: str, text: str) -> None:
    for character in text:
        if unicodedata.category(character) in _REFUSED_CATEGORIES or character in _INVISIBLE:
            raise VocabularyError(
                f"{kind} {text!r} contains the control character U+{ord(character):04X}; "
                "write it on one line, and separate names with commas"
            )
