"""Options that several commands have, and what they refuse alike."""

from pathlib import Path
from typing import Annotated

import typer

from zegment.errors import OutputError

MODEL = "A run folder, an exported or packaged model, a CLIP, or USER/REPO of the Hub."

Preset = Annotated[str | None, typer.Option(help="A packaged configuration, e.g. shapes-zegclip.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Your own TOML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One option, e.g. optim.lr=1e-4; repeatable.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier run.")]


def refuse_overwriting(path: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError if a file exists that was not asked to be replaced."""
    if path is not None and path.exists() and not overwrite:
        raise OutputError(f"'{path}' exists; give another name or --overwrite")
