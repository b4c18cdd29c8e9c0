"""The command line, end to end through the real entry point, and every mistake it should name."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
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
        "import sys, time; import rich.console, rich.markup, typer, numpy, PIL.Image; "
        "others = time.process_time(); import zegment, zegment.cli; "
        "print((time.process_time() - others) / others, 'torch' in sys.modules)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert all(loaded == "False" for _, loaded in runs)
    # Of the time for Python and the libraries that a command line cannot do without.
    assert min(float(share) for share, _ in runs) < 1


def test_help_names_every_command() -> None:
    status, output = invoke("--help")
    assert status == 0
    for command in ("predict", "train", "evaluate", "figure", "demo"):
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
        "run.json",
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


def predict_sand(out: Path, *images: Path, more: Sequence[str] = ()) -> tuple[int, str]:
    return invoke("predict", *images, "--model=shapes-clip", "--classes=sand", "--out", out, *more)


def test_one_bad_file_does_not_end_a_run_and_the_exit_status_tells(
    photo: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    status, output = predict_sand(tmp_path / "o", bad, photo)
    assert status == 1
    assert "1 of 2 could not be read" in output
    assert "bad.jpg" in output
    assert (tmp_path / "o" / "photo.labels.png").is_file()
    bad.unlink()
    Image.open(photo).save(bad)
    status, output = predict_sand(tmp_path / "o", bad, photo)
    assert status == 0
    assert "wrote results of 1" in output
    assert "1 were finished before" in output


def test_a_missing_picture_of_a_list_is_listed_at_the_end(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"gone.jpg\n{photo.name}\n")
    status, output = predict_sand(tmp_path / "o", tmp_path / "list.txt")
    assert status == 1
    assert "gone.jpg" in output
    assert (tmp_path / "o" / "photo.labels.png").is_file()


def test_one_class_alone_is_pointed_out(photo: Path, tmp_path: Path) -> None:
    hint = "one class alone gets every pixel"
    assert hint in predict_sand(tmp_path / "a", photo)[1]
    assert hint not in predict_sand(tmp_path / "b", photo, more=["--background=threshold"])[1]


def test_results_made_otherwise_are_not_overwritten_unless_asked(
    photo: Path, tmp_path: Path
) -> None:
    assert predict_sand(tmp_path / "o", photo)[0] == 0
    status, output = predict_sand(tmp_path / "o", photo, more=["--background=threshold:0.3"])
    assert status == 2
    assert "background was 'none' and is 'threshold:0.3'" in output
    assert "--overwrite" in output
    more = ["--background=threshold:0.3", "--overwrite"]
    assert predict_sand(tmp_path / "o", photo, more=more)[0] == 0


def test_overwriting_with_other_words_leaves_nothing_of_the_earlier_run(
    photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o"
    assert predict_sand(out, photo, more=["--save=masks", "--format=coco-polygons"])[0] == 0
    assert predict_sand(out, photo, more=["--classes=sea, snow", "--overwrite"])[0] == 0
    made = {"run.json", "legend.json", "photo.labels.png", "photo.overlay.png"}
    assert {path.name for path in out.iterdir()} == made
    assert "removed first" in " ".join(invoke("predict", "--help")[1].replace("│", " ").split())


def test_interrupted_run_says_how_to_go_on(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zegment.prediction import run

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "predict_all", interrupted)
    for more, words in (([], "the same command goes on"), (["--overwrite"], "without --overwrite")):
        arguments = ["predict", photo, "--model=shapes-clip", "--classes=sand", "--out"]
        result = CliRunner().invoke(cli.app, [*map(str, arguments), str(tmp_path / "o"), *more])
        assert result.exit_code == 130
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_folder_that_cannot_be_written_to_is_named_before_the_model_is_loaded(
    photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("predict", photo, "--model", "no-such-model", "--out", tmp_path / "file" / "o")
    status, message = invoke(*arguments)
    assert status == 2
    assert "cannot write" in message


def test_folders_that_were_not_looked_into_are_counted(photo: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep" / "er"
    deep.mkdir(parents=True)
    Image.open(photo).save(deep / "x.png")
    status, output = predict_sand(tmp_path / "o", tmp_path)
    assert status == 0, output
    assert f"1 folder with pictures in '{tmp_path}' was not looked into" in output
    assert f"'{tmp_path}/**/*'" in output
    status, output = predict_sand(tmp_path / "all", f"{tmp_path}/**/*")
    assert "wrote results of 2 " in output
    assert "not looked into" not in output


def test_file_whose_name_is_not_utf8_does_not_break_what_is_printed(
    photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/m\xfcller.png"))
    odd.write_bytes(photo.read_bytes())
    Path(os.fsdecode(os.fsencode(folder) + b"/x\xff.png")).write_bytes(b"no picture")
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    arguments = ("predict", folder, "--model=shapes-clip", "--classes=sand", "--out", out)
    result = zegment(*arguments)
    assert result.returncode == 1, result.stderr
    assert "1 of 2 could not be read" in result.stderr
    assert (out / f"{odd.stem}.labels.png").is_file()
    result = zegment(*arguments, "--format=cvat")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "m\\xfcller.png" in result.stderr


def test_images_of_one_name_keep_their_folders(photo: Path, tmp_path: Path) -> None:
    twin = tmp_path / "other" / photo.name
    twin.parent.mkdir()
    Image.open(photo).save(twin)
    status, output = predict_sand(tmp_path / "o", photo, twin)
    assert status == 0, output
    assert len(list((tmp_path / "o").rglob("*.labels.png"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--background=sometimes"], "no policy"),
        (["--save=everything"], "cannot save 'everything'"),
        (["--format=coca"], "coca"),
        (["--smoothing=1"], "smoothing"),
        (["--every=0"], "every"),
        (["--templates=two"], "no set of templates"),
        (["--classes=words.txt"], "words.txt"),
    ],
)
def test_mistaken_options_are_refused_before_anything_is_written(
    photo: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    status, output = predict_sand(tmp_path / "o", photo, more=options)
    assert status == 2
    assert message in output
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("arguments", "before"),
    [
        (["predict", "", "--out", "o"], "predict"),
        (["predict", "a.png", "", "--out", "o"], "a.png"),
        (["predict", "a.png", "--out", ""], "--out"),
        (["predict", "a.png", "--out="], "--out"),
        (["predict", "a.png", "--out", "o", "--classes", ""], "--classes"),
        (["train", "--resume", ""], "--resume"),
        (["data", "check", "voc20", "--root", ""], "--root"),
        (["table", "shapes-zegclip", "--suite", "training-free", "--root=", "--out=o"], "--root"),
        ([""], "zegment"),
    ],
)
def test_an_empty_text_never_stands_for_the_working_folder(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], before: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(photo.parent)
    monkeypatch.setattr(sys, "argv", ["zegment", *arguments])
    monkeypatch.setattr(cli, "errors", Console(stderr=True, width=200))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: what follows '{before}' is empty; give a")
    assert [path.name for path in photo.parent.iterdir()] == [photo.name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--set", "data.root="], 'data.root=" sets nothing'),
        (["--preset", "shapes-zegclop"], "shapes-zegclip"),
        (["--set", "optim.lrr=1"], "lr"),
        (["--set", "optim.steps=many"], "optim.steps"),
        (["--set", "text.templates=none"], "text.templates"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
    ids=["empty", "preset", "key", "type", "templates", "file"],
)
def test_bad_configuration_is_refused_before_the_run_folder_is_made(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    status, output = invoke("train", "--out", tmp_path / "run", *settings)
    assert status == 2
    assert message in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--json", "--sweep-calibration"])
def test_a_name_too_long_is_refused_before_anything_is_measured(
    tmp_path: Path, option: str
) -> None:
    status, output = invoke("evaluate", "shapes-zegclip", option, tmp_path / ("n" * 300))
    assert status == 2
    assert "File name too long; choose another name" in " ".join(output.split())


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
    assert list(results["methods"]) == ["dense_clip", "one_stage", "zegclip", "clip_zss"]
    for scores in results["methods"].values():
        for key in ("pAcc", "mIoU_seen", "mIoU_unseen", "hIoU"):
            assert 0 <= scores[key] <= 1
    assert results["shortened"] is True
    assert Image.open(out / "comparison.png").width > 600
    for method in ("zegclip", "clip_zss"):
        assert (out / method / "last" / "model.safetensors").is_file()
    for title in ("training-free CLIP", "one-stage baseline", "ZegCLIP", "CLIP-ZSS"):
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


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Return a data set of three images and its TOML file, in order."""
    for kind, pixels in (
        ("images", np.full((40, 48, 3), 90, np.uint8)),
        ("masks", np.arange(40 * 48, dtype=np.uint8).reshape(40, 48) % 2),
    ):
        (tmp_path / kind).mkdir()
        for name in "abc":
            Image.fromarray(pixels).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "mine.toml").write_text(
        '[data]\nsource = "folder"\nclasses = ["sand", "snow"]\n'
        '[data.train]\nimages = "images"\nmasks = "masks"\n'
        "[augment]\ncrop_size = [32, 32]\n[optim]\nsteps = 2\nbatch_size = 2\n"
    )
    return tmp_path


