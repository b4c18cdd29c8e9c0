"""What Gradio keeps of a visitor, for as long as there is one.

Gradio remembers every session: its state, its messages, the names of its files. A page in the
browser has one session, but a program gets a new one with every request, and a server that runs for
months would remember millions. And Gradio tells nobody when the server ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

import gradio as gr
from gradio import routes
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import error_payload

#: For which an answer waits that nobody fetches.
_KEEP_SECONDS: Final = 120.0

#: For which a session rests before it is forgotten; its next request may be on the way.
_SETTLE_SECONDS: Final = 5.0

#: Uploads whose progress may be asked for.
_MOST_UPLOADS: Final = 1000

#: Sessions whose state is kept; nothing of it is needed once it is forgotten.
_MOST_SESSIONS: Final = 1000

_STOPPING: Final = "the server is stopping; try again later"


class Visitors:
    """The sessions of a page.

    All methods are for the thread of the server's event loop.

    Args:
        page: With its queue.
        leave: Forgets what the page itself keeps of a session.

    Attributes:
        stopping: Whether the server is about to end and takes no more requests.
    """

    def __init__(self, page: gr.Blocks, leave: Callable[[str], None]) -> None:
        self._page, self._leave = page, leave
        self._present: Counter[str] = Counter()
        self._idle_since: dict[str, float] = {}
        self.stopping = False
        page.state_session_capacity = _MOST_SESSIONS

    @contextlib.contextmanager
    def present(self, session: str) -> Iterator[None]:
        """Keep a session for as long as its page is open."""
        self._present[session] += 1
        try:
            yield
        finally:
            self._present[session] -= 1
            if not self._present[session]:
                del self._present[session]

    @contextlib.contextmanager
    def uploading(self, query: str) -> Iterator[None]:
        """See that the page is told no more of an upload once it has ended, however that was.

        Args:
            query: Of the request.
        """
        try:
            yield
        finally:
            for name in parse_qs(query).get("upload_id", ()):
                _end_progress(name)

    async def tidy(self) -> None:
        """Forget the sessions of visitors who have gone, and files that are no longer there."""
        self._forget_gone()
        for known in (routes.file_upload_statuses._signals, routes.file_upload_statuses._statuses):
            _shorten(known, _MOST_UPLOADS)
        for files in self._page.temp_file_sets:
            files.difference_update(await asyncio.to_thread(_missing, list(files)))

    def _forget_gone(self) -> None:
        queue, now = self._page._queue, time.monotonic()
        undelivered = queue.pending_event_ids_session
        known = {
            *self._page.state_holder.session_data,
            *queue.pending_messages_per_session,
            *undelivered,
        }
        idle = known - self._present.keys()
        idle -= {event.session_hash for event in queue.event_ids_to_events.values()}
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        for name, since in list(self._idle_since.items()):
            keep = _KEEP_SECONDS if undelivered.get(name) else _SETTLE_SECONDS
            if now - since >= keep and not self._just_used(name):
                self._forget(name)

    def _just_used(self, session: str) -> bool:
        used = self._page.state_holder.time_last_used.get(session)
        return used is not None and (datetime.now() - used).total_seconds() < _SETTLE_SECONDS

    def _forget(self, session: str) -> None:
        page = self._page
        memories: tuple[MutableMapping[str, Any], ...] = (
            page.state_holder.session_data, page.state_holder.time_last_used,
            page._queue.pending_messages_per_session, page._queue.pending_event_ids_session,
            page.pending_streams, page.pending_diff_streams, self._idle_since,
        )  # fmt: skip
        for memory in memories:
            memory.pop(session, None)
        self._leave(session)

    def turn_away(self) -> None:
        """Take no more requests, and tell those that wait for the model."""
        self.stopping = True
        for name in list(routes.file_upload_statuses._statuses):
            _end_progress(name)
        for queue in self._page._queue.event_queue_per_concurrency_id.values():
            waiting, queue.queue[:] = list(queue.queue), []
            for event in waiting:
                self._tell(event)

    def give_up(self) -> None:
        """Tell those whose requests the model is still busy with."""
        for event in list(self._page._queue.event_ids_to_events.values()):
            self._tell(event)

    def _tell(self, event: Any) -> None:  # noqa: ANN401 - an event of Gradio's
        error = error_payload(gr.Error(_STOPPING, print_exception=False), show_error=False)
        self._page._queue.send_message(
            event, ProcessCompletedMessage(output=error, title="Stopping", success=False)
        )
        event.alive = False


def _end_progress(upload: str) -> None:
    if upload in routes.file_upload_statuses._statuses:
        routes.file_upload_statuses.set_done(upload)


def _shorten(known: MutableMapping[str, Any], most: int) -> None:
    for name in list(known)[: max(len(known) - most, 0)]:
        del known[name]


def _missing(names: list[str]) -> set[str]:
    # Not pathlib's, whose names Python would remember; see Store._files.
    return {name for name in names if not os.path.exists(name)}  # noqa: PTH110
