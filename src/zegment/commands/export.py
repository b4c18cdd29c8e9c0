"""The command that turns a model into a folder for onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zegment.commands.options import Overwrite
from zegment.commands.wording import shown

console = Console()
errors = Console(stderr=True)


def export(
    model: Annotated[
        str, typer.Argument(help="A run folder, a packaged model, a CLIP, or USER/REPO.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the exported model.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help='Make these a part of the graph, e.g. "cat, sofa"; by default it takes any words.'
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of 8 bits: a smaller file, other scores.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn a model into an ONNX graph that runs without PyTorch, checked against the original."""
    from zegment.export.folder import export as write

    with errors.status(f"exporting {shown(model)}"):
        done = write(model, out, classes=classes, quantise=int8, replace=overwrite)
    facts = done.facts
    takes = (
        f"images alone; classes: {', '.join(dict.fromkeys(facts.class_names))}"
        if facts.frozen
        else f"images, and text embeddings of {facts.embed_dim} dimensions for any classes"
    )
    console.print(f"takes {shown(takes)}", soft_wrap=True)
    console.print(
        f"sides are multiples of {facts.patch_size} pixels; logits differ from the model's by at "
        f"most {done.difference:.1e}",
        soft_wrap=True,
    )
    if facts.precision == "int8":
        console.print("weights of 8 bits change labels: measure with `zegment evaluate`")
    wrote = f"wrote {shown(out)} ({done.size / 1e6:.1f} MB {facts.precision})"
    console.print(wrote, soft_wrap=True)
