"""How words of users come onto a model card: as plain text, and without paths of their machine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

#: Names that the Hub has for licences people choose for models; any other is shown as "other".
LICENCES = frozenset({
    "apache-2.0",
    "mit",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "bsl-1.0",
    "isc",
    "mpl-2.0",
    "ms-pl",
    "afl-3.0",
    "artistic-2.0",
    "cc",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cdla-permissive-2.0",
    "epl-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "agpl-3.0",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "odbl",
    "openrail",
    "openrail++",
    "unlicense",
    "wtfpl",
    "zlib",
    "unknown",
})  # fmt: skip
CLASS_LISTS = frozenset(
    {"classes", "unseen", "other_values", "absent", "no_truth", "overlap_with_training"}
)
"""Keys under which strings are class names, which are shared as they are."""

_PLAIN = re.compile(r"[^\w ,'{}()/-]|_")


def without_places(value: Any, *, key: str = "") -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return what JSON holds with every path of this machine cut down to its last part.

    Args:
        value: A table, list or scalar.
        key: What it is called; class names are kept whatever they look like.
    """
    if key in CLASS_LISTS:
        return value
    if isinstance(value, Mapping):
        return {k: without_places(v, key=k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    return last_part(value) if isinstance(value, str) and _is_place(value) else value


def _is_place(text: str) -> bool:
    parts = re.split(r"[/\\]", text)
    return (
        PurePosixPath(text).is_absolute()
        or bool(PureWindowsPath(text).drive)
        or parts[0] == "~"
        or ".." in parts
    )


def last_part(text: str) -> str:
    """Return the name at the end of a path of any system; "." if there is none."""
    parts = [part for part in re.split(r"[/\\]", text) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "."


def licence_fields(licence: str | None) -> dict[str, Any]:
    """Return the fields of the front matter that name a licence, in the Hub's own terms."""
    if licence is None:
        return {"license": "unknown"}
    if licence.lower() in LICENCES:
        return {"license": licence.lower()}
    return {"license": "other", "license_name": _slug(licence)}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"


def listed(names: Sequence[object]) -> str:
    """Return names as one enumeration."""
    return ", ".join(map(plain, names)) if names else "none"


def numbers(values: Sequence[float]) -> str:
    """Return numbers as one enumeration."""
    return ", ".join(f"{float(value):g}" for value in values)


def one_line(text: object) -> str:
    """Return words without line breaks or characters that cannot be seen."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in str(text))
    return " ".join(kept.split())


def plain(text: object) -> str:
    """Return words such that Markdown and HTML show them, and see nothing else in them."""
    # An entity is text wherever it stands; a backslash would not stop links made of bare addresses.
    return _PLAIN.sub(lambda found: f"&#{ord(found[0])};", one_line(text))


def code(text: object) -> str:
    """Return a name in type of its own."""
    return f"<code>{plain(text)}</code>"
