"""The server behind ``zegment serve``: page, HTTP API and guard in one process.

Nothing leaves the machine but answers to its visitors: no telemetry, no fonts, no scripts from
elsewhere. Uploads and downloads live in one temporary folder, which goes with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from zegment.serving.api import add_endpoint
from zegment.serving.connections import ImpatientProtocol, most_connections
from zegment.serving.events import Events
from zegment.serving.examples import draw_examples
from zegment.serving.fields import Fields
from zegment.serving.guard import Guard
from zegment.serving.origins import Origins
from zegment.serving.page import build_page
from zegment.serving.results import Service
from zegment.serving.settings import ServeSettings, listen, quiet_gradio
from zegment.serving.storage import Store, stored_files
from zegment.serving.style import STYLE, theme
from zegment.serving.threads import Threads, working_threads
from zegment.serving.uploads import refuse_if_full, watch_uploads
from zegment.serving.visitors import Visitors

if TYPE_CHECKING:
    from zegment.segmenter import Segmenter

STOP_SECONDS: Final = 30
"""For what is under way when the server is asked to end."""

_CLOSE_SECONDS: Final = 1
_AT_ONCE_SECONDS: Final = 0.5

#: Connections that the system holds back until the loop takes them.
_HELD_BACK: Final = 512

#: Tenths of a second.
_TIDY_EVERY: Final = 50


_log = logging.getLogger(__name__)


class Server:
    """A server that is not started yet.

    Args:
        segmenter: Answers the requests.
        settings: Where to listen, and the limits.
    """

    def __init__(self, segmenter: Segmenter, settings: ServeSettings) -> None:
        self.segmenter, self.settings = segmenter, settings
        self._uvicorn: uvicorn.Server | None = None
        self.address = ""
        self._deadline = math.inf

    @contextlib.contextmanager
    def opened(self, listening: socket.socket | None = None) -> Iterator[Server]:
        """Yield the server with its port taken and its page made; see `run`.

        Args:
            listening: From `zegment.serving.settings.listen`, if the port was taken before; it is
                closed at the end.

        Raises:
            ConfigError: If the port is taken, or the address is none of this machine.
        """
        listening = listening or listen(self.settings.host, self.settings.port)
        workers = self.settings.workers
        with listening, stored_files() as folder, working_threads(workers) as threads:
            host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
            self.address = f"http://{host}:{listening.getsockname()[1]}"
            store = Store(folder, self.settings.limits)
            app = build_app(self.segmenter, self.settings, store, threads)
            most = most_connections()
            config = uvicorn.Config(
                app, log_level="warning", lifespan="on", http=ImpatientProtocol,
                ws="none", limit_concurrency=most, backlog=max(most // 8, 1),
                timeout_graceful_shutdown=STOP_SECONDS + _CLOSE_SECONDS, proxy_headers=False,
            )  # fmt: skip
            self._uvicorn, self._socket = _Uvicorn(config), listening
            with store.swept():
                yield self

    def run(self, *, stopping: Callable[[], None] = lambda: None) -> None:
        """Answer requests until SIGINT, SIGTERM or `stop`; those under way have some seconds.

        A second signal ends it at once. A run of the model may go on in its thread afterwards.

        Args:
            stopping: Called when what is under way has to be waited for.

        Raises:
            RuntimeError: If the server is not opened, or cannot start.
        """
        if self._uvicorn is None:
            raise RuntimeError("the server is not opened; use it in with server.opened():")
        # The loop would wait for the model's thread without end, so it gets a thread of its own.
        loop = threading.Thread(
            target=self._uvicorn.run, args=([self._socket],), name="zegment-serve", daemon=True
        )
        with _ended_by_signals(self.stop):
            loop.start()
            while loop.is_alive() and self._deadline == math.inf:
                loop.join(0.1)
            if self._deadline == math.inf:
                raise RuntimeError("the server could not start; what was printed before says why")
            loop.join(_AT_ONCE_SECONDS)
            if loop.is_alive():
                stopping()
            while loop.is_alive() and time.monotonic() < self._deadline:
                loop.join(0.1)

    def stop(self) -> None:
        """Ask a server that runs in another thread to end; the second time, to end at once."""
        if self._uvicorn is None:
            return
        if self._uvicorn.should_exit:
            self._deadline = time.monotonic()
            return
        self._deadline = time.monotonic() + STOP_SECONDS + 2 * _CLOSE_SECONDS
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # of what is cut off
        self._uvicorn.should_exit = True

    @property
    def started(self) -> bool:
        """Whether requests are answered by now."""
        return self._uvicorn is not None and self._uvicorn.started


class _Uvicorn(uvicorn.Server):
    """Uvicorn that knows of Gradio: what to forget in time, and whom to tell at the end."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen; the system holds more connections back than the loop takes at once."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_HELD_BACK)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end; see to what is due now and then."""
        if counter % _TIDY_EVERY == 0:
            try:
                await self._visitors.tidy()
            except Exception:  # it reaches into Gradio, and nothing of it may end the server
                _log.exception("cannot forget what Gradio keeps of visitors who have gone")
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, as soon as the answers under way are given; tell the others."""
        self._visitors.turn_away()
        asyncio.get_running_loop().call_later(STOP_SECONDS, self._visitors.give_up)
        for route in self.config.app.routes:  # type: ignore[union-attr]
            # The streams by which Gradio knows that a page is open.
            if hasattr(getattr(route, "app", None), "stop_event"):
                route.app.stop_event.set()
        await super().shutdown(sockets)

    @property
    def _visitors(self) -> Visitors:
        visitors: Visitors = self.config.app.state.visitors  # type: ignore[union-attr]
        return visitors


def build_app(
    segmenter: Segmenter, settings: ServeSettings, store: Store, threads: Threads
) -> FastAPI:
    """Return the web application.

    Args:
        segmenter: Answers the requests.
        settings: Of the server.
        store: Of uploads and downloads.
        threads: That answer them.
    """
    quiet_gradio()
    watch_uploads()
    limits = settings.limits
    service = Service(segmenter, limits)
    events = Events(service, store)
    page = build_page(events, threads, examples=draw_examples(store.folder))
    add_endpoint(page, service, store, threads)
    page.queue(
        api_open=True, max_size=limits.max_waiting, default_concurrency_limit=settings.workers
    )
    origins = Origins(local_only=settings.local_only, names=settings.allowed_hosts)
    visitors = Visitors(page, events.forget)
    guard = Middleware(
        Guard, store=store, limits=limits, origins=origins, fields=Fields(page), visitors=visitors
    )
    app: FastAPI = gr.mount_gradio_app(
        # Gradio's own app adds headers for other origins around its middleware.
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None, middleware=[guard]),
        page,
        path="/",
        app_kwargs={
            "docs_url": None,
            "redoc_url": None,
            "exception_handlers": {OSError: refuse_if_full},
        },
        max_file_size=limits.max_upload_bytes,
        show_error=False,
        enable_monitoring=False,
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        footer_links=["api", "settings"],
        theme=theme(),
        css=STYLE,
    )
    app.state.visitors = visitors
    page.has_launched = True  # Gradio compares paths with its own folder only after a launch
    return app


@contextlib.contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call ``stop``, so that what is stored can be cleared away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
