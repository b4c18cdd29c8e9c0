"""What a message repeats of somebody else's."""

import pytest

from zegment.wording import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("\n  no such device:\nTraceback …"), "no such device"),
        (ValueError("Too short."), "Too short"),
        (AssertionError(), "AssertionError"),
        (OSError(" \n "), "OSError"),
    ],
)
def test_a_librarys_error_gives_its_first_line_or_else_its_kind(
    error: Exception, line: str
) -> None:
    assert first_line(error) == line
