"""Write the tables of docs/study.md, and its figures, from the records of a study.

    python scripts/write_study_page.py --records benchmarks/results/study

The text around the markers stays as it is.
"""

import argparse
from pathlib import Path

from write_model_table import with_tables

from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.study import read_plan
from zegment.study.plots import draw
from zegment.study.records import read_records
from zegment.study.report import markdown

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURES = DOCS / "study.md", Path("assets") / "study"
NAME = "study"


def main() -> None:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, required=True, help="folder of a zegment study")
    arguments = parser.parse_args()
    plan = read_plan()
    records = read_records(arguments.records, plan)
    for chapter in plan.chapters:
        picture = draw(chapter, plan, records)
        if picture is not None:
            atomic_write_bytes(DOCS / FIGURES / f"{chapter.name}.png", picture)
    text = markdown(plan, records, figures=FIGURES.as_posix())
    page = PAGE.read_text(encoding="utf-8")
    atomic_write_text(PAGE, with_tables(page, text, name=NAME))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
