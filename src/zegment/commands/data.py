"""The commands about data sets: which are known, how to prepare one, whether it is complete."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zegment.commands.options import Overwrite, refuse_overwriting
from zegment.commands.wording import shown
from zegment.data.preparing.report import Report

if TYPE_CHECKING:
    from rich.progress import TaskID

    from zegment.data.checking import BenchmarkReport, SplitReport

data_app = typer.Typer(
    help="Known data sets: list them, prepare what you downloaded, check that it is complete.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

Name = Annotated[str, typer.Argument(help="A known data set, e.g. voc20; see zegment data list.")]


@data_app.command("list")
def list_known() -> None:
    """List the known data sets: classes, published numbers of images, what to download."""
    from zegment.data.benchmarks import benchmark, benchmark_names
    from zegment.data.preparing import benchmark_config

    width = max(len(name) for name in benchmark_names())
    for name in benchmark_names():
        known = benchmark(name)
        classes = len(benchmark_config(known, ".").named_classes().names)
        images = ", ".join(f"{split} {_numbers(count)}" for split, count in known.counts.items())
        lines = (
            f"{name:{width}}  {known.title}",
            f"{'':{width}}  {classes} classes; images: {images}",
            f"{'':{width}}  {', '.join(known.archives) or 'files'} from {known.home}",
            f"{'':{width}}  {known.terms}",
        )
        console.print(escape("\n".join(lines)), highlight=False, soft_wrap=True)


@data_app.command()
def prepare(
    name: Name,
    *,
    root: Annotated[Path, typer.Option(help="Where the data set lies or shall lie.")],
    archive: Annotated[
        list[Path] | None, typer.Option(help="A file that you downloaded; repeatable.")
    ] = None,
) -> None:
    """Unpack what you downloaded and convert what cannot be read as it is.

    What is there and whole stays: after an interruption, give the same command again.
    """
    from zegment.data.benchmarks import benchmark
    from zegment.data.preparing import prepare_benchmark

    with _Bars() as bars:
        prepared = prepare_benchmark(name, root, archives=archive or (), report=bars)
    known = benchmark(name)
    for split, images in prepared.images.items():
        published = _numbers(known.counts.get(split, ()))
        console.print(f"{split}: {images:,} images, published {published}", highlight=False)
    for split, reason in prepared.missing.items():
        console.print(f"{split}: missing, {shown(reason)}", highlight=False, soft_wrap=True)
    console.print(
        f"{name} is ready for data.benchmark={name} and data.root={shown(root)}; "
        f"zegment data check {name} --root {shown(shlex.quote(str(root)))} reads every file",
        highlight=False,
        soft_wrap=True,
    )


@data_app.command()
def check(
    name: Name,
    *,
    root: Annotated[Path, typer.Option(help="Where the data set lies.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Only this one: train, val or test; repeatable.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write counts.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Read every file and compare the counts with the published ones.

    Exit status 1 means that something differs from what was published, 2 that files are damaged or
    do not fit together.
    """
    refuse_overwriting(json_file, overwrite=overwrite)
    from zegment.data.checking import check_benchmark

    with _Bars() as bars:
        report = check_benchmark(name, root, splits=split or (), progress=bars.progress)
    if json_file is not None:
        from zegment.files import atomic_write_text
        from zegment.text_files import json_text

        atomic_write_text(json_file, json_text(report.to_dict()))
    _print_report(report)
    if report.exit_status:
        raise typer.Exit(report.exit_status)


class _Bars(Report):
    """Draws one bar for each step."""

    def __init__(self) -> None:
        from zegment.progress import progress_bar

        self._bar = progress_bar(errors)
        self._task: TaskID | None = None
        self._split: str | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def start(self, what: str, total: int) -> None:
        """Begin a bar."""
        self._task = self._bar.add_task(shown(what), total=total, note="")

    def advance(self, n: int = 1) -> None:
        """Move the latest bar."""
        if self._task is not None:
            self._bar.advance(self._task, n)

    def progress(self, split: str, done: int, total: int) -> None:
        """Show how many images of a split are done."""
        if split != self._split:
            self._split = split
            self.start(f"check {split}", total)
        if self._task is not None:
            self._bar.update(self._task, completed=done)


def _print_report(report: BenchmarkReport) -> None:
    """Print counts, the histogram, and what differs or is wrong."""
    from zegment.data.benchmarks import benchmark

    known = benchmark(report.benchmark)
    console.print(f"{shown(known.title)} in {shown(report.root)}", highlight=False)
    counts = Table(box=None, pad_edge=False)
    for column in ("split", "images", "published", "sizes", "classes", "ignored pixels"):
        counts.add_column(column, justify="left" if column == "split" else "right")
    for part in report.splits:
        counts.add_row(part.split, *_row(part))
    console.print(counts, highlight=False)
    counted = [part for part in report.splits if part.counts is not None]
    if counted:
        console.print(_histogram(report, counted), highlight=False)
        absent = report.absent()
        never = f"{len(absent)} of {len(report.class_names)} classes never occur: "
        text = never + ", ".join(absent) if absent else "every class occurs"
        console.print(shown(text), highlight=False, soft_wrap=True)
    for text in report.differences:
        errors.print(f"[bold yellow]warning:[/] {shown(text)}", soft_wrap=True, highlight=False)
    for text in report.errors:
        errors.print(f"[bold red]error:[/] {shown(text)}", soft_wrap=True, highlight=False)
    if not report.exit_status:
        console.print(f"{known.name} is as it was published", highlight=False)


def _row(part: SplitReport) -> tuple[str, ...]:
    published = _numbers(part.published)
    if part.counts is None:
        return ("missing" if part.missing else "unusable", published, "", "", "")
    found = part.counts
    present = sum(count > 0 for count in found.class_pixels)
    return (
        f"{found.images:,}", published, f"{found.sizes:,}", str(present),
        f"{found.ignored_pixels:,}",
    )  # fmt: skip


def _histogram(report: BenchmarkReport, counted: list[SplitReport]) -> Table:
    """Return the labelled pixels of each class that occurs, one column for each split."""
    table = Table(box=None, pad_edge=False)
    table.add_column("class")
    pixels = [part.counts.class_pixels for part in counted if part.counts is not None]
    for part in counted:
        table.add_column(f"{part.split} pixels", justify="right")
        table.add_column("share", justify="right")
    absent = report.absent()
    for label, name in enumerate(report.class_names):
        if name in absent:
            continue
        row = []
        for column in pixels:
            count, total = (column[label], sum(column)) if column else (0, 0)
            row += [f"{count:,}", f"{100 * count / max(1, total):.2f} %" if count else "–"]
        table.add_row(shown(name), *row)
    return table


def _numbers(published: tuple[int, ...]) -> str:
    return " or ".join(f"{number:,}" for number in published) or "unknown"
