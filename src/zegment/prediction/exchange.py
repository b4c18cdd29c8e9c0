"""What a run hands to other programs when its pictures are done, made from the stored maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from zegment.errors import ConfigError
from zegment.formats import LabelledImage, Legend, format_named
from zegment.prediction.files import (
    FORMAT_FILES,
    read_confidence_png,
    read_index_png,
    result_path,
)
from zegment.prediction.frames import write_frames
from zegment.prediction.inputs import Source
from zegment.prediction.record import RunRecord
from zegment.wording import printable

if TYPE_CHECKING:
    from zegment.query import Query


def check_formats(names: Sequence[str], sources: Sequence[Source]) -> None:
    """Refuse formats that could not be written, before time is spent on segmenting.

    Raises:
        ConfigError: If a format is unknown, or an optional package is missing.
        ConfigError: If a picture came through standard input, so that no file could refer to it.
        ConfigError: If the name of a picture is not text, so that no file could hold it.
        OutputError: If a picture lacks what a format needs.
    """
    if not names:
        return
    formats = [format_named(name) for name in names]
    for source in sources:
        if isinstance(source.content, bytes):
            raise ConfigError(
                f"{', '.join(names)} would refer to the picture's file, but it came through "
                f"{source.name}; save it and give its path"
            )
        whole = str(Path(source.name).absolute())
        if not _is_text(whole):
            raise ConfigError(
                f"{', '.join(names)} would name '{printable(whole)}', which is not UTF-8; rename it"
            )
    # What is no file fails when it is read; a pipe would be waited for here without end.
    pictures = [path for s in sources if not s.is_video and (path := Path(s.name)).is_file()]
    for kind in formats:
        kind.check(pictures)


def format_paths(out: Path, names: Sequence[str], sources: Sequence[Source]) -> Iterator[Path]:
    """Yield what formats will be written as, so far as it is known before the run."""
    for name in names:
        for file in FORMAT_FILES.get(name, ()):
            stems = [source.stem for source in sources] if "{}" in file else [""]
            yield from (out / file.format(stem) for stem in stems)


def write_formats(
    names: Sequence[str],
    finished: Sequence[Source],
    out: Path,
    *,
    query: Query,
    record: RunRecord,
) -> None:
    """Write formats of all finished pictures and of the frames of finished videos.

    Raises:
        ConfigError: If an optional package is missing.
        ImageError: If a video cannot be read any more.
        OutputError: If a file cannot be written, or a stored map cannot be read.
    """
    if not names:
        return
    vocabulary = query.vocabulary
    legend = Legend(class_names=vocabulary.class_names, colours=vocabulary.palette())
    for name in names:
        images = _labelled(finished, out, num_classes=len(vocabulary.class_names), record=record)
        format_named(name).write(images, legend, out)


def _labelled(
    finished: Sequence[Source], out: Path, *, num_classes: int, record: RunRecord
) -> Iterator[LabelledImage]:
    """Yield every picture, and every frame as a picture of its own, with its stored maps."""
    for source in finished:
        pictures = [(source.stem, Path(source.name))]
        for stem, image in write_frames(source, out) if source.is_video else pictures:
            labels = result_path(out, stem, "labels")
            confidence = result_path(out, stem, "confidence")
            with Image.open(labels, formats=("PNG",)) as stored:
                width, height = stored.size
            yield LabelledImage(
                image=image,
                stem=stem,
                size=(height, width),
                read_labels=partial(read_index_png, labels, num_classes),
                read_confidence=partial(read_confidence_png, confidence)
                if "confidence" in record.save
                else None,
            )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
