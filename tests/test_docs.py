"""Every command, program and file that README and docs show is run or read as it stands.

What a fence holds is told by its language. ``python`` and ``bash`` run, in the order of the page,
so that a program may read what a command before it wrote. ``toml``, ``json`` and ``yaml`` are read.
``sh`` and ``console`` hold commands that no test can run; their options are parsed. ``py`` is
compiled, and ``text`` is only shown. `SHOWN` counts what does not run, with the reason.
"""

import argparse
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import live_page
import miniatures
import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

import zegment
from zegment import cli, clip_loading
from zegment.config.loading import load_config
from zegment.data.shapes import ShapesDataset
from zegment.segmenter import load
from zegment.serving.settings import ServeSettings
from zegment.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [path.relative_to(ROOT).as_posix() for path in FILES]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
RUN, READ = {"python", "bash"}, {"toml", "json", "yaml"}
PARSED, COMPILED, TEXT = {"sh", "console"}, {"py"}, {"text"}
SHOWN = {
    "CONTRIBUTING.md": (3, "installs packages, runs this very test, serves until stopped"),
    "docs/benchmarks.md": (1, "released checkpoints; test_zegclip_import has files of their form"),
    "docs/cluster.md": (6, "several GPUs or machines; test_distributed has processes on CPUs"),
    "docs/deployment.md": (2, "installs packages; hours of measuring"),
    "docs/first-ten-minutes.md": (
        3,
        "installs packages; a CLIP from a network; serves until stopped",
    ),
    "docs/hub.md": (3, "an account and a network; test_model_hub has a Hub of its own"),
    "docs/millions-of-images.md": (1, "a cluster"),
    "docs/models.md": (6, "hours of training on data sets; test_presets builds each"),
    "docs/outputs.md": (1, "FiftyOne, which needs MongoDB"),
    "docs/reliability.md": (1, "hours"),
    "docs/results.md": (8, "hours"),
    "docs/scaling.md": (2, "hours of measuring"),
    "docs/serving.md": (2, "serves until stopped; curl, which has a test of its own"),
    "docs/settings.md": (1, "a launcher; test_distributed"),
    "docs/study.md": (1, "hours; test_study does a tiny one"),
}
"""How many fences of a page do not run (`PARSED` and `COMPILED`), and why."""
ELSEWHERE = ("python -m pip install", "zegment demo", "python benchmarks/parity.py")
"""Beginnings of commands that other tests and the continuous integration run."""
SHORT = [
    "--set=optim.steps=4",
    "--set=optim.warmup_steps=1",
    "--set=optim.batch_size=2",
    "--set=data.val_length=2",
    "--set=data.test_length=2",
]
SMALL = ["--set=augment.crop_size=[64, 64]", "--set=optim.micro_batch_size=2"]
ADDRESS = "http://127.0.0.1:7860"


class Fence(NamedTuple):
    language: str
    text: str


def fences(page: str) -> list[Fence]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"^( *)```(.*?)\n(.*?)^\1```$", text, flags=re.DOTALL | re.MULTILINE)
    return [Fence(language, textwrap.dedent(content)) for _, language, content in found]


def prose(page: str) -> list[str]:
    """Return the lines of a page, those of fences empty."""
    lines, inside = [], False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        edge = line.lstrip().startswith("```")
        lines.append("" if inside or edge else line)
        inside ^= edge
    assert not inside, f"{page}: a fence does not end"
    return lines


