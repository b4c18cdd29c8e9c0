"""Where an event runs, and what a visitor is told when it cannot be answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial, wraps
from html import escape
from typing import Any

import gradio as gr

from zegment.errors import ZegmentError
from zegment.serving.storage import NO_ROOM, is_full


def told(
    function: Callable[..., Any], executor: Executor, *, html: bool = True
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return ``function`` for the event loop; mistakes of the visitor become one line for him.

    Anything unexpected is logged by Gradio, and the visitor learns only that it happened.

    Args:
        function: An event.
        executor: Has the threads in which it runs.
        html: Whether the line is shown on the page, where names that were typed must be escaped.
    """

    @wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - those of the event
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(executor, partial(function, *args, **kwargs))
        except (ZegmentError, OSError) as error:
            # What the owner of a machine is told of its disk is no advice for a guest.
            text = NO_ROOM if is_full(error) else str(error)
            if not (isinstance(error, ZegmentError) or is_full(error)):
                raise
            text = escape(text) if html else text
            raise gr.Error(text, title="Please check", print_exception=False) from None

    return wrapper