def spoil(data: Path, mistake: str) -> None:
    mask = data / "masks" / "b.png"
    match mistake:
        case "image without mask":
            mask.unlink()
        case "mask without image":
            (data / "images" / "b.png").unlink()
        case "mask of another size":
            Image.new("L", (20, 20)).save(mask)
        case "colour mask":
            Image.new("RGB", (48, 40), (7, 90, 3)).save(mask)
        case "value outside the classes":
            Image.new("L", (48, 40), 37).save(mask)
        case "unreadable image":
            (data / "images" / "b.png").write_bytes(b"no picture")
        case "missing folder":
            mask.parent.rename(data / "elsewhere")


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ("image without mask", "b.png"),
        ("mask without image", "b.png"),
        ("mask of another size", "b.png"),
        ("colour mask", "b.png"),
        ("value outside the classes", "37"),
        ("unreadable image", "b.png"),
        ("missing folder", "masks"),
    ],
)
def test_mistakes_in_own_data_are_named_before_the_first_step(
    own_data: Path, mistake: str, named: str
) -> None:
    spoil(own_data, mistake)
    arguments = ("train", "--config", own_data / "mine.toml", "--out", own_data / "run")
    status, message = invoke(*arguments)
    assert status == 2
    assert named in message
    assert "\n" not in message.strip()
    assert not (own_data / "run").exists()


