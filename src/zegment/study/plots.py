"""Figures of the study, in colours that those who see no red or no green tell apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from zegment.config import RELEASED_SEEN_PENALTY
from zegment.study.comparison import Records, Row, measured, rows_of
from zegment.study.plan import Chapter, Figure, Plan
from zegment.study.statistics import Spread
from zegment.study.tables import HEADINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: Mapping[str, dict[str, Any]] = {
    "mIoU_seen": {"label": HEADINGS["mIoU_seen"], "color": "#0072B2", "marker": "s"},
    "mIoU_unseen": {"label": HEADINGS["mIoU_unseen"], "color": "#D55E00", "marker": "^"},
    "hIoU": {"label": HEADINGS["hIoU"], "color": "#000000", "marker": "o"},
}
SERIES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"),
    ("#CC79A7", "D"), ("#56B4E9", "v"), ("#E69F00", "P"),
)  # fmt: skip
"""Colour, of Okabe and Ito's, and marker of lines that are arms."""


def draw(chapter: Chapter, plan: Plan, records: Records) -> bytes | None:
    """Return a chapter's figure as a PNG; None if there is nothing to draw yet."""
    # Here, because it takes a second to import. No pyplot: that would look for a display.
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    height = 1.2 + 0.42 * len(chapter.arms) if chapter.figure == "dots" else 4.2
    canvas = Canvas(figsize=(7.6, height), layout="constrained")
    axes = canvas.add_subplot()
    if not _PAINTERS[chapter.figure](axes, chapter, plan, records):
        return None
    axes.set_title(chapter.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x" if chapter.figure == "dots" else "y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        canvas.legend(loc="outside lower center", ncols=3, frameon=False)
    picture = BytesIO()
    canvas.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    return picture.getvalue()


def _dots(axes: Axes, chapter: Chapter, plan: Plan, records: Records) -> bool:
    """One line an arm: every seed small, the mean large with its 95 % interval."""
    rows = rows_of(chapter, plan, records)
    for line, row in enumerate(reversed(rows)):
        for shift, (metric, style) in zip((0.22, 0.0, -0.22), STYLES.items(), strict=True):
            found = row.spread(metric)
            if found is None:
                continue
            seeds = [100 * value for value in row.values[metric].values()]
            y = line + shift
            axes.plot(
                seeds, [y] * len(seeds), linestyle="none", color=style["color"], marker="|",
                markersize=6, alpha=0.6,
            )  # fmt: skip
            low, high = found.interval() or (found.mean, found.mean)
            axes.plot([100 * low, 100 * high], [y, y], color=style["color"], linewidth=1.4)
            axes.plot(
                [100 * found.mean], [y], linestyle="none", color=style["color"],
                marker=style["marker"], markersize=6, label=style["label"] if not line else None,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.arm.title for row in reversed(rows)])
    axes.set(xlabel="percent; bars are 95 % intervals, ticks are seeds", xlim=(0, 100))
    return bool(rows)


def _lines(axes: Axes, chapter: Chapter, plan: Plan, records: Records) -> bool:
    """Metrics against the arms' x; one kind of line for each system in the chapter."""
    rows = [row for row in rows_of(chapter, plan, records) if row.arm.x is not None]
    presets = list(dict.fromkeys(row.arm.preset for row in rows))
    for kind, preset in zip(("-", "--", ":"), presets, strict=False):
        system = "" if len(presets) == 1 else f", {preset.removeprefix('shapes-')}"
        own = sorted((r for r in rows if r.arm.preset == preset), key=lambda r: r.arm.x or 0.0)
        for metric, style in STYLES.items():
            look = {**style, "linestyle": kind, "label": style["label"] + system}
            _band(axes, own, metric, look)
    axes.set(xlabel=chapter.axis, ylabel="percent", ylim=(0, 100))
    return bool(rows)


def _band(axes: Axes, rows: Sequence[Row], metric: str, style: Mapping[str, Any]) -> None:
    points = [(row.arm.x, row.spread(metric)) for row in rows]
    whole = [(x, spread) for x, spread in points if spread is not None]
    _curve(axes, [x for x, _ in whole], [spread for _, spread in whole], style)


def _curve(
    axes: Axes, xs: Sequence[Any], spreads: Sequence[Spread], style: Mapping[str, Any]
) -> None:
    """Draw means with a band of one standard deviation on both sides."""
    means = [100 * spread.mean for spread in spreads]
    sds = [100 * (spread.sd or 0.0) for spread in spreads]
    axes.plot(xs, means, **{"markersize": 5, **style})
    axes.fill_between(
        xs,
        [mean - sd for mean, sd in zip(means, sds, strict=True)],
        [mean + sd for mean, sd in zip(means, sds, strict=True)],
        color=style["color"],
        alpha=0.15,
        linewidth=0,
    )


def _penalties(axes: Axes, chapter: Chapter, plan: Plan, records: Records) -> bool:
    """The three scores of the reference arm against the penalty on seen classes."""
    name = chapter.reference
    curves = [m["curve"] for m in measured(records[name], plan.arms[name], "penalties")]
    if not curves:
        return False
    penalties = [point["seen_penalty"] for point in curves[0]]
    for metric, style in STYLES.items():
        spreads = [Spread.of([c[i][metric] or 0.0 for c in curves]) for i in range(len(penalties))]
        _curve(axes, penalties, spreads, {**style, "markevery": 4})
    axes.axvline(RELEASED_SEEN_PENALTY, color="#999999", linestyle=":", linewidth=1)
    axes.annotate(
        "released", (RELEASED_SEEN_PENALTY, 1), xycoords=("data", "axes fraction"),
        xytext=(3, -10), textcoords="offset points", color="#666666",
    )  # fmt: skip
    axes.set(xlabel="taken from the scores of seen classes", ylabel="percent", ylim=(0, 100))
    return True


def _distractors(axes: Axes, chapter: Chapter, plan: Plan, records: Records) -> bool:
    """The hIoU of every arm against how many names are not there."""
    drawn = False
    for name, (colour, marker) in zip(chapter.arms, SERIES, strict=False):
        own = measured(records[name], plan.arms[name], "distractors")
        if not own:
            continue
        counts = [int(count) for count in own[0]]
        spreads = [Spread.of([found[str(c)]["hIoU"] or 0.0 for found in own]) for c in counts]
        style = {"label": plan.arms[name].title, "color": colour, "marker": marker}
        _curve(axes, range(len(counts)), spreads, style)
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        drawn = True
    axes.set(xlabel="names asked for that are not there", ylabel="hIoU, percent", ylim=(0, 100))
    return drawn


_PAINTERS: Mapping[Figure, Callable[[Axes, Chapter, Plan, Records], bool]] = {
    "dots": _dots,
    "lines": _lines,
    "penalties": _penalties,
    "distractors": _distractors,
}
