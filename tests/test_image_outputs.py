import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zegment.errors import ConfigError, OutputError
from zegment.formats import KINDS, write_image_outputs
from zegment.formats.per_image import mask_name
from zegment.results import Segmentation

NAMES = ("sky", "potted plant", "../etc/passwd\0", "猫")
LABELS = np.array([[0, 1, 1], [-1, 3, 2]], np.int32)


def segmentation(**changes) -> Segmentation:
    generator = np.random.default_rng(0)
    parts = {
        "labels": LABELS,
        "class_names": NAMES,
        "image": generator.integers(0, 256, (2, 3, 3), np.uint8),
        "confidence": generator.random((2, 3), np.float32),
        "entropy": np.array([[0, 1, 0.5], [0.25, 0.75, 1 / 3]], np.float32),
        "margin": np.array([[0, 1, 1.1], [0.25, 0.75, 1 / 3]], np.float32),
        "scores": generator.random((4, 2, 3)).astype(np.float16),
    }
    return Segmentation(**parts | changes)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_kind_is_written_under_the_stem_and_read_back_equal(tmp_path):
    result = segmentation()
    paths = write_image_outputs(result, tmp_path, "sub/a.b", ["labels", *KINDS])
    assert list(paths) == list(KINDS)
    assert files(tmp_path / "sub") == {
        "a.b.overlay.png",
        "a.b.labels.png",
        "a.b.confidence.png",
        "a.b.entropy.png",
        "a.b.margin.png",
        "a.b.scores.npz",
        "a.b.masks/000_sky.png",
        "a.b.masks/001_potted-plant.png",
        "a.b.masks/002_etc-passwd.png",
        "a.b.masks/003.png",
    }
    for kind in ("confidence", "entropy"):
        stored = np.asarray(Image.open(paths[kind]))
        assert stored.max() > 255
        assert np.abs(stored / 65535 - getattr(result, kind)).max() <= 0.5 / 65535 + 1e-7
    assert np.asarray(Image.open(paths["entropy"]))[0].tolist() == [0, 65535, 32768]
    # A penalty can make a lead of more than 1.
    assert np.asarray(Image.open(paths["margin"]))[0].tolist() == [0, 65535, 65535]
    with np.load(paths["scores"]) as archive:
        assert archive["scores"].dtype == np.float16
        assert np.array_equal(archive["scores"], result.scores)
        assert archive["class_names"].tolist()[1] == "potted plant"
    for place, path in enumerate(sorted(paths["masks"].iterdir())):
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask == 255, place == LABELS)
    assert np.asarray(Image.open(paths["labels"])).tolist() == [[0, 1, 1], [255, 3, 2]]


def test_labels_come_last_so_that_they_mark_a_finished_image(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("no room")

    monkeypatch.setattr(Segmentation, "index_png", fail)
    with pytest.raises(OSError, match="no room"):
        write_image_outputs(segmentation(), tmp_path, "a", ["labels", "overlay", "masks"])
    assert "a.overlay.png" in files(tmp_path)
    assert "a.labels.png" not in files(tmp_path)


def test_masks_of_an_earlier_run_do_not_stay_and_other_files_are_not_lost(tmp_path):
    write_image_outputs(segmentation(), tmp_path, "a", ["masks"])
    again = segmentation(labels=np.zeros((2, 3), np.int32))
    write_image_outputs(again, tmp_path, "a", ["masks"])
    assert files(tmp_path) == {"a.masks/000_sky.png"}
    (tmp_path / "a.masks" / "mine.png").write_text("mine")
    with pytest.raises(OutputError, match=r"mine\.png' would be lost"):
        write_image_outputs(again, tmp_path, "a", ["masks"])


def test_the_same_result_gives_the_same_bytes(tmp_path):
    def digest(folder):
        write_image_outputs(segmentation(), folder, "a", list(KINDS))
        return {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files(folder)
        }

    assert digest(tmp_path / "first") == digest(tmp_path / "second")


@pytest.mark.parametrize("kind", ["confidence", "entropy", "scores"])
def test_what_the_result_lacks_is_refused_before_anything_is_written(kind, tmp_path):
    with pytest.raises(ValueError, match=f"the result has no {kind}"):
        write_image_outputs(segmentation(**{kind: None}), tmp_path, "a", ["overlay", kind])
    assert not files(tmp_path)


@pytest.mark.parametrize("value", [np.nan, -0.5, 1.5])
def test_numbers_that_a_grey_picture_cannot_hold_are_refused(value, tmp_path):
    confidence = np.full((2, 3), value, np.float32)
    with pytest.raises(ValueError, match="confidence runs from"):
        write_image_outputs(segmentation(confidence=confidence), tmp_path, "a", ["confidence"])


def test_an_unknown_kind_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(ConfigError, match="cannot save 'mask'; choose from overlay, masks"):
        write_image_outputs(segmentation(), tmp_path, "a", ["mask"])


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "\0", "x" * 400, "CON", "ÄÖ", "猫", " ", "a\nb", "%s", "-rf"]
)
def test_mask_names_are_plain_short_and_stay_in_their_folder(name):
    made = mask_name(7, name, num_classes=8)
    assert made.startswith("007")
    assert made.isascii()
    assert len(made) < 64
    assert Path(made).name == made
    assert not set(made) & set('/\\\0:*?"<>| \n%')


def test_mask_names_differ_for_equal_slugs_and_sort_by_class():
    names = [mask_name(place, "猫", num_classes=12_000) for place in (0, 11_999)]
    assert names == ["00000.png", "11999.png"]
