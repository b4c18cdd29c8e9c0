"""What happens when a visitor of the page does something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import gradio as gr

from zegment.errors import ZegmentError
from zegment.serving.downloads import write_coco, write_labels, write_legend, write_overlay
from zegment.serving.rendering import describe_pixel, found_classes, legend_html, paint_result
from zegment.serving.storage import VisitorFiles
from zegment.serving.style import CLASSES

if TYPE_CHECKING:
    from zegment.serving.results import Finished, Service
    from zegment.serving.storage import Store

_ASK: Final = "Click the picture for the class and confidence of a pixel."


class Events:
    """Answers of the page.

    Args:
        service: Runs the model and keeps the results.
        store: Of files for visitors.
    """

    def __init__(self, service: Service, store: Store) -> None:
        self.service, self.files = service, VisitorFiles(store)

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

    def clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Forget the result and return a page without one."""
        self.leave(request)
        buttons = [gr.DownloadButton(value=None, interactive=False)] * 4
        return (None, gr.CheckboxGroup(choices=[], value=[], visible=False), "", "", *buttons)

    def draw(self, opacity: float, classes: list[int], request: gr.Request) -> Path:
        """Return the kept result, painted with another opacity or other classes."""
        finished = self._kept(request)
        known = range(len(finished.result.class_names))
        return self._paint(finished, opacity, [k for k in classes if k in known], request)

    def describe(self, event: gr.SelectData, request: gr.Request) -> str:
        """Return what is known about the pixel that was clicked."""
        column, row = event.index
        return describe_pixel(self._kept(request).result, int(column), int(row))

    def prepare(
        self, opacity: float, classes: list[int], request: gr.Request
    ) -> list[gr.DownloadButton]:
        """Write the files of the kept result and return the buttons that download them."""
        finished = self._kept(request)
        folder = self.files.new_folder(_visitor(request), "downloads")
        paths: list[Path | None] = [
            write_labels(finished, folder),
            write_legend(finished, folder),
            _if_installed(write_coco, finished, folder),
            write_overlay(finished, folder, opacity=opacity, shown=classes),
        ]
        return [gr.DownloadButton(value=p, interactive=p is not None) for p in paths]

    def prepare_overlay(
        self, opacity: float, classes: list[int], request: gr.Request
    ) -> gr.DownloadButton:
        """Write the overlay of the kept result anew and return the button that downloads it."""
        folder = self.files.new_folder(_visitor(request), "overlay")
        path = write_overlay(self._kept(request), folder, opacity=opacity, shown=classes)
        return gr.DownloadButton(value=path, interactive=True)

    def leave(self, request: gr.Request) -> None:
        """Forget the result and the files of a visitor who closed the page."""
        self.forget(_visitor(request))

    def forget(self, visitor: str) -> None:
        """Forget the result and the files of a visitor.

        Args:
            visitor: The name of the session.
        """
        self.files.drop(visitor)
        self.service.results.drop(visitor)

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
