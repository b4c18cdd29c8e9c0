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
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from zegment.serving.limits import Limits

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

ALIAS: Final = "/zegment-files"
"""What the folder of stored files is called outside."""

HEALTH: Final = "/health"

_FILE: Final = "/gradio_api/file="
_UPLOAD: Final = "/gradio_api/upload"
_READ: Final = (
    "/assets/", "/static/", "/config", "/theme.css", "/favicon.ico", "/robots.txt",
    "/manifest.json", "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/app_id",
    "/gradio_api/user", "/gradio_api/token", "/gradio_api/login_check", "/gradio_api/heartbeat/",
    "/gradio_api/queue/", "/gradio_api/call/", "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/gradio_api/theme.css", _FILE,
)  # fmt: skip
_WRITE: Final = (
    _UPLOAD, "/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/run/",
    "/gradio_api/reset", "/gradio_api/cancel",
)  # fmt: skip

#: Requests other than uploads carry words and numbers only.
_MAX_JSON: Final = 2**18

#: What a multipart body needs beside the file.
_FORM_BYTES: Final = 2**14

# The page loads nothing from elsewhere and talks to nobody else, whatever gets into it.
_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is not let in.

    Args:
        status: HTTP status.
        reason: What the visitor reads: what was wrong and what to do.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI middleware around Gradio's app.

    Args:
        app: What is guarded.
        folder: Where uploads and downloads are stored; its real name never goes out.
        limits: Sizes and times.
    """

    def __init__(self, app: App, *, folder: Path, limits: Limits) -> None:
        self.app, self.folder, self.limits = app, folder.resolve(), limits
        # As the path stands in JSON, in addresses, and as Windows writes it in JSON.
        names = {str(self.folder), self.folder.as_posix(), json.dumps(str(self.folder))[1:-1]}
        self._names = [name.encode() for name in sorted(names, key=len, reverse=True)]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] != "websocket":  # nothing here speaks it
                await self.app(scope, receive, send)
            return
        started = False

        async def send_once(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if scope["path"] == HEALTH:
                raise Refusal(200, "ok")
            scope, receive = await self._admit(scope, receive)
            await self.app(scope, receive, self._disguise(scope, send_once))
        except Refusal as refusal:
            if not started:
                await _answer(send, refusal)
        except asyncio.CancelledError:
            pass  # the server ends, and this stream would not: nothing to be said about it

    async def _admit(self, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        """Return the request as Gradio may see it.

        Raises:
            Refusal: If it is not one that the page or the HTTP API makes, or is too large.
        """
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD") and (path == "/" or path.startswith(_READ)):
            if path.startswith(_FILE):
                real = str(self.resolve(path.removeprefix(_FILE)))
                scope = {**scope, "path": _FILE + real, "raw_path": (_FILE + real).encode()}
            return scope, receive
        if method == "OPTIONS":
            return scope, receive
        if method != "POST" or not path.startswith(_WRITE):
            raise Refusal(404, "there is nothing here")
        receive = _in_time(receive, self.limits.upload_seconds)
        if path.startswith(_UPLOAD):
            most = self.limits.max_upload_bytes + _FORM_BYTES
            _check_length(scope, most)
            self._check_room()
            return scope, _at_most(receive, most)
        _check_length(scope, _MAX_JSON)
        body = await _read(_at_most(receive, _MAX_JSON))
        return self._with_body(scope, receive, self._translate_body(body))

    def resolve(self, alias: str) -> Path:
        """Return the stored file that an alias stands for.

        Raises:
            Refusal: If it stands for none.
        """
        inside = alias.removeprefix(ALIAS + "/")
        if inside == alias or "\0" in inside:
            raise Refusal(403, "this file is not here")
        path = (self.folder / inside).resolve()
        if self.folder not in path.parents:
            raise Refusal(403, "this file is not here")
        return path

    def _check_room(self) -> None:
        sizes = [entry.stat().st_size for entry in self.folder.rglob("*") if entry.is_file()]
        if sum(sizes) > self.limits.max_stored_bytes or len(sizes) > self.limits.max_stored_files:
            raise Refusal(507, "too many pictures are stored; try again later")

    def _translate_body(self, body: bytes) -> bytes:
        if not body:
            return body
        try:
            return json.dumps(self._translate(json.loads(body))).encode()
        except (ValueError, RecursionError) as error:
            raise Refusal(400, "the body is not JSON; see the documentation") from error

    def _translate(self, value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return JSON with real paths of stored files; any other reference to a file is refused."""
        if isinstance(value, list):
            return [self._translate(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "path" not in value:
            return {key: self._translate(item) for key, item in value.items()}
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


def _check_length(scope: Message, most: int) -> None:
    for key, value in scope["headers"]:
        if key.lower() == b"content-length" and (not value.isdigit() or int(value) > most):
            raise Refusal(413, f"too large; at most {most} bytes are accepted")


def _at_most(receive: Receive, most: int) -> Receive:
    """Return ``receive`` that refuses a body as soon as it is longer than ``most`` bytes."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > most:
            raise Refusal(413, f"too large; at most {most} bytes are accepted")
        return message

    return counted


def _in_time(receive: Receive, seconds: float) -> Receive:
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


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return b"".join(parts)


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"status" if refusal.status == 200 else "detail": refusal.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.status != 200:
        headers.append((b"connection", b"close"))  # the rest of the body is not wanted
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
