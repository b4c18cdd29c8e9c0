"""One video to files: a label map per frame, the overlays as a video, and a note of the frames."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.prediction.files import (
    NOTE,
    is_finished,
    read_index_png,
    result_path,
    write_results,
)
from zegment.prediction.inputs import Source
from zegment.prediction.record import RunRecord
from zegment.prediction.removal import mark_of_note
from zegment.prediction.video import Smoothing, encode_mp4, frame_rate, read_frames
from zegment.results import Segmentation
from zegment.text_files import json_text

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.segmenter import Segmenter


def frame_stem(source: Source, number: int) -> str:
    """Return the stem of a frame's files; frames are counted from 1, as in the video."""
    return f"{source.stem}/frame_{number:06d}"


def overlay_path(out: Path, source: Source) -> Path:
    """Return where the overlays of all frames lie as a video."""
    return out / f"{source.stem}.overlay.mp4"


def is_finished_video(out: Path, source: Source, mark: str) -> bool:
    """Return whether the note that is written after the last frame carries the mark."""
    return mark_of_note(out / source.stem) == mark


def predict_video(
    segmenter: Segmenter,
    query: Query,
    source: Source,
    *,
    out: Path,
    record: RunRecord,
    mark: str,
    overwrite: bool,
) -> Iterator[int]:
    """Segment a video and write its files; yield the number of each frame that is done.

    A video that was left off half-way goes on where it stopped. With smoothing it begins anew,
    because a frame then depends on all before it.

    Args:
        segmenter: Model and calibration.
        query: The classes.
        source: The video.
        out: Folder of the run.
        record: How the run is made.
        mark: Of this video in this run.
        overwrite: Whether finished frames are made again.

    Raises:
        ImageError: If the video cannot be read, or not to its end; earlier frames stay.
        OutputError: If a file cannot be written.
    """
    path = _path(source)
    kinds = [kind for kind in record.save if kind != "overlay"]
    smoothing = Smoothing(record.smoothing) if record.smoothing else None
    number = 0
    for number, pixels in _numbered(path, record.every):
        stem = frame_stem(source, number)
        finished = is_finished(result_path(out, stem, "labels"), mark)
        if overwrite or smoothing is not None or not finished:
            result = segmenter.segment(pixels, query, extras=record.extras, smoothing=smoothing)
            write_results(result, out, stem, kinds=kinds, mark=mark)
        yield number
    rate = frame_rate(path) / record.every
    if "overlay" in record.save:
        frames = _overlays(query, source, out, every=record.every)
        atomic_write_bytes(overlay_path(out, source), encode_mp4(frames, rate=rate))
    note = {"every": record.every, "last_frame": number, "mark": mark, "rate": str(rate)}
    atomic_write_text(out / source.stem / NOTE, json_text(note, sort_keys=True))


def write_frames(source: Source, out: Path) -> Iterator[tuple[str, Path]]:
    """Write the segmented frames of a finished video as PNG; yield stem and path of each.

    Raises:
        ImageError: If the video cannot be read any more.
        OutputError: If a file cannot be written.
    """
    for number, pixels in _numbered(_path(source), int(str(_read_note(out, source)["every"]))):
        stem = frame_stem(source, number)
        picture = out / f"{stem}.png"
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="PNG")
        atomic_write_bytes(picture, stream.getvalue())
        yield stem, picture


def _overlays(
    query: Query, source: Source, out: Path, *, every: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the overlay of each frame without its legend, made of the stored label maps."""
    names = query.vocabulary.class_names
    for number, pixels in _numbered(_path(source), every):
        labels = result_path(out, frame_stem(source, number), "labels")
        result = Segmentation(
            labels=read_index_png(labels, len(names)),
            class_names=names,
            image=pixels,
            colours=query.vocabulary.palette(),
        )
        yield np.asarray(result.overlay(legend=False))


def _numbered(path: Path, every: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for place, pixels in enumerate(read_frames(path, every=every)):
        yield 1 + place * every, pixels


def _path(source: Source) -> Path:
    if isinstance(source.content, bytes):
        raise TypeError(f"{source.name} is no video file; give a source whose is_video is true")
    return source.content


def _read_note(out: Path, source: Source) -> dict[str, object]:
    try:
        note = json.loads((out / source.stem / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
