"""The command ``zegment serve``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from zegment.commands.options import MODEL, Device
from zegment.commands.wording import shown

console = Console()
errors = Console(stderr=True)


def serve(  # noqa: PLR0913 - one parameter per option
    *,
    model: Annotated[str, typer.Option(help=MODEL)] = "shapes-clip-zss",
    host: Annotated[
        str, typer.Option(help="Address to listen at; by default only this machine reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 7860,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Further name by which browsers call the server; may be repeated."),
    ] = None,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a picture.")] = 16_000_000,
    max_upload_mb: Annotated[int, typer.Option(help="Most MiB of an uploaded file.")] = 20,
    queue: Annotated[int, typer.Option(help="Requests that may wait for the model.")] = 16,
    workers: Annotated[int, typer.Option(help="Requests that the model answers at a time.")] = 1,
    device: Device = None,
) -> None:
    """Open a page in the browser: drop a picture, type words, look at the result."""
    from zegment.serving.limits import MIB, Limits
    from zegment.serving.settings import ServeSettings, listen, require_gradio

    # What can be refused is refused before the model is loaded.
    require_gradio()
    limits = Limits(max_pixels=max_pixels, max_upload_bytes=max_upload_mb * MIB, max_waiting=queue)
    settings = ServeSettings(
        host=host,
        port=port,
        allowed_hosts=tuple(allowed_host or ()),
        workers=workers,
        limits=limits,
    )
    listening = listen(host, port)
    from zegment.segmenter import load
    from zegment.serving.server import STOP_SECONDS, Server

    with errors.status(f"loading {shown(model)}"):
        segmenter = load(model, device=device)
    with Server(segmenter, settings).opened(listening) as server:
        console.print(f"serving {shown(model)} at {shown(server.address)}", soft_wrap=True)
        if settings.local_only:
            console.print("only this machine can reach it; stop with Ctrl+C", soft_wrap=True)
        else:
            errors.print(
                f"[bold yellow]warning:[/] everybody who can reach {shown(host)} can use the "
                "page, without a password; stop with Ctrl+C",
                soft_wrap=True,
            )
        server.run(
            stopping=lambda: errors.print(
                f"stopping: what is under way has {STOP_SECONDS} seconds; Ctrl+C again ends it now",
                soft_wrap=True,
            )
        )
    console.print("stopped")
    # A run of the model that nobody waits for any more may go on in a thread, and Python would
    # wait for it, or break off in the middle of it. All files are cleared away by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
