"""What somebody else wrote, as a message may repeat it: on one line, short, and harmless."""

import re
import reprlib

MOST_CHARACTERS = 200
"""Of a text inside a message."""

_MOST_DIGITS = 40

#: What Python makes of bytes in the name of a file that are not UTF-8, and other halves of
#: characters. No text outside of Python can hold them.
_NO_TEXT = re.compile("[\ud800-\udfff]")
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF


def readable(name: str, *, backslash: str = "\\") -> str:
    r"""Return a text that UTF-8 can hold, with ``\xff`` for such a byte in the name of a file.

    Args:
        name: Any.
        backslash: What an escape begins with; in the text of a JSON file two of them.
    """
    return _NO_TEXT.sub(lambda found: backslash + _escape(found[0]), name)


def _escape(half: str) -> str:
    code = ord(half)
    return f"x{code - 0xDC00:02x}" if _FIRST_BYTE <= code <= _LAST_BYTE else f"u{code:04x}"


def printable(text: str, *, most: int = MOST_CHARACTERS) -> str:
    r"""Return a text with its beginning alone, and with escapes for what no terminal should get.

    Line ends, control characters, marks that turn the direction of writing and what is not UTF-8
    become escapes such as ``\n``.

    Args:
        text: Any.
        most: Characters that are kept; a longer text says how many it has.
    """
    shown = readable(text[:most])
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
    return shown if len(text) <= most else f"{shown}… ({len(text)} characters)"


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, to stand inside ours; its kind if it is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def brief(value: object) -> str:
    """Return a value as Python writes it, shortened wherever it is long, large or deep."""
    return printable(_BRIEF.repr(value))


class _Brief(reprlib.Repr):
    """Shortens; also what Python refuses to write, a number of thousands of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = MOST_CHARACTERS

    def repr_int(self, value: int, level: int) -> str:
        """Return a whole number, or how large it is."""
        del level
        if abs(value) < 10**_MOST_DIGITS:
            return repr(value)
        return f"a whole number of {value.bit_length()} bits"


_BRIEF = _Brief()
