"""The command that shares a model on the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from zegment.commands.options import Overwrite
from zegment.commands.wording import shown

console = Console()
errors = Console(stderr=True)


def push(  # noqa: PLR0913 - one parameter per option
    model: Annotated[str, typer.Argument(help="A run folder, an exported or packaged model.")],
    repository: Annotated[str, typer.Argument(help="USER/NAME on the Hub; made if missing.")],
    *,
    licence: Annotated[
        str | None, typer.Option(help="Of the weights, e.g. apache-2.0; told on the card.")
    ] = None,
    data_licence: Annotated[
        str | None, typer.Option(help="Of the training data; told on the card.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="For everybody; else only you can see a new one.")
    ] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a Zegment checkpoint",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show card and files, and upload nothing.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Upload a model with its model card to the Hugging Face Hub, where `load` finds it by name."""
    from zegment.hub.upload import CARD, push_to_hub, upload_files

    files = upload_files(model, repository, licence=licence, data_licence=data_licence)
    if licence is None:
        errors.print("no --licence: the card says that nobody may rely on one", soft_wrap=True)
    if dry_run:
        typer.echo(bytes(files[CARD]).decode("utf-8"))
        for name, content in files.items():
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            console.print(f"would upload {name}, {size:,} bytes", highlight=False)
        return
    with errors.status(f"uploading to {shown(repository)}"):
        url = push_to_hub(
            model,
            repository,
            private=not public,
            licence=licence,
            data_licence=data_licence,
            message=message,
            overwrite=overwrite,
        )
    console.print(f"uploaded {len(files)} files to {shown(url)}", soft_wrap=True)
