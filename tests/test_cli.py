"""The command line, end to end through the real entry point, and every mistake it should name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zegment import cli
from zegment.errors import ZegmentError

SHAPES = ["--set", "data.test_length=4"]


def zegment(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from zegment.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def invoke(*arguments: str | Path) -> tuple[int, str]:
    """Run the command in this process; return exit status and output, errors included."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, ZegmentError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    return path


def test_help_and_import_are_quick_and_leave_torch_alone() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import zegment, zegment.cli; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert all(loaded == "False" for _, loaded in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.5


def test_help_names_every_command() -> None:
    status, output = invoke("--help")
    assert status == 0
    for command in ("predict", "train", "evaluate", "demo"):
        assert command in output


def test_predict_writes_overlay_index_and_legend(photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    status, output = invoke(
        "predict",
        photo,
        "--model",
        "shapes-zegclip",
        "--classes",
        "moon, water, kite",
        "--out",
        out,
    )
    assert status == 0, output
    assert {p.name for p in out.iterdir()} == {
        "photo.overlay.png",
        "photo.labels.png",
        "legend.json",
    }
    legend = json.loads((out / "legend.json").read_text())
    assert [entry["name"] for entry in legend[:3]] == ["moon", "water", "kite"]
    labels = np.asarray(Image.open(out / "photo.labels.png"))
    assert labels.shape == (50, 70)
    assert labels.max() < 3


def test_predict_takes_folders(photo: Path, tmp_path: Path) -> None:
    Image.open(photo).save(tmp_path / "second.png")
    status, output = invoke(
        "predict",
        tmp_path,
        "--model",
        "shapes-clip",
        "--classes",
        "sand,snow",
        "--out",
        tmp_path / "o",
    )
    assert status == 0, output
    assert len(list((tmp_path / "o").glob("*.labels.png"))) == 2


def test_packaged_models_predict_their_own_classes(photo: Path, tmp_path: Path) -> None:
    status, output = invoke(
        "predict", photo, "--model", "shapes-one-stage", "--out", tmp_path / "o"
    )
    assert status == 0, output
    assert len(json.loads((tmp_path / "o" / "legend.json").read_text())) == 21


def test_evaluate_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    status, output = invoke(
        "evaluate", "shapes-zegclip", "--preset", "shapes-zegclip", *SHAPES, "--json", file
    )
    assert status == 0, output
    scores = json.loads(file.read_text())
    assert {"pAcc", "mIoU_seen", "mIoU_unseen", "hIoU", "per_class", "seen_penalty"} <= set(scores)
    assert 0 <= scores["pAcc"] <= 1
    assert scores["images"] == 4
    assert scores["seen_penalty"] == 0.1


def test_mistake_is_one_line_on_stderr_with_status_two(tmp_path: Path) -> None:
    result = zegment("predict", tmp_path / "none.jpg", "--out", tmp_path / "o")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "none.jpg" in result.stderr
    assert not (tmp_path / "o").exists()


def test_real_clip_without_network_names_the_offline_model(photo: Path, tmp_path: Path) -> None:
    status, message = invoke("predict", photo, "--classes", "cat", "--out", tmp_path / "o")
    assert status == 2
    assert "ViT-B-16/openai" in message
    assert "shapes-clip" in message
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "name"),
        ("moon,,kite", "empty"),
        ("moon, kite, moon", "moon"),
        ("very " * 60 + "long", "longer than the 32 tokens"),
    ],
    ids=["none", "empty", "duplicate", "too long"],
)
def test_bad_class_names_are_refused(
    photo: Path, tmp_path: Path, classes: str, message: str
) -> None:
    status, output = invoke(
        "predict", photo, "--model", "shapes-clip", "--classes", classes, "--out", tmp_path / "o"
    )
    assert status == 2
    assert message in output
    assert not (tmp_path / "o").exists()


def test_unreadable_image_is_named_before_anything_is_written(photo: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    status, output = invoke(
        "predict",
        photo,
        bad,
        "--model",
        "shapes-clip",
        "--classes",
        "sand",
        "--out",
        tmp_path / "o",
    )
    assert status == 2
    assert "bad.jpg" in output
    assert not (tmp_path / "o").exists()


def test_results_are_not_overwritten_unless_asked(photo: Path, tmp_path: Path) -> None:
    arguments = [
        "predict",
        photo,
        "--model",
        "shapes-clip",
        "--classes",
        "sand",
        "--out",
        tmp_path / "o",
    ]
    assert invoke(*arguments)[0] == 0
    status, output = invoke(*arguments)
    assert status == 2
    assert "--overwrite" in output
    assert invoke(*arguments, "--overwrite")[0] == 0


def test_images_of_one_name_are_refused(photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "other" / photo.name
    twin.parent.mkdir()
    Image.open(photo).save(twin)
    status, output = invoke(
        "predict",
        photo,
        twin,
        "--model",
        "shapes-clip",
        "--classes",
        "sand",
        "--out",
        tmp_path / "o",
    )
    assert status == 2
    assert "photo.labels.png" in output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--preset", "shapes-zegclop"], "shapes-zegclip"),
        (["--set", "optim.lrr=1"], "lr"),
        (["--set", "optim.steps=many"], "optim.steps"),
        (["--set", "text.templates=none"], "text.templates"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
    ids=["preset", "key", "type", "templates", "file"],
)
def test_bad_configuration_is_refused_before_the_run_folder_is_made(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    status, output = invoke("train", "--out", tmp_path / "run", *settings)
    assert status == 2
    assert message in output
    assert not (tmp_path / "run").exists()


def test_existing_json_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text("{}")
    status, output = invoke("evaluate", "shapes-zegclip", "--json", file)
    assert status == 2
    assert "--overwrite" in output
    assert file.read_text() == "{}"


def test_demo_shows_table_results_and_picture(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = zegment("demo", "--quick", "--out", out)
    assert result.returncode == 0, result.stderr
    results = json.loads((out / "results.json").read_text())
    assert list(results["methods"]) == ["dense_clip", "one_stage", "zegclip"]
    for scores in results["methods"].values():
        for key in ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU"):
            assert 0 <= scores[key] <= 1
    assert results["shortened"] is True
    assert Image.open(out / "comparison.png").width > 600
    assert (out / "zegclip" / "last" / "model.safetensors").is_file()
    for title in ("training-free CLIP", "one-stage baseline", "ZegCLIP"):
        assert title in result.stdout


def test_demo_does_not_touch_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    status, output = invoke("demo", "--quick", "--out", tmp_path)
    assert status == 2
    assert "in use" in output


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_unusable_device_is_named(photo: Path, tmp_path: Path, device: str) -> None:
    status, output = invoke(
        "predict",
        photo,
        "--model",
        "shapes-clip",
        "--classes",
        "sand",
        "--out",
        tmp_path / "o",
        "--device",
        device,
    )
    assert status == 2
    assert f"--device {device}" in output
    assert not (tmp_path / "o").exists()
