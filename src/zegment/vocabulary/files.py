"""Vocabularies from files: text, TOML, JSON, and the packaged class sets of data sets."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zegment.colours import Colour
from zegment.data.classes import class_set, class_set_names
from zegment.errors import VocabularyError, did_you_mean
from zegment.text_files import parse_json, parse_toml, read_text
from zegment.vocabulary.checks import check_count
from zegment.vocabulary.templates import TEMPLATES
from zegment.wording import brief, printable

UNKNOWN_NAME = "unknown"

_TABLE_KEYS = ("classes", "templates", "combine", "plurals")
_ENTRY_KEYS = ("name", "synonyms", "colour", "id")
#: Between the parts of a path.
_SEPARATORS = tuple(mark for mark in (os.sep, os.altsep) if mark)

#: What else a legend holds that a prediction wrote.
_LEGEND_KEYS = ("background", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassList:
    """What a file or class set says of classes; not yet checked.

    Attributes:
        source: What to call it in a message.
        class_names: In order.
        synonyms: Further names of each class.
        colours: RGB of each class; None where none is given.
        templates: Sentences; None if it names none.
        combine: How several names make one score.
        plurals: Whether names stand for their plurals too.
    """

    source: str
    class_names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...] = ()
    colours: tuple[Colour | None, ...] = ()
    templates: tuple[str, ...] | None = None
    combine: Any = "mean"
    plurals: bool = False


def find_classes(source: str | Path) -> ClassList | None:
    """Return what a file or packaged class set says; None if ``source`` is a list of names.

    Args:
        source: A path, always read; or text, which is one if a name in it ends like a file of
            names, or if it is one name that has a slash, that ends like another table or that a
            file has; or the name of a class set.

    Raises:
        VocabularyError: If the file cannot be read, or what it says cannot be used.
    """
    if isinstance(source, Path):
        return read_classes(source)
    if (name := source.strip().casefold()) in class_set_names():
        known = class_set(name).spelled("cleaned")
        return ClassList(source=name, class_names=known.names, colours=known.colours)
    like_a_file = _FILE_NAME.search(source) is not None
    if not like_a_file and not re.search("[,|]", source):  # "sky/cloud, road" are two names
        marks = any(mark in source for mark in _SEPARATORS)
        like_a_file = marks or _OTHER_FILE.search(source) is not None or _exists(source)
    return read_classes(Path(source.strip())) if like_a_file else None


def read_classes(path: Path) -> ClassList:
    """Return what a file says of classes.

    Args:
        path: ``.txt``: one class a line, its synonyms after commas or bars, ``#`` begins a comment.
            ``.toml``: ``classes``, a list of names or of tables with ``name``, ``synonyms`` and
            ``colour``; ``templates``, ``combine`` and ``plurals`` if wanted. ``.json``: the same,
            or the list alone, or the ``run.json`` or ``legend.json`` of a prediction.

    Raises:
        VocabularyError: If the file cannot be read, or what it says cannot be used.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise VocabularyError(
            f"'{printable(str(path))}' is no list of classes; give one file that ends in "
            f"{', '.join(_READERS)}, or put a class of that name into one"
        )
    try:
        return _class_list(read(read_text(path)), str(path))
    except VocabularyError as error:
        raise VocabularyError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise VocabularyError(f"no list of classes '{path}'; check the path") from error
    except (OSError, ValueError) as error:
        remedy = "write it as UTF-8 text" if isinstance(error, UnicodeError) else "correct it"
        raise VocabularyError(
            f"cannot read the list of classes '{path}': {error}; {remedy}"
        ) from error


def _read_lines(text: str) -> list[dict[str, Any]]:
    """Return one entry per line with a name."""
    check_count(sum(1 for _ in _lines(text)))
    return [{"name": name, "synonyms": others} for name, *others in map(_names, _lines(text))]


def _lines(text: str) -> Iterator[str]:
    """Yield the lines with a name, without their comments."""
    for line in io.StringIO(text):
        kept = line if "#" not in line else re.sub(r"(^|\s)#.*", "", line)
        if kept and not kept.isspace():
            yield kept


def _names(line: str) -> list[str]:
    return [name.strip() for name in line.replace("|", ",").split(",")]


_READERS: Mapping[str, Callable[[str], Any]] = {
    ".txt": _read_lines,
    ".toml": parse_toml,
    ".json": parse_json,
}
_FILE_NAME = re.compile(
    rf"(?:{'|'.join(map(re.escape, _READERS))})\s*(?:[,|]|$)", re.IGNORECASE | re.ASCII
)
"""Where a name in a list ends like a file."""
_OTHER_FILE = re.compile(
    r"\.(?:csv|tsv|ya?ml|xml|xlsx?|md|names|list|py)\s*$", re.IGNORECASE | re.ASCII
)
"""The end of files that others keep names in; of one name alone, for such a class may exist."""


