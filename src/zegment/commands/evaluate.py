"""The commands that measure: one model on one data set, or on a whole suite of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from zegment.commands.options import (
    MODEL,
    ConfigFile,
    Device,
    Overwrite,
    Preset,
    Settings,
    is_there,
    refuse_overwriting,
)
from zegment.commands.running import BlendOption, PrecisionOption, Running, WindowsOption
from zegment.commands.wording import shown
from zegment.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from zegment.calibration_choice import Chooser
    from zegment.config import Config

console = Console()


def evaluate(  # noqa: PLR0913 - one parameter per option
    run: Annotated[str, typer.Argument(help=MODEL)],
    *,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write scores.")] = None,
    split: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option(help="Of its data set; by default test, or val for --sweep-calibration."),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="A known data set, see `zegment data list`.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the files of --benchmark lie.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    calibration: Annotated[
        Path | None, typer.Option(help="The calibration.json of a sweep, instead of the model's.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep-calibration", help="Folder for curve and choice of the seen-class penalty."
        ),
    ] = None,
    blind: Annotated[
        bool,
        typer.Option("--blind", help="Let the sweep look at no label of an unseen class."),
    ] = False,
    templates: Annotated[
        str | None, typer.Option(help="Sentences for class names; by default as in training.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="What shows none of the classes, as for `zegment predict`.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size at a time.")] = 16,
    precision: PrecisionOption = "float32",
    windows: WindowsOption = None,
    blend: BlendOption = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Score a model on its own data, or on what --benchmark, --preset or --config describes."""
    refuse_overwriting(json_file, overwrite=overwrite)
    if sweep is not None and (calibration or json_file or templates or background):
        raise ConfigError(
            "--sweep-calibration writes a folder, and takes the model as it is; leave out --json, "
            "--calibration, --templates and --background"
        )
    if blind and sweep is None:
        raise ConfigError("--blind is a way to choose; give --sweep-calibration and a folder too")
    other = other_data(benchmark, root, preset, config, settings)
    running = Running(precision=precision, windows=windows, blend=blend)
    if sweep is not None and running != Running():
        raise ConfigError("--sweep-calibration takes the model as it is run by default")
    from zegment.background import parse_background
    from zegment.calibration import read_calibration
    from zegment.distributed import is_main_process, join_processes
    from zegment.evaluation import evaluate_named
    from zegment.progress import circumstances, progress_bar, summary

    policy = None if background is None else parse_background(background)
    chosen = None if calibration is None else read_calibration(calibration)
    join_processes()
    console.quiet = not is_main_process()
    if sweep is not None:
        from zegment.calibration_choice import Blind, ByMasks

        chooser: Chooser[Any] = Blind() if blind else ByMasks()
        _sweep(run, sweep, chooser, split or "val", other, device, batch_size)
        return
    with progress_bar(console) as bar:
        task = bar.add_task(f"evaluating on {split or 'test'}", total=None, note="")
        evaluation = evaluate_named(
            run,
            split=split or "test",
            other=other,
            calibration=chosen,
            templates=templates,
            background=policy,
            device=device,
            batch_size=batch_size,
            adjust=running.apply,
            on_image=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(summary(evaluation), highlight=False, soft_wrap=True)
    console.print(shown(circumstances(evaluation)), highlight=False, soft_wrap=True)
    if json_file is not None and is_main_process():
        from zegment.files import atomic_write_text
        from zegment.text_files import json_text

        report = {"model": run, "split": split or "test", **evaluation.to_dict()}
        atomic_write_text(json_file, json_text(report))


def _sweep(
    run: str,
    out: Path,
    chooser: Chooser[Any],
    split: Literal["test", "val", "train"],
    other: Config | None,
    device: str | None,
    batch_size: int,
) -> None:
    from zegment.calibration_sweep import sweep_calibration
    from zegment.distributed import is_main_process
    from zegment.evaluation import prepare_evaluation
    from zegment.progress import progress_bar

    if is_there(out) and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"--sweep-calibration '{out}' exists; give a new folder")
    segmenter, dataset, record = prepare_evaluation(run, split=split, other=other, device=device)
    with progress_bar(console) as bar:
        task = bar.add_task(f"sweeping on {split}", total=len(dataset), note="")
        swept = sweep_calibration(
            segmenter,
            dataset,
            data=record["data"],
            chooser=chooser,
            batch_size=batch_size,
            on_image=lambda done: bar.update(task, completed=done),
        )
    if not is_main_process():
        return
    swept.save(out)
    chosen = swept.chosen
    how = "" if chosen.chosen_by is None else f", {chosen.chosen_by}"
    console.print(
        f"chosen on {chosen.chosen_on}{how}: {chosen.seen_penalty:g} (the model has "
        f"{swept.used:g}); there {chooser.describe(swept.best)}",
        highlight=False,
        soft_wrap=True,
    )
    for warning in swept.warnings:
        console.print(f"[bold yellow]warning:[/] {shown(warning)}", soft_wrap=True)
    console.print(
        f"wrote curve and choice to {shown(out)}; use them with --calibration", soft_wrap=True
    )


def table(
    run: Annotated[str, typer.Argument(help=MODEL)],
    *,
    suite: Annotated[str, typer.Option(help="training-free or cross-dataset.")],
    root: Annotated[Path, typer.Option(help="Folder of data sets: VOCdevkit/VOC2012, …")],
    out: Annotated[Path, typer.Option(help="Folder for the scores; finished ones are kept.")],
    only: Annotated[
        list[str] | None, typer.Option(help="One data set of the suite; repeatable.")
    ] = None,
    attention: Annotated[
        str, typer.Option(help="Training-free CLIP only: value, sclip, clearclip or naclip.")
    ] = "naclip",
    device: Device = None,
) -> None:
    """Score one model on every data set of a suite: scores of each, and a Markdown table."""
    from zegment.distributed import is_main_process, join_processes
    from zegment.progress import progress_bar
    from zegment.suites import SuiteRun

    join_processes()
    console.quiet = not is_main_process()
    task_run = SuiteRun(run, suite, root=root, out=out, only=only or (), attention=attention)
    with progress_bar(console) as bar:
        task = bar.add_task("checking", total=None, note="")

        def on_image(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        text = task_run.run(device=device, on_image=on_image)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def other_data(
    benchmark: str | None,
    root: Path | None,
    preset: str | None,
    config: Path | None,
    settings: list[str] | None,
) -> Config | None:
    """Return the configuration of other data than a model's own, or None.

    Raises:
        ConfigError: If the options do not fit together.
    """
    if root is not None and benchmark is None:
        raise ConfigError("--root says where --benchmark lies; give that too")
    if benchmark is not None and root is None:
        raise ConfigError(f"--benchmark {benchmark} needs --root, the folder with its files")
    if settings and not (preset or config or benchmark):
        raise ConfigError(
            "--set changes what --benchmark, --preset or --config describes, and none is given; a "
            "model is evaluated on its own data, with its own windows"
        )
    if not (preset or config or benchmark):
        return None
    from zegment.config.loading import load_config

    known: list[Any] = []
    if benchmark is not None:
        # In quotes, so that no name of a folder is read as a number.
        known = [f"data.benchmark={benchmark}", f"data.root={json.dumps(str(root))}"]
    return load_config(preset=preset, file=config, overrides=[*known, *(settings or ())])
