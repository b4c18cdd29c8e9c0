"""Runs over many pictures: resumed, reproducible, and careful with what is there already.

Run as a program, it is a run that is killed half-way.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import zegment
from zegment.errors import ConfigError, ImageError, OutputError
from zegment.formats import write_image_outputs
from zegment.prediction.files import read_confidence_png, read_index_png
from zegment.prediction.inputs import expand
from zegment.prediction.plan import _refuse_collisions
from zegment.prediction.record import RunRecord, fingerprint
from zegment.prediction.run import Done, Failed, Outcome, Skipped, plan_run, predict_all
from zegment.results import Segmentation
from zegment.vocabulary import Vocabulary

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.segmenter import Segmenter

CLASSES = "moon, water, kite"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return zegment.load("shapes-zegclip", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of five pictures of different content and size."""
    numbers = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for place in range(5):
        coarse = numbers.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((60 + place, 50))
        picture.save(folder / f"{place}.png")
    return folder


@pytest.fixture
def run(segmenter: Segmenter) -> Callable[..., list[Outcome]]:
    """Return a function that plans and predicts, as the command does."""

    def predict(
        *given: Path,
        out: Path,
        classes: str = CLASSES,
        background: str | None = None,
        save: tuple[str, ...] = ("labels",),
        formats: tuple[str, ...] = (),
        overwrite: bool = False,
        **settings: float,
    ) -> list[Outcome]:
        query = segmenter.query(classes, background=background)
        record = RunRecord.of(segmenter, query, save=save, **settings)
        sources = expand(given, stdin=io.BytesIO())
        plan = plan_run(sources, out, record=record, formats=formats, overwrite=overwrite)
        return list(predict_all(segmenter, query, plan))

    return predict


def labels_only(segmenter: Segmenter, query: Query) -> RunRecord:
    return RunRecord.of(segmenter, query, save=("labels",))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.labels.png")}


