"""What MkDocs does besides turning docs/ into a site: `mkdocs.yml` names this file.

README, CONTRIBUTING and LICENSE become pages, so that none of them is written twice; notebooks
become pages from the outputs that they hold; LaTeX becomes MathML, so that no script is fetched for
it; and links that work in the repository lead to the right place of the site. What cannot be done,
and a page that would ask another server for anything, is a warning: ``--strict`` ends with it.
"""

from __future__ import annotations

import html
import json
import logging
import posixpath
import re
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "LICENSE": "LICENSE.txt"}
"""Files beside docs/, and what they are in the site."""

log = logging.getLogger("mkdocs.hooks.site")

FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link)\b(?![^>]*rel=\"canonical\")[^>]*"
    r"(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages whose text lies elsewhere or has another form."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - tests do without MkDocs

    for source, target in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            name = file.src_uri.removesuffix(".ipynb")
            page, pictures = notebook_page(
                json.loads(file.content_string), posixpath.basename(name)
            )
            files.append(File.generated(config, f"{name}.md", content=page))
            for picture, data in pictures.items():
                target = posixpath.join(posixpath.dirname(name), picture)
                files.append(File.generated(config, target, content=data))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Change what GitHub and Python's Markdown understand differently; code stays as it is."""
    written = {target: source for source, target in OUTSIDE.items()}
    home = page.file.src_uri
    origin = written.get(home, f"docs/{home}")
    parts: list[str] = []
    end = 0
    for fence in FENCE.finditer(markdown):
        parts += [_prose(markdown[end : fence.start()], origin), fence[0]]
        end = fence.end()
    return "".join([*parts, _prose(markdown[end:], origin)])


def on_page_content(content: str, *, page: Page, **_: object) -> str:
    """Write formulas as MathML, which browsers draw by themselves."""
    return FORMULA.sub(lambda found: _mathml(found, page.file.src_uri), content)


def on_post_page(output: str, *, page: Page, **_: object) -> str:
    """Warn of whatever a page would fetch from another server."""
    for address in FETCHED.findall(output):
        log.warning("%s would fetch %s", page.file.src_uri, address)
    return output


def notebook_page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by the names that the page calls them.

    Args:
        notebook: As JSON holds it, of format 4.
        name: Of its file, without the ending.
    """
    blocks: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code" and source:
            blocks.append(f"```python\n{source}\n```")
            for kind, content in map(_shown, cell["outputs"]):
                if kind == "image":
                    picture = f"{name}-{len(pictures)}.png"
                    pictures[picture] = b64decode(content)
                    blocks.append(f"![What the program above drew]({picture})")
                elif content.strip():
                    blocks.append(f"```text\n{content.rstrip()}\n```")
    blocks.append(f"[The notebook itself]({name}.ipynb), to run.")
    return "\n\n".join(blocks) + "\n", pictures


def site_link(text: str, target: str, anchor: str, origin: str) -> str:
    """Return a Markdown link of the repository as a link of the site.

    Args:
        text: What is shown.
        target: Relative to the folder of ``origin``.
        anchor: With ``#``, or empty.
        origin: Path of the page in the repository.

    Returns:
        The link, and for Python files of the package one to the module's place in the reference.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    if path.startswith("src/zegment") and path.endswith(".py"):
        module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
        return f"[{text}][{module.replace('/', '.')}]"
    place = OUTSIDE.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if place is None:  # MkDocs says that it is not there
        return f"[{text}]({target}{anchor})"
    home = OUTSIDE.get(origin, origin.removeprefix("docs/"))
    if place.endswith(".ipynb") and (shown := place.removesuffix("ipynb") + "md") != home:
        place = shown  # only the page of a notebook leads to its file
    return f"[{text}]({posixpath.relpath(place, posixpath.dirname(home) or '.')}{anchor})"


def _prose(text: str, origin: str) -> str:
    text = LINK.sub(lambda found: site_link(found[1], found[2], found[3] or "", origin), text)
    # In a table GitHub wants the bar of a code span escaped; Python's Markdown shows the escape.
    return "\n".join(
        re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), line)
        if line.lstrip().startswith("|")
        else line
        for line in text.split("\n")
    )


def _mathml(found: re.Match[str], place: str) -> str:
    from latex2mathml.converter import convert  # noqa: PLC0415 - likewise

    latex = html.unescape(found[2]).strip()
    written = convert(latex, display="block" if found[1] == "div" else "inline")
    if "\\" in written:
        log.warning("%s holds LaTeX that becomes no MathML: %s", place, latex)
    return written


def _shown(output: dict[str, Any]) -> tuple[str, str]:
    if "text" in output:  # printed
        return "text", "".join(output["text"])
    data = output.get("data", {})
    if "image/png" in data:
        return "image", "".join(data["image/png"])
    return "text", "".join(data.get("text/plain", ""))
