"""The command that brings a released ZegCLIP checkpoint into Zegment's format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from zegment.commands.wording import shown
from zegment.errors import ConfigError, OutputError

console = Console()
errors = Console(stderr=True)


def import_zegclip(  # noqa: PLR0913 - one parameter per option
    file: Annotated[Path, typer.Argument(help="A released checkpoint, .pth.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the model; must not exist or be empty.")],
    class_set: Annotated[
        str | None, typer.Option(help="A packaged list of class names: voc, coco_stuff, ...")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help='Names in the order of the labels, e.g. "cat, sofa"; or the file\'s own.'
        ),
    ] = None,
    unseen: Annotated[
        str | None, typer.Option(help="Names without masks; by default the class set's.")
    ] = None,
    setting: Annotated[
        Literal["inductive", "transductive", "supervised"],
        typer.Option(help="How it was trained; decides what is taken from seen classes."),
    ] = "inductive",
    text: Annotated[
        Path | None, typer.Option(help="Published text embeddings of the classes, .npy.")
    ] = None,
    clip: Annotated[
        str, typer.Option(help="The CLIP whose text tower embeds names, or other words.")
    ] = "ViT-B-16/openai",
    templates: Annotated[
        str, typer.Option(help="Sentences: single (VOC) or zegclip15 (COCO-Stuff).")
    ] = "single",
    heads: Annotated[
        int | None, typer.Option(help="Of the image tower; by default its width / 64.")
    ] = None,
    decoder_heads: Annotated[int, typer.Option(help="Of the mask decoder.")] = 8,
    short_side: Annotated[
        int | None, typer.Option(help="Of images at test time; 512 as released.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Side of windows; 512 as released.")] = None,
    stride: Annotated[int | None, typer.Option(help="Between them; 426 as released.")] = None,
) -> None:
    """Turn a checkpoint of ZegCLIP's authors into a model that predict and evaluate take."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"'{out}' is in use; give another --out or remove it")
    names, without_masks = _names(class_set, classes, unseen)
    from zegment.checkpoint_files import save_checkpoint
    from zegment.zegclip_import import ImportOptions, import_checkpoint

    options = ImportOptions(
        class_names=names,
        unseen=without_masks,
        setting=setting,
        text=text,
        clip=clip,
        templates=templates,
        heads=heads,
        decoder_heads=decoder_heads,
        short_side=short_side,
        window=window,
        stride=stride,
    )
    with errors.status(f"importing {shown(file)}"):
        trained = import_checkpoint(file, options)
        save_checkpoint(out, trained, replace=False)
    seen, total = len(trained.seen), len(trained.vocabulary.class_names)  # type: ignore[union-attr]
    windows = trained.config.windows
    console.print(
        f"{total} classes, {seen} of them seen; {setting}; {trained.config.seen_penalty:g} taken "
        f"from the scores of seen classes; windows of {windows.size} every {windows.stride} pixels"
    )
    console.print(f"wrote {shown(out)}", soft_wrap=True)


def _names(
    class_set: str | None, classes: str | None, unseen: str | None
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return class names and unseen ones, each None if no option gives them."""
    from zegment.data.classes import class_set as packaged
    from zegment.vocabulary import Vocabulary

    if class_set is not None and classes is not None:
        raise ConfigError("--classes and --class-set both name the classes; give one of them")
    given = None if unseen is None else Vocabulary.parse(unseen).class_names
    if class_set is not None:
        chosen = packaged(class_set)
        return chosen.names, chosen.unseen if given is None else given
    return None if classes is None else Vocabulary.parse(classes).class_names, given
