"""Write the tables of docs/models.md from src/zegment/models.json.

    python scripts/write_model_table.py

The text around the markers stays as it is.
"""

from pathlib import Path

from zegment.model_table import load_models, markdown

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- model tables -->", "<!-- end of model tables -->"


def with_tables(page: str, tables: str) -> str:
    """Return a page with other tables between its markers.

    Raises:
        ValueError: If a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no {BEGIN} followed by {END}; put them back")
    return f"{before}{BEGIN}\n\n{tables}\n{END}{after}"


def main() -> None:
    """Write the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page, markdown(load_models())), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
