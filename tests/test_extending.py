"""docs/extending.md is followed to the letter, on a copy of the package.

The first half of a program becomes a module, `CHANGES` are made where they say, and the commands
that stand beside them run.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES = {
    "class DenseAdapter": "src/zegment/models/adapter.py",
    "class NpzDataset": "src/zegment/data/npz.py",
}
TESTS = (
    "conftest.py", "miniatures.py", "test_models.py", "test_benchmarks.py", "test_class_sets.py",
)  # fmt: skip
SHORT = ["--set=optim.steps=2", "--set=optim.warmup_steps=1", "--set=optim.batch_size=2"]
FEW = ["--set=data.train_length=4", "--set=data.val_length=2", "--set=data.test_length=2"]
FOLLOWED = """
import shlex
from pathlib import Path

import numpy as np
import pytest
from miniatures import desk, pack
from typer.testing import CliRunner

from zegment.cli import app


def run(line, *more):
    result = CliRunner().invoke(app, [*shlex.split(line)[1:], *more])
    assert result.exit_code == 0, f"{{line}}\\n{{result.output}}\\n{{result.exception}}"
    return result.output


def test_the_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack(tmp_path / "desk.zip", desk())
    for line in {commands!r}:
        run(line, *({short!r} if "train" in line.split()[1] else ()))
    assert "DenseAdapter" not in Path("runs/adapter/config.toml").read_text()
    assert "share = 0.3" in Path("runs/adapter/config.toml").read_text()
    assert "4 classes" in run("zegment data list")


def test_the_reader_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 256, (2, 32, 32, 3), np.uint8), rng.integers(0, 2, (2, 32, 32))
    np.savez("both.npz", images=images, masks=masks)
    Path("mine.toml").write_text(
        '[data]\\nsource = "npz"\\nclasses = ["a", "b"]\\n'
        '[data.train]\\nimages = "both.npz"\\nmasks = ""\\n'
        '[data.test]\\nimages = "both.npz"\\nmasks = ""\\n'
        "[augment]\\ncrop_size = [32, 32]\\n"
    )
    run("zegment train --config mine.toml --out runs/npz", *{steps!r})
"""


def texts() -> list[str]:
    return re.findall(r"^```text\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def change(root: Path, text: str) -> set[str]:
    """Make the changes of a text below a folder; return the files that were changed.

    A file begins with ``---``, a place in it with ``@@``. There a line that begins with a space or
    a minus must stand, and one that begins with a plus will.
    """
    files = re.split(r"^--- (.*)\n", text, flags=re.MULTILINE)[1:]
    for name, content in zip(files[::2], files[1::2], strict=True):
        path = root / name
        source = path.read_text(encoding="utf-8")
        for hunk in content.split("@@\n")[1:]:
            lines = hunk.splitlines()
            old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
            assert source.count(old) == 1, f"{name} has this {source.count(old)} times:\n{old}"
            source = source.replace(old, new)
        path.write_text(source, encoding="utf-8")
    return set(files[::2])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the package that was extended as the page says."""
    root = tmp_path_factory.mktemp("extended")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "zegment", root / "src" / "zegment", ignore=ignored)
    (root / "tests").mkdir()
    for name in TESTS:
        shutil.copy(ROOT / "tests" / name, root / "tests")
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    for name, path in MODULES.items():
        (program,) = (program for program in programs if name in program)
        (root / path).write_text(program.partition("\n\n\nimport ")[0] + "\n", encoding="utf-8")
    for text in texts():
        if text.startswith("# src/"):
            (root / text.partition("\n")[0][2:]).write_text(text, encoding="utf-8")
        elif text.startswith("--- "):
            change(root, text)
    return root


def test_what_the_page_changes_is_of_the_style_of_the_rest(copy: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [
                sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml",
                "src/zegment",
            ],
            cwd=copy, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_page_says_can_be_followed(copy: Path) -> None:
    lines = "\n".join(text for text in texts() if text.startswith(("pytest", "zegment")))
    commands = [line for line in lines.splitlines() if line.startswith("zegment")]
    content = FOLLOWED.format(commands=commands, short=[*SHORT, *FEW], steps=SHORT)
    (copy / "tests" / "test_followed.py").write_text(content, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests",
            "-k", "DenseAdapter or desk or has_a_miniature or of_the_page",
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy / 'tests'}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 22
