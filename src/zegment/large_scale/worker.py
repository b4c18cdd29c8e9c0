"""What each process of a run does: loads the model once, then segments shard after shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

import zegment
from zegment.errors import CheckpointError, OutputError, ZegmentError
from zegment.inference.running import Execution, is_out_of_memory
from zegment.large_scale.parts import count_attempt, count_part, write_part
from zegment.large_scale.plan import LABELS, LABELS_ONLY, ShardedPlan, content_of
from zegment.large_scale.reading import Picture, read_pictures
from zegment.large_scale.rows import row_of
from zegment.large_scale.shards import Shard, stem_of
from zegment.prediction.earlier import RECORD
from zegment.prediction.files import result_path, write_results
from zegment.prediction.record import fingerprint
from zegment.prediction.removal import remove_results

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.results import Segmentation
    from zegment.segmenter import Segmenter

#: How often a shard is begun before it is left to the next run.
ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is sent to every process.

    Attributes:
        model: What to load; a path is absolute.
        device: Where to compute; None takes the GPU that the process was given.
        query: Made once, by the process that began the run, so that all have the same embeddings.
        plan: Of the run, without its shards: they come one by one.
        execution: In which precision, and through which windows.
    """

    model: str
    device: str | None
    query: Query
    plan: ShardedPlan
    execution: Execution = field(default_factory=Execution)

    @classmethod
    def of(
        cls, segmenter: Segmenter, query: Query, plan: ShardedPlan, *, device: str | None
    ) -> Self:
        """Return the job of a run, with nothing in it that lives on a GPU."""
        path = Path(segmenter.name)
        return cls(
            model=str(path.absolute()) if path.exists() else segmenter.name,
            device=device,
            query=_on(query, "cpu"),
            plan=replace(plan, shards=()),
            execution=segmenter.execution,
        )


class ShardWorker:
    """Segments shards; Ray Data makes one in each process of its pool.

    What goes wrong is told in the answer: a process that raised would be replaced in vain.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._problem = ""
        try:
            self._segmenter = _load(job)
            self._query = _on(job.query, self._segmenter.device)
        except Exception as error:
            self._problem = _told(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the tables of shards, but for those that are there already.

        Args:
            batch: ``shard``, from `Shard.to_json`.

        Returns:
            ``number`` of each shard; ``problem``, empty where there was none; and whether it was
            ``given_up``, because each process that began it has died.
        """
        shards = [Shard.from_json(text) for text in batch["shard"].tolist()]
        answers = [(self._problem, False) if self._problem else self._write(s) for s in shards]
        return {
            "number": np.array([shard.number for shard in shards]),
            "problem": np.array([problem for problem, _ in answers]),
            "given_up": np.array([given_up for _, given_up in answers]),
        }

    def _write(self, shard: Shard) -> tuple[str, bool]:
        """Write a table; return what went wrong, and whether the shard was given up."""
        plan = self._job.plan
        mark = plan.record.mark_of(shard)
        attempts = plan.attempts(shard)
        try:
            # Ray asks again when only the answer was lost.
            before = count_part(plan.part(shard), mark=mark)
            if before is None or before.failed:
                # Ray would begin a shard again without end, though one picture may kill them all.
                if count_attempt(attempts) > ATTEMPTS:
                    return "", True
                write_part(plan.part(shard), self._rows(shard, mark), mark=mark)
            attempts.unlink(missing_ok=True)
        except Exception as error:
            return _told(error), False
        return "", False

    def _rows(self, shard: Shard, mark: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a shard, one picture at a time."""
        firsts: dict[str, str] = {}
        for read in read_pictures(shard):
            picture = read
            if read.member and (first := self._first_like(read.member, shard, firsts)):
                picture = _twice(read, first)
            picture, result = self._segmented(picture)
            yield row_of(picture, result, label_map=self._label_map(shard, picture, result, mark))

    def _first_like(self, member: str, shard: Shard, firsts: dict[str, str]) -> str | None:
        """Note a member of an archive; return an earlier one whose results it would replace."""
        key = stem_of(shard, member).casefold() if self._job.plan.record.label_maps else member
        first = firsts.get(key)
        firsts.setdefault(key, member)
        return first

    def _segmented(self, picture: Picture) -> tuple[Picture, Segmentation | None]:
        """Return what the model makes of a picture, or the picture with what it could not do."""
        if picture.pixels is None:
            return picture, None
        try:
            return picture, self._segmenter.segment(picture.pixels, self._query)
        except ZegmentError as error:
            return replace(picture, status="failed", error=str(error)), None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            height, width = picture.pixels.shape[:2]
            reason = f"memory ran out while {height} x {width} pixels were segmented"
        if torch.cuda.is_available():  # after the exception, which holds on to what it happened in
            torch.cuda.empty_cache()
        return replace(picture, status="failed", error=reason, pixels=None), None

    def _label_map(
        self, shard: Shard, picture: Picture, result: Segmentation | None, mark: str
    ) -> str | None:
        """Write a label map if they were asked for; return its path in the folder of the run."""
        if not self._job.plan.record.label_maps or not picture.name or picture.repeated:
            return None
        folder, stem = self._job.plan.out / LABELS, stem_of(shard, picture.name)
        if result is None:  # what was made of the picture that it once was holds no longer
            remove_results(folder, stem, written=LABELS_ONLY)
            return None
        write_results(result, folder, stem, kinds=("labels",), mark=mark)
        return str(result_path(folder, stem, "labels").relative_to(folder.parent))


def _load(job: Job) -> Segmenter:
    """Return the model, after checking that it and the folder are those of the run.

    Raises:
        OutputError: If the folder is not the one that the run was begun in.
        CheckpointError: If the model is another here.
    """
    record = job.plan.record
    try:
        found = (job.plan.out / RECORD).read_bytes()
    except OSError:
        found = b""
    if found != content_of(record):
        raise OutputError(
            f"'{job.plan.out}' is not the folder of this run on every machine of the cluster; "
            "give an --out on a file system that all of them share"
        )
    segmenter = zegment.load(job.model, device=job.device, execution=job.execution)
    if (here := fingerprint(segmenter)) != record.fingerprint:
        raise CheckpointError(
            f"'{job.model}' is another model on a machine of the cluster (fingerprint {here}, "
            f"expected {record.fingerprint}); copy the same one to all of them"
        )
    return segmenter


def _twice(picture: Picture, first: str) -> Picture:
    again = f"the archive holds {picture.member} more than once"
    like = f"{picture.member} would have the label map of {first}"
    reason = f"{again if first == picture.member else like}; the first was segmented"
    return replace(picture, status="damaged", error=reason, pixels=None, repeated=True)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, ZegmentError) else f"{type(error).__name__}: {error}"


def _on(query: Query, device: Any) -> Query:  # noqa: ANN401 - what torch takes
    """Return a query whose tensors are on a device."""
    names = ("labels", "text_embeddings", "seen")
    return replace(query, **{name: getattr(query, name).to(device) for name in names})
