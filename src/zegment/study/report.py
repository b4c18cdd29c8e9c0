"""The report of a study: Markdown, JSON and figures of the records that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.study import tables
from zegment.study.comparison import Records, rows_of, verdicts
from zegment.study.plan import Chapter, Plan
from zegment.study.plots import draw
from zegment.study.records import read_records

MARKDOWN, JSON, FIGURES = "report.md", "report.json", "figures"


def write_report(plan: Plan, out: Path) -> None:
    """Write what the records in a study's folder say.

    Raises:
        OutputError: If a record cannot be read, or the folder cannot be written to.
    """
    records = read_records(out, plan)
    for chapter in plan.chapters:
        picture = draw(chapter, plan, records)
        if picture is not None:
            atomic_write_bytes(out / FIGURES / f"{chapter.name}.png", picture)
    atomic_write_text(out / MARKDOWN, markdown(plan, records))
    content = json.dumps(to_dict(plan, records), indent=1, ensure_ascii=False)
    atomic_write_text(out / JSON, content + "\n")


def markdown(plan: Plan, records: Records, *, figures: str = FIGURES) -> str:
    """Return the report as Markdown.

    Args:
        plan: What was to be done.
        records: What was.
        figures: Where its figures lie, as links have it.
    """
    found = verdicts(plan, records)
    parts = [_facts(plan, records)]
    if found:
        parts.append(tables.claims_table(found, plan))
    parts += [_chapter(chapter, plan, records, figures) for chapter in plan.chapters]
    return "\n".join(parts)


def _facts(plan: Plan, records: Records) -> str:
    done = {(r.arm, r.seed): r for own in records.values() for r in own.values()}
    hours = sum(record.seconds for record in done.values()) / 3600
    return (
        f"{len(done)} of {len(plan.runs())} runs are done, {hours:.1f} hours of training on one "
        "thread each. Scores are percentages of Shapes' test split over the joint label space, "
        "mean ± standard deviation over seeds; differences are taken seed by seed, in points, with "
        "95 % intervals by Student's t, in bold where they exclude zero, and not "
        "corrected for how many there are.\n"
    )


def _chapter(chapter: Chapter, plan: Plan, records: Records, figures: str) -> str:
    parts = [f"### {chapter.title}\n", f"{chapter.question}\n"]
    rows = rows_of(chapter, plan, records)
    if not rows:
        return "\n".join([*parts, "Not measured yet.\n"])
    if len(rows) < len(chapter.arms):
        parts.append(f"{len(rows)} of {len(chapter.arms)} arms are measured so far.\n")
    parts.append(f"![{chapter.title}]({figures}/{chapter.name}.png)\n")
    parts.append(tables.chapter_table(chapter, plan, records))
    if chapter.figure == "penalties":
        parts.append(tables.penalties_table(chapter, plan, records))
    if chapter.figure == "distractors":
        parts.append(tables.distractors_table(chapter, plan, records))
    parts.append(tables.groups_table(chapter, plan, records))
    parts.append(tables.speed_table(chapter, plan, records))
    return "\n".join(part for part in parts if part)


def to_dict(plan: Plan, records: Records) -> dict[str, Any]:
    """Return the report as JSON can hold it."""
    return {
        "seeds": list(plan.seeds),
        "claims": [verdict.to_dict() for verdict in verdicts(plan, records)],
        "chapters": [
            {
                "name": chapter.name,
                "title": chapter.title,
                "question": chapter.question,
                "reference": chapter.reference,
                "arms": {
                    row.arm.name: {
                        **row.to_dict(),
                        "measured": {
                            str(seed): record.measured
                            for seed, record in records[row.arm.name].items()
                            if record.measured
                        },
                    }
                    for row in rows_of(chapter, plan, records)
                },
            }
            for chapter in plan.chapters
        ],
    }
