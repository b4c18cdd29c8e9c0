"""Text files that somebody else may have written: read whole or refused, and never without end.

Whatever is wrong is an `OSError` or a `ValueError` with a short reason; who asked for the file
knows what to call it, and what to do.
"""

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zegment.wording import printable, readable

MOST_BYTES = 16 << 20
"""Of a file: several times what all classes of a 16-bit label map need with their synonyms."""

MOST_TOML = 4 << 20
"""Characters of TOML, which is read more slowly: some seconds for as many brackets."""

MOST_KEY_PARTS = 32
"""Parts of a dotted key. The reader's time grows with their square, and options have three."""

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LONG_KEY = re.compile(
    rf"^[ \t]*\[*[ \t]*{_PART}(?:[ \t]*\.[ \t]*{_PART}){{{MOST_KEY_PARTS}}}", re.MULTILINE
)


def check_is_file(path: Path) -> None:
    """Refuse what is no file on a disk: reading a pipe or a device may never end.

    Raises:
        OSError: If there is none, or it is something else.
        ValueError: If no file can have such a name.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError("it is a pipe or a device, not a file")


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark, its lines ended by LF.

    Args:
        path: The file; a link is followed.
        most: Bytes that it may have.

    Raises:
        OSError: If it cannot be read, or is a folder, a pipe or a device.
        ValueError: If it is too large, or not UTF-8.
    """
    check_is_file(path)
    with path.open("rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most >> 20} MiB, so it is no such file")
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def parse_json(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return what a JSON text holds.

    Raises:
        ValueError: If it is none, a table has a key twice, it is nested too deeply, or a number
            has thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_table)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise _plain(error) from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table that a TOML text holds.

    Raises:
        ValueError: If it is none, too long, nested too deeply, or a number has thousands of digits.
    """
    if len(text) > MOST_TOML:
        raise ValueError(f"it has {len(text)} characters; at most {MOST_TOML} are read")
    if _LONG_KEY.search(text):
        raise ValueError(f"a key has more than {MOST_KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise _plain(error) from error


def json_text(value: object, *, sort_keys: bool = False) -> str:
    r"""Return a value as the text of a JSON file, whatever files it names.

    A byte in a name that is not UTF-8 becomes the four characters ``\xff``. JSON has an escape for
    what Python makes of it, which is no character, and many programs refuse the whole file.

    Args:
        value: What JSON can hold.
        sort_keys: Whether equal tables give equal texts.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, sort_keys=sort_keys) + "\n"
    return readable(text, backslash=r"\\")


def _table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of two values for one key, which readers choose between, neither."""
    table = dict(pairs)
    if len(table) < len(pairs):
        known: set[str] = set()
        for key, _ in pairs:
            if key in known:
                raise ValueError(f'"{printable(key, most=40)}" is written twice')
            known.add(key)
    return table


def _plain(error: ValueError) -> ValueError:
    """Return an error without Python's advice on its own limits, on one line."""
    reason = str(error)
    if reason.startswith("Exceeds the limit"):
        return ValueError("a number in it has thousands of digits")
    return ValueError(printable(reason))
