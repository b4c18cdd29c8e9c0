"""The HTTP API: one endpoint, ``/segment``, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from zegment.errors import ZegmentError
from zegment.serving.downloads import legend_table, write_labels, write_overlay
from zegment.serving.mistakes import told
from zegment.serving.page import MODEL_QUEUE
from zegment.serving.picture import picture

if TYPE_CHECKING:
    from zegment.serving.results import Service
    from zegment.serving.storage import Store
    from zegment.serving.threads import Threads

_DESCRIPTION = (
    "Segment one picture into the classes that the words name. Returns the overlay (PNG), the "
    "label map (index PNG, the numbers of the legend), and the legend with the share of each class."
)


def add_endpoint(page: gr.Blocks, service: Service, store: Store, threads: Threads) -> None:
    """Add ``/segment`` to a page, out of sight.

    Args:
        page: The page of the same server.
        service: Answers the requests.
        store: Where results are until they are fetched.
        threads: Where requests are answered.
    """

    def segment(
        image: str | None, words: str, background: str, opacity: float
    ) -> tuple[str, str, dict[str, Any]]:
        if image is None:
            raise ZegmentError("there is no picture; upload one and give its path as image")
        finished = service.segment(Path(image), words, background)
        place = store.new_folder()
        overlay = write_overlay(finished, place, opacity=opacity, legend=False)
        return str(overlay), str(write_labels(finished, place)), legend_table(finished)

    with page, gr.Column(visible=False):
        gr.Button("segment").click(
            told(segment, threads.model, html=False),
            [
                picture(label="image"),
                gr.Textbox(label="words", value=""),
                gr.Textbox(label="background", value="none"),
                gr.Slider(0, 1, value=0.55, label="opacity"),
            ],
            [
                gr.Image(label="overlay", format="png"),
                gr.File(label="labels"),
                gr.JSON(label="legend"),
            ],
            api_name="segment",
            api_description=_DESCRIPTION,
            concurrency_id=MODEL_QUEUE,
        )
