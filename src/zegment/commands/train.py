"""``zegment train``: begin a run, or go on with one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zegment.commands.options import ConfigFile, Preset, Settings
from zegment.commands.wording import shown
from zegment.errors import ConfigError

if TYPE_CHECKING:
    from zegment.config import Config
    from zegment.training import Trainer

console = Console()
errors = Console(stderr=True)


def train(
    *,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; must not exist or be empty.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Run folder to go on with; the run ends as if it had never stopped."),
    ] = None,
) -> None:
    """Train a model; last and best checkpoint, log and configuration go into the run folder."""
    from zegment.config.loading import config_to_toml
    from zegment.distributed import failing_together, is_main_process, join_processes

    join_processes()
    with failing_together():
        folder, resolved = _resolve(out, preset, config, settings, resume)
    console.quiet = errors.quiet = not is_main_process()
    from zegment.training import Trainer
    from zegment.training.log import RunLog
    from zegment.training.state import STATE

    if resume is not None and RunLog(folder).finished:
        with suppress(OSError):  # it may have been put where nothing can be changed
            if is_main_process():  # killed before its last act
                (folder / STATE).unlink(missing_ok=True)
        console.print(f"the run in {shown(folder)} is finished")
        return
    console.print(config_to_toml(resolved), markup=False, highlight=False)
    with errors.status("checking data and model"):
        trainer = Trainer(resolved, folder, resume=resume is not None)
    _run(trainer)


def _resolve(
    out: Path | None,
    preset: str | None,
    file: Path | None,
    settings: list[str] | None,
    resume: Path | None,
) -> tuple[Path, Config]:
    """Return the run folder and the configuration."""
    from zegment.config.loading import load_config

    if resume is not None:
        from zegment.training.resuming import resumed_config

        if out or preset or file:
            raise ConfigError(
                "--resume goes on with a run in its own folder and with its own configuration; "
                "leave --out, --preset and --config out"
            )
        return resume, resumed_config(resume, settings or ())
    if out is None:
        raise ConfigError("--out is missing; give a run folder, or --resume to go on with one")
    return out, load_config(preset=preset, file=file, overrides=settings or ())


def _run(trainer: Trainer) -> None:
    from zegment.progress import TrainingProgress
    from zegment.training.stopping import TrainingStopped

    steps, done, kind = (
        trainer.config.optim.steps, trainer.progress.step, trainer.config.model.kind
    )  # fmt: skip
    if trainer.resume and done == trainer.stages[0].first:
        console.print(f"no step of this run was saved; it begins again with step {done + 1}")
    elif done:
        console.print(f"going on after step {done} of {steps}")
    try:
        with TrainingProgress(console, steps, kind, done=done) as observer:
            trainer.run(observer)
    except TrainingStopped as stopped:
        errors.print(
            f"{stopped}; go on with: zegment train --resume {shown(trainer.out)}",
            soft_wrap=True,
        )
        raise typer.Exit(stopped.status) from None
    written = [folder for folder in (trainer.out / "last", trainer.out / "best") if folder.is_dir()]
    console.print(f"wrote {shown(' and '.join(map(str, written)))}", soft_wrap=True)