def test_own_data_in_order_trains(own_data: Path) -> None:
    arguments = ("train", "--config", own_data / "mine.toml", "--out", own_data / "run")
    status, output = invoke(*arguments)
    assert status == 0, output
    assert (own_data / "run" / "last" / "model.safetensors").is_file()
    assert not (own_data / "run" / "best").exists()  # there is no validation split to choose on


def test_missing_asset_is_named(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zegment import checkpoint_files, clip_loading

    monkeypatch.setattr(clip_loading, "asset", lambda name: None)
    monkeypatch.setattr(checkpoint_files, "asset", lambda name: None)
    for model in ("shapes-clip", "shapes-zegclip"):
        status, message = invoke("predict", photo, "--model", model, "--out", tmp_path / "o")
        assert status == 2
        assert model in message
    assert not (tmp_path / "o").exists()


def test_checkpoint_of_another_model_is_named(photo: Path, tmp_path: Path) -> None:
    from zegment.clip_loading import asset

    for name in ("model.safetensors", "config.json", "vocabulary.json", "preprocessing.json"):
        source = asset("shapes-one-stage" if name == "model.safetensors" else "shapes-zegclip")
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / name).write_bytes((source / name).read_bytes())
    model = ("--model", tmp_path / "mixed")
    status, message = invoke("predict", photo, *model, "--out", tmp_path / "o")
    assert status == 2
    assert "checkpoint of another model" in message
    assert "model.safetensors" in message


def test_settings_of_an_evaluation_need_data_to_change() -> None:
    status, message = invoke("evaluate", "shapes-zegclip", *SHAPES)
    assert status == 2
    assert "--set" in message
    assert "--preset or --config" in message
