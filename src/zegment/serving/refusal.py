"""Requests that are not let in, and the answer to them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


class Refusal(Exception):  # noqa: N818 - an answer, not an error
    """A request that is not let in.

    Args:
        status: HTTP status.
        reason: What the visitor reads: what was wrong and what to do.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Exchange:
    """What goes to an application and comes from it, until a part of the body is refused.

    Args:
        receive: Of the request; ``receive_as_it_comes`` may be replaced by one that refuses.
        send: Of the request.

    Attributes:
        started: Whether the application has begun to answer.
        refused: Whether something was refused while the application read it.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.receive_as_it_comes, self._send = receive, send
        self.started = self.refused = False

    async def receive(self) -> Message:
        """Return the next part of the request.

        Raises:
            Refusal: If it is not let in.
        """
        try:
            return await self.receive_as_it_comes()
        except Refusal:
            self.refused = True
            raise

    async def send(self, message: Message) -> None:
        """Send a part of the answer, unless the request was refused.

        The application would answer a refusal as an error of its own.
        """
        if not self.refused:
            self.started = True
            await self._send(message)


async def answer(send: Send, refusal: Refusal, *, plain: bool) -> None:
    """Send a refusal.

    Args:
        send: Of the request.
        refusal: What to say.
        plain: Whether as text, which the page shows as it comes, or as JSON with ``detail``.
    """
    kind, text = b"application/json", json.dumps({"detail": refusal.reason})
    if plain:
        kind, text = b"text/plain; charset=utf-8", refusal.reason
    await send_whole(send, refusal.status, kind, text.encode(), (b"connection", b"close"))


async def send_whole(
    send: Send, status: int, kind: bytes, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    """Send an answer of one part."""
    head = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