def kinds(outcomes: list[Outcome]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def test_run_writes_results_record_and_legend(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    assert kinds(run(photos, out=out, save=("overlay",))) == [Done] * 5
    expected = {f"{n}.{kind}.png" for n in range(5) for kind in ("overlay", "labels")}
    assert set(contents(out)) == {*expected, "run.json", "legend.json"}
    record = json.loads((out / "run.json").read_text())
    assert record["model"] == "shapes-zegclip"
    assert record["vocabulary"]["class_names"] == ["moon", "water", "kite"]
    assert record["save"] == ["overlay", "labels"]
    assert record["version"] == zegment.__version__
    assert record["calibration"]["seen_penalty"] == 0.1


def test_label_map_is_what_the_segmenter_returns(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    run(photos / "3.png", out=tmp_path / "out", save=("confidence",), background="threshold:0.6")
    expected = segmenter(photos / "3.png", CLASSES, background="threshold:0.6")
    found = read_index_png(tmp_path / "out/3.labels.png", 3)
    assert np.array_equal(found, expected.labels)
    assert (found == -1).any()
    confidence = read_confidence_png(tmp_path / "out/3.confidence.png")
    assert np.abs(confidence - expected.confidence).max() < 1e-5
    assert not (tmp_path / "out/3.overlay.png").exists()
    legend = json.loads((tmp_path / "out/legend.json").read_text())
    assert legend[-1]["background"] == "threshold:0.6"
    assert [entry["name"] for entry in legend] == ["moon", "water", "kite", "unknown"]


@pytest.mark.parametrize("num_classes", [3, 255, 300])
def test_index_map_of_any_depth_is_read_back(tmp_path: Path, num_classes: int) -> None:
    numbers = np.random.default_rng(0)
    labels = numbers.integers(-1, num_classes, (30, 40), dtype=np.int32)
    names = tuple(map(str, range(num_classes)))
    image = np.zeros((30, 40, 3), np.uint8)
    result = Segmentation(labels=labels, class_names=names, image=image)
    write_image_outputs(result, tmp_path, "x", ["labels"])
    found = read_index_png(tmp_path / "x.labels.png", num_classes)
    assert found.dtype == np.int32
    assert np.array_equal(found, labels)


def test_index_map_of_other_classes_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(OutputError, match="not a label map of 3 classes"):
        read_index_png(tmp_path / "x.png", 3)


def test_two_runs_give_the_same_bytes(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    copy = tmp_path / "copy" / "photos"
    copy.mkdir(parents=True)
    for path in photos.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1, 1))
    save = ("overlay", "masks", "confidence", "entropy", "scores")
    for number, folder in enumerate((photos, copy)):
        run(folder, out=tmp_path / f"out{number}", save=save, background="threshold:0.5")
    first, second = contents(tmp_path / "out0"), contents(tmp_path / "out1")
    assert len(first) > 5 * 6
    assert first == second


class Brightness:
    """Stands in for a model where a process has to start quickly."""

    def segment(self, image: np.ndarray, query: SimpleNamespace, **_: object) -> Segmentation:
        labels = (image.mean(-1) // 86).astype(np.int32)
        return Segmentation(labels=labels, class_names=query.vocabulary.class_names, image=image)


def run_by_brightness(photos: Path, out: Path) -> list[Outcome]:
    query = SimpleNamespace(vocabulary=Vocabulary.of("dark, medium, bright"))
    names = {"class_names": list(query.vocabulary.class_names)}
    record = RunRecord(model="brightness", vocabulary=names, save=("masks", "labels"))
    plan = plan_run(expand([photos], stdin=io.BytesIO()), out, record=record)
    return list(predict_all(Brightness(), query, plan))


def die_before(name: str) -> None:
    """Let this process be killed when it has written a file, but not yet given it its name."""
    replace = Path.replace

    def replace_or_die(stage: Path, target: Path) -> Path:
        if target.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(stage, target)

    Path.replace = replace_or_die


def test_killed_run_is_resumed_where_it_stopped(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, __file__, photos, out, "2.labels.png"]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    before = times(out)
    assert set(before) == {"0.labels.png", "1.labels.png"}
    assert (out / "2.masks").exists()  # written, but not finished
    assert kinds(run_by_brightness(photos, out)) == [Skipped, Skipped, Done, Done, Done]
    assert before.items() <= times(out).items()
    run_by_brightness(photos, tmp_path / "whole")
    left = {name: d for name, d in contents(out).items() if not name.endswith(".partial")}
    assert left == contents(tmp_path / "whole")


def test_interrupted_run_is_resumed(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    query = segmenter.query(CLASSES)
    sources = expand([photos], stdin=io.BytesIO())
    plan = plan_run(sources, tmp_path / "out", record=labels_only(segmenter, query))
    running = predict_all(segmenter, query, plan)
    next(running)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert kinds(run(photos, out=tmp_path / "out")) == [Skipped, *[Done] * 4]


def test_finished_run_is_left_as_it_is(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    run(photos, out=tmp_path / "out")
    before = times(tmp_path / "out")
    assert kinds(run(photos, out=tmp_path / "out")) == [Skipped] * 5
    assert times(tmp_path / "out") == before


def test_picture_that_changed_is_segmented_again(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    run(photos, out=tmp_path / "out")
    changed = photos / "1.png"
    time = changed.stat().st_mtime_ns
    Image.new("RGB", (30, 20)).save(changed)
    os.utime(changed, ns=(time, time))  # times say nothing
    os.utime(photos / "2.png")
    outcomes = run(photos, out=tmp_path / "out")
    assert kinds(outcomes) == [Skipped, Done, Skipped, Skipped, Skipped]
    assert Image.open(tmp_path / "out/1.labels.png").size == (30, 20)


def test_label_map_that_was_cut_off_is_made_again(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    run(photos, out=tmp_path / "out")
    labels = tmp_path / "out/4.labels.png"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-60])
    assert kinds(run(photos, out=tmp_path / "out")) == [*[Skipped] * 4, Done]
    assert labels.read_bytes() == whole


def test_new_pictures_join_a_finished_run(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    run(photos / "0.png", out=tmp_path / "out")
    assert kinds(run(photos, out=tmp_path / "out")) == [Skipped, *[Done] * 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": "moon, sea"}, "class names was 'moon, water, kite' and is 'moon, sea'"),
        ({"background": "threshold:0.5"}, "background was 'none' and is 'threshold:0.5'"),
        ({"save": ("masks",)}, "save was 'labels' and is 'masks, labels'"),
        ({"smoothing": 0.5}, "smoothing was '0.0' and is '0.5'"),
    ],
)
def test_results_made_differently_are_not_mixed(
    photos: Path,
    tmp_path: Path,
    run: Callable[..., list[Outcome]],
    changes: dict[str, object],
    message: str,
) -> None:
    run(photos / "0.png", out=tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError, match=message) as caught:
        run(photos, out=tmp_path / "out", **changes)
    assert "--out" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert contents(tmp_path / "out") == before


def test_weights_are_told_apart_by_their_fingerprint(segmenter: Segmenter) -> None:
    other = zegment.load("shapes-zegclip", device="cpu")
    assert fingerprint(other) == fingerprint(segmenter)
    parameter = max(other.model.parameters(), key=lambda array: array.numel())
    parameter.data += 1e-3
    assert fingerprint(other) != fingerprint(segmenter)


def test_overwriting_makes_everything_anew(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    run(photos, out=out)
    (out / "mine.txt").write_text("mine")
    assert kinds(run(photos / "0.png", out=out, classes="sand, snow", overwrite=True)) == [Done]
    assert (out / "mine.txt").read_text() == "mine"
    assert set(times(out)) == {"0.labels.png"}
    outcomes = run(photos, out=out, classes="sand, snow")
    assert kinds(outcomes) == [Skipped, *[Done] * 4]


def test_foreign_files_are_not_replaced(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("notes")
    (out / "3.labels.png").write_text("by hand")
    with pytest.raises(OutputError, match=r"3\.labels\.png' exists"):
        run(photos, out=out)
    assert set(contents(out)) == {"notes.txt", "3.labels.png"}
    run(photos / "0.png", out=out)
    assert (out / "notes.txt").read_text() == "notes"


def test_label_map_corrected_by_hand_is_not_replaced(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    run(photos, out=out)
    corrected = out / "2.labels.png"
    Image.fromarray(np.zeros((50, 62), np.uint8)).save(corrected)
    before = corrected.read_bytes()
    with pytest.raises(OutputError, match=r"2\.labels\.png' was changed"):
        run(photos, out=out)
    assert corrected.read_bytes() == before


def test_damaged_record_and_file_in_place_of_the_folder_are_refused(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        run(photos, out=tmp_path / "file")
    (tmp_path / "out").mkdir()
    for text in ("{", "[]", '{"name": "another program"}'):
        (tmp_path / "out/run.json").write_text(text)
        with pytest.raises(OutputError, match=r"run\.json"):
            run(photos, out=tmp_path / "out")


def test_bad_picture_does_not_end_the_run_and_is_listed(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    good = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(good[:200])
    (photos / "3.png").write_bytes(b"")
    outcomes = run(photos, out=out)
    assert kinds(outcomes) == [Done, Failed, Done, Failed, Done]
    rows = json.loads((out / "failed.json").read_text())
    assert [row["stem"] for row in rows] == ["1", "3"]
    assert "cut off" in rows[0]["reason"]
    assert rows[1]["source"] == str(photos / "3.png")
    (photos / "1.png").write_bytes(good)
    (photos / "3.png").write_bytes(good)
    assert kinds(run(photos, out=out)) == [Skipped, Done, Skipped, Done, Skipped]
    assert not (out / "failed.json").exists()


def test_picture_that_vanishes_meanwhile_is_one_that_failed(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    query = segmenter.query(CLASSES)
    sources = expand([photos], stdin=io.BytesIO())
    plan = plan_run(sources, tmp_path / "out", record=labels_only(segmenter, query))
    (photos / "4.png").unlink()
    outcomes = list(predict_all(segmenter, query, plan))
    assert kinds(outcomes) == [*[Done] * 4, Failed]


def test_output_error_ends_the_run_at_once(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "1.labels.png").mkdir()  # nothing can be written there
    with pytest.raises(OutputError, match=r"1\.labels\.png"):
        run(photos, out=out, overwrite=True)
    assert set(times(out)) == {"0.labels.png", "1.labels.png"}


def test_results_beside_the_pictures_are_not_taken_for_pictures(
    photos: Path, run: Callable[..., list[Outcome]]
) -> None:
    save = ("overlay", "masks", "confidence", "entropy")
    assert kinds(run(photos, out=photos, save=save)) == [Done] * 5
    assert kinds(run(photos, out=photos, save=save)) == [Skipped] * 5
    pattern = photos / "**" / "*.png"
    assert kinds(run(pattern, out=photos, save=save)) == [Skipped] * 5


def test_pictures_in_sub_folders_get_sub_folders(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    (photos / "deep").mkdir()
    (photos / "deep/0.png").write_bytes((photos / "0.png").read_bytes())
    run(photos / "**/0.png", out=tmp_path / "out")
    found = contents(tmp_path / "out")
    assert found["0.labels.png"] == found["deep/0.labels.png"]


def test_formats_are_written_at_the_end_and_may_be_added_later(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    out = tmp_path / "out"
    (photos / "2.png").write_bytes(b"damaged")
    run(photos, out=out)
    before = times(out)
    outcomes = run(photos, out=out, formats=("coco",))
    assert kinds(outcomes) == [Skipped, Skipped, Failed, Skipped, Skipped]
    assert times(out) == before
    coco = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["0.png", "1.png", "3.png", "4.png"]
    assert (coco["images"][1]["height"], coco["images"][1]["width"]) == (50, 61)
    run(photos, out=out, formats=("coco",))  # its own file may be written again
    run(photos, out=tmp_path / "at-once", formats=("coco",))
    assert contents(tmp_path / "at-once") == contents(out)


@pytest.mark.parametrize(
    "name", ["coco", "coco-polygons", "geojson", "label-studio", "cvat", "fiftyone"]
)
def test_format_is_refused_where_something_is_in_its_place(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]], name: str
) -> None:
    run(photos / "0.png", out=tmp_path / "with", formats=(name,))
    run(photos / "0.png", out=tmp_path / "without")
    made = set(contents(tmp_path / "with")) - set(contents(tmp_path / "without"))
    for folder in ("new", "without"):
        existing = tmp_path / folder / Path(min(made)).parts[0]
        existing.parent.mkdir(exist_ok=True)
        existing.write_text("mine")
        with pytest.raises(OutputError, match="exists"):
            run(photos / "0.png", out=tmp_path / folder, formats=(name,))
        assert existing.read_text() == "mine"


def test_impossible_wishes_are_refused_before_any_work(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    for wish, message in (
        ({"formats": ("excel",)}, "coco"),
        ({"save": ("depth",)}, "confidence"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"every": 0}, "every"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(photos, out=tmp_path / "out", **wish)
    query = segmenter.query(CLASSES)
    piped = expand(["-"], stdin=io.BytesIO((photos / "0.png").read_bytes()))
    record = RunRecord.of(segmenter, query)
    with pytest.raises(ConfigError, match="standard input"):
        plan_run(piped, tmp_path / "out", record=record, formats=["coco"])
    assert not (tmp_path / "out").exists()


def test_picture_of_standard_input_is_segmented(
    photos: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    query = segmenter.query(CLASSES)
    piped = expand(["-"], stdin=io.BytesIO((photos / "0.png").read_bytes()))
    plan = plan_run(piped, tmp_path / "out", record=labels_only(segmenter, query))
    assert kinds(list(predict_all(segmenter, query, plan))) == [Done]
    expected = segmenter(photos / "0.png", CLASSES).labels
    assert np.array_equal(read_index_png(tmp_path / "out/stdin.labels.png", 3), expected)


def film(path: Path, count: int = 4) -> list[np.ndarray]:
    """Write a video without loss; return its frames."""
    av = pytest.importorskip("av")
    numbers = np.random.default_rng(1)
    frames = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 60, 50, "bgr0"
        for _ in range(count):
            coarse = numbers.integers(0, 256, (6, 7, 3), dtype=np.uint8)
            frames.append(np.asarray(Image.fromarray(coarse).resize((60, 50))))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[-1], format="rgb24")))
        container.mux(stream.encode())
    return frames


def test_video_becomes_label_maps_and_a_video_of_overlays(
    tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    from zegment.prediction.video import frame_rate, read_frames

    frames = film(tmp_path / "clip.mkv", 5)
    out = tmp_path / "out"
    assert kinds(run(tmp_path / "clip.mkv", out=out, every=2, save=("overlay",))) == [Done]
    assert sorted(p.name for p in (out / "clip").glob("*.png")) == [
        f"frame_00000{n}.labels.png" for n in (1, 3, 5)
    ]
    for number in (1, 3, 5):
        found = read_index_png(out / f"clip/frame_00000{number}.labels.png", 3)
        assert np.array_equal(found, segmenter(frames[number - 1], CLASSES).labels)
    assert len(list(read_frames(out / "clip.overlay.mp4"))) == 3
    assert frame_rate(out / "clip.overlay.mp4") == 5
    before = contents(out)
    assert kinds(run(tmp_path / "clip.mkv", out=out, every=2, save=("overlay",))) == [Skipped]
    run(tmp_path / "clip.mkv", out=tmp_path / "again", every=2, save=("overlay",))
    assert contents(out) == before == contents(tmp_path / "again")


def test_video_is_resumed_within(
    tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    film(tmp_path / "clip.mkv")
    run(tmp_path / "clip.mkv", out=tmp_path / "whole")
    query = segmenter.query(CLASSES)
    sources = expand([tmp_path / "clip.mkv"], stdin=io.BytesIO())
    plan = plan_run(sources, tmp_path / "out", record=labels_only(segmenter, query))

    def stop(_source: object, number: int) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(predict_all(segmenter, query, plan, on_frame=stop))
    before = times(tmp_path / "out/clip")
    assert len(before) == 2
    assert kinds(run(tmp_path / "clip.mkv", out=tmp_path / "out")) == [Done]
    assert before.items() <= times(tmp_path / "out/clip").items()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_smoothing_mixes_each_frame_with_those_before_it(
    tmp_path: Path, run: Callable[..., list[Outcome]], segmenter: Segmenter
) -> None:
    from zegment.prediction.video import Smoothing

    frames = film(tmp_path / "clip.mkv")
    film(tmp_path / "second.mkv")
    run(tmp_path / "clip.mkv", tmp_path / "second.mkv", out=tmp_path / "out", smoothing=0.8)
    query = segmenter.query(CLASSES)
    smoothing = Smoothing(0.8)
    changed = 0
    for number, frame in enumerate(frames, start=1):
        expected = segmenter.segment(frame, query, smoothing=smoothing).labels
        changed += int((expected != segmenter.segment(frame, query).labels).sum())
        # A second video does not begin with the end of the first.
        for name in ("clip", "second"):
            path = tmp_path / f"out/{name}/frame_00000{number}.labels.png"
            assert np.array_equal(read_index_png(path, 3), expected)
    assert changed > 0


def test_bad_video_is_one_that_failed(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    (photos / "x.mp4").write_bytes(b"no video")
    outcomes = run(photos / "x.mp4", photos / "0.png", out=tmp_path / "out")
    assert kinds(outcomes) == [Failed, Done]


def test_missing_package_for_videos_is_named_before_any_work(
    photos: Path,
    tmp_path: Path,
    run: Callable[..., list[Outcome]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photos / "x.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"zegment\[video\]"):
        run(photos, photos / "x.mp4", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_are_pictures_of_a_format(
    photos: Path, tmp_path: Path, run: Callable[..., list[Outcome]]
) -> None:
    frames = film(tmp_path / "clip.mkv", 2)
    out = tmp_path / "out"
    run(photos / "0.png", tmp_path / "clip.mkv", out=out, formats=("coco",))
    coco = json.loads((out / "coco.json").read_text())
    names = [image["file_name"] for image in coco["images"]]
    assert names == ["0.png", "clip/frame_000001.png", "clip/frame_000002.png"]
    assert np.array_equal(np.asarray(Image.open(out / names[1])), frames[0])


def test_missing_picture_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        expand([tmp_path / "none.png"], stdin=io.BytesIO())


def test_results_that_differ_in_capitals_alone_are_refused_and_nothing_is_said_of_formats(
    tmp_path: Path,
) -> None:
    claims = [(tmp_path / "a.png.labels.png", "a.png"), (tmp_path / "A.PNG.labels.png", "A.PNG")]
    with pytest.raises(OutputError, match=r"for A\.PNG.*for a\.png.*capitals alone") as raised:
        _refuse_collisions(claims, tmp_path)
    assert "format" not in str(raised.value)


if __name__ == "__main__":
    die_before(sys.argv[3])
    run_by_brightness(Path(sys.argv[1]), Path(sys.argv[2]))
