"""The page: a picture and words in, an overlay with legend out.

The model runs once per request; opacity, legend and clicks draw from the result that is kept.
"""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from zegment.errors import ZegmentError
from zegment.serving.downloads import write_coco, write_labels, write_legend, write_overlay
from zegment.serving.mistakes import told
from zegment.serving.rendering import describe_pixel, found_classes, legend_html, paint_result
from zegment.serving.storage import VisitorFiles
from zegment.serving.style import CLASSES

if TYPE_CHECKING:
    from gradio.helpers import Examples

    from zegment.serving.results import Finished, Service

MODEL_QUEUE: Final = "model"
"""Name of the queue that everything waits in which runs the model."""

_OPACITY: Final = 0.55
_POLICIES: Final = [
    ("every pixel gets a word", "none"),
    ("leave out what scores low", "threshold"),
    ("leave out other things", "helpers"),
]
_ASK: Final = "Click the picture for the class and confidence of a pixel."


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
    service: Service, folder: Path, *, examples: Sequence[tuple[Path, str]] = ()
) -> gr.Blocks:
    """Return the page, without the HTTP API.

    Args:
        service: Answers the requests.
        folder: Where downloads are stored.
        examples: Pictures, and words to ask for in them.
    """
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
        events = _Events(service, folder)
        _connect(parts, events, shown)
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
        label="Words", info=f"Separated by commas{hint}", placeholder="cat, sofa, potted plant",
        max_length=service.limits.max_words * (service.limits.max_word_length + 2),
        lines=2, max_lines=6, elem_id="zegment-words",
    )  # fmt: skip
    policy = gr.Radio(_POLICIES, value="none", label="Background", elem_id="zegment-background")
    score = gr.Slider(
        0, 1, value=0.5, step=0.01, label="Least score", visible=False, elem_id="zegment-score"
    )
    helpers = gr.Textbox(
        label="Other things", info="Separated by commas; empty: sky, wall, floor and the like",
        placeholder="wall, sky, floor", visible=False, elem_id="zegment-helpers",
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
    classes = gr.CheckboxGroup(label="Classes found", visible=False, elem_id=CLASSES)
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


class _Events:
    """What happens when a visitor does something."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.files = service, VisitorFiles(folder)

    def answer(
        self,
        path: str | None,
        words: str,
        policy: str,
        score: float,
        helpers: str,
        opacity: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """Run the model, keep the result, and return what the page shows of it."""
        if path is None:
            raise ZegmentError("there is no picture; drop one on the left, or take an example")
        value = {"threshold": str(score), "helpers": helpers}.get(policy, "")
        finished = self.service.segment(Path(path), words, f"{policy}:{value}".removesuffix(":"))
        self.service.results.put(_visitor(request), finished)
        found = found_classes(finished.result)
        ids = [place for _, place in found]
        return (
            self._paint(finished, opacity, ids, request),
            gr.CheckboxGroup(choices=found, value=ids, visible=True),
            legend_html(finished.result, CLASSES),
            _ASK,
            *[gr.DownloadButton(value=None, interactive=False)] * 4,
        )

    def draw(self, opacity: float, classes: list[int], request: gr.Request) -> Path:
        """Return the kept result, painted with another opacity or other classes."""
        finished = self._kept(request)
        known = range(len(finished.result.class_names))
        return self._paint(finished, opacity, [k for k in classes if k in known], request)

    def describe(self, event: gr.SelectData, request: gr.Request) -> str:
        """Return what is known about the pixel that was clicked."""
        column, row = event.index
        return describe_pixel(self._kept(request).result, int(column), int(row))

    def prepare(self, opacity: float, request: gr.Request) -> list[gr.DownloadButton]:
        """Write the files of the kept result and return the buttons that download them."""
        finished = self._kept(request)
        folder = self.files.new_folder(_visitor(request), "downloads")
        paths: list[Path | None] = [
            write_labels(finished, folder),
            write_legend(finished, folder),
            _if_installed(write_coco, finished, folder),
            write_overlay(finished, folder, opacity=opacity),
        ]
        return [gr.DownloadButton(value=p, interactive=p is not None) for p in paths]

    def prepare_overlay(self, opacity: float, request: gr.Request) -> gr.DownloadButton:
        """Write the overlay of the kept result anew and return the button that downloads it."""
        folder = self.files.new_folder(_visitor(request), "overlay")
        path = write_overlay(self._kept(request), folder, opacity=opacity)
        return gr.DownloadButton(value=path, interactive=True)

    def leave(self, request: gr.Request) -> None:
        """Forget the result and the files of a visitor who closed the page."""
        self.files.drop(_visitor(request))
        self.service.results.drop(_visitor(request))

    def _kept(self, request: gr.Request) -> Finished:
        return self.service.results.get(_visitor(request))

    def _paint(
        self, finished: Finished, opacity: float, ids: Sequence[int], request: gr.Request
    ) -> Path:
        picture = paint_result(finished.result, opacity=opacity, shown=ids)
        path = self.files.new_folder(_visitor(request), "shown") / f"{finished.stem}.shown.png"
        picture.save(path, compress_level=1)  # drawn at every move of a slider, and not for long
        return path


def _if_installed(
    write: Callable[[Finished, Path], Path], finished: Finished, folder: Path
) -> Path | None:
    """Return the written file, or None where an optional package is missing."""
    try:
        return write(finished, folder)
    except (ZegmentError, ImportError):
        return None


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def show_policy(policy: str) -> tuple[Any, Any]:
    """Return which of the two fields of a background policy is to be seen."""
    return gr.Slider(visible=policy == "threshold"), gr.Textbox(visible=policy == "helpers")


def _connect(parts: _Parts, events: _Events, examples: Examples | None) -> None:
    inputs = [parts.image, parts.words, parts.policy, parts.score, parts.helpers, parts.opacity]
    shown = [parts.result, parts.classes, parts.notes, parts.pixel, *parts.downloads]
    private: dict[str, Any] = {"api_visibility": "private"}
    quick = {**private, "show_progress": "hidden", "concurrency_limit": 4}
    begins: list[Callable[..., Any]] = [
        partial(gr.on, [parts.button.click, parts.words.submit]),
    ]
    if examples is not None:
        begins.append(examples.load_input_event.success)
    for begin in begins:
        begin(
            told(events.answer),
            inputs,
            shown,
            concurrency_id=MODEL_QUEUE,
            show_progress_on=[parts.result],
            **private,
        ).success(told(events.prepare), parts.opacity, list(parts.downloads), **quick)
    gr.on(
        [parts.opacity.input, parts.classes.input], told(events.draw),
        [parts.opacity, parts.classes], parts.result, trigger_mode="always_last", **quick,
    )  # fmt: skip
    parts.opacity.release(told(events.prepare_overlay), parts.opacity, parts.downloads[-1], **quick)
    parts.result.select(told(events.describe), None, parts.pixel, **quick)
    parts.policy.change(show_policy, parts.policy, [parts.score, parts.helpers], **quick)
