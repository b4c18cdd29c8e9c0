"""What prediction costs against classes and pixels, and what a million pictures come to.

    python benchmarks/scaling.py --json scaling.json \
        --figure docs/assets/scaling.png --docs docs/scaling.md

measures ZegCLIP on ViT-B/16 with random weights, each point once in a process of its own, draws
the figure and rewrites the tables of the page. `--from scaling.json` does so from what was measured
before, and `--speed` adds training, from the JSON of all comparisons.

Formulas are those of ``docs/scaling.md``. K classes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from comparisons.measuring import Measured, Work, apart, in_turn
from comparisons.prediction import WINDOWS, ours, picture, plain, small_zegclip, texts
from comparisons.students import DIM, zegclip
from PIL import Image
from scaling_page import OURS, PLAIN, SHORT, Report, Row, draw, seconds_of, write_page
from speed import machine
from torch.nn import functional as F

from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.images import read_image
from zegment.inference.running import Runner
from zegment.inference.windows import window_places
from zegment.large_scale.reading import Picture
from zegment.large_scale.rows import row_of
from zegment.models.base import SegmentationModel
from zegment.precision import is_native
from zegment.results import Segmentation

Build: TypeAlias = Callable[[], SegmentationModel]

WAYS: dict[str, Callable[..., Work]] = {
    OURS: ours,
    SHORT: partial(ours, precision="bfloat16"),
    PLAIN: plain,
}

Run: TypeAlias = Callable[..., Measured]
"""Such as `comparisons.measuring.apart`."""

MOST_PLAIN_BYTES = 8e9
"""The plain computation is left out where its scores would take more."""

REGIONS, ROUNDS = 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is measured.

    Attributes:
        model: Builds the model.
        dim: Of its text embeddings.
        classes: K, at pictures of ``side`` pixels squared.
        side: One of ``sides``.
        sides: Of square pictures, at ``sides_classes``.
        sides_classes: One of ``classes``.
        pictures: Height and width of those that a million is counted of.
    """

    model: Build = zegclip
    dim: int = DIM
    classes: tuple[int, ...] = (2, 20, 171, 847, 2000)
    side: int = 1024
    sides: tuple[int, ...] = (512, 1024, 2048)
    sides_classes: int = 171
    pictures: tuple[tuple[int, int], ...] = ((512, 683), (1024, 1024), (2448, 3264))


FULL = Extent()
QUICK = Extent(
    model=small_zegclip,
    dim=64,
    classes=(2, 20),
    side=512,
    sides=(512,),
    sides_classes=20,
    pictures=((512, 683),),
)


def windows_of(height: int, width: int) -> int:
    """Return W, how many windows a picture is seen in."""
    rows, columns = (window_places(n, WINDOWS.size, WINDOWS.stride) for n in (height, width))
    return len(rows) * len(columns)


def labelling(*, way: str, model: Build, dim: int, classes: int, size: tuple[int, int]) -> Work:
    """Return what labels a picture; it returns labels and the seconds of the model's parts."""
    seconds: Counter[str] = Counter()

    def watched() -> SegmentationModel:
        network = model()
        for name in ("encode", "forward"):
            setattr(network, name, _timed(getattr(network, name), name, seconds))
        return network

    label = WAYS[way](model=watched, dim=dim, classes=classes, size=size)
    seconds.clear()  # those of the window that warmed up
    return lambda: (label(), dict(seconds))


