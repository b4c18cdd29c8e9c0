"""The page about scaling: its figure, its tables, and the formula that they rest on."""

import json
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

import scaling
import scaling_page
from scaling import QUICK, Report, here, measure, million_images, windows_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def measured() -> Report:
    with patch.object(scaling, "is_native", lambda *_: True):  # small enough to be imitated
        return json.loads(json.dumps(measure(QUICK, here)))


def made_up(*, threads: int = 2) -> Report:
    """Return a report of round numbers: every way takes K seconds for the pixels of a window."""
    rows = [
        {
            "way": way,
            "classes": classes,
            "size": [side, side],
            "windows": windows_of(side, side),
            "seconds": windows_of(side, side) * (0.5 + 0.25 + classes),
            "tower": windows_of(side, side) * 0.5,
            "decoder": windows_of(side, side) * 0.25,
            "pixels": windows_of(side, side) * classes,
            "mib": 10.0 * classes,
            "labels as ours": 1.0,
        }
        for classes, side in ((2, 1024), (20, 1024), (20, 512), (20, 2048))
        for way in scaling.WAYS
        if (way, classes, side) != ("plain", 20, 1024)
    ]
    return {
        "machine": {"threads": threads, "cpu": "a processor", "torch": "2.0"},
        "extent": {"side": 1024, "sides_classes": 20, "classes": [2, 20]},
        "weights": 2**20,
        "rows": rows,
        "model alone, MiB": [{"classes": n, "mib": 5.0} for n in (2, 20)],
        "files": [{"size": [512, 683], "decode": 0.5, "row": 0.25, "label map": 0.25}],
    }


def test_windows_are_those_of_the_page() -> None:
    sizes = ((512, 512), (512, 683), (300, 200), (2048, 512), (1024, 1024), (2448, 3264))
    assert [windows_of(*size) for size in sizes] == [1, 2, 1, 5, 9, 48]


def test_parts_of_a_picture_add_up_to_its_time(measured: Report) -> None:
    assert {row["way"] for row in measured["rows"]} == set(scaling.WAYS)
    for row in measured["rows"]:
        parts = [row[part] for part in ("tower", "decoder", "pixels")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(row["seconds"])


def test_ours_labels_as_the_plain_way_does(measured: Report) -> None:
    plain = [r["labels as ours"] for r in measured["rows"] if r["way"] == scaling.PLAIN]
    assert len(plain) == len(QUICK.classes)
    assert min(plain) == 1


def test_the_plain_way_is_left_out_where_it_takes_too_much(monkeypatch) -> None:
    monkeypatch.setattr(scaling, "MOST_PLAIN_BYTES", 8 * 20 * 512 * 512 - 1)
    point = (QUICK, 20, (512, 512), here)
    monkeypatch.setattr(scaling, "is_native", lambda *_: True)
    assert [row["way"] for row in scaling.measure_point(*point)] == [scaling.OURS, scaling.SHORT]
    monkeypatch.setattr(scaling, "is_native", lambda *_: False)
    assert [row["way"] for row in scaling.measure_point(*point)] == [scaling.OURS]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_million_pictures_by_hand(threads: int) -> None:
    two, twenty = million_images(made_up(threads=threads))
    hours = threads * 1e6 / 3600  # core-hours of a second each
    assert two["windows"] == 2
    assert two["tower"] == pytest.approx(hours * 2 * 0.5)
    assert two["decoder"] == pytest.approx(hours * 2 * 0.25)
    assert two["pixels"] == pytest.approx(hours * 2 * 2)
    assert two["decode"] == pytest.approx(hours * 0.5)
    assert two["all"] == pytest.approx(hours * (2 * 2.75 + 0.75))
    assert two["all, plain"] == pytest.approx(two["all"])
    assert twenty["all, plain"] is None


def test_figure_shows_four_panels_and_is_the_same_every_time() -> None:
    report = made_up()
    once, twice = scaling_page.draw(report), scaling_page.draw(report)
    assert once == twice
    picture = np.asarray(Image.open(BytesIO(once)).convert("RGB"))
    assert 700 <= picture.shape[1] <= 1200
    halves = np.array_split(picture, 2, axis=1)
    for panel in (part for half in halves for part in np.array_split(half, 2, axis=0)):
        for style in scaling_page.LINES.values():
            colour = [int(style["color"][i : i + 2], 16) for i in (1, 3, 5)]
            assert (panel == colour).all(axis=-1).sum() > 20


def test_command_draws_and_rewrites_only_what_is_between_the_markers(
    tmp_path: Path, monkeypatch
) -> None:
    report, page, figure = (tmp_path / name for name in ("s.json", "page.md", "a.png"))
    report.write_text(json.dumps(made_up()))
    page.write_text(
        "before\n<!-- scaling:begin -->\nold\n<!-- scaling:end -->\nafter\n"
        "<!-- training:begin -->\nkept\n<!-- training:end -->\n"
    )
    arguments = ["--from", report, "--figure", figure, "--docs", page]
    monkeypatch.setattr("sys.argv", ["scaling.py", *map(str, arguments)])
    scaling.main()
    text = page.read_text()
    scaling.main()
    assert page.read_text() == text
    assert text.startswith("before\n<!-- scaling:begin -->")
    assert "<!-- scaling:end -->\nafter\n" in text
    assert "old" not in text
    assert "kept" in text
    assert "](a.png)" in text
    assert Image.open(figure).format == "PNG"


def test_tables_of_training_come_from_the_report_of_all_comparisons(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    markers = "<!-- {0}:begin -->\n<!-- {0}:end -->\n"
    page.write_text(markers.format("scaling") + markers.format("training"))
    step = {"setting": "VOC", "way": "ours", "seconds": 3.25, "times faster": 1.5, "peak MiB": 99.0}
    rate = {"what": "batch: ours", "images per second": 61.7}
    speed = {"comparisons": {"training_step": {"rows": [step]}, "loading": {"rows": [rate]}}}
    report = made_up()
    scaling_page.write_page(page, report, million_images(report), speed=speed)
    text = page.read_text()
    assert "| VOC | ours | 3.25 | 1.5 | 99 |" in text
    assert "| batch: ours | 61.7 |" in text
    (voc, _) = scaling_page.trained_numbers()
    assert f"{voc['numbers']:,}" in text


@pytest.mark.parametrize("text", ["", "<!-- scaling:begin -->", "<!-- scaling:end -->"])
def test_a_page_without_its_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="<!-- scaling:begin -->"):
        scaling_page.replaced(text, "scaling", "tables")


def test_quick_measures_and_draws_and_overwrites_no_figures(tmp_path: Path, monkeypatch) -> None:
    report, figure = tmp_path / "quick.json", tmp_path / "quick.png"
    arguments = ["--quick", "--json", str(report), "--figure", str(figure)]
    monkeypatch.setattr("sys.argv", ["scaling.py", *arguments])
    scaling.main()
    assert len(million_images(json.loads(report.read_text()))) == len(QUICK.classes)
    assert Image.open(figure).format == "PNG"
    with pytest.raises(SystemExit):
        scaling.main()


def test_the_page_has_its_markers() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name in ("scaling", "training"):
        assert scaling_page.replaced(text, name, "tables").count("tables") >= 1
