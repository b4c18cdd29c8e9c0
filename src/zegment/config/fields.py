"""Dataclasses that check themselves: the type, the range and the spelling of every option.

The annotation of a field is its whole description: ``lr: Positive = 2e-4`` is what the reader
sees, what mypy checks, and what a configuration file is held against.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as resolve_annotations

from zegment.errors import ConfigError, did_you_mean
from zegment.wording import printable

#: Largest whole number that an option may hold: what tensors and files can.
MOST = 2**63 - 1

_MOST_ITEMS, _MOST_KEY = 20, 100

#: How a file writes that an optional option has no value; neither TOML nor a shell has a null.
NONE = "none"

SectionT = TypeVar("SectionT", bound="Section")


class FieldError(ConfigError):
    """One option is wrong.

    Args:
        key: Its dotted name, such as ``optim.lr``.
        reason: What was expected, what was given, what to do.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{printable(key, most=_MOST_KEY)}: {reason}" if key else reason)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The numbers that an option may take; stands inside ``Annotated``."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        limits = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(
            f"{word} {limit:.12g}" for word, limit in limits.items() if math.isfinite(limit)
        )


class Filled:
    """The texts that are not empty, as those that a file or a model is called by; see `Range`."""

    def __contains__(self, text: str) -> bool:
        return bool(text.strip())

    def __str__(self) -> str:
        return "a text that is not empty"


MOST_SIDE = 16_384
"""Pixels: many times what any publication scales, crops or cuts a picture to; the memory for it
grows with the square."""

