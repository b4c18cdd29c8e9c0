"""``zegment study``: the claims of both papers in miniature, with seeds and error bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zegment.commands.wording import shown
from zegment.errors import ConfigError

if TYPE_CHECKING:
    from zegment.study import Study
    from zegment.study.records import Record

console = Console()
errors = Console(stderr=True)


def study(
    *,
    out: Annotated[Path, typer.Option(help="Folder of records and report; gone on with if used.")],
    quick: Annotated[
        bool, typer.Option("--quick", help="The headline alone, shortened: minutes.")
    ] = False,
    chapter: Annotated[
        list[str] | None, typer.Option(help="One chapter, see --list; repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many; by default 5, or 2.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Keep every checkpoint.")] = False,
    list_only: Annotated[
        bool, typer.Option("--list", help="Tell what there is to do, and do nothing.")
    ] = False,
) -> None:
    """Train and compare all parts of both methods on Shapes, seed by seed; resumable."""
    from zegment.study import Study, read_plan

    plan = read_plan(quick=quick, chapters=chapter or (), seeds=seeds)
    work = Study(plan=plan, out=out, jobs=jobs, keep=keep)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out '{out}' is a file; give a folder")
    left = work.left()
    for one in plan.chapters:
        console.print(f"{one.name}: {one.title} ({len(one.arms)} arms)", highlight=False)
    console.print(f"{len(left)} of {len(plan.runs())} runs are left", highlight=False)
    if list_only:
        return
    _run(work, len(left))
    _conclude(work)


def _run(work: Study, count: int) -> None:
    from zegment.progress import percent, progress_bar

    def told(name: str, record: Record | None) -> None:
        if record is not None:
            found = record.scores
            console.print(
                f"{name}: mIoU(S) {percent(found['mIoU_seen'])}  mIoU(U) "
                f"{percent(found['mIoU_unseen'])}  hIoU {percent(found['hIoU'])}  "
                f"({record.seconds:.0f} s)",
                highlight=False,
            )
        bar.advance(task)

    with progress_bar(console) as bar:
        task = bar.add_task("runs", total=count, note="")
        try:
            work.run(told)
        except KeyboardInterrupt:
            errors.print(
                "stopped; what was begun is saved, and the same command goes on in "
                f"{shown(work.out)}",
                soft_wrap=True,
            )
            raise typer.Exit(130) from None


def _conclude(work: Study) -> None:
    """Print what became of the claims; the exit status is 1 if one does not hold."""
    from zegment.study.comparison import verdicts
    from zegment.study.records import read_records
    from zegment.study.report import MARKDOWN

    found = verdicts(work.plan, read_records(work.out, work.plan))
    for verdict in found:
        lead = f"{100 * verdict.lead.mean:+.1f} points in {verdict.claim.metric}"
        state = "[green]holds[/]" if verdict.holds else "[bold red]does not hold[/]"
        console.print(
            f"{state}: {shown(verdict.claim.text)} ({lead}; {verdict.seeds_ahead} of "
            f"{verdict.lead.count} seeds)",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"wrote {shown(work.out / MARKDOWN)}", soft_wrap=True)
    if not all(verdict.holds for verdict in found):
        raise typer.Exit(1)