def _class_list(content: Any, source: str) -> ClassList:  # noqa: ANN401
    """Return what a list of classes, or a table around one, says."""
    table = content if isinstance(content, dict) else {"classes": content}
    if isinstance(table.get("vocabulary"), dict):  # the record of a run
        table = _of_record(table["vocabulary"])
    _check_keys(table, _TABLE_KEYS, also=_LEGEND_KEYS)
    classes = table.get("classes")
    if not isinstance(classes, list):
        raise VocabularyError('there is no list of classes; write classes = ["cat", "sofa"]')
    if classes and _is_unknown(classes[-1]):
        classes = classes[:-1]
    check_count(len(classes))
    plurals = table.get("plurals", False)
    if not isinstance(plurals, bool):
        raise VocabularyError(f"plurals is {brief(plurals)}; write true or false")
    entries = [_entry(entry, place) for place, entry in enumerate(classes)]
    return ClassList(
        source=source,
        class_names=tuple(entry["name"] for entry in entries),
        synonyms=tuple(entry["synonyms"] for entry in entries),
        colours=tuple(entry["colour"] for entry in entries),
        templates=_templates(table.get("templates")),
        combine=table.get("combine", "mean"),
        plurals=plurals,
    )


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table that stands for the vocabulary in the record of a run."""
    names, synonyms, colours = (
        _column(record, key) for key in ("class_names", "synonyms", "colours")
    )
    for key, column in (("synonyms", synonyms), ("colours", colours)):
        if len(column) not in (0, len(names)):
            raise VocabularyError(
                f"its record has {len(names)} class_names and {len(column)} {key}; take the record "
                "as it was written"
            )
    nothing = [None] * len(names)
    check_count(len(names))
    rows = zip(names, synonyms or nothing, colours or nothing, strict=True)
    return {
        "classes": [
            {"name": name, "synonyms": others or [], "colour": colour}
            for name, others, colour in rows
        ],
        "templates": record.get("templates"),
        "combine": record.get("combine", "mean"),
    }


def _column(record: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of a record, empty if it is missing."""
    column = record.get(key) or []
    if not isinstance(column, list):
        raise VocabularyError(f"{key} of its record is {brief(column)}; it should be a list")
    return column


def _exists(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a list of words is no path
        return False


def _is_unknown(entry: Any) -> bool:  # noqa: ANN401
    """Return whether an entry is what a legend ends with, which stands for no class."""
    return (
        isinstance(entry, dict)
        and entry.get("name") == UNKNOWN_NAME
        and entry.get("id") in (255, 65535)
    )


def _entry(entry: Any, place: int) -> dict[str, Any]:  # noqa: ANN401
    """Return name, synonyms and colour of one class."""
    table = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise VocabularyError(
            f"class {place} (counted from 0) is {brief(entry)}; write its name, or a table with "
            "a name"
        )
    _check_keys(table, _ENTRY_KEYS)
    name, synonyms = table["name"].strip(), table.get("synonyms", [])
    if not isinstance(synonyms, list) or not all(isinstance(s, str) for s in synonyms):
        raise VocabularyError(
            f'the synonyms of {brief(name)} are {brief(synonyms)}; write a list such as ["couch"]'
        )
    id_ = table.get("id", place)
    if id_ != place:
        raise VocabularyError(
            f"class {brief(name)} has id {brief(id_)} and stands at place {place}; ids are places, "
            "counted from 0: sort the classes, or leave the ids out"
        )
    return {
        "name": name,
        "synonyms": tuple(s.strip() for s in synonyms),
        "colour": _colour(name, table.get("colour")),
    }


def _colour(name: str, value: Any) -> Colour | None:  # noqa: ANN401
    """Return RGB of ``#rrggbb`` or of three numbers; Vocabulary checks their range."""
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    if isinstance(value, list):
        return tuple(value)
    raise VocabularyError(
        f'the colour of {brief(name)} is {brief(value)}; write "#rrggbb" or [red, green, blue]'
    )


def _templates(value: Any) -> tuple[str, ...] | None:  # noqa: ANN401
    """Return the sentences of a named set, or those that are listed; None if there are none."""
    if value is None:
        return None
    if isinstance(value, str):
        return template_set(value)
    if isinstance(value, list) and all(isinstance(t, str) for t in value):
        return tuple(value)
    raise VocabularyError(
        f"templates is {brief(value)}; write one of {', '.join(TEMPLATES)}, or a list of sentences"
    )


def template_set(name: str) -> tuple[str, ...]:
    """Return a named set of templates.

    Raises:
        VocabularyError: If there is no such set.
    """
    if name not in TEMPLATES:
        raise VocabularyError(
            f'no set of templates is called "{printable(name)}"'
            f"{did_you_mean(name, list(TEMPLATES))}; there are {', '.join(TEMPLATES)}"
        )
    return TEMPLATES[name]


def _check_keys(
    table: Mapping[str, Any], known: tuple[str, ...], *, also: tuple[str, ...] = ()
) -> None:
    for key in table:
        if key not in (*known, *also):
            raise VocabularyError(
                f'"{printable(key)}" means nothing here{did_you_mean(key, known)}; there are '
                f"{', '.join(known)}"
            )