def _timed(function: Callable[..., Any], name: str, seconds: Counter[str]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes
        start = time.perf_counter()
        result = function(*arguments)
        seconds[name] += time.perf_counter() - start
        return result

    return timed


def one_window(*, model: Build, dim: int, classes: int) -> Work:
    """Return what passes one window through the model and does no more."""
    torch.manual_seed(0)
    run, words = Runner(model().eval()), texts(classes, dim)
    window = torch.randn(1, 3, WINDOWS.size or 512, WINDOWS.size or 512)
    run(window, words[:1])
    return lambda: run(window, words).shape


def points(extent: Extent) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield classes and size of every point, each once."""
    by_classes = [(classes, extent.side) for classes in extent.classes]
    by_pixels = [(extent.sides_classes, side) for side in extent.sides]
    for classes, side in dict.fromkeys(by_classes + by_pixels):
        yield classes, (side, side)


def measure_point(
    extent: Extent, classes: int, size: tuple[int, int], run: Run = apart
) -> Iterator[Row]:
    """Yield what each way takes at one point; seconds of a picture, and MiB above the model.

    In bfloat16 only the point that is shared by classes and pixels is measured, and that only if
    the processor computes in it.
    """
    same = {"model": extent.model, "dim": extent.dim, "classes": classes}
    exact: np.ndarray | None = None
    reference = (extent.sides_classes, (extent.side, extent.side))
    for way in WAYS:
        if way == SHORT and ((classes, size) != reference or not is_native(torch.bfloat16, "cpu")):
            continue
        # Two tensors of all scores live at once: their sums and the average.
        if way == PLAIN and 8 * classes * size[0] * size[1] > MOST_PLAIN_BYTES:
            continue
        found = run(labelling, way=way, size=size, **same)
        labels, inside = found.result
        exact = labels if exact is None else exact
        yield {
            "way": way,
            "classes": classes,
            "size": list(size),
            "windows": windows_of(*size),
            "seconds": found.seconds,
            "tower": inside["encode"],
            "decoder": inside["forward"] - inside["encode"],
            "pixels": found.seconds - inside["forward"],
            "mib": found.mib,
            "labels as ours": float(np.equal(labels, exact).mean()),
        }


def measure_files(size: tuple[int, int]) -> Row:
    """Return the seconds of what is done to a picture before and after the model."""
    grain = np.random.default_rng(0).normal(0, 12, (*size, 3))  # as photographs have, for the JPEG
    smooth = picture(size)[0].permute(1, 2, 0).numpy()
    pixels = np.ascontiguousarray((smooth + grain).clip(0, 255).astype(np.uint8))
    Image.fromarray(pixels).save(stream := BytesIO(), format="JPEG", quality=92)
    regions = torch.rand(1, REGIONS, 8, 8, generator=torch.Generator().manual_seed(2))
    areas = F.interpolate(regions, size=size, mode="bicubic").argmax(dim=1)[0]
    result = Segmentation(
        labels=areas.int().numpy(),
        class_names=tuple(f"class {n}" for n in range(REGIONS)),
        image=pixels,
        confidence=np.full(size, 0.5, np.float32),
    )
    read = Picture(source="a.jpg", member=None, name="a.jpg")
    works: dict[str, Work] = {
        "decode": lambda: read_image(Image.open(BytesIO(stream.getvalue()))),
        "row": lambda: row_of(read, result),
        "label map": lambda: result.index_png().save(BytesIO(), format="PNG"),
    }
    seconds = in_turn(works, rounds=ROUNDS)
    return {"size": list(size), **{name: median(taken) for name, taken in seconds.items()}}


def measure(extent: Extent, run: Run = apart) -> Report:
    """Return all figures; of `FULL`, some minutes on two cores.

    Args:
        extent: What is measured.
        run: Does and measures a work.
    """
    rows = []
    for classes, size in points(extent):
        for row in measure_point(extent, classes, size, run):
            print(json.dumps(row), flush=True)
            rows.append(row)
    same = {"model": extent.model, "dim": extent.dim}
    alone = {n: run(one_window, classes=n, **same).mib for n in extent.classes}
    weights = sum(p.numel() for p in extent.model().parameters())
    return {
        "machine": machine(),
        "extent": {k: v for k, v in asdict(extent).items() if k != "model"},
        "weights": weights,
        "rows": rows,
        "model alone, MiB": [{"classes": n, "mib": mib} for n, mib in alone.items()],
        "files": [measure_files(size) for size in extent.pictures],
    }


def million_images(report: Report) -> list[Row]:
    """Return what a million pictures take, in core-hours, for every size and number of classes.

    Core-hours are hours of one worker times its threads, whichever of them are busy. Keys are the
    parts of float32, their sum "all", and the same for bfloat16 and the plain way, None where
    they were not measured.
    """
    rows = []
    hours = 1e6 / 3600 * report["machine"]["threads"]
    for files in report["files"]:
        windows = windows_of(*files["size"])
        around = {"decode": hours * files["decode"], "write": hours * files["row"]}
        for classes in report["extent"]["classes"]:
            row: Row = {"size": files["size"], "windows": windows, "classes": classes}
            for way, key in ((OURS, "all"), (SHORT, "all, bfloat16"), (PLAIN, "all, plain")):
                parts = seconds_of(report, way, classes=classes, windows=windows)
                inside = {} if parts is None else {k: hours * s for k, s in parts.items()}
                if way == OURS:
                    row |= inside | around
                row[key] = sum(inside.values()) + sum(around.values()) if inside else None
            rows.append(row)
    return rows


def here(prepare: Callable[..., Work], **arguments: object) -> Measured:
    """Do a work once in this process, where its memory cannot be told from what others left."""
    work = prepare(**arguments)
    start = time.perf_counter()
    result = work()
    return Measured(seconds=time.perf_counter() - start, mib=float("nan"), result=result)


def main() -> None:
    """Measure or read, then write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--from", type=Path, dest="earlier", help="figures that were measured")
    parser.add_argument("--figure", type=Path, help="draw them into this PNG")
    parser.add_argument("--docs", type=Path, help="rewrite the tables of this page")
    parser.add_argument("--speed", type=Path, help="what speed.py measured of training")
    parser.add_argument("--quick", action="store_true", help="small, and no memory is measured")
    options = parser.parse_args()
    if options.json and options.json.exists():
        parser.error(f"{options.json} exists; give another name")
    if options.earlier:
        report = json.loads(options.earlier.read_text(encoding="utf-8"))
    else:
        report = measure(QUICK, here) if options.quick else measure(FULL)
    if options.json:
        atomic_write_text(options.json, json.dumps(report, indent=2) + "\n")
    if options.figure:
        atomic_write_bytes(options.figure, draw(report))
    if options.docs:
        speed = json.loads(options.speed.read_text(encoding="utf-8")) if options.speed else None
        write_page(options.docs, report, million_images(report), figure=options.figure, speed=speed)


if __name__ == "__main__":
    main()
