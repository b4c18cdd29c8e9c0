"""Connections that say nothing are not kept open."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 10.0
"""Time within which the head of a request must have arrived."""


class ImpatientProtocol(H11Protocol):
    """HTTP whose connections end when the head of a request does not arrive in time.

    Uvicorn waits for ever for the first request, and for one that has begun to arrive.
    """

    head_seconds = HEAD_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take what came; wait for the rest of a head, or no longer."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

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
