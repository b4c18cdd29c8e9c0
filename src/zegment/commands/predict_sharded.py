"""``zegment predict --engine ray``: millions of pictures, by the processes of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from zegment.commands.running import Running
from zegment.commands.wording import Wanted, announce, interruptible, shown
from zegment.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from zegment.large_scale.cluster import Workers
    from zegment.large_scale.plan import ShardedPlan
    from zegment.large_scale.run import ShardOutcome
    from zegment.large_scale.shards import Shard

console = Console()
errors = Console(stderr=True)

_SHARD_SIZE = 256
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """What the options say of shards and processes; None is the usual.

    Attributes:
        size: Most pictures of a shard.
        actors: How many processes.
        cpus_per_actor: Cores of each.
        gpus_per_actor: GPUs of each, or the share of one.
    """

    size: int | None = None
    actors: int | None = None
    cpus_per_actor: float | None = None
    gpus_per_actor: float | None = None

    def refuse(self) -> None:
        """Raise ConfigError if something is given: the local engine would not listen."""
        for field in fields(self):
            if getattr(self, field.name) is not None:
                name = "shard-size" if field.name == "size" else field.name.replace("_", "-")
                raise ConfigError(f"--{name} belongs to --engine ray; give that too")

    def workers(self, ray: object) -> Workers:
        """Return the processes that the machines of a cluster hold."""
        from zegment.large_scale.cluster import machines_of, workers_on

        return workers_on(
            machines_of(ray),
            count=self.actors,
            cpus=self.cpus_per_actor,
            gpus=self.gpus_per_actor,
        )


def predict_sharded(  # noqa: PLR0913 - what the options say
    images: Sequence[str],
    *,
    out: Path,
    model: str,
    wanted: Wanted,
    background: str,
    save: Sequence[str],
    sharding: Sharding,
    running: Running,
    overwrite: bool,
) -> None:
    """Segment pictures into tables of masks; every picture is in one of them, once.

    Raises:
        ConfigError: If the extra ``ray`` is not installed, or an option is wrong.
        ImageError: If there is no picture.
        OutputError: If the folder holds something else, or cannot be written to.
    """
    from zegment.large_scale.cluster import check_wanted, connected, require

    require()
    check_wanted(count=sharding.actors, cpus=sharding.cpus_per_actor, gpus=sharding.gpus_per_actor)
    from zegment.background import parse_background
    from zegment.large_scale.plan import ShardedRecord, plan_shards
    from zegment.prediction.plan import check_writable
    from zegment.prediction.record import RunRecord

    if others := set(save) - {"labels"}:
        raise ConfigError(
            f"--engine ray saves tables of masks and, with --save labels, label maps; "
            f"{', '.join(sorted(others))} belongs to --engine local"
        )
    policy = parse_background(background)
    wanted.check()
    size = _SHARD_SIZE if sharding.size is None else sharding.size
    shards = _listed(images, size)
    check_writable(out)
    from zegment.large_scale.run import run_shards
    from zegment.segmenter import load

    with errors.status(f"loading {shown(model)}"):
        segmenter = load(model, device="cpu")  # the processes have the GPUs
        running.apply(segmenter)
        query = segmenter.query(wanted.vocabulary(segmenter.templates), background=policy)
    record = ShardedRecord.over(
        shards, RunRecord.of(segmenter, query), size=size, label_maps="labels" in save
    )
    plan = plan_shards(shards, out, record=record, overwrite=overwrite)
    console.print(shown(announce(model, query)), soft_wrap=True, highlight=False)
    with interruptible(overwrite=overwrite), connected() as ray:
        outcomes = run_shards(segmenter, query, plan, ray=ray, workers=sharding.workers(ray))
        finished, lost = _follow(plan, outcomes)
    _conclude(plan, finished, lost)


def refuse_tables(out: Path) -> None:
    """Refuse a folder of this engine for the local one, which could not go on with it.

    Raises:
        OutputError: If the record of such a run is there.
    """
    from zegment.prediction.record import read_record

    try:
        record = read_record(out)
    except OutputError:  # whoever goes on will say so
        return
    if record is not None and record.get("engine") == "ray":
        raise OutputError(f"'{out}' holds results of --engine ray; give another --out")


def _listed(images: Sequence[str], size: int) -> list[Shard]:
    from zegment.large_scale.listing import find
    from zegment.large_scale.shards import cut

    if size < 1:
        raise ConfigError(f"--shard-size is {size}; give at least 1")
    with errors.status("listing pictures"):
        shards = cut(find(images), size)
    if any(shard.root.startswith("memory://") for shard in shards):
        raise ConfigError("memory:// is of one process alone; give what all of them can read")
    return shards


def _follow(
    plan: ShardedPlan, outcomes: Iterator[ShardOutcome]
) -> tuple[list[ShardOutcome], list[ShardOutcome]]:
    """Follow a run under a bar; return the shards that have a table, and those that have none."""
    from zegment.progress import progress_bar

    finished: list[ShardOutcome] = []
    lost: list[ShardOutcome] = []
    pictures = 0
    with progress_bar(console) as bar:
        task = bar.add_task("shards", total=len(plan.shards), note="")
        for outcome in outcomes:
            if outcome.counted is None:
                lost.append(outcome)
            else:
                finished.append(outcome)
                pictures += outcome.counted.total
            bar.update(task, advance=1, note=f"{pictures} pictures")
    return finished, lost


def _conclude(
    plan: ShardedPlan, finished: Sequence[ShardOutcome], lost: Sequence[ShardOutcome]
) -> None:
    """Say what became of the pictures; exit with status 1 if some have no labels."""
    from zegment.large_scale.parts import PARTS, Counted, errors_in

    counts = sum((o.counted for o in finished if o.counted is not None), start=Counted())
    before = sum(outcome.before for outcome in finished)
    earlier = f", {before} of them before" if before else ""
    console.print(
        f"{counts.done} pictures have labels; {len(finished)} of {len(plan.shards)} tables are in "
        f"{shown(plan.out / PARTS)}{earlier}",
        soft_wrap=True,
    )
    bad = counts.damaged + counts.failed
    if bad:
        again = f" ({counts.failed} of them are tried again next time)" if counts.failed else ""
        errors.print(f"[bold red]{bad} of {counts.total} could not be read:[/]{again}")
        rows = (
            row
            for outcome in finished
            if outcome.counted is not None and outcome.counted.done < outcome.counted.total
            for row in errors_in(plan.part(outcome.shard))
        )
        for row in islice(rows, _SHOWN):
            named = "" if row["source"] in row["reason"] else f"{row['source']}: "
            errors.print(f"  {shown(named + row['reason'])}", soft_wrap=True, highlight=False)
        if bad > _SHOWN:
            errors.print(f"  and {bad - _SHOWN} more, all in failed.json")
    for outcome in lost:
        errors.print(
            f"[bold red]{outcome.shard.file_name} was not written:[/] every process that began it "
            "died; if memory was short, give --cpus-per-actor a higher number or --actors a lower "
            "one, and begin the same command again",
            soft_wrap=True,
        )
    if bad or lost:
        raise typer.Exit(1)
