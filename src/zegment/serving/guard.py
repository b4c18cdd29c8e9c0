"""The doorkeeper in front of Gradio: what may come in, and what may not go out.

Gradio trusts the network more than a tool for strangers' pictures may: it opens any path of the
server that a request names when it runs inside another program, fetches addresses for its callers,
and tells everybody where it stores files. The guard lets through only the requests that the page
and the HTTP API make, bounds their size and time, and replaces the folder of stored files by an
alias in both directions, so that a path from outside can only mean a file in that folder.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from zegment.serving.bodies import at_most, check_length, in_time, one_picture, read
from zegment.serving.refusal import (
    App,
    Exchange,
    Message,
    Receive,
    Refusal,
    Send,
    answer,
    send_whole,
)
from zegment.serving.storage import NO_ROOM
from zegment.serving.uploads import nothing_left

if TYPE_CHECKING:
    from zegment.serving.fields import Fields
    from zegment.serving.limits import Limits
    from zegment.serving.origins import Origins
    from zegment.serving.storage import Store
    from zegment.serving.visitors import Visitors

ALIAS: Final = "/zegment-files"
"""What the folder of stored files is called outside."""

HEALTH: Final = "/health"

_FILE: Final = "/gradio_api/file="
_UPLOAD: Final = "/gradio_api/upload"
_HEARTBEAT: Final = "/gradio_api/heartbeat/"
_READ: Final = (
    "/assets/", "/static/", "/config", "/theme.css", "/favicon.ico", "/robots.txt",
    "/manifest.json", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/app_id",
    "/gradio_api/user", "/gradio_api/token", "/gradio_api/login_check", _HEARTBEAT,
    "/gradio_api/queue/", "/gradio_api/call/", "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/gradio_api/theme.css", _FILE,
)  # fmt: skip
_WRITE: Final = (
    _UPLOAD, "/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/run/predict",
    "/gradio_api/reset", "/gradio_api/cancel",
)  # fmt: skip

#: Requests other than uploads carry words and numbers only.
_MAX_JSON: Final = 2**18

#: Deeper than any request that the page or the HTTP API makes.
_MOST_NESTED: Final = 16

#: Bytes of the name of a file, almost everywhere.
_MOST_NAME: Final = 255

#: What a multipart body needs beside the file.
_FORM_BYTES: Final = 2**14

# The page loads nothing from elsewhere and talks to nobody else, whatever gets into it.
_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)

#: How Gradio says that the queue is full, which tells nobody what to do.
_QUEUE_FULL: Final = re.compile(rb"Queue is full\. Max size is (\d+) and size is \d+\.")
_TRY_LATER: Final = rb"\1 requests are waiting already, as many as may; try again in a minute"


class Guard:
    """ASGI middleware around Gradio's app.

    Args:
        app: What is guarded.
        store: Of uploads and downloads; its real place never goes out.
        limits: Sizes and times.
        origins: By which names, and from whose pages, the server may be called.
        fields: What the events of the page take.
        visitors: Who is there.
    """

    def __init__(
        self,
        app: App,
        *,
        store: Store,
        limits: Limits,
        origins: Origins,
        fields: Fields,
        visitors: Visitors,
    ) -> None:
        self.app, self.store, self.limits = app, store, limits
        self.origins, self.fields, self.visitors = origins, fields, visitors
        self.folder = store.folder.resolve()
        # As the path stands in JSON, in addresses, and as Windows writes it in JSON.
        names = {str(self.folder), self.folder.as_posix(), json.dumps(str(self.folder))[1:-1]}
        self._names = [name.encode() for name in sorted(names, key=len, reverse=True)]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == HEALTH:
            await send_whole(send, 200, b"application/json", b'{"status": "ok"}')
            return
        exchange = Exchange(receive, send)
        try:
            scope, exchange.receive_as_it_comes = await self._admit(
                self.origins.admit(scope), receive
            )
            with self._presence(scope):
                await self.app(scope, exchange.receive, self._disguise(scope, exchange.send))
        except Refusal as refusal:
            if not exchange.started:
                await answer(send, refusal, plain=scope["path"].startswith(_UPLOAD))
        except (asyncio.CancelledError, ClientDisconnect):
            pass  # the server ends, or the visitor has gone: nobody is there to be answered
        except Exception as error:
            # Gradio ends the stream of an event that it does not know by an error in the middle.
            if not exchange.started or not _is_answer(error):
                raise
            await send({"type": "http.response.body", "body": b""})

    @contextmanager
    def _presence(self, scope: Message) -> Iterator[None]:
        """Hold what lasts for as long as a request whose end Gradio would not notice."""
        path = scope["path"]
        if path.startswith(_HEARTBEAT):
            with self.visitors.present(path.removeprefix(_HEARTBEAT)):
                yield
        elif path.startswith(_UPLOAD) and scope["method"] == "POST":
            query = scope["query_string"].decode("latin-1")
            with nothing_left(), self.visitors.uploading(query):
                yield
        else:
            yield

    async def _admit(self, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        """Return the request as Gradio may see it.

        Raises:
            Refusal: If it is not one that the page or the HTTP API makes, or is too large.
        """
        method, path = scope["method"], scope["path"]
        if "\0" in path or any(len(part.encode()) > _MOST_NAME for part in path.split("/")):
            raise Refusal(404, "there is nothing here")  # nor can there be
        if method in ("GET", "HEAD") and (path == "/" or path.startswith(_READ)):
            if path.startswith(_FILE):
                real = str(self.resolve(path.removeprefix(_FILE)))
                scope = {**scope, "path": _FILE + real, "raw_path": (_FILE + real).encode()}
            return scope, receive
        if method != "POST" or not path.startswith(_WRITE):
            raise Refusal(404, "there is nothing here")
        if self.visitors.stopping:
            raise Refusal(503, "the server is stopping; try again later")
        receive = in_time(receive, self.limits.upload_seconds)
        if path.startswith(_UPLOAD):
            most = self.limits.max_upload_bytes + _FORM_BYTES
            check_length(scope, most)
            receive = one_picture(scope, at_most(receive, most))
            if not await asyncio.to_thread(self.store.make_room):
                raise Refusal(507, NO_ROOM)
            return scope, receive
        check_length(scope, _MAX_JSON)
        body = await read(at_most(receive, _MAX_JSON))
        return self._with_body(scope, receive, self._translate_body(path, body))

    def resolve(self, alias: str) -> Path:
        """Return the stored file that an alias stands for.

        Raises:
            Refusal: If it stands for none.
        """
        inside = alias.removeprefix(ALIAS + "/")
        if inside != alias and "\0" not in inside:
            path = (self.folder / inside).resolve()
            # Names that no file can have are an error to some of the ways to ask.
            if self.folder in path.parents and os.path.isfile(path):  # noqa: PTH113 - never raises
                return path
        raise Refusal(403, "this file is not here, or no longer; upload the picture again")

    def _translate_body(self, path: str, body: bytes) -> bytes:
        try:
            value = json.loads(body)
            value = self._translate(self.fields.admit(path, value))
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the body is not JSON in UTF-8; see the documentation") from error

    def _translate(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return JSON with real paths of stored files; any other reference to a file is refused."""
        if depth > _MOST_NESTED:
            raise Refusal(400, "the body is nested more deeply than any request needs to be")
        if isinstance(value, float) and not math.isfinite(value):
            raise Refusal(400, f"{value} is no number that a request can need")
        if isinstance(value, list):
            return [self._translate(item, depth + 1) for item in value]
        if not isinstance(value, dict):
            return value
        if "path" not in value:
            return {key: self._translate(item, depth + 1) for key, item in value.items()}
        if not isinstance(value["path"], str):
            raise Refusal(400, "a file needs a path; upload it first and give the path returned")
        # A file's address would be fetched, or its data decoded, before any limit is looked at.
        kept = {key: item for key, item in value.items() if key in ("orig_name", "mime_type")}
        return {
            **{key: item for key, item in kept.items() if isinstance(item, str)},
            "path": str(self.resolve(value["path"])),
            "meta": {"_type": "gradio.FileData"},
        }

    def _with_body(self, scope: Message, receive: Receive, body: bytes) -> tuple[Message, Receive]:
        headers = [(k, v) for k, v in scope["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return {**scope, "headers": headers}, replay

    def _disguise(self, scope: Message, send: Send) -> Send:
        """Return ``send`` that replaces the folder's name, except in stored files themselves."""
        stored = scope["path"].startswith((_FILE, "/assets/", "/static/"))
        as_it_is = False
        head: Message = {}

        async def disguised(message: Message) -> None:
            nonlocal head, as_it_is
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
                as_it_is = stored and message["status"] < 300  # an error tells of its path
                if as_it_is:
                    await send(message)
                    return
                head = message  # goes out with the first part, when its length is known
                return
            if as_it_is or message["type"] != "http.response.body":
                await send(message)
                return
            body = message.get("body", b"")
            for name in self._names:
                body = body.replace(name, ALIAS.encode())
            body = _QUEUE_FULL.sub(_TRY_LATER, body)
            if head:
                await send(_with_length(head, body, more=message.get("more_body", False)))
                head = {}
            await send({**message, "body": body})

        return disguised


_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


def _with_length(head: Message, body: bytes, *, more: bool) -> Message:
    headers = [(k, v) for k, v in head["headers"] if k.lower() != b"content-length"]
    if not more:
        headers.append((b"content-length", str(len(body)).encode()))
    return {**head, "headers": headers}


def _is_answer(error: BaseException) -> bool:
    """Return whether an error, or each of a group, only says with which status to answer."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_answer, error.exceptions))
    return isinstance(error, HTTPException) or (
        isinstance(error, RuntimeError) and "response already started" in str(error)
    )
