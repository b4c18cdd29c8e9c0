"""The commands for one's own pictures: segment them, and choose what counts as no class."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from zegment.commands.options import MODEL, Device, Overwrite, refuse_overwriting
from zegment.commands.predict_sharded import Sharding, predict_sharded, refuse_tables
from zegment.commands.running import BlendOption, PrecisionOption, Running, WindowsOption
from zegment.commands.wording import Wanted, announce, interruptible, shown
from zegment.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from zegment.prediction.plan import Plan
    from zegment.prediction.run import Failed
    from zegment.query import Query
    from zegment.segmenter import Segmenter

console = Console()
errors = Console(stderr=True)

Images = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, videos, folders, patterns, @list.txt, or - for what is piped; with "
        "--engine ray also addresses such as s3://bucket/photos, and part-{000..009}.tar."
    ),
]
Words = Annotated[
    str | None,
    typer.Option(
        "--classes",
        help='"cat, sofa|couch"; a .txt, .toml or .json file; a class set such as voc; by default '
        "the model's own.",
    ),
]
Templates = Annotated[
    str | None, typer.Option(help="Sentences around names: single, zegclip15 or imagenet80.")
]
Combine = Annotated[
    Literal["mean", "max"] | None,
    typer.Option("--synonyms", help="Score of a class with several names; by default mean."),
]
Plurals = Annotated[
    bool, typer.Option("--plurals", help="Names stand for their English plurals too.")
]
Anew = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Begin anew: what an earlier run wrote into --out is removed first, nothing else.",
    ),
]
Model = Annotated[str, typer.Option(help=MODEL)]


def predict(  # noqa: PLR0913 - one parameter per option
    images: Images,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the results; gone on with if begun.")],
    classes: Words = None,
    model: Model = "ViT-B-16/openai",
    background: Annotated[
        str,
        typer.Option(
            help="What shows none of the classes: none; threshold:0.5; helpers; "
            "helpers:wall,sky; or the file of zegment fit-threshold."
        ),
    ] = "none",
    templates: Templates = None,
    synonyms: Combine = None,
    plurals: Plurals = False,
    save: Annotated[
        list[str] | None,
        typer.Option(
            help="overlay, masks, confidence, entropy, margin or scores, beside the label map; "
            "repeatable; by default overlay."
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="coco, coco-polygons, geojson, geojson-world, label-studio, cvat or fiftyone; "
            "repeatable.",
        ),
    ] = None,
    every: Annotated[int, typer.Option(help="Of a video, one frame in so many.")] = 1,
    smoothing: Annotated[
        float, typer.Option(help="Of a video, weight of the past in the scores, 0 to below 1.")
    ] = 0.0,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: millions of pictures into Parquet, by many processes."),
    ] = "local",
    shard_size: Annotated[
        int | None,
        typer.Option(help="Of ray, pictures per table; an archive is one. By default 256."),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(help="Of ray, processes; by default as many as there is room for.")
    ] = None,
    cpus_per_actor: Annotated[
        float | None, typer.Option(help="Of ray, cores of each; by default 2.")
    ] = None,
    gpus_per_actor: Annotated[
        float | None, typer.Option(help="Of ray, GPUs of each; by default 1 if there are any.")
    ] = None,
    precision: PrecisionOption = "float32",
    windows: WindowsOption = None,
    blend: BlendOption = None,
    device: Device = None,
    overwrite: Anew = False,
) -> None:
    """Segment pictures into the classes you name: overlay, index PNG and legend.json."""
    wanted = Wanted(classes=classes, templates=templates, synonyms=synonyms, plurals=plurals)
    sharding = Sharding(
        size=shard_size, actors=actors, cpus_per_actor=cpus_per_actor, gpus_per_actor=gpus_per_actor
    )
    running = Running(precision=precision, windows=windows, blend=blend)
    if engine == "ray":
        for name, given in (
            ("--format", bool(formats)),
            ("--every", every != 1),
            ("--smoothing", smoothing != 0),
            ("--device", device is not None),
        ):
            if given:
                raise ConfigError(
                    f"{name} belongs to --engine local; processes of ray take a GPU if there is "
                    "one, and write tables of pictures"
                )
        predict_sharded(
            images,
            out=out,
            model=model,
            wanted=wanted,
            background=background,
            save=save or (),
            sharding=sharding,
            running=running,
            overwrite=overwrite,
        )
        return
    sharding.refuse()
    from zegment.background import parse_background
    from zegment.prediction.inputs import expand, left_out
    from zegment.prediction.plan import check_writable, plan_run
    from zegment.prediction.record import RunRecord, check_outputs

    policy = parse_background(background)
    kinds = tuple(save or ("overlay",))
    check_outputs(kinds, smoothing=smoothing, every=every)
    wanted.check()
    sources = expand(images, stdin=sys.stdin.buffer)
    check_writable(out)
    refuse_tables(out)
    for note in left_out(images):
        errors.print(shown(note), soft_wrap=True, highlight=False)
    from zegment.segmenter import load

    with errors.status(f"loading {shown(model)}"):
        segmenter = load(model, device=device)
        running.apply(segmenter)
        query = segmenter.query(wanted.vocabulary(segmenter.templates), background=policy)
    record = RunRecord.of(segmenter, query, save=kinds, smoothing=smoothing, every=every)
    plan = plan_run(sources, out, record=record, formats=formats or (), overwrite=overwrite)
    console.print(shown(announce(model, query)), soft_wrap=True, highlight=False)
    if precision != "float32":
        console.print(_agreement(segmenter, query, plan), soft_wrap=True, highlight=False)
    with interruptible(overwrite=overwrite):
        skipped, failures = _follow(segmenter, query, plan)
    _conclude(len(plan.sources), skipped, failures, out)


def _agreement(segmenter: Segmenter, query: Query, plan: Plan) -> str:
    """Return how many labels of the first picture are what they would be in float32."""
    precision = segmenter.execution.precision
    for source in plan.sources:
        if source.is_video:
            continue
        try:
            share = segmenter.agreement(source.decode(source.read_bytes()), query)
        except ImageError:  # told when it is its turn
            continue
        return (
            f"{precision}: {100 * share:.2f} % of the labels of {shown(source.stem)} are float32's"
        )
    return f"{precision}: there is no picture whose labels could be compared with float32's"


def _follow(segmenter: Segmenter, query: Query, plan: Plan) -> tuple[int, list[Failed]]:
    """Run a plan under a bar; return how many were finished before, and which failed."""
    from zegment.prediction.run import Failed, Skipped, predict_all
    from zegment.progress import progress_bar

    failures: list[Failed] = []
    skipped = 0
    with progress_bar(console) as bar:
        task = bar.add_task("segmenting", total=len(plan.sources), note="")
        for outcome in predict_all(
            segmenter,
            query,
            plan,
            on_frame=lambda source, n: bar.update(task, note=f"{shown(source.stem)}, frame {n}"),
        ):
            if isinstance(outcome, Failed):
                failures.append(outcome)
            skipped += isinstance(outcome, Skipped)
            bar.update(task, advance=1, note=shown(outcome.source.stem))
    return skipped, failures


def fit_threshold(  # noqa: PLR0913 - one parameter per option
    images: Annotated[Path, typer.Argument(help="Folder of a few pictures.")],
    masks: Annotated[
        Path,
        typer.Argument(
            help="Folder of their masks, NAME.png: ids of the classes; 255 where none of them is."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(help="The .json file to write.")],
    classes: Words = None,
    model: Model = "ViT-B-16/openai",
    templates: Templates = None,
    synonyms: Combine = None,
    plurals: Plurals = False,
    ignore_value: Annotated[
        int | None, typer.Option(help="Mask value of pixels that count nowhere.")
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Choose the score below which a pixel shows none of the classes, on a few of your masks."""
    from zegment.progress import percent, progress_bar

    if out.suffix != ".json":
        raise ConfigError(f"--out '{out}' must end in .json, so that --background knows it")
    refuse_overwriting(out, overwrite=overwrite)
    wanted = Wanted(classes=classes, templates=templates, synonyms=synonyms, plurals=plurals)
    wanted.check()
    from zegment.segmenter import load
    from zegment.threshold_fitting import fit_threshold, pair_masks
    from zegment.wording import readable

    pairs = pair_masks(images, masks)
    with errors.status(f"loading {shown(model)}"):
        segmenter = load(model, device=device)
    with progress_bar(console) as bar:
        task = bar.add_task("fitting", total=len(pairs), note="")
        fit = fit_threshold(
            segmenter,
            wanted.vocabulary(segmenter.templates),
            pairs,
            data=readable(images.name or str(images)),
            ignore_value=ignore_value,
            on_image=lambda done: bar.update(task, completed=done),
        )
    fit.save(out)
    console.print(
        f"a score of {fit.chosen.score:g} gives mIoU {percent(float(fit.miou.max()))} with the "
        f"background as a class, on {shown(fit.data)}; without a threshold "
        f"{percent(float(fit.miou[0]))}",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"wrote {shown(out)}; use it with --background", soft_wrap=True)


def _conclude(count: int, skipped: int, failures: Sequence[Failed], out: Path) -> None:
    """Say what became of the pictures; exit with status 1 if one could not be read."""
    done = count - skipped - len(failures)
    before = f", {skipped} were finished before" if skipped else ""
    console.print(f"wrote results of {done} to {shown(out)}{before}", soft_wrap=True)
    if not failures:
        return
    errors.print(f"[bold red]{len(failures)} of {count} could not be read:[/]")
    for failure in failures:
        errors.print(f"  {shown(failure.reason)}", soft_wrap=True, highlight=False)
    raise typer.Exit(1)
