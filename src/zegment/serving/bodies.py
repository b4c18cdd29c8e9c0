"""Bodies of requests, bounded in size and time; and uploads that hold one picture.

What is wrong is refused while it arrives, before anything of it is stored.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Final

from python_multipart.multipart import parse_options_header

from zegment.serving.limits import mebibytes
from zegment.serving.refusal import Message, Receive, Refusal

#: How files begin that Pillow reads as one of `zegment.images.FORMATS`.
_BEGINNINGS: Final = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|RIFF....WEBP|BM|II[*+]\0|MM\0[*+]|GIF8[79]a", re.DOTALL
)
_LONGEST_BEGINNING: Final = 12

#: Of the lines before the file's own bytes; a file name has 255 bytes at most almost everywhere.
_MOST_PART_HEAD: Final = 4096


def check_length(scope: Message, most: int) -> None:
    """Refuse a body that announces itself as longer than ``most`` bytes."""
    for key, value in scope["headers"]:
        if key.lower() == b"content-length" and (not value.isdigit() or int(value) > most):
            raise _too_large(most)


def at_most(receive: Receive, most: int) -> Receive:
    """Return ``receive`` that refuses a body as soon as it is longer than ``most`` bytes."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"this is too large; at most {mebibytes(most)} are accepted")


def in_time(receive: Receive, seconds: float) -> Receive:
    """Return ``receive`` that refuses a body that has not arrived within ``seconds``."""
    deadline = time.monotonic() + seconds
    complete = False

    async def timed() -> Message:
        nonlocal complete
        if complete:  # what follows is the end of the connection, whenever it comes
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(deadline - time.monotonic(), 0.001))
        except TimeoutError as error:
            raise Refusal(408, "the upload took too long; try a smaller picture") from error
        complete = not message.get("more_body", False)
        return message

    return timed


async def read(receive: Receive) -> bytes:
    """Return a whole body."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


def one_picture(scope: Message, receive: Receive) -> Receive:
    """Return ``receive`` that refuses any form but one with one file, which begins as a picture.

    Args:
        scope: Of the request, whose header names the line between the parts of the form.
        receive: Of the request.

    Raises:
        Refusal: If the header is missing.
    """
    kind = dict(scope["headers"]).get(b"content-type", b"")
    found = re.match(rb'multipart/form-data;\s*boundary="?([\w\'()+,./:=?-]{1,70})"?\s*$', kind)
    if found is None:
        raise Refusal(400, "an upload is a multipart form with one file, whose field is files")
    line = b"--" + found[1]
    seen, lines, tail, judged = b"", 0, b"", False

    async def checked() -> Message:
        nonlocal seen, lines, tail, judged
        while True:
            message = await receive()
            body = message.get("body", b"")
            # A file's part lies between two such lines; more of them are more parts.
            lines += (tail + body).count(line)
            tail = (tail + body)[-(len(line) - 1) :]
            if lines > 2:
                raise Refusal(413, "there is more than one file; upload one picture per request")
            if message["type"] != "http.request":
                return message
            whole = not message.get("more_body", False)
            if not judged:
                seen = body = seen + body  # until then it is kept back
                judged = _judge(seen, whole=whole)
            if judged:
                _check_end(lines, whole=whole)
                return {**message, "body": body}

    return checked


def _check_end(lines: int, *, whole: bool) -> None:
    """Refuse a form that is over and has not ended."""
    if whole and lines < 2:
        raise Refusal(400, "the form has no end; send it whole, or choose the picture again")


def _about(head: bytes) -> dict[bytes, bytes]:
    """Return what the lines before a file say of it, as Gradio reads them."""
    disposition = b""
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == b"content-disposition":
            disposition = value
    return parse_options_header(disposition)[1]


def _judge(beginning: bytes, *, whole: bool) -> bool:
    """Return whether a form is known to hold a picture; False asks for more of it.

    Raises:
        Refusal: If it holds none.
    """
    head, between, content = beginning.partition(b"\r\n\r\n")
    if not between and (whole or len(beginning) > _MOST_PART_HEAD):
        raise Refusal(400, "this form holds no file; send one whose field is files")
    if not between or (len(content) < _LONGEST_BEGINNING and not whole):
        return False
    about = _about(head)
    if about.get(b"name") != b"files":
        raise Refusal(400, "this form holds no file; send one whose field is files")
    if not about.get(b"filename"):
        raise Refusal(400, "the file has no name; add filename= to its part of the form")
    if content.startswith((b"\r\n--", b"--")):
        raise Refusal(415, "the file is empty; choose another")
    if _BEGINNINGS.match(content) is None:
        raise Refusal(
            415, "the file is not a picture of a known kind; give PNG, JPEG, WebP, TIFF, BMP or GIF"
        )
    return True
