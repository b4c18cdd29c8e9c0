"""A run over shards on Ray Data: handed out, repeated when a process dies, counted at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from zegment.claims import claimed
from zegment.errors import OutputError, ZegmentError
from zegment.files import as_output_error, atomic_stream
from zegment.formats.streams import JsonRows
from zegment.large_scale.parts import Counted, count_part, errors_in, remove_part
from zegment.large_scale.plan import ShardedPlan, begin, content_of
from zegment.large_scale.shards import Shard
from zegment.large_scale.worker import Job, ShardWorker
from zegment.prediction.plan import FAILED
from zegment.prediction.record import refuse_other_run
from zegment.wording import first_line

if TYPE_CHECKING:
    from zegment.large_scale.cluster import Workers
    from zegment.query import Query
    from zegment.segmenter import Segmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """What became of a shard.

    Attributes:
        shard: Which one.
        counted: What its table holds; None if none was written, because each process that began
            it died.
        before: Whether an earlier run had finished it.
    """

    shard: Shard
    counted: Counted | None
    before: bool = False


def run_shards(
    segmenter: Segmenter,
    query: Query,
    plan: ShardedPlan,
    *,
    ray: Any,  # noqa: ANN401 - a module
    workers: Workers,
    worker: type[ShardWorker] = ShardWorker,
) -> Iterator[ShardOutcome]:
    """Segment every shard of a plan that is not finished; yield what became of each.

    Whatever ends it early, the same plan goes on with the folder.

    Args:
        segmenter: The one that the plan's record speaks of; each process loads its own.
        query: The one that the plan's record speaks of.
        plan: From `zegment.large_scale.plan.plan_shards`.
        ray: Connected, see `zegment.large_scale.cluster.connected`.
        workers: How many processes, and what each of them has.
        worker: What runs in each.

    Raises:
        OutputError: If a table cannot be written; no further shard is handed out.
        OutputError: If another process is writing there, or began another run there meanwhile.
        ZegmentError: If a process cannot work, or Ray gives up.
    """
    with claimed(plan.out, purpose="predict"):
        refuse_other_run(plan.out, found=plan.found, own=content_of(plan.record))
        begin(plan, query)
        waiting: dict[int, Shard] = {}
        for shard in plan.shards:
            counted = count_part(plan.part(shard), mark=plan.record.mark_of(shard))
            if counted is None:
                remove_part(plan.part(shard))  # whatever becomes of the shard now
            if counted is None or counted.failed:  # what could not be read may be there again
                waiting[shard.number] = shard
            else:
                yield ShardOutcome(shard=shard, counted=counted, before=True)
        job = Job.of(segmenter, query, plan, device=workers.device)
        for number in _computed(
            list(waiting.values()), job, ray=ray, workers=workers, worker=worker
        ):
            shard = waiting.pop(number)
            yield ShardOutcome(shard=shard, counted=_written(plan, shard))
        for shard in waiting.values():
            yield ShardOutcome(shard=shard, counted=None)
        _list_failures(plan)


def _computed(
    shards: Sequence[Shard],
    job: Job,
    *,
    ray: Any,  # noqa: ANN401 - a module
    workers: Workers,
    worker: type[ShardWorker],
) -> Iterator[int]:
    """Yield the numbers of shards as their tables are written."""
    if not shards:
        return
    # One shard per block, for a block is what a process is handed.
    rows = [{"shard": shard.to_json()} for shard in shards]
    strategy = ray.data.ActorPoolStrategy(
        size=min(workers.count, len(shards)), max_tasks_in_flight_per_actor=1
    )
    with _quiet(ray):
        answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            worker,
            fn_constructor_args=(job,),
            compute=strategy,
            batch_size=1,
            batch_format="numpy",
            num_cpus=workers.cpus,
            num_gpus=workers.gpus,
        )
        try:
            for answer in answers.iter_rows():
                if answer["problem"]:
                    raise ZegmentError(
                        f"a process of the run stopped: {answer['problem']} (the same command goes "
                        "on where this one stopped)"
                    )
                if not answer["given_up"]:
                    yield int(answer["number"])
        except ray.exceptions.RayError as error:
            raise ZegmentError(
                f"Ray gave up ({first_line(error)}); the same command goes "
                "on where this one stopped"
            ) from error


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:  # noqa: ANN401 - a module
    """Let Ray Data go on past what it cannot do, and say nothing beside our own bar."""
    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "max_errored_blocks": -1}
    usual = {name: getattr(context, name) for name in wanted}
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        log.setLevel(level)
        for name, value in usual.items():
            setattr(context, name, value)


def _written(plan: ShardedPlan, shard: Shard) -> Counted:
    """Return what a table holds that a process says it has written.

    Raises:
        OutputError: If it is not there.
    """
    counted = count_part(plan.part(shard), mark=plan.record.mark_of(shard))
    if counted is None:
        raise OutputError(
            f"'{plan.part(shard)}' was written by a process but is not to be seen here; give an "
            "--out on a file system that all machines share"
        )
    return counted


def _list_failures(plan: ShardedPlan) -> None:
    """List what has no labels, or remove the list that an earlier run left."""
    parts = [part for shard in plan.shards if (part := plan.part(shard)).exists()]
    found = (row for part in parts for row in errors_in(part))
    first = next(found, None)
    if first is None:
        with as_output_error(plan.out / FAILED):
            (plan.out / FAILED).unlink(missing_ok=True)
        return
    with atomic_stream(plan.out / FAILED) as stream:
        rows = JsonRows(stream)
        for row in chain([first], found):
            rows.add(row)
        rows.close()
        stream.write(b"\n")