def commands(text: str) -> Iterator[list[str]]:
    """Return the words of each ``zegment`` or ``python FILE`` command in a shell's lines."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for i, word in enumerate(words):
            known = word == "zegment" or (word == "python" and words[i + 1].endswith(".py"))
            if known and words[i + 1 : i + 2]:
                rest = words[i:]
                ends = (k for k, part in enumerate(rest) if part in {"||", "&&", "|", ";"})
                yield [part for part in rest[: next(ends, None)] if not part.startswith("$")]
                break


@pytest.fixture
def workplace(tmp_path: Path, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a photograph and data, where a CLIP can be downloaded."""
    resolve = clip_loading._resolve
    downloaded = (f"local-dir:{tiny_clip_folder}", None)
    monkeypatch.setattr(
        clip_loading,
        "_resolve",
        lambda name: downloaded if name == "ViT-B-16/openai" else resolve(name),
    )
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    scene = ShapesDataset("test", length=1, size=96)[0][0]
    Image.fromarray(scene.permute(1, 2, 0).numpy()).save("scene.png")
    photo = Image.fromarray(generator.integers(0, 255, (60, 80, 3), np.uint8))
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        photo.save(name)
    for split in ("train", "val", "test"):
        for kind, shape, most, suffix in (
            ("images", (200, 260, 3), 255, "jpg"),
            ("masks", (200, 260), 4, "png"),
        ):
            folder = tmp_path / split / kind
            folder.mkdir(parents=True)
            for i in range(2):
                pixels = generator.integers(0, most, shape, np.uint8)
                if kind == "masks":
                    pixels[:40] = 255  # none of the classes
                Image.fromarray(pixels).save(folder / f"{i}.{suffix}")
    return tmp_path


@contextmanager
def what_a_page_finds(page: str, workplace: Path) -> Iterator[str]:
    """Put there what a page says to have got already; gives the address of its server."""
    if page == "docs/benchmarks.md":
        miniatures.every_data_set(workplace / "data")
        miniatures.pack(workplace / "VOCtrainval_11-May-2012.tar", miniatures.voc2012())
        miniatures.pack(workplace / "benchmark.tgz", miniatures.sbd())
    if page == "docs/millions-of-images.md":
        with tarfile.open(workplace / "part-000.tar", "w") as archive:
            archive.add("photo.jpg")
    if page == "docs/serving.md":
        with live_page.live(load("shapes-clip-zss"), ServeSettings(port=0)) as server:
            yield server.address
    else:
        yield ADDRESS


@pytest.mark.parametrize("page", [page for page in PAGES if any(f[0] in RUN for f in fences(page))])
def test_commands_and_programs_run(workplace: Path, page: str) -> None:
    shown = fences(page)
    first = [fence for fence in shown if fence.language == "toml"][
        :1
    ]  # commands may stand above it
    with what_a_page_finds(page, workplace) as address:
        for language, text in [*first, *shown]:
            if language == "toml":
                for name in ("mine", "words", "two"):
                    (workplace / f"{name}.toml").write_text(text)
            elif language == "python":
                run_program(text.replace(ADDRESS, address), page)
            elif language == "bash":
                for line in text.splitlines():
                    if line and not line.startswith(ELSEWHERE):
                        run_command(line, page)


def run_program(program: str, page: str) -> None:
    names: dict[str, object] = {}
    exec(compile(program, page, "exec"), names)  # noqa: S102 - it is our own page
    if "resize" in names:  # what needs no Zegment gives the same labels
        result = zegment.load("frozen-onnx")("photo.jpg")
        assert (names["labels"] != result.labels).mean() < 1e-3


def run_command(line: str, page: str) -> None:
    program, *arguments = shlex.split(line)
    assert program == "zegment"
    short = SHORT if arguments[0] == "train" and "--resume" not in arguments else []
    if page == "docs/benchmarks.md" and short:
        short = [*short, *SMALL]
    result = CliRunner().invoke(cli.app, [*arguments, *short])
    # A miniature has fewer images than were published, which a check must say.
    expected = 1 if arguments[:2] == ["data", "check"] else 0
    assert result.exit_code == expected, f"{line}\n{result.output}\n{result.exception}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_above(workplace: Path, notebook: Path) -> None:
    names: dict[str, object] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), notebook.name, "exec"), names)  # noqa: S102
    assert names, "no code"


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_says_what_becomes_of_it(page: str) -> None:
    count = Counter(fence.language for fence in fences(page))
    assert set(count) <= RUN | READ | PARSED | COMPILED | TEXT
    shown = sum(count[language] for language in PARSED | COMPILED)
    assert shown == SHOWN.get(page, (0, ""))[0], "SHOWN says how many do not run, and why"


