"""The command line: parses, calls, prints; each command imports the heavy modules it needs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer
from rich.console import Console

from zegment.commands.data import data_app
from zegment.commands.evaluate import evaluate, table
from zegment.commands.export import export
from zegment.commands.import_zegclip import import_zegclip
from zegment.commands.options import Device, Overwrite, refuse_empty, refuse_overwriting
from zegment.commands.predict import fit_threshold, predict
from zegment.commands.push import push
from zegment.commands.serve import serve
from zegment.commands.study import study
from zegment.commands.train import train
from zegment.commands.wording import shown
from zegment.errors import ConfigError, ZegmentError

app = typer.Typer(
    help="Zero-shot semantic segmentation: masks for the classes you labelled, and for the "
    "classes you can only name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

_PACKAGE = Path(__file__).parent
_show_as_python = warnings.showwarning


def main() -> None:
    """Run the command line; what a user got wrong becomes one line and exit status 2."""
    warnings.showwarning = _show_warning
    try:
        refuse_empty(sys.argv[1:])
        app()
    except ZegmentError as error:
        errors.print(f"[bold red]error:[/] {shown(error)}", soft_wrap=True)
        sys.exit(2)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of Zegment in one line as errors are; others as Python does."""
    if Path(filename).is_relative_to(_PACKAGE):
        errors.print(f"[bold yellow]warning:[/] {shown(message)}", soft_wrap=True)
    else:
        _show_as_python(message, category, filename, lineno, file, line)


@app.callback(invoke_without_command=True)
def version(
    *, show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Print the version if asked to."""
    if show:
        from zegment import __version__

        console.print(__version__)
        raise typer.Exit


app.command()(predict)


app.command()(train)
app.command()(evaluate)
app.command()(fit_threshold)
app.command()(table)
app.command()(import_zegclip)
app.command()(export)
app.command()(push)
app.command()(serve)
app.command()(study)
app.add_typer(data_app, name="data")


@app.command()
def figure(  # noqa: PLR0913 - one parameter per option
    run: Annotated[str, typer.Argument(help="Run folder of a student.")],
    *,
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    index: Annotated[
        int | None, typer.Option(help="Which image; by default the first annotated in part.")
    ] = None,
    split: Annotated[
        Literal["test", "val", "train"], typer.Option(help="Of the run's data set.")
    ] = "train",
    image: Annotated[Path | None, typer.Option(help="A picture of your own instead.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Its label map, if it has one.")] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw what CLIP teaches a student about one image: clusters, fused labels, attention."""
    refuse_overwriting(out, overwrite=overwrite)
    if image is not None and index is not None:
        raise ConfigError("--index and --image both choose the image; give one of them")
    if mask is not None and image is None:
        raise ConfigError("--mask belongs to a picture of your own; give --image too")
    from zegment.teaching_figure import load_student, read_own, read_pair, teaching_figure

    with errors.status(f"loading {shown(run)}"):
        trained, clip = load_student(run, device=device)
        pair = read_own(trained, image, mask) if image else read_pair(trained.config, split, index)
    drawn = teaching_figure(trained, clip, *pair)
    drawn.save(out)
    console.print(f"wrote {len(drawn.panels)} panels to {shown(out)}", soft_wrap=True)


@app.command()
def models(
    *, as_json: Annotated[bool, typer.Option("--json", help="The list itself.")] = False
) -> None:
    """List presets and packaged models with published scores and ours."""
    from zegment.model_table import print_models

    print_models(console, as_json=as_json)


@app.command()
def demo(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for table and picture; by default zegment-demo.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the training that you watch.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few steps and scenes, to see that all works.")
    ] = False,
) -> None:
    """Train ZegCLIP on Shapes while you watch, and compare it with what it is measured against."""
    from zegment.demo import Demo, free_folder

    Demo(free_folder(out), seed=seed, quick=quick, console=console).run()
