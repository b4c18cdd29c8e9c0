"""Precision, windows and blending as options of the commands."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zegment
from zegment import cli
from zegment.commands.running import Running
from zegment.errors import ConfigError, ImageError, OutputError
from zegment.inference.running import Execution
from zegment.prediction.files import read_index_png


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "a.png"
    coarse = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    Image.fromarray(coarse).resize((140, 100), Image.Resampling.BICUBIC).save(path)
    return path


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def predict(photo: Path, out: Path, *options: str) -> str:
    return run("predict", photo, "--model", "shapes-zegclip", "--out", out, *options)


def labels(photo: Path, **changes: object) -> np.ndarray:
    segmenter = zegment.load("shapes-zegclip")
    segmenter.run_as(Execution(windows=replace(segmenter.windows, **changes)))
    return segmenter(photo).labels


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["--windows", "64/48"], {"size": 64, "stride": 48}),
        (["--windows", "whole"], {"size": None, "stride": None}),
        (
            ["--windows", "64/48", "--blend", "smooth"],
            {"size": 64, "stride": 48, "blend": "smooth"},
        ),
    ],
)
def test_windows_and_blending_are_those_asked_for(
    photo: Path, tmp_path: Path, options: list[str], changes: dict[str, object]
) -> None:
    predict(photo, tmp_path / "out", *options)
    found = read_index_png(tmp_path / "out" / "a.labels.png", 20)
    assert np.array_equal(found, labels(photo, **changes))
    assert not np.array_equal(found, labels(photo))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {key: record["windows"][key] for key in changes} == changes


def test_short_precision_tells_how_many_labels_it_keeps(photo: Path, tmp_path: Path) -> None:
    said = predict(photo, tmp_path / "out", "--precision", "bfloat16")
    segmenter = zegment.load("shapes-zegclip", execution=Execution(precision="bfloat16"))
    short = segmenter(photo).labels
    share = 100 * (short == labels(photo)).mean()
    assert 90 < share <= 100
    assert f"bfloat16: {share:.2f} % of the labels of a are float32's" in said
    assert np.array_equal(read_index_png(tmp_path / "out" / "a.labels.png", 20), short)


def test_a_folder_is_not_gone_on_with_in_another_way(photo: Path, tmp_path: Path) -> None:
    predict(photo, tmp_path / "out")
    with pytest.raises(OutputError, match="windows: size was '96' and is '64'"):
        predict(photo, tmp_path / "out", "--windows", "64/48")
    with pytest.raises(OutputError, match="precision was 'float32' and is 'bfloat16'"):
        predict(photo, tmp_path / "out", "--precision", "bfloat16")


@pytest.mark.parametrize("text", ["64", "64/0", "a/b", "0/0", "WHOLE", "64/48/2", "-5/3"])
def test_windows_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--windows is .*give whole, or SIZE/STRIDE"):
        Running(windows=text)


@pytest.mark.parametrize(
    ("text", "reason"), [("64/100", "--windows 64/100: stride"), ("4/4", "--windows 4/4.*8 pixels")]
)
def test_windows_that_leave_gaps_or_show_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Running(windows=text).apply(zegment.load("shapes-zegclip"))


def test_evaluation_says_how_the_model_was_run(tmp_path: Path) -> None:
    other = tmp_path / "four.toml"
    other.write_text("[data]\ntest_length = 4\n")
    base = ["evaluate", "shapes-zegclip", "--config", other, "--json"]
    run(*base, tmp_path / "usual.json")
    run(*base, tmp_path / "own.json", "--windows", "48/24", "--precision", "bfloat16")
    usual, own = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("usual", "own"))
    assert "precision" not in usual
    assert own["precision"] == "bfloat16"
    assert (own["windows"]["size"], own["windows"]["stride"]) == (48, 24)
    assert own["mIoU"] != usual["mIoU"]


def test_an_address_is_referred_to_the_engine_that_reads_it(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="--engine ray"):
        run("predict", "s3://bucket/photos", "--out", tmp_path / "out")
