"""What may be in folders of pictures and of results, and what a run makes of it."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from zegment.errors import ConfigError, ImageError, OutputError
from zegment.prediction.files import mark_of
from zegment.prediction.inputs import expand, left_out
from zegment.prediction.plan import Plan, check_writable, plan_run
from zegment.prediction.record import RunRecord
from zegment.prediction.run import Done, Failed, Outcome, Skipped, predict_all
from zegment.results import Segmentation
from zegment.vocabulary import Vocabulary

ALL = ("overlay", "masks", "confidence", "labels")
FORMATS = ("coco-polygons", "geojson", "label-studio", "cvat", "fiftyone")


class Brightness:
    """Stands in for a model, so that hundreds of pictures take no time."""

    def segment(self, image: np.ndarray, query: SimpleNamespace, **_: object) -> Segmentation:
        names = query.vocabulary.class_names
        values = image.mean(-1, dtype=np.float32)
        labels = (values * len(names) // 256).astype(np.int32)
        return Segmentation(
            labels=labels, class_names=names, image=image, confidence=values / np.float32(255)
        )


def planned(
    *given: str | Path, out: Path, classes: str = "dark, bright", save=("labels",), **options
) -> Plan:
    names = list(Vocabulary.of(classes).class_names)
    record = RunRecord(model="brightness", vocabulary={"class_names": names}, save=save)
    return plan_run(expand(given, stdin=io.BytesIO()), out, record=record, **options)


def run(*given: str | Path, classes: str = "dark, bright", **options) -> list[Outcome]:
    plan = planned(*given, classes=classes, **options)
    query = SimpleNamespace(vocabulary=Vocabulary.of(classes))
    return list(predict_all(Brightness(), query, plan))


def kinds(outcomes: list[Outcome]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def picture(path: Path, *, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for place, name in enumerate("abc"):
        picture(tmp_path / "photos" / f"{name}.png", seed=place)
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("folder", "format_name"),
    [
        ("fiftyone/data", "fiftyone"),
        ("FiftyOne", "fiftyone"),
        ("coco-polygons.json", "coco-polygons"),
        ("label-studio.xml", "label-studio"),
        ("cvat.zip/deep", "cvat"),
        ("a.geojson", "geojson"),
    ],
)
def test_pictures_in_a_folder_that_a_format_is_written_to_are_refused_before_the_run(
    photos: Path, out: Path, folder: str, format_name: str
) -> None:
    picture(photos / folder / "x.png")
    with pytest.raises(OutputError, match=f"format {format_name}; rename"):
        planned(f"{photos}/**/*.png", out=out, formats=[format_name])
    assert not out.exists()
    assert Done in kinds(run(f"{photos}/**/*.png", out=out))
    with pytest.raises(OutputError):
        planned(f"{photos}/**/*.png", out=out, formats=[format_name])


def test_format_of_an_earlier_run_is_not_written_into(photos: Path, out: Path) -> None:
    run(photos, out=out, formats=["fiftyone"])
    picture(photos / "fiftyone/data/x.png")
    with pytest.raises(OutputError, match="for the format fiftyone"):
        planned(f"{photos}/**/*.png", out=out)


@pytest.mark.parametrize("folder", ["run.json", "legend.json", "failed.json", "a.labels.png"])
def test_pictures_in_a_folder_called_like_a_result_are_refused(
    photos: Path, out: Path, folder: str
) -> None:
    picture(photos / folder / "x.png")
    with pytest.raises(OutputError, match="rename"):
        planned(f"{photos}/**/*.png", out=out)


@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
def test_pipe_in_the_folder_is_not_waited_for(photos: Path, out: Path, name: str) -> None:
    pytest.importorskip("av")
    os.mkfifo(photos / name)
    outcomes = run(photos, photos / name, out=out, formats=["cvat"])
    (failed,) = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert "not a regular file" in failed.reason
    assert len(list(out.glob("*.labels.png"))) == 3


def test_link_to_a_picture_is_read(photos: Path, out: Path) -> None:
    (photos / "link.png").symlink_to(photos / "a.png")
    assert kinds(run(photos, out=out)) == [Done] * 4


def test_circular_link_is_one_that_failed(photos: Path, out: Path) -> None:
    (photos / "loop.png").symlink_to(photos / "loop.png")
    run(photos / "a.png", out=out)
    outcomes = run(photos, out=out)
    assert kinds(outcomes) == [Skipped, Done, Done, Failed]
    assert "loop.png" in outcomes[-1].reason


@pytest.mark.parametrize("name", ["y" * 251 + ".png", "ä" * 125 + ".png", "漢" * 83 + ".jpeg"])
def test_results_of_the_longest_file_names_fit(photos: Path, out: Path, name: str) -> None:
    picture(photos / name)
    outcomes = run(photos, out=out, save=ALL, formats=FORMATS)
    assert kinds(outcomes) == [Done] * 4
    assert max(len(os.fsencode(p.name)) for p in out.rglob("*")) <= 255
    assert kinds(run(photos, out=out, save=ALL, formats=FORMATS)) == [Skipped] * 4


def test_long_names_that_begin_alike_are_kept_apart(photos: Path) -> None:
    for end in ("1.png", "2.png"):
        picture(photos / f"{'y' * 245}{end}")
    found = [source.stem for source in expand([photos], stdin=io.BytesIO())]
    assert len(set(found)) == 5
    assert found == [source.stem for source in expand([photos], stdin=io.BytesIO())]
    assert [stem for stem in found if len(stem) == 1] == ["a", "b", "c"]


def test_path_that_is_too_long_as_a_whole_is_an_output_error(photos: Path, out: Path) -> None:
    long = picture(photos / f"{'y' * 250}.png")
    while (room := 3900 - len(str(out))) > 1:
        out = out / ("d" * min(room - 1, 200))
    with pytest.raises(OutputError, match=r"cannot write.*too long"):
        run(long, out=out)
    assert kinds(run(photos / "a.png", out=out)) == [Done]
    with pytest.raises(OutputError, match="too long"):
        run(long, out=out / ("e" * 200))


def test_name_that_is_not_utf8_is_refused_by_formats_and_taken_otherwise(
    photos: Path, out: Path
) -> None:
    odd = picture(Path(os.fsdecode(os.fsencode(photos) + b"/m\xfcller.png")))
    bad = Path(os.fsdecode(os.fsencode(photos) + b"/x\xff.png"))
    bad.write_bytes(b"no picture")
    for name in FORMATS:
        with pytest.raises(
            ConfigError, match=r"m\\xfcller\.png', which is not UTF-8; rename it"
        ) as e:
            planned(photos, out=out, formats=[name])
        str(e.value).encode()
    assert not out.exists()
    assert kinds(run(photos, out=out)).count(Done) == 4
    (row,) = json.loads((out / "failed.json").read_text("utf-8"))
    assert row["source"] == f"{photos}/x\\xff.png"
    assert (out / f"{odd.stem}.labels.png").exists()


def test_model_in_a_folder_that_is_not_utf8_has_a_record() -> None:
    record = RunRecord(model="runs/m\udcfcller", vocabulary={})
    assert record.mark("1") != record.mark("2")
    stored = json.loads(record.to_json().encode("utf-8"))
    assert stored["model"] == "runs/m\\xfcller"
    assert not record.differences(stored)


def test_overwriting_removes_what_the_earlier_run_wrote_and_nothing_else(
    photos: Path, out: Path
) -> None:
    picture(photos / "deep/er/d.png")
    (photos / "c.png").write_bytes(b"damaged")
    run(f"{photos}/**/*.png", out=out, save=ALL, formats=FORMATS)
    own = ("mine.txt", "deep/mine.txt", "a.entropy.png", "b.masks/mine.png", "x.labels.png")
    for name in own:
        (out / name).write_bytes((photos / "a.png").read_bytes())
    run(photos / "a.png", out=out / "another")
    kept = {*own, *(f"another/{name}" for name in files(out / "another"))}
    assert {"failed.json", "deep/er/d.overlay.png", "fiftyone/mask_targets.json"} < files(out)
    run(photos / "b.png", out=out, classes="1, 2, 3", save=("labels",), overwrite=True)
    assert files(out) == {*kept, "run.json", "legend.json", "b.labels.png"}
    assert not (out / "deep/er").exists()
    assert json.loads((out / "run.json").read_text())["formats"] == []
    assert len(json.loads((out / "legend.json").read_text())) == 4


def test_overwriting_keeps_a_format_folder_that_holds_something_else(
    photos: Path, out: Path
) -> None:
    run(photos, out=out, formats=["fiftyone"])
    (out / "fiftyone/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        planned(photos, out=out, overwrite=True)
    shutil.rmtree(out)
    (out / "fiftyone/data").mkdir(parents=True)
    (out / "fiftyone/data/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="move it"):
        planned(photos, out=out, overwrite=True, formats=["fiftyone"])
    assert (out / "fiftyone/data/mine.txt").exists()


def test_overwriting_beside_the_pictures_keeps_the_pictures(photos: Path) -> None:
    before = files(photos)
    run(photos, out=photos, save=ALL, formats=FORMATS)
    run(photos, out=photos, save=("labels",), overwrite=True)
    made = {f"{name}.labels.png" for name in "abc"}
    assert files(photos) == {*before, *made, "run.json", "legend.json"}


def test_overwriting_removes_frames_of_a_video(tmp_path: Path, out: Path) -> None:
    clip = film(tmp_path / "clip.mkv", 3)
    run(clip, out=out, save=ALL, formats=["geojson"])
    assert {"clip/frame_000003.png", "clip/frame_000003.geojson", "clip.overlay.mp4"} < files(out)
    still = picture(tmp_path / "still.png")
    run(still, out=out, overwrite=True)
    assert files(out) == {"still.labels.png", "run.json", "legend.json"}
    assert not (out / "clip").exists()


def film(path: Path, count: int, *, seed: int = 0) -> Path:
    av = pytest.importorskip("av")
    numbers = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "bgr0"
        for _ in range(count):
            pixels = numbers.integers(0, 256, (16, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_video_that_became_shorter_loses_its_last_frames(tmp_path: Path, out: Path) -> None:
    clip = film(tmp_path / "clip.mkv", 4)
    run(clip, out=out, save=ALL)
    film(clip, 2, seed=1)
    run(clip, out=out, save=ALL)
    run(clip, out=tmp_path / "fresh", save=ALL)
    assert files(out) == files(tmp_path / "fresh")


def test_frame_corrected_by_hand_is_not_replaced(tmp_path: Path, out: Path) -> None:
    clip = film(tmp_path / "clip.mkv", 2)
    run(clip, out=out)
    corrected = picture(out / "clip/frame_000002.labels.png")
    film(clip, 2, seed=1)
    with pytest.raises(OutputError, match="was changed"):
        run(clip, out=out)
    assert mark_of(corrected) is None


def test_picture_that_became_damaged_loses_its_results(photos: Path, out: Path) -> None:
    run(photos, out=out, save=ALL, formats=["geojson"])
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[:100])
    (photos / "c.png").unlink()
    outcomes = run(photos, out=out, save=ALL)
    assert kinds(outcomes) == [Skipped, Failed]
    assert not [name for name in files(out) if name.startswith("b.")]
    assert {"c.labels.png", "c.overlay.png", "a.geojson"} < files(out)  # no longer given: kept


def test_picture_that_cannot_be_reached_keeps_its_results(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, out=out, save=ALL)
    before = files(out)
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == photos / "b.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert kinds(run(photos, out=out, save=ALL)) == [Skipped, Failed, Skipped]
    assert files(out) == before | {"failed.json"}


def test_what_a_killed_run_left_is_removed_after_an_hour(photos: Path, out: Path) -> None:
    run(photos, out=out)
    hour_ago = time.time() - 3700
    old, young, folder, filled = (out / f".zegment-{n:012x}.partial" for n in range(4))
    deep = out / "deep" / old.name
    deep.parent.mkdir()
    similar = out / ".zegment-notes.partial"
    for path in (old, young, deep, similar):
        path.write_bytes(b"half")
    for path in (folder, filled):
        path.mkdir()
        (path / "x").write_bytes(b"half")
        os.utime(path / "x", (hour_ago, hour_ago))
    (filled / "y").write_bytes(b"just now")
    for path in (old, deep, similar, folder, filled):
        os.utime(path, (hour_ago, hour_ago))
    run(photos, out=out)
    left = {path.name for path in out.rglob(".zegment-*")}
    assert left == {young.name, filled.name, similar.name}


def test_folders_inside_are_counted_if_pictures_are_in_them(photos: Path) -> None:
    assert left_out([photos]) == []
    picture(photos / "one/x.png")
    picture(photos / "two/deep/x.jpg")
    picture(photos / ".hidden/x.png")
    (photos / "text").mkdir()
    run(photos, out=photos / "results", save=ALL, formats=["fiftyone"])
    (note,) = left_out([photos, photos / "a.png", f"{photos}/*"])
    assert note.startswith(f"2 folders with pictures in '{photos}' were not looked into")
    pattern = note.partition("give ")[2].partition(" for all")[0].strip("'")
    assert len(expand([pattern], stdin=io.BytesIO())) == 5


def test_results_are_not_taken_for_pictures_wherever_new_ones_go(
    photos: Path, tmp_path: Path, out: Path
) -> None:
    film(photos / "clip.mkv", 2)
    given = f"{photos}/**/*"
    run(given, out=photos / "old", save=ALL, formats=FORMATS)
    expected = [source.stem for source in expand([given], stdin=io.BytesIO())]
    assert expected == ["a", "b", "c", "clip"]
    run(photos, out=photos, save=ALL)
    (tmp_path / "list.txt").write_text("\n".join(map(str, photos.rglob("*.png"))))
    for again in (photos, f"{photos}/*.png", tmp_path / "list.txt"):
        assert {s.stem for s in expand([again], stdin=io.BytesIO())} == {"a", "b", "c"}
    with pytest.raises(ImageError, match="results of an earlier run"):
        expand([photos / "old"], stdin=io.BytesIO())


def test_pictures_whose_names_look_like_results_are_read_where_no_run_was(photos: Path) -> None:
    picture(photos / "x.labels.png")
    (photos / "run.json").write_text('{"name": "another program"}')
    assert len(expand([photos], stdin=io.BytesIO())) == 4


def test_folder_that_cannot_be_written_to_is_named_and_nothing_stays(
    tmp_path: Path, out: Path
) -> None:
    check_writable(out / "deep")
    assert not out.exists()
    out.mkdir()
    check_writable(out)
    assert list(out.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_writable(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot write"):
        check_writable(tmp_path / "file/deep")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "loop")