Count: TypeAlias = Annotated[int, Range(at_least=1)]
CountOrZero: TypeAlias = Annotated[int, Range(at_least=0)]
Side: TypeAlias = Annotated[int, Range(at_least=1, at_most=MOST_SIDE)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
PositiveOrZero: TypeAlias = Annotated[float, Range(at_least=0)]
Name: TypeAlias = Annotated[str, Filled()]
Share: TypeAlias = Annotated[float, Range(at_least=0, at_most=1)]
Dropout: TypeAlias = Annotated[float, Range(at_least=0, below=1)]


class Section:
    """Base of the configuration dataclasses: checks and converts every field when it is made.

    Raises:
        FieldError: If a value has the wrong type or is out of range.
        FieldError: If values do not fit together; see `check`.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, hint in field_hints(type(self)).items():
            object.__setattr__(self, name, conform(getattr(self, name), hint, key=name))
        self.check()

    def check(self) -> None:
        """Compare fields with each other; a section without such rules leaves this as it is.

        Raises:
            FieldError: If values do not fit together.
        """


def field_hints(section: type[Section]) -> dict[str, Any]:
    """Return the annotation of each field, with its ranges, in the order of the class body."""
    return resolve_annotations(section, include_extras=True)


def build(section: type[SectionT], values: object, *, key: str = "") -> SectionT:
    """Make a section from nested tables as a TOML or JSON reader returns them.

    Args:
        section: The dataclass.
        values: Its options; what is absent keeps its default.
        key: Dotted name of the section, for messages.

    Returns:
        The section, checked.

    Raises:
        FieldError: If a key is unknown or missing, or a value is wrong.
    """
    if not isinstance(values, Mapping):
        raise FieldError(key, f"expected a table of options, got {show(values)}")
    hints = field_hints(section)
    for name in values:
        if name not in hints:
            raise FieldError(_join(key, str(name)), f"unknown option{_advice(str(name), section)}")
    for name in _required(section):
        if name not in values:
            raise FieldError(_join(key, name), "is missing; add it")
    try:
        return section(**values)
    except FieldError as error:
        raise FieldError(_join(key, error.key), error.reason) from None


def conform(value: object, hint: Any, *, key: str) -> object:  # noqa: ANN401 - an annotation
    """Return a value in the type that its annotation asks for.

    Lists become tuples, whole numbers become floats where a number is wanted, ``"none"`` becomes
    None where a value is optional, and tables become sections. Nothing else is converted.

    Args:
        value: What the file, the command line or the caller gave.
        hint: Annotation of the field.
        key: Name of the field, for messages.

    Returns:
        The value to store.

    Raises:
        FieldError: If the value does not fit.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = conform(value, arguments[0], key=key)
        if value not in arguments[1]:
            raise FieldError(key, f"must be {arguments[1]}, got {show(value)}")
    elif origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        value = None if value in (None, NONE) else conform(value, inner, key=key)
    elif origin is Literal:
        _check_choice(value, arguments, key=key)
    elif origin is tuple:
        value = _conform_items(value, arguments, key=key)
    elif not issubclass(hint, Section):
        value = _conform_scalar(value, hint, key=key)
    elif not isinstance(value, hint):
        value = build(hint, value, key=key)
    return value


def to_plain(value: object) -> Any:  # noqa: ANN401 - a JSON tree
    """Return a section as nested dicts and lists that both JSON and TOML can hold."""
    if isinstance(value, Section):
        return {name: to_plain(getattr(value, name)) for name in field_hints(type(value))}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return NONE if value is None else value


def show(value: object, *, depth: int = 2) -> str:
    """Return a value as a user would have written it, shortened where it is long or deep.

    Args:
        value: From a file, the command line or a caller.
        depth: Lists inside each other that are shown.
    """
    if isinstance(value, str):
        return f'"{printable(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) > MOST:
        return f"one of {value.bit_length()} bits"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return _show_list(value, depth=depth)
    return NONE if value is None else printable(str(value))


def _show_list(values: Sequence[object], *, depth: int) -> str:
    if depth == 0:
        return "[…]"
    shown = [show(value, depth=depth - 1) for value in values[:_MOST_ITEMS]]
    more = [f"… ({len(values)} values)"] if len(values) > _MOST_ITEMS else []
    return f"[{', '.join(shown + more)}]"


_SCALARS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def _conform_scalar(value: object, kind: type, *, key: str) -> object:
    if kind in (int, float) and type(value) is int and abs(value) > MOST:
        raise FieldError(key, f"expected {_SCALARS[kind]} of at most 64 bits, got {show(value)}")
    if kind is float and type(value) is int:
        value = float(value)
    finite = not isinstance(value, float) or math.isfinite(value)
    # ``type``, not ``isinstance``: True is no number of steps.
    if type(value) is not kind or not finite:
        remedy = "; put it in quotes" if kind is str and isinstance(value, int | float) else ""
        raise FieldError(key, f"expected {_SCALARS[kind]}, got {show(value)}{remedy}")
    if isinstance(value, str):
        _check_text(value, key=key)
    return value


def _check_text(text: str, *, key: str) -> None:
    """Refuse what no path, or not the file that a run is saved in, can hold."""
    if "\0" in text:
        raise FieldError(key, f"{show(text)} contains a NUL character; remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise FieldError(key, f"{show(text)} is not UTF-8; rename the file or folder")


def _check_choice(value: object, choices: tuple[object, ...], *, key: str) -> None:
    if value not in choices:
        known = ", ".join(show(choice) for choice in choices)
        raise FieldError(key, f"expected one of {known}, got {show(value)}")


def _conform_items(value: object, hints: tuple[Any, ...], *, key: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        example = '["cat", "dog"]' if str in hints else "[512, 512]"
        raise FieldError(key, f"expected a list such as {example}, got {show(value)}")
    if Ellipsis in hints:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise FieldError(key, f"expected {len(hints)} values, got {show(value)}")
    return tuple(conform(item, hint, key=key) for item, hint in zip(value, hints, strict=True))


def _required(section: type[Section]) -> Iterator[str]:
    for field in fields(section):  # type: ignore[arg-type]  # every Section is a dataclass
        if field.default is MISSING and field.default_factory is MISSING:
            yield field.name


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _advice(name: str, section: type[Section]) -> str:
    """Return the most similar option of the section, or one of that name further down."""
    here = did_you_mean(name, list(field_hints(section)))
    below = [key for key in _leaves(section) if key.endswith(f".{name}")]
    if not here and below:
        return f'; did you mean "{below[0]}"?'
    return here or f"; known are {', '.join(field_hints(section))}"


def _leaves(section: type[Section]) -> Iterator[str]:
    for name, hint in field_hints(section).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from (f"{name}.{leaf}" for leaf in _leaves(hint))
        else:
            yield name
