"""Where uploads lie: at addresses that nobody can guess, and nowhere if they did not succeed.

Gradio writes what arrives into a file that it renames once all of it is there. It forgets that file
if the visitor hangs up, if the guard refuses the rest, or if the disk is full. The folder that it
is renamed into is called by a digest of its content, so that whoever has the same picture would get
the same address.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Final

from fastapi import Request
from fastapi.responses import PlainTextResponse
from gradio import route_utils

from zegment.serving.storage import NO_ROOM, is_full

_INSUFFICIENT_STORAGE: Final = 507

_SALT_BYTES: Final = 16

_begun: ContextVar[list[IO[bytes]]] = ContextVar("_begun")
"""The files of the request that is being answered."""


class _Upload(route_utils.GradioUploadFile):
    """An upload whose digest is not that of its content alone."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Gradio's
        super().__init__(*arguments, **options)
        self.sha.update(secrets.token_bytes(_SALT_BYTES))


def watch_uploads() -> None:
    """Let Gradio tell which files it begins, give each an address of its own, and log no forms."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    route_utils.NamedTemporaryFile = _begin  # type: ignore[attr-defined,assignment]
    route_utils.GradioUploadFile = _Upload  # type: ignore[misc]


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Delete what a request has begun to store and not finished, however it ends."""
    begun: list[IO[bytes]] = []
    token = _begun.set(begun)
    try:
        yield
    finally:
        _begun.reset(token)
        for file in begun:
            with contextlib.suppress(OSError):  # closing writes what was held back
                file.close()
            Path(file.name).unlink(missing_ok=True)  # what was finished has another name


def _begin(**options: Any) -> IO[bytes]:  # noqa: ANN401 - those of tempfile
    file = tempfile.NamedTemporaryFile(**options)  # noqa: SIM115 - Gradio closes it
    with contextlib.suppress(LookupError):  # a page of somebody else's in the same process
        _begun.get().append(file)
    return file


async def refuse_if_full(request: Request, error: Exception) -> PlainTextResponse:
    """Answer an upload that the disk had no room for; any other error stays one.

    Args:
        request: Of which something could not be stored.
        error: What the system said, an `OSError`.
    """
    del request
    if not is_full(error):
        raise error
    return PlainTextResponse(NO_ROOM, status_code=_INSUFFICIENT_STORAGE)
