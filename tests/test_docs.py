"""Every command, program and file that README and docs show is run as it stands."""

import re
import shlex
from pathlib import Path

import miniatures
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zegment
from zegment import cli, clip_loading
from zegment.config.loading import load_config
from zegment.data.shapes import ShapesDataset
from zegment.vocabulary import Vocabulary

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/first-ten-minutes.md",
    "docs/vocabulary.md",
    "docs/outputs.md",
    "docs/deployment.md",
    "docs/hub.md",
    "docs/your-own-data.md",
    "docs/clip-zss.md",
    "docs/settings.md",
    "docs/benchmarks.md",
    "docs/scaling.md",
    "docs/reliability.md",
]
SHORT = [
    "--set=optim.steps=4",
    "--set=optim.warmup_steps=1",
    "--set=optim.batch_size=2",
    "--set=data.val_length=2",
    "--set=data.test_length=2",
]
ELSEWHERE = ("python -m pip install", "zegment demo", "python benchmarks/parity.py")
"""Beginnings of commands that other tests and the continuous integration run."""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


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


@pytest.mark.parametrize("page", PAGES)
def test_programs_run(workplace: Path, page: str) -> None:
    for program in blocks(page, "python"):
        names: dict[str, object] = {}
        exec(compile(program, page, "exec"), names)  # noqa: S102 - it is our own page
        if "resize" in names:  # what needs no Zegment gives the same labels
            result = zegment.load("frozen-onnx")("photo.jpg")
            assert (names["labels"] != result.labels).mean() < 1e-3
    if page == "README.md":
        assert (workplace / "overlay.png").is_file()


@pytest.fixture
def downloads(workplace: Path) -> Path:
    """Return that directory with every natural data set, and the archives of VOC and SBD."""
    miniatures.every_data_set(workplace / "data")
    miniatures.pack(workplace / "VOCtrainval_11-May-2012.tar", miniatures.voc2012())
    miniatures.pack(workplace / "benchmark.tgz", miniatures.sbd())
    return workplace


@pytest.mark.parametrize("page", PAGES)
def test_configurations_are_read(page: str, tmp_path: Path) -> None:
    for toml in blocks(page, "toml"):
        (tmp_path / "mine.toml").write_text(toml)
        if page == "docs/vocabulary.md":
            assert Vocabulary.of(tmp_path / "mine.toml").combine == "max"
        else:
            load_config(file=tmp_path / "mine.toml")


@pytest.mark.parametrize("page", PAGES)
def test_commands_run(workplace: Path, page: str, request: pytest.FixtureRequest) -> None:
    if page == "docs/benchmarks.md":
        request.getfixturevalue("downloads")
    for toml in blocks(page, "toml")[:1]:
        (workplace / "mine.toml").write_text(toml)
        (workplace / "words.toml").write_text(toml)
    commands = [line for block in blocks(page, "bash") for line in block.splitlines() if line]
    commands = [line for line in commands if not line.startswith(ELSEWHERE)]
    assert commands
    for line in commands:
        program, *arguments = shlex.split(line)
        assert program == "zegment"
        begun = arguments[0] == "train" and "--resume" not in arguments
        short = SHORT if begun else []
        if page == "docs/benchmarks.md" and short:
            short = [
                *short, "--set=augment.crop_size=[64, 64]", "--set=optim.micro_batch_size=2",
            ]  # fmt: skip
        result = CliRunner().invoke(cli.app, [*arguments, *short])
        # A miniature has fewer images than were published, which a check must say.
        expected = 1 if arguments[:2] == ["data", "check"] else 0
        assert result.exit_code == expected, f"{line}\n{result.output}\n{result.exception}"


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


def test_pages_link_to_files_that_exist() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    install_and_demo, install_and_test = (
        block.strip() for block in blocks("README.md", "bash") if "pip install" in block
    )
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"({install_and_test})" in script
    assert f"({install_and_demo} --quick" in script
