"""What the site makes of README, notebooks, links and formulas; MkDocs itself is not needed."""

import base64
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import site_hooks  # lies in scripts/

ROOT = Path(__file__).parent.parent
PAGE = SimpleNamespace(file=SimpleNamespace(src_uri="results.md"))


@pytest.mark.parametrize(
    ("origin", "written", "shown"),
    [
        ("README.md", "[a](docs/hub.md)", "[a](hub.md)"),
        ("README.md", "![a](docs/assets/page.png)", "![a](assets/page.png)"),
        ("CONTRIBUTING.md", "[a](LICENSE)", "[a](LICENSE.txt)"),
        ("docs/hub.md", "[a](models.md#published)", "[a](models.md#published)"),
        ("docs/hub.md", "[a](../CONTRIBUTING.md#tests)", "[a](contributing.md#tests)"),
        ("docs/api/data.md", "[a](../hub.md)", "[a](../hub.md)"),
        ("docs/hub.md", "[a](notebooks/one.ipynb)", "[a](notebooks/one.md)"),
        ("docs/notebooks/one.md", "[a](one.ipynb)", "[a](one.ipynb)"),
        ("docs/methods.md", "[a](../src/zegment/losses.py)", "[a][zegment.losses]"),
        ("docs/methods.md", "[a](../src/zegment/data/__init__.py)", "[a][zegment.data]"),
        ("docs/hub.md", "[a](https://huggingface.co/x)", "[a](https://huggingface.co/x)"),
        ("docs/hub.md", "[a](../benchmarks/speed.py)", "[a](../benchmarks/speed.py)"),
    ],
)
def test_links_of_the_repository_lead_to_the_same_place_of_the_site(
    origin: str, written: str, shown: str
) -> None:
    page = SimpleNamespace(
        file=SimpleNamespace(
            src_uri=site_hooks.OUTSIDE.get(origin, origin.removeprefix("docs/")),
        )
    )
    assert site_hooks.on_page_markdown(written, page=page) == shown


def test_bars_in_tables_are_shown_without_their_escape_and_code_is_left_alone() -> None:
    code = '```bash\nzegment predict --classes "a\\|b" [a](../LICENSE)\n```\n'
    markdown = f"| `a\\|b` |\n\n{code}\n`a\\|b`\n"
    shown = site_hooks.on_page_markdown(markdown, page=PAGE)
    assert shown == f"| `a|b` |\n\n{code}\n`a\\|b`\n"


def test_a_notebook_becomes_its_cells_and_what_they_put_out() -> None:
    picture = base64.b64encode(b"pixels").decode()
    drawn = {"output_type": "display_data", "data": {"image/png": picture, "text/plain": ["<x>"]}}
    printed = {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}
    value = {"output_type": "execute_result", "data": {"text/plain": ["3"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["print(1)\n", "3"], "outputs": [printed, value, drawn]},
        {"cell_type": "code", "source": [], "outputs": []},
    ]
    page, pictures = site_hooks.notebook_page({"cells": cells}, "one")
    assert pictures == {"one-0.png": b"pixels"}
    assert page.startswith("# Title\ntext\n\n```python\nprint(1)\n3\n```\n\n```text\n1\n2\n```\n\n")
    assert page.count("```python") == 1
    assert "```text\n3\n```" in page
    assert "(one-0.png)" in page
    assert "(one.ipynb)" in page


def test_formulas_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    content = r'<p>so <span class="arithmatex">\(a &lt; b\)</span></p>'
    shown = site_hooks.on_page_content(content, page=PAGE)
    assert re.search(r"<p>so <math .*<mo>&#x0003C;</mo>.*</math></p>", shown)
    block = '<div class="arithmatex">\\[\n\\frac{a}{b}\n\\]</div>'
    assert 'display="block"' in site_hooks.on_page_content(block, page=PAGE)


def test_formulas_that_cannot_be_drawn_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("latex2mathml")
    content = r'<span class="arithmatex">\(\nosuchcommand x\)</span>'
    site_hooks.on_page_content(content, page=PAGE)
    assert "nosuchcommand" in caplog.text


@pytest.mark.parametrize(
    ("output", "fetched"),
    [
        ('<script src="https://example.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//example.org/a.css">', True),
        ("<img alt=x src=https://example.org/a.png>", True),
        ('<script src="assets/a.js"></script>', False),
        ('<a href="https://example.org">', False),
    ],
)
def test_a_page_that_would_ask_another_server_is_warned_of(
    output: str, fetched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert site_hooks.on_post_page(output, page=PAGE) == output
    assert ("would fetch" in caplog.text) is fetched


def test_every_module_that_the_reference_names_exists() -> None:
    names = [
        name
        for page in (ROOT / "docs" / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(names) == len(set(names)) > 50
    for name in names:
        path = ROOT / "src" / name.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), name
