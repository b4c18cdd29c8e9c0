"""English plurals of class names."""

import re
from functools import cache

import inflect


@cache
def _english() -> inflect.engine:
    return inflect.engine()


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
