"""The figure and the tables that ``benchmarks/scaling.py`` makes of what it measured.

K classes, W windows of a picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from comparisons.training_step import SETTINGS, make_model

from zegment.files import atomic_write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report: TypeAlias = dict[str, Any]
Row: TypeAlias = dict[str, Any]

OURS, SHORT, PLAIN = "ours", "ours, bfloat16", "plain"

LINES: dict[str, dict[str, Any]] = {
    OURS: {"color": "#0072B2", "marker": "o"},
    PLAIN: {"color": "#D55E00", "marker": "s"},
}
"""Colours that those who see no red or no green tell apart, and markers for those who print."""

MODEL = {"color": "#000000", "linestyle": "--", "linewidth": 1.2}
MODEL_NAME = "tower and decoder alone (float32)"


def rows_by_classes(report: Report, way: str) -> list[Row]:
    """Return the rows of one way at pictures of one size, by rising classes."""
    side = report["extent"]["side"]
    rows = [r for r in report["rows"] if r["way"] == way and r["size"] == [side, side]]
    return sorted(rows, key=lambda row: int(row["classes"]))


def rows_by_pixels(report: Report, way: str) -> list[Row]:
    """Return the rows of one way with one number of classes, by rising pixels."""
    classes = report["extent"]["sides_classes"]
    rows = [r for r in report["rows"] if r["way"] == way and r["classes"] == classes]
    return sorted(rows, key=_megapixels)


def seconds_of(report: Report, way: str, *, classes: int, windows: int) -> dict[str, float] | None:
    """Return the seconds of tower, decoder and pixels of a picture; None if not measured.

    W (t_tower + t_decoder(K) + t_pixels(K)), each of them per window as in the row of K classes.
    """
    for row in rows_by_classes(report, way):
        if row["classes"] == classes:
            share = windows / row["windows"]
            return {part: share * row[part] for part in ("tower", "decoder", "pixels")}
    return None


def draw(report: Report) -> bytes:
    """Return seconds and MiB against classes and against pixels as a PNG of four panels."""
    # No pyplot: that would look for a display.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8.4, 6.2), layout="constrained")
    panels = figure.subplots(2, 2)
    extent = report["extent"]
    alone = {row["classes"]: row["mib"] for row in report["model alone, MiB"]}
    for column, (rows_of, place, label) in enumerate(
        (
            (rows_by_classes, _classes, f"classes, at {extent['side']} × {extent['side']} pixels"),
            (rows_by_pixels, _megapixels, f"megapixels, with {extent['sides_classes']} classes"),
        )
    ):
        for axes, key in zip(panels[:, column], ("seconds", "mib"), strict=True):
            for way, style in LINES.items():
                rows = rows_of(report, way)
                axes.plot([place(r) for r in rows], [r[key] for r in rows], label=way, **style)
            rows = rows_of(report, OURS)
            model = [_model_seconds(r) if key == "seconds" else alone[r["classes"]] for r in rows]
            axes.plot([place(r) for r in rows], model, label=MODEL_NAME, **MODEL)
            _dress(axes, [place(r) for r in rows], key=key, label=label)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(stream := BytesIO(), format="png", dpi=120, metadata={"Software": None})
    return stream.getvalue()


def _dress(axes: Axes, ticks: Sequence[float], *, key: str, label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter  # noqa: PLC0415

    axes.set_xscale("log")
    if math.isfinite(axes.dataLim.ymax):  # something was measured
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [f"{tick:.2g}" if tick < 10 else f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel=label, ylabel="seconds" if key == "seconds" else "MiB above the weights")
    axes.grid(alpha=0.3)


def _classes(row: Row) -> float:
    return float(row["classes"])


def _megapixels(row: Row) -> float:
    return float(row["size"][0] * row["size"][1] / 1e6)


def _model_seconds(row: Row) -> float:
    return float(row["tower"] + row["decoder"])


def prediction_part(report: Report, million: Sequence[Row], *, figure: str | None) -> str:
    """Return the figure and the tables of prediction as Markdown.

    Args:
        report: From `scaling.measure`.
        million: From `scaling.million_images`.
        figure: Path from the page to the figure.
    """
    machine = report["machine"]
    plural = "s" if machine["threads"] > 1 else ""
    parts = [
        f"Measured with {machine['threads']} thread{plural} ({machine['cpu']}, PyTorch "
        f"{machine['torch']}); the model's weights take {report['weights'] * 4 / 2**20:.0f} MiB."
    ]
    if figure is not None:
        text = "Seconds and memory of a picture against its classes and its pixels"
        parts.append(f"![{text}]({figure})")
    parts += [_window_table(report), _formula_table(report), _million_table(million)]
    return "\n\n".join(parts)


def _window_table(report: Report) -> str:
    side = report["extent"]["side"]
    header = ("K", "way", "t_tower", "t_decoder(K)", "t_pixels(K)", "a picture", "MiB", "labels")
    cells = []
    for way in (OURS, SHORT, PLAIN):
        for row in rows_by_classes(report, way):
            parts = [row[part] / row["windows"] for part in ("tower", "decoder", "pixels")]
            same = f"{100 * row['labels as ours']:.4g} %"
            cells.append([row["classes"], way, *parts, row["seconds"], row["mib"], same])
    cells.sort(key=lambda row: int(row[0]))
    caption = (
        f"Seconds per window; seconds and MiB above the weights of a whole picture of {side} × "
        f"{side} pixels; and how many labels are those of ours in float32."
    )
    return f"{caption}\n\n{_table(header, cells)}"


def _formula_table(report: Report) -> str:
    cells = []
    for row in rows_by_pixels(report, OURS):
        parts = seconds_of(report, OURS, classes=row["classes"], windows=row["windows"])
        if parts is not None:
            formula = sum(parts.values())
            size = f"{row['size'][0]} × {row['size'][1]}"
            cells.append([size, row["windows"], row["seconds"], formula, row["mib"]])
    caption = (
        f"Seconds of larger and smaller pictures with {report['extent']['sides_classes']} classes, "
        "measured and by W (t_tower + t_decoder(K) + t_pixels(K)):"
    )
    return f"{caption}\n\n{_table(('pixels', 'W', 'measured', 'formula', 'MiB'), cells)}"


def _million_table(million: Sequence[Row]) -> str:
    parts = ("tower", "decoder", "pixels", "decode", "write")
    sums = ("all", "all, bfloat16", "all, plain")
    cells = [
        [f"{row['size'][0]} × {row['size'][1]}", row["windows"], row["classes"]]
        + ["–" if row[key] is None else row[key] for key in (*parts, *sums)]
        for row in million
    ]
    caption = "Core-hours for a million pictures, float32 where nothing else is said:"
    return f"{caption}\n\n{_table(('pixels', 'W', 'K', *parts, *sums), cells)}"


def training_part(speed: Report) -> str:
    """Return the tables of training as Markdown, from the JSON of all comparisons."""
    found = speed["comparisons"]
    keys = ("setting", "way", "seconds", "times faster", "peak MiB")
    steps = [[row[key] for key in keys] for row in found["training_step"]["rows"]]
    loading = [[row["what"], row["images per second"]] for row in found["loading"]["rows"]]
    sent = [
        [row["setting"], f"{row['numbers']:,}", 4 * row["numbers"] / 1e6]
        for row in trained_numbers()
    ]
    return "\n\n".join(
        (
            "A step of two images of 512 × 512 pixels:",
            _table(("setting", "way", "seconds", "times faster", "MiB above the model"), steps),
            "What one worker loads on one core:",
            _table(("what", "images per second"), loading),
            "What is trained, by counting:",
            _table(("setting", "numbers", "MB of gradients in float32"), sent),
        )
    )


def trained_numbers() -> list[Row]:
    """Return how many numbers training changes in each setting, without making any of them."""
    rows = []
    for name, setting in SETTINGS.items():
        with torch.device("meta"):
            trained = make_model(setting).trained_parameters().values()
        rows.append({"setting": name, "numbers": sum(p.numel() for p in trained)})
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    """Return a number with three digits that mean something, or a text as it is."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def replaced(text: str, name: str, body: str) -> str:
    """Return a page with something else between the two markers of a name.

    Raises:
        ValueError: If the page does not have each marker once.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page needs one line {begin} and one line {end} below it")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}"


def write_page(
    page: Path,
    report: Report,
    million: Sequence[Row],
    *,
    figure: Path | None = None,
    speed: Report | None = None,
) -> None:
    """Rewrite the generated parts of a page; those of training if ``speed`` is given.

    Raises:
        ValueError: If a marker is missing.
    """
    text = page.read_text(encoding="utf-8")
    drawn = None if figure is None else os.path.relpath(figure, page.parent)
    text = replaced(text, "scaling", prediction_part(report, million, figure=drawn))
    if speed is not None:
        text = replaced(text, "training", training_part(speed))
    atomic_write_text(page, text)
