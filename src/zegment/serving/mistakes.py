"""What a visitor is told when a request cannot be answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any

import gradio as gr

from zegment.errors import ZegmentError
from zegment.serving.storage import NO_ROOM, is_full


def told(function: Callable[..., Any], *, html: bool = True) -> Callable[..., Any]:
    """Return ``function`` whose mistakes of the visitor become one line for the visitor.

    Anything unexpected is logged by Gradio, and the visitor learns only that it happened.

    Args:
        function: An event.
        html: Whether the line is shown on the page, where names that were typed must be escaped.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - those of the event
        try:
            return function(*args, **kwargs)
        except (ZegmentError, OSError) as error:
            # What the owner of a machine is told of its disk is no advice for a guest.
            text = NO_ROOM if is_full(error) else str(error)
            if not (isinstance(error, ZegmentError) or is_full(error)):
                raise
            text = escape(text) if html else text
            raise gr.Error(text, title="Please check", print_exception=False) from None

    return wrapper
