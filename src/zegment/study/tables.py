"""Markdown of the study: a table for each chapter, in percent."""

from __future__ import annotations

from collections.abc import Sequence

from zegment.study.comparison import Records, Row, Verdict, measured, rows_of
from zegment.study.plan import Chapter, Plan
from zegment.study.statistics import Spread

MISSING = "–"
HEADINGS = {
    "pAcc": "pAcc",
    "mIoU_seen": "mIoU(S)",
    "mIoU_unseen": "mIoU(U)",
    "hIoU": "hIoU",
    "mIoU_unseen_things": "unseen things",
    "mIoU_unseen_stuff": "unseen stuff",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; bars in its cells, as in ``|T − g|``, end none of them."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def spread(value: Spread | None, *, signed: bool = False) -> str:
    """Return mean ± standard deviation of fractions, in percent."""
    if value is None:
        return MISSING
    mean = f"{100 * value.mean:+.1f}" if signed else f"{100 * value.mean:.1f}"
    return mean if value.sd is None else f"{mean} ± {100 * value.sd:.1f}"


def difference(value: Spread | None) -> str:
    """Return a mean difference in points, with its 95 % interval; in bold if that excludes 0."""
    if value is None:
        return MISSING
    interval = value.interval()
    if interval is None:
        return f"{100 * value.mean:+.1f}"
    low, high = interval
    text = f"{100 * value.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text


def chapter_table(chapter: Chapter, plan: Plan, records: Records) -> str:
    """Return the table of a chapter's arms."""
    rows = rows_of(chapter, plan, records)
    reference = plan.arms[chapter.reference].title
    header = [
        "arm", *HEADINGS.values(), f"hIoU against “{reference}”", "seeds", "trained", "s",
    ]  # fmt: skip
    return table(header, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    seeds = str(len(row.values["hIoU"])) if row.arm.trained else MISSING
    return [
        row.arm.title,
        *(spread(row.spread(metric)) for metric in HEADINGS),
        difference(row.against["hIoU"]),
        seeds,
        f"{row.parameters / 1e6:.2f} M" if row.parameters else MISSING,
        f"{row.seconds.mean:.0f}" if row.arm.trained else MISSING,
    ]


def claims_table(verdicts: Sequence[Verdict], plan: Plan) -> str:
    """Return what became of the papers' claims."""
    rows = [
        [
            verdict.claim.text,
            f"{plan.arms[verdict.claim.better].title} > {plan.arms[verdict.claim.worse].title}, "
            f"{HEADINGS[verdict.claim.metric]}",
            difference(verdict.lead),
            f"{verdict.seeds_ahead} of {verdict.lead.count}",
            "holds" if verdict.holds else "does not hold",
        ]
        for verdict in verdicts
    ]
    return table(["claim", "as an order", "lead, points", "seeds ahead", ""], rows)


def penalties_table(chapter: Chapter, plan: Plan, records: Records) -> str:
    """Return what each way to choose the penalty gives."""
    rows, metrics = [], ("mIoU_seen", "mIoU_unseen", "hIoU")
    for name in chapter.arms:
        own = [m["choices"] for m in measured(records[name], plan.arms[name], "penalties")]
        for choice in own[0] if own else ():
            found = [choices[choice] for choices in own]
            penalty = Spread.of([row["seen_penalty"] for row in found])
            spreads = [Spread.of([row[m] for row in found]) for m in metrics]
            lead = Spread.of([c[choice]["hIoU"] - c["released"]["hIoU"] for c in own])
            rows.append(
                [
                    plan.arms[name].title,
                    choice,
                    f"{penalty.mean:.3f}" + (f" ± {penalty.sd:.3f}" if penalty.sd else ""),
                    *map(spread, spreads),
                    MISSING if choice == "released" else difference(lead),
                ]
            )
    header = ["arm", "chosen by", "penalty", *(HEADINGS[m] for m in metrics), "against released"]
    return table(header, rows) if rows else ""


def distractors_table(chapter: Chapter, plan: Plan, records: Records) -> str:
    """Return hIoU by how many names are asked for that are not there."""
    rows, counts = [], []
    for name in chapter.arms:
        own = measured(records[name], plan.arms[name], "distractors")
        if own:
            counts = list(own[0])
            spreads = [Spread.of([found[c]["hIoU"] for found in own]) for c in counts]
            rows.append([plan.arms[name].title, *map(spread, spreads)])
    return table(["hIoU with … names that are not there", *counts], rows) if rows else ""


def groups_table(chapter: Chapter, plan: Plan, records: Records) -> str:
    """Return how pure the pseudo labels of the arms of a chapter are."""
    rows = []
    for name in chapter.arms:
        own = measured(records[name], plan.arms[name], "groups")
        if own:
            purity, grouped, count = (
                Spread.of([found[key] for found in own])
                for key in ("purity", "grouped_share", "groups_per_image")
            )
            rows.append(
                [plan.arms[name].title, spread(purity), spread(grouped), f"{count.mean:.2f}"]
            )
    header = ["pseudo labels of", "purity", "unannotated pixels in a group", "groups per image"]
    return table(header, rows) if rows else ""


def speed_table(chapter: Chapter, plan: Plan, records: Records) -> str:
    """Return how long one scene takes on one thread, against the reference arm."""
    seconds = {
        name: [m["seconds_per_scene"] for m in measured(records[name], plan.arms[name], "speed")]
        for name in chapter.arms
    }
    base = seconds.get(chapter.reference)
    if not base or sum(map(bool, seconds.values())) < 2:
        return ""
    rows = [
        [plan.arms[name].title, f"{1000 * min(own):.1f}", f"{min(base) / min(own):.2f}"]
        for name, own in seconds.items()
        if own
    ]
    reference = plan.arms[chapter.reference].title
    return table(["", "ms per scene, fastest", f"times as fast as {reference}"], rows)
