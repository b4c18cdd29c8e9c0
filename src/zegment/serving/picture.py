"""A picture on the page whose upload nothing decodes before its limits are looked at."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import gradio as gr


def _path_of(component: gr.Image, payload: Any) -> str | None:  # noqa: ANN401 - Gradio's
    """Return the path of an upload, before anything decodes it."""
    del component
    return None if payload is None else payload.path


# A class statement would let Gradio's metaclass write a stub file beside this source.
_Picture: Any = ABCMeta.__new__(
    type(gr.Image),
    "_Picture",
    (gr.Image,),
    # Drawn in the browser as what it derives from.
    {"preprocess": _path_of, "is_template": True, "__module__": __name__},
)


def picture(**options: Any) -> gr.Image:  # noqa: ANN401 - those of Gradio's picture
    """Return Gradio's picture, which hands on the path of the upload."""
    made: gr.Image = _Picture(type="filepath", image_mode=None, **options)
    return made
