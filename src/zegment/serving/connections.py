"""Connections that say nothing are not kept open, and there are never too many of them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 10.0
"""Time within which the head of a request must have arrived."""

MOST_CONNECTIONS: Final = 512
"""Beyond it a request is answered with 503; each open page holds two or three."""

_FILES_PER_CONNECTION: Final = 2

#: Pieces of a body of whatever size; more of them need so many bytes on average. A piece costs the
#: same however small it is, and a megabyte may come as 170 000 of them.
_MOST_CRUMBS: Final = 500
_LEAST_BYTES: Final = 128


class _Connection(h11.Connection):
    """HTTP whose bodies may not come in ever so many small pieces."""

    _pieces = _bytes = 0

    def next_event(self) -> Any:  # noqa: ANN401 - h11's
        """Return what came next.

        Raises:
            h11.RemoteProtocolError: If it is one crumb too many, or no HTTP.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces, self._bytes = self._pieces + 1, self._bytes + len(event.data)
            if self._pieces > max(_MOST_CRUMBS, self._bytes // _LEAST_BYTES):
                raise h11.RemoteProtocolError("the body comes in too many small pieces")
        return event


class ImpatientProtocol(H11Protocol):
    """HTTP whose connections end when the head of a request does not arrive in time.

    Uvicorn waits for ever for the first request, and for one that has begun to arrive; and it
    counts connections only when a request has arrived.
    """

    head_seconds = HEAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Uvicorn's
        super().__init__(*arguments, **options)
        self.conn = _Connection(h11.SERVER)

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin to wait for the first request; too many that wait give way to new ones."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) >= (self.limit_concurrency or MOST_CONNECTIONS):
            waiting = [one for one in self.connections if one is not self and _waits(one)]
            if waiting:
                min(waiting, key=_deadline_of).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what came; wait for the rest of a head, or no longer."""
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer is on its way; then hang up."""
        if self.cycle is not None:  # of a request whose body is wrong; it has its answer now
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _watch(self) -> None:
        if not self._waits_for_head():
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
        elif self._deadline is None:  # each byte more gives no more time
            self._deadline = self.loop.call_later(self.head_seconds, self._hang_up)

    def _waits_for_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _hang_up(self) -> None:
        if self._waits_for_head() and not self.transport.is_closing():
            self.transport.close()


def _waits(connection: Any) -> bool:  # noqa: ANN401 - one of Uvicorn's
    return connection._deadline is not None and not connection.transport.is_closing()


def _deadline_of(connection: Any) -> float:  # noqa: ANN401 - one of Uvicorn's
    return float(connection._deadline.when())


def most_connections() -> int:
    """Return how many connections there may be, within what the system lets a process open."""
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return MOST_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(min(MOST_CONNECTIONS, files // _FILES_PER_CONNECTION), 1)
