"""Parts of the page whose values Gradio hands on as they come."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import gradio as gr


def _path_of(component: gr.Image, payload: Any) -> str | None:  # noqa: ANN401 - Gradio's
    """Return the path of an upload, before anything decodes it."""
    del component
    return None if payload is None else payload.path


def _as_it_is(component: gr.CheckboxGroup, payload: list[int]) -> list[int]:
    """Return the boxes ticked; those of an earlier result may be among them."""
    del component
    return payload


def _derived(base: type, preprocess: Any) -> Any:  # noqa: ANN401 - a class of Gradio's
    """Return a part of Gradio's with another reading of its values.

    A class statement would let Gradio's metaclass write a stub file beside this source.
    """
    # Drawn in the browser as what it derives from.
    members = {"preprocess": preprocess, "is_template": True, "__module__": __name__}
    return ABCMeta.__new__(type(base), f"_{base.__name__}", (base,), members)


_Picture: Any = _derived(gr.Image, _path_of)
_Boxes: Any = _derived(gr.CheckboxGroup, _as_it_is)


def picture(**options: Any) -> gr.Image:  # noqa: ANN401 - those of Gradio's picture
    """Return Gradio's picture, which hands on the path of the upload."""
    made: gr.Image = _Picture(type="filepath", image_mode=None, **options)
    return made


def boxes(**options: Any) -> gr.CheckboxGroup:  # noqa: ANN401 - those of Gradio's boxes
    """Return Gradio's group of boxes, which hands on what is ticked, whatever it offers by now."""
    made: gr.CheckboxGroup = _Boxes(**options)
    return made
