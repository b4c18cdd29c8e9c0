"""The page: a picture and words in, an overlay with legend out.

The model runs once per request; opacity, legend and clicks draw from the result that is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from zegment.serving.events import Events
from zegment.serving.mistakes import told
from zegment.serving.picture import boxes, picture
from zegment.serving.style import CLASSES

if TYPE_CHECKING:
    from gradio.helpers import Examples

    from zegment.serving.results import Service
    from zegment.serving.threads import Threads

MODEL_QUEUE: Final = "model"
"""Name of the queue that everything waits in which runs the model."""

_OPACITY: Final = 0.55
_POLICIES: Final = [
    ("every pixel gets a word", "none"),
    ("leave out what scores low", "threshold"),
    ("leave out other things", "helpers"),
]
_SHOW_RESULT: Final = """() => {
    if (matchMedia("(max-width: 700px)").matches)  // there the result lies below
        document.querySelector("#zegment-result").scrollIntoView({behavior: "smooth"});
}"""
_NAME_EXAMPLES: Final = """() => {
    const names = %s;
    const name = () => document.querySelectorAll("#zegment-examples .gallery-item").forEach(
        (button, k) => button.setAttribute("aria-label", "Example: " + names[k]));
    name();
    new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
}"""
"""What lets those who cannot see the examples know them by their words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What of the page the events read and write."""

    image: gr.Image
    words: gr.Textbox
    policy: gr.Radio
    score: gr.Slider
    helpers: gr.Textbox
    button: gr.Button
    result: gr.Image
    pixel: gr.HTML
    opacity: gr.Slider
    classes: gr.CheckboxGroup
    notes: gr.HTML
    downloads: tuple[gr.DownloadButton, ...]


def build_page(
    events: Events, threads: Threads, *, examples: Sequence[tuple[Path, str]] = ()
) -> gr.Blocks:
    """Return the page, without the HTTP API.

    Args:
        events: What the page does.
        threads: Where it does so.
        examples: Pictures, and words to ask for in them.
    """
    service = events.service
    page = gr.Blocks(title="Zegment", analytics_enabled=False, fill_width=True)
    with page:
        name = escape(service.segmenter.name or "a model")
        gr.Markdown(
            f"# Zegment\nDrop a picture, type what to look for. Model: {name}",
            elem_id="zegment-title",
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = _lay_out_inputs(service)
                shown = _lay_out_examples(examples, inputs)
            with gr.Column(scale=3, min_width=300):
                parts = _Parts(**inputs, **_lay_out_result())
        _connect(parts, events, threads, shown)
        if examples:
            names = json.dumps([words for _, words in examples])
            page.load(js=_NAME_EXAMPLES % names, api_visibility="private")
        page.unload(events.leave)
    return page


def _lay_out_inputs(service: Service) -> dict[str, Any]:
    own = service.segmenter.vocabulary
    hint = "" if own is None else "; empty: the words that the model was trained with"
    image = picture(
        label="Picture", sources=["upload", "clipboard"],
        height=260, buttons=[], elem_id="zegment-picture",
    )  # fmt: skip
    words = gr.Textbox(
        label="Words", value="", info=f"Separated by commas{hint}",
        placeholder="cat, sofa, potted plant",
        max_length=service.limits.max_words * (service.limits.max_word_length + 2),
        lines=2, max_lines=6, elem_id="zegment-words",
    )  # fmt: skip
    policy = gr.Radio(_POLICIES, value="none", label="Background", elem_id="zegment-background")
    score = gr.Slider(
        0, 1, value=0.5, step=0.01, label="Least score", visible=False, elem_id="zegment-score"
    )
    helpers = gr.Textbox(
        label="Other things", value="", placeholder="wall, sky, floor",
        info="Separated by commas; empty: sky, wall, floor and the like",
        visible=False, elem_id="zegment-helpers",
    )  # fmt: skip
    button = gr.Button("Segment", variant="primary", elem_id="zegment-segment")
    return {
        "image": image, "words": words, "policy": policy, "score": score, "helpers": helpers,
        "button": button,
    }  # fmt: skip


def _lay_out_examples(
    examples: Sequence[tuple[Path, str]], inputs: dict[str, Any]
) -> Examples | None:
    if not examples:
        return None
    shown: Examples = gr.Examples(
        [[str(path), words] for path, words in examples],
        [inputs["image"], inputs["words"]],
        label="Examples",
        visible_columns=[0],
        api_visibility="private",
        cache_examples=False,
        elem_id="zegment-examples",
    )
    return shown


def _lay_out_result() -> dict[str, Any]:
    result = gr.Image(
        label="Result", interactive=False, format="png", height=460, elem_id="zegment-result",
        buttons=["fullscreen"],
    )  # fmt: skip
    pixel = gr.HTML("", elem_id="zegment-pixel", padding=False)
    classes = boxes(label="Classes found", visible=False, elem_id=CLASSES)
    notes = gr.HTML("", elem_id="zegment-notes", padding=False)
    opacity = gr.Slider(
        0, 1, value=_OPACITY, step=0.01, label="Opacity of the colours", elem_id="zegment-opacity"
    )
    with gr.Row():
        downloads = tuple(
            gr.DownloadButton(label, size="sm", interactive=False, elem_id=f"zegment-get-{kind}")
            for kind, label in (
                ("labels", "Label map (PNG)"),
                ("legend", "Legend (JSON)"),
                ("coco", "COCO (JSON)"),
                ("overlay", "Overlay (PNG)"),
            )
        )
    return {
        "result": result, "pixel": pixel, "classes": classes, "notes": notes, "opacity": opacity,
        "downloads": downloads,
    }  # fmt: skip


def show_policy(policy: str) -> tuple[Any, Any]:
    """Return which of the two fields of a background policy is to be seen."""
    return gr.Slider(visible=policy == "threshold"), gr.Textbox(visible=policy == "helpers")


def _connect(parts: _Parts, events: Events, threads: Threads, examples: Examples | None) -> None:
    inputs = [parts.image, parts.words, parts.policy, parts.score, parts.helpers, parts.opacity]
    shown = [parts.result, parts.classes, parts.notes, parts.pixel, *parts.downloads]
    looks = [parts.opacity, parts.classes]
    private: dict[str, Any] = {"api_visibility": "private"}
    quick = {**private, "show_progress": "hidden", "concurrency_limit": 4}
    begins: list[Callable[..., Any]] = [
        partial(gr.on, [parts.button.click, parts.words.submit]),
    ]
    if examples is not None:
        begins.append(examples.load_input_event.success)
    for begin in begins:
        answered = begin(
            told(events.answer, threads.model),
            inputs,
            shown,
            concurrency_id=MODEL_QUEUE,
            trigger_mode="always_last",  # words may change while the model runs
            show_progress_on=[parts.result],
            **private,
        )
        answered.success(told(events.prepare, threads.quick), looks, list(parts.downloads), **quick)
        answered.success(js=_SHOW_RESULT, **private)
        answered.failure(events.clear, None, shown, **quick)
    parts.image.clear(events.clear, None, shown, **quick)
    gr.on(
        [parts.opacity.input, parts.classes.input], told(events.draw, threads.quick),
        looks, parts.result, trigger_mode="always_last", **quick,
    )  # fmt: skip
    gr.on(
        [parts.opacity.release, parts.classes.input], told(events.prepare_overlay, threads.quick),
        looks, parts.downloads[-1], trigger_mode="always_last", **quick,
    )  # fmt: skip
    parts.result.select(told(events.describe, threads.quick), None, parts.pixel, **quick)
    parts.policy.change(show_policy, parts.policy, [parts.score, parts.helpers], **quick)
