"""What each event of the page takes, so that nothing else comes to Gradio.

Gradio answers values of a wrong type with an error in the log, takes an object in a field of text
for a file, and lets a request say of itself that it is several.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from zegment.serving.refusal import Refusal

_CALL: Final = "/gradio_api/call/"
_RUN: Final = "/gradio_api/run/"
_JOIN: Final = "/gradio_api/queue/join"

#: What a page, or a client in Python, calls itself.
_VISITOR: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One value of a request.

    Attributes:
        name: As the visitor or the documentation calls it.
        expected: What it may be, in words.
        accepts: Whether a value from JSON is that.
    """

    name: str
    expected: str
    accepts: Callable[[Any], bool]


class Fields:
    """What the events of a page take.

    Args:
        page: With all its events.
    """

    def __init__(self, page: gr.Blocks) -> None:
        # Those that are a script of the page have nothing to be asked here.
        self._events = {number: event for number, event in page.fns.items() if event.fn}
        self._fields = {
            number: tuple(_field(component) for component in event.inputs)
            for number, event in self._events.items()
        }
        self._named = {
            event.api_name: number
            for number, event in self._events.items()
            if event.api_visibility == "public"
        }

    def admit(self, path: str, body: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
        """Return a request's body, with only what Gradio needs of it.

        Args:
            path: Of the address.
            body: As it came.

        Raises:
            Refusal: If the values are not those that the event takes; with the field's name and
                what it may be.
        """
        path = path.rstrip("/")
        if not path.startswith((_CALL, _RUN, _JOIN)):
            return body
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise Refusal(422, 'the body has no list of values; expected {"data": [...]}')
        number = self._number(path, body)
        self._check_values(number, body["data"])
        if path.startswith(_CALL):
            return {"data": body["data"]}
        kept = {"data": body["data"], "fn_index": number}
        if _is_whole(body.get("trigger_id")):
            kept["trigger_id"] = body["trigger_id"]
        if any(kind == "select" for _, kind in self._events[number].targets):
            kept["event_data"] = _place(body.get("event_data"))
        visitor = body.get("session_hash")
        # Gradio keeps it for a while, and writes it into names of its own.
        if not isinstance(visitor, str) or _VISITOR.fullmatch(visitor) is None:
            raise Refusal(422, "the request does not tell which page it comes from; load it again")
        return {**kept, "session_hash": visitor}

    def _check_values(self, number: int, values: list[Any]) -> None:
        fields = self._fields[number]
        if len(values) != len(fields):
            names = ", ".join(field.name for field in fields)
            raise Refusal(422, f"data has {len(values)} values; expected {len(fields)}: {names}")
        for field, value in zip(fields, values, strict=True):
            if not field.accepts(value):
                raise Refusal(422, f"{field.name} is {_brief(value)}; expected {field.expected}")

    def _number(self, path: str, body: dict[str, Any]) -> int:
        if path.startswith(_CALL):
            name = path.removeprefix(_CALL)
            if name not in self._named:
                raise Refusal(404, f"there is no {name[:40]!r} here; see the documentation")
            return self._named[name]
        number = body.get("fn_index")
        if not isinstance(number, int) or isinstance(number, bool) or number not in self._events:
            raise Refusal(404, "this page is outdated; load it again")
        if path.startswith(_RUN) and self._events[number].queue:
            raise Refusal(404, "this request has to wait its turn; see the documentation")
        return number


def _field(component: Any) -> Field:  # noqa: ANN401 - any of Gradio's
    """Return what a component of the page takes."""
    name = str(component.label or type(component).__name__)
    if isinstance(component, gr.Textbox):
        return Field(name=name, expected="a text", accepts=lambda v: isinstance(v, str))
    if isinstance(component, gr.Slider):
        least, most = component.minimum, component.maximum
        return Field(
            name=name,
            expected=f"a number from {least:g} to {most:g}",
            accepts=lambda v: _is_number(v) and least <= v <= most,
        )
    if isinstance(component, gr.Image):
        words = 'a file, {"path": ...} with the path that its upload returned'
        return Field(name=name, expected=words, accepts=_is_file)
    if isinstance(component, gr.Radio):
        known = [value for _, value in component.choices]
        return Field(name=name, expected=f"one of {known}", accepts=lambda v: v in known)
    if isinstance(component, gr.CheckboxGroup):
        return Field(name=name, expected="a list of numbers", accepts=_is_numbers)
    if isinstance(component, gr.Dataset):
        count = len(component.samples or ())
        return Field(
            name=name,
            expected=f"a number below {count}",
            accepts=lambda v: _is_whole(v) and 0 <= v < count,
        )
    raise TypeError(f"nothing is known of what a {type(component).__name__} takes; add it here")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_whole, value))


def _is_file(value: object) -> bool:
    """Return whether a value is a file, or nothing, which the event itself answers."""
    return value is None or (isinstance(value, dict) and isinstance(value.get("path"), str))


def _place(value: object) -> dict[str, Any]:
    """Return where a picture was clicked, as Gradio takes it."""
    index = value.get("index") if isinstance(value, dict) else None
    if not _is_numbers(index) or len(index) != 2:  # type: ignore[arg-type]
        raise Refusal(422, "the click names no pixel; click the picture again")
    return {"index": index, "value": None}


def _brief(value: object) -> str:
    """Return a value in few words; nothing of what an object holds."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    return repr(text[:20] + "…" * (len(text) > 20)) if isinstance(value, str) else text[:20]