def test_what_does_not_run_is_said_of_pages_that_exist() -> None:
    assert set(SHOWN) <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_files_are_read_and_fragments_compiled(page: str, tmp_path: Path) -> None:
    for language, text in fences(page):
        if language == "toml":
            (tmp_path / "mine.toml").write_text(text)
            if page == "docs/vocabulary.md":
                assert Vocabulary.of(tmp_path / "mine.toml").combine == "max"
            else:
                load_config(file=tmp_path / "mine.toml")
        elif language == "json":
            json.loads(text)
        elif language == "yaml":
            assert yaml.safe_load(text)
        elif language == "py":
            compile(text, page, "exec")


class ParsedError(Exception):
    """The options of a script were understood, so that it can be left."""


@pytest.mark.parametrize("page", PAGES)
def test_options_of_commands_that_do_not_run_are_understood(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_leave(self: argparse.ArgumentParser) -> None:
        parse(self)
        raise ParsedError

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_leave)
    shown = [text for language, text in fences(page) if language in PARSED]
    shown += re.findall(r"`(python (?:benchmarks|scripts)/[^`]* --[^`]*)`", "\n".join(prose(page)))
    for program, *words in commands("\n".join(shown)):
        if program == "zegment":
            parse_options(words)
        elif "parse_args" in (ROOT / words[0]).read_text(encoding="utf-8"):
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(ParsedError):
                runpy.run_path(words[0], run_name="__main__")


def parse_options(words: list[str]) -> None:
    """Let the command line parse words and run nothing; raises what it says of wrong ones."""
    command, context = typer.main.get_command(cli.app), None
    while hasattr(command, "commands"):
        name, *words = words
        context = type(command).context_class(command, parent=context, info_name=name)
        command = command.commands[name]
    command.make_context(command.name, words, parent=context)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_a_picture_is_segmented_with_curl(workplace: Path) -> None:
    (script,) = (text for _, text in fences("docs/serving.md") if "curl" in text)
    with what_a_page_finds("docs/serving.md", workplace) as address:
        done = subprocess.run(
            ["/bin/bash", "-c", script.replace(ADDRESS, address)],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    assert "event: complete" in done.stdout
    assert '"heart"' in done.stdout


def slug(heading: str) -> str:
    """Return the anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    lines = prose(path.relative_to(ROOT).as_posix())
    return {slug(line.lstrip("#")) for line in lines if re.match("#+ ", line)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings_that_exist(page: str) -> None:
    path = ROOT / page
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", "\n".join(prose(page))):
        place = path.parent / target if target else path
        assert place.exists(), f"{page} links to {target}"
        if anchor and place.suffix == ".md":
            assert anchor[1:] in anchors(place), f"{page} links to {target}{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_lists_are_lists_on_github_and_on_the_site(page: str) -> None:
    """The site's Markdown wants an empty line before a list, and four spaces in its items."""
    before, inside, begins_as_item = "", False, False
    for number, line in enumerate(prose(page), start=1):
        where = f"{page}:{number}"
        item = re.match(r"( *)([-*]|\d+\.) ", line)
        if line.strip() and not before:  # a block begins
            begins_as_item = item is not None
            inside = begins_as_item or (inside and line.startswith(" "))
            assert item or not inside or line.startswith("    "), f"{where}: less than four spaces"
        if item:
            assert begins_as_item, f"{where}: no empty line before the list"
            assert len(item[1]) % 4 == 0, f"{where}: {len(item[1])} spaces before an item"
        before = line.strip()


def test_readme_table_is_what_was_measured() -> None:
    """Methods and columns are those that the demo prints."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("<!-- demo table -->")[1].split("<!-- end of demo table -->")[0]
    header, _, *rows = table.strip().splitlines()
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    assert columns == ["method", "pAcc", "mIoU(S)", "mIoU(U)", "hIoU", "images/s"]
    titles = [row.strip("|").split("|")[0].strip() for row in rows]
    assert titles == ["training-free CLIP", "one-stage baseline", "ZegCLIP", "CLIP-ZSS"]
    for row in rows:
        seen, unseen, harmonic = (float(x) for x in row.strip("|").split("|")[2:5])
        # The printed mean is that of the printed parts, up to their rounding.
        assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen), abs=0.2)


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    install_and_demo, install_and_test = (
        text.strip() for language, text in fences("README.md") if "pip install" in text
    )
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"({install_and_test})" in script
    assert f"({install_and_demo} --quick" in script
