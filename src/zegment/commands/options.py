"""Options that several commands have, and what they refuse alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from zegment.errors import ConfigError, OutputError
from zegment.wording import printable

MODEL = "A run folder, an exported or packaged model, a CLIP, or USER/REPO of the Hub."

Preset = Annotated[str | None, typer.Option(help="A packaged configuration, e.g. shapes-zegclip.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Your own TOML file.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One option, e.g. optim.lr=1e-4; repeatable.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU if there is one.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files of an earlier run.")]


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty texts on a command line, which would stand for the working folder.

    A shell makes them of a variable that was never set, and no option or argument has a use for
    them.

    Args:
        arguments: All but the name of the program.

    Raises:
        ConfigError: If one is empty, alone or behind ``--option=``.
    """
    before = "zegment"
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not argument or (argument.startswith("--") and equals and not value):
            raise ConfigError(
                f"what follows '{name or before}' is empty; give a value or leave it out (a "
                "variable that the shell does not know is empty, too)"
            )
        before = argument


def is_there(path: Path) -> bool:
    """Return whether something has a name that is to be written.

    Raises:
        OutputError: If nothing can have it, for it is too long, say.
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"cannot write '{printable(str(path))}': {reason}; choose another name"
        ) from error


def refuse_overwriting(path: Path | None, *, overwrite: bool) -> None:
    """Raise OutputError if a file exists that was not asked to be replaced, or none can."""
    if path is not None and is_there(path) and not overwrite:
        raise OutputError(f"'{path}' exists; give another name or --overwrite")
