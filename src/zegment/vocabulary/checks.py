"""What class names, templates and colours must not be."""

import unicodedata
from collections.abc import Sequence

from zegment.colours import Colour
from zegment.errors import VocabularyError
from zegment.vocabulary.templates import TEMPLATES
from zegment.wording import brief

MOST_CLASSES = 65535
"""What a 16-bit index map can tell apart, beside the unknown."""

# Control characters, line and paragraph separators, and lone surrogates, which no file can hold.
_REFUSED_CATEGORIES = ("Cc", "Zl", "Zp", "Cs")
MOST_NAMES = 1_000_000
"""Of all classes together, synonyms included: fifteen for each of the most classes."""

MOST_CHARACTERS = 1000
"""Of a name or a template: far more than a text tower reads, and splitting one into tokens takes
time that grows with the square of its length."""

# Nobody sees them, so that two names would look the same; or they turn around what follows.
_INVISIBLE = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2060\ufeff"
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def check_count(count: int) -> None:
    """Refuse no class, and more than an index map can tell apart; known before any is looked at.

    Raises:
        VocabularyError: If there are none, or too many.
    """
    if not count:
        raise VocabularyError('there is no class name; give at least one, such as "cat, sofa"')
    if count > MOST_CLASSES:
        raise VocabularyError(
            f"{count} class names do not fit into an index map, {MOST_CLASSES} do; leave some out"
        )


def check_entries(
    names: Sequence[str], *, synonyms: Sequence[object], colours: Sequence[object]
) -> None:
    """Refuse synonyms and colours that are there, but not for each class.

    Raises:
        VocabularyError: If there are more or fewer than classes, or synonyms of a class no tuple.
        VocabularyError: If there are too many names in all.
    """
    for field, entries in (("synonyms", synonyms), ("colours", colours)):
        if len(entries) not in (0, len(names)):
            raise VocabularyError(
                f"{field} has {len(entries)} entries for {len(names)} classes; give one per class"
            )
    total = len(names)
    for others in synonyms:
        if not isinstance(others, tuple):
            raise VocabularyError(
                f"the synonyms of a class are {brief(others)}, not a tuple; give a tuple for each "
                "class, an empty one for a class without any"
            )
        total += len(others)
    if total > MOST_NAMES:
        raise VocabularyError(
            f"the classes have {total} names with their synonyms, and at most {MOST_NAMES} are "
            "taken; leave some out"
        )


def check_different(names: Sequence[str]) -> None:
    """Refuse what cannot be a name, and names that are the same in another Unicode form.

    Raises:
        VocabularyError: If a name is empty, occurs twice, or has spaces around it or control
            characters in it.
    """
    first: dict[str, int] = {}
    for place, name in enumerate(names):
        _check_text("class name", name)
        if not name.strip():
            raise VocabularyError(
                f"class name {place} (counted from 0) is empty; remove the extra comma or entry"
            )
        if name != name.strip():
            raise VocabularyError(
                f"class name {brief(name)} begins or ends with a space; remove it"
            )
        same = unicodedata.normalize("NFC", name)
        if same in first:
            raise VocabularyError(
                f"class name {brief(name)} occurs twice, at {first[same]} and {place} (counted "
                "from 0); remove one"
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
        _check_text("template", template)
        if template.count("{}") != 1:
            raise VocabularyError(
                f"template {brief(template)} has {template.count('{}')} places for the class name; "
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
            f"the colour of {brief(name)} is {brief(colour)}; give red, green and blue from 0 to "
            "255"
        )


def _check_text(kind: str, text: object) -> None:
    """Refuse what is no text, too long, or holds characters that nobody sees."""
    if not isinstance(text, str):
        raise VocabularyError(f"a {kind} is {brief(text)}, not text; write it as text")
    if len(text) > MOST_CHARACTERS:
        raise VocabularyError(
            f"{kind} {brief(text)} is too long: text towers read a few dozen words; write at most "
            f"{MOST_CHARACTERS} characters, and separate names with commas or line ends"
        )
    if text.isprintable():  # so is whatever has none of these, and nearly every name
        return
    for character in text:
        if unicodedata.category(character) in _REFUSED_CATEGORIES or character in _INVISIBLE:
            raise VocabularyError(
                f"{kind} {brief(text)} contains the control character U+{ord(character):04X}; "
                "remove it, and separate names with commas or line ends"
            )
