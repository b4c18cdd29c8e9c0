"""Many pictures to files: resumed where it stopped, and not ended by one bad file.

A picture that cannot be read is listed when all others are done.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zegment.claims import claimed
from zegment.errors import ImageError, OutputError
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.image_bytes import refuse_special
from zegment.leftovers import remove_leftovers
from zegment.prediction.earlier import RECORD
from zegment.prediction.exchange import write_formats
from zegment.prediction.files import is_finished, result_path, write_results
from zegment.prediction.frames import is_finished_video, predict_video
from zegment.prediction.inputs import Source
from zegment.prediction.plan import FAILED, LEGEND, Plan, plan_run
from zegment.prediction.record import refuse_other_run
from zegment.prediction.removal import remove_frames, remove_results, remove_run
from zegment.results import legend
from zegment.text_files import json_text

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.segmenter import Segmenter

__all__ = ["Done", "Failed", "Outcome", "Plan", "Skipped", "plan_run", "predict_all"]

#: Pictures that are decoded ahead of the model, so that memory does not grow with the run.
_AHEAD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A source whose files have been written."""

    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A source that an earlier run had finished."""

    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A source that cannot be read, and why."""

    source: Source
    reason: str


Outcome: TypeAlias = Done | Skipped | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A source whose file has been read: its mark, and its pixels unless it is finished."""

    mark: str
    finished: bool
    pixels: NDArray[np.uint8] | None = None


def predict_all(
    segmenter: Segmenter,
    query: Query,
    plan: Plan,
    *,
    on_frame: Callable[[Source, int], None] | None = None,
) -> Iterator[Outcome]:
    """Segment every source of a plan and write its files; yield what became of each.

    Whatever ends it early, the folder can be gone on with. What was made of a picture that has
    since been damaged is removed; results of pictures that are no longer given stay.

    Args:
        segmenter: The one that the plan's record speaks of.
        query: The one that the plan's record speaks of.
        plan: From `plan_run`.
        on_frame: Called with a video and the number of its frame that is done.

    Raises:
        OutputError: If a file cannot be written; no further picture is tried.
        OutputError: If another process is writing there, or began another run there meanwhile.
    """
    with claimed(plan.out, purpose="predict"):
        refuse_other_run(plan.out, found=plan.found, own=_record(plan))
        yield from _predicted(segmenter, query, plan, on_frame)


def _predicted(
    segmenter: Segmenter,
    query: Query,
    plan: Plan,
    on_frame: Callable[[Source, int], None] | None,
) -> Iterator[Outcome]:
    """Do what `predict_all` says, in a folder that nobody else is writing to."""
    _begin(plan, query)
    finished: list[Source] = []
    failures: list[Failed] = []
    with closing(_read_ahead(plan)) as ahead:
        for source, ready in ahead:
            try:
                was_finished = _finish(segmenter, query, plan, source, ready.result(), on_frame)
            except ImageError as error:
                failures.append(Failed(source=source, reason=str(error)))
                yield failures[-1]
            else:
                finished.append(source)
                yield Skipped(source=source) if was_finished else Done(source=source)
    _write_failures(plan.out, failures)
    write_formats(plan.formats, finished, plan.out, query=query, record=plan.record)


def _begin(plan: Plan, query: Query) -> None:
    """Write what the folder is, before its first result; remove what is no longer to be there."""
    remove_leftovers(plan.out, deep=True)
    if plan.replaced is not None:
        remove_run(plan.out, plan.replaced, files=(LEGEND, FAILED))
    atomic_write_bytes(plan.out / RECORD, _record(plan))
    words = query.vocabulary
    entries = legend(words.class_names, words.palette(), words.synonyms)
    entries[-1]["background"] = plan.record.background  # it decides which pixels are unknown
    _write_json(plan.out / LEGEND, entries)


def _record(plan: Plan) -> bytes:
    """Return what ``run.json`` holds."""
    known = {**json.loads(plan.record.to_json()), "formats": list(plan.known_formats)}
    return json_text(known).encode()


def _finish(
    segmenter: Segmenter,
    query: Query,
    plan: Plan,
    source: Source,
    ready: _Ready,
    on_frame: Callable[[Source, int], None] | None,
) -> bool:
    """Write the files of one source; return whether it was finished before."""
    if ready.finished:
        return True
    if ready.pixels is None:
        # Frames of what the video was before it changed; it may have become shorter.
        remove_frames(plan.out / source.stem, written=plan.written, keep=ready.mark)
        frames = predict_video(
            segmenter,
            query,
            source,
            out=plan.out,
            record=plan.record,
            mark=ready.mark,
            overwrite=plan.overwrite,
        )
        for number in frames:
            if on_frame is not None:
                on_frame(source, number)
        return False
    result = segmenter.segment(ready.pixels, query, extras=plan.record.extras)
    write_results(result, plan.out, source.stem, kinds=plan.record.save, mark=ready.mark)
    return False


def _read_ahead(plan: Plan) -> Generator[tuple[Source, Future[_Ready]], None, None]:
    """Yield each source with what reading it gave, while the next ones are being read."""
    waiting: deque[tuple[Source, Future[_Ready]]] = deque()
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        for source in plan.sources:
            waiting.append((source, pool.submit(_read, plan, source)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(plan: Plan, source: Source) -> _Ready:
    """Return a source's mark, and its pixels if there is work to do.

    The digest is of the very bytes that are decoded, so that a file which changes meanwhile
    cannot get another's mark.
    """
    if source.is_video:
        mark = plan.record.mark(_digest_of_file(Path(source.name)))
        finished = not plan.overwrite and is_finished_video(plan.out, source, mark)
        return _Ready(mark=mark, finished=finished)
    data = source.read_bytes()
    mark = plan.record.mark(hashlib.sha256(data).hexdigest())
    labels = result_path(plan.out, source.stem, "labels")
    if not plan.overwrite and is_finished(labels, mark):
        return _Ready(mark=mark, finished=True)
    try:
        return _Ready(mark=mark, finished=False, pixels=source.decode(data))
    except ImageError:  # what was made of the picture that it once was holds no longer
        remove_results(plan.out, source.stem, written=plan.written, keep=mark)
        raise


def _digest_of_file(path: Path) -> str:
    try:
        refuse_special(path)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}; check it") from error


def _write_failures(out: Path, failures: Sequence[Failed]) -> None:
    """List what failed, or remove the list that an earlier run left."""
    if failures:
        rows = [
            {"source": f.source.name, "stem": f.source.stem, "reason": f.reason} for f in failures
        ]
        _write_json(out / FAILED, rows)
    else:
        try:
            (out / FAILED).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot remove {out / FAILED}: {error.strerror}") from error


def _write_json(path: Path, value: object) -> None:
    atomic_write_text(path, json_text(value))
