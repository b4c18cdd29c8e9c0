"""Write the tables of docs/models.md from src/zegment/models.json.

    python scripts/write_model_table.py

The text around the markers stays as it is.
"""

from pathlib import Path

from zegment.model_table import load_models, markdown

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
NAME = "model"


def with_tables(page: str, tables: str, *, name: str = NAME) -> str:
    """Return a page with other tables between its markers, which are comments with a name.

    Raises:
        ValueError: If a marker is missing.
    """
    first, last = f"<!-- {name} tables -->", f"<!-- end of {name} tables -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the page has no {first} followed by {last}; put them back")
    return f"{before}{first}\n\n{tables}\n{last}{after}"


def main() -> None:
    """Write the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, markdown(load_models())), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
