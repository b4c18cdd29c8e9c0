"""English plurals of class names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import inflect


@cache
def _english() -> inflect.engine:
    with _unchecked():
        import inflect  # noqa: PLC0415 - only inside
    return inflect.engine()


@contextmanager
def _unchecked() -> Iterator[None]:
    """Let what is imported inside do without typeguard.

    It would rewrite the whole of inflect for each of two dozen functions, which takes seconds.
    """
    try:
        typeguard: Any = import_module("typeguard")
    except ImportError:  # which inflect has used since 7.2
        yield
        return
    checked = typeguard.typechecked
    typeguard.typechecked = lambda function: function
    try:
        yield
    finally:
        typeguard.typechecked = checked


def plural(name: str) -> str | None:
    """Return the plural of an English noun; None if it is one already, or has no other form."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z' -]*", name):  # the rules know Latin letters alone
        return None
    singular = _english().singular_noun(name)
    # To the rules "bus" is the plural of "bu".
    if singular and not name.endswith("us"):
        return None
    form = str(_english().plural_noun(name))
    return form if form != name else None
