"""What the arguments of a command stand for, and what the results are called."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zegment.errors import ImageError
from zegment.prediction.inputs import Source, expand


def picture(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(path)
    return path


def stems(*given: str | Path, stdin: bytes = b"") -> list[str]:
    return [source.stem for source in expand(given, stdin=io.BytesIO(stdin))]


def paths(*given: str | Path, stdin: bytes = b"") -> list[Path | bytes]:
    return [source.content for source in expand(given, stdin=io.BytesIO(stdin))]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.png", "b/1.jpg", "b/deep/1.JPG"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "a" / "notes.md").write_text("not a picture")
    return tmp_path


def test_files_and_folders_are_called_after_their_own_names(tree: Path) -> None:
    assert stems(tree / "photos/a/1.jpg") == ["1"]
    assert stems(tree / "photos/a") == ["1", "2"]  # the text is no picture, and order is by name
    assert stems(tree / "photos/b") == ["1"]  # not what lies deeper


def test_pattern_finds_deep_files_and_keeps_their_folders(tree: Path) -> None:
    pattern = f"{tree}/photos/**/*.[jJ]*"
    assert stems(pattern) == ["a/1", "b/1", "b/deep/1"]
    assert stems(f"{tree}/photos/a/*") == ["1", "2"]


def test_names_of_a_pattern_do_not_depend_on_what_else_it_finds(tree: Path) -> None:
    pattern = f"{tree}/photos/*/2.png"
    assert stems(pattern) == ["a/2"]
    picture(tree / "photos/c/2.png")
    assert stems(pattern) == ["a/2", "c/2"]


def test_relative_pattern_is_taken_from_the_working_folder(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "photos/a")
    assert stems("*.jpg") == ["1"]
    assert stems("../*/1.jpg") == ["a/1", "b/1"]
    assert stems("./../b/../*/1.jpg") == ["a/1", "b/1"]
    assert stems("../*/../b/1.jpg") == ["1"]


def test_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    picture(tmp_path / "x[1].png")
    picture(tmp_path / "x1.png")
    assert paths(tmp_path / "x[1].png") == [tmp_path / "x[1].png"]


@pytest.mark.parametrize("argument", ["list.txt", "@list.txt", "@list"])
def test_list_is_read_relative_to_its_folder(tree: Path, argument: str) -> None:
    text = "\ufeff# mine\n\n  photos/b/1.jpg \r\nphotos/a/1.jpg\nphotos/a/1.jpg\n"
    (tree / argument.lstrip("@")).write_text(text, encoding="utf-8")
    given = f"@{tree}/{argument[1:]}" if argument[0] == "@" else f"{tree}/{argument}"
    assert stems(given) == ["b/1", "a/1"]
    assert paths(given) == [tree / "photos/b/1.jpg", tree / "photos/a/1.jpg"]


def test_list_within_one_folder_needs_no_folders_in_its_names(tree: Path) -> None:
    (tree / "list.txt").write_text("photos/a/1.jpg\nphotos/a/2.png\n")
    assert stems(tree / "list.txt") == ["1", "2"]


def test_stems_never_leave_the_folder_of_results(tree: Path) -> None:
    (tree / "photos/b/list.txt").write_text(f"../a/1.jpg\n{tree}/photos/b/1.jpg\n../../x.png\n")
    picture(tree / "x.png")
    found = stems(tree / "photos/b/list.txt")
    assert found == ["photos/a/1", "photos/b/1", "x"]


def test_standard_input_may_be_a_list(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert stems("-", stdin=b"photos/a/1.jpg\nphotos/b/1.jpg\n") == ["a/1", "b/1"]
    odd = picture(tree / " #odd\nname .png")
    data = os.fsencode(odd.name) + b"\0photos/a/1.jpg\0"
    assert paths("-", stdin=data) == [Path(odd.name), Path("photos/a/1.jpg")]


def test_standard_input_may_be_a_picture(tree: Path) -> None:
    data = (tree / "photos/a/2.png").read_bytes()
    (source,) = expand(["-"], stdin=io.BytesIO(data))
    assert source.stem == "stdin"
    assert source.name == "standard input"
    assert np.array_equal(source.decode(source.read_bytes()), np.full((4, 6, 3), 90))


def test_picture_of_standard_input_does_not_take_the_name_of_a_file(tree: Path) -> None:
    data = (tree / "photos/a/2.png").read_bytes()
    named = picture(tree / "stdin.png")
    assert stems(named, "-", stdin=data) == ["stdin", "stdin_"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "names no picture"),
        (b"\xff\xd8\xff\xe0 cut off", "neither a picture nor a list"),
        (b"nothing/here.jpg\n", "entry 1: no image at nothing/here.jpg"),
        (b"x" * 5000, "no image at"),
    ],
    ids=["empty", "damaged", "missing", "text"],
)
def test_unusable_standard_input_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        expand(["-"], stdin=io.BytesIO(data))


def test_keyboard_is_not_waited_for() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(ImageError, match="nothing is piped"):
        expand(["-"], stdin=Terminal())


def test_pictures_that_differ_in_their_suffix_both_keep_it(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "y.png"):
        picture(tmp_path / name)
    assert stems(tmp_path) == ["x.jpg", "x.png", "y"]
    assert stems(tmp_path / "x.png", tmp_path / "x.jpg") == ["x.png", "x.jpg"]


def test_pictures_of_one_name_get_their_folders(tree: Path) -> None:
    assert stems(tree / "photos/a/1.jpg", tree / "photos/b/1.jpg") == ["a/1", "b/1"]
    assert stems(tree / "photos/a", tree / "photos/b") == ["a/1", "2", "b/1"]


def test_names_that_differ_only_in_case_are_kept_apart(tmp_path: Path) -> None:
    # On some file systems one result would replace the other.
    given = picture(tmp_path / "a/X.png"), picture(tmp_path / "b/x.png")
    assert stems(*given) == ["a/X", "b/x"]


def test_stem_that_is_the_name_of_another_file_is_not_shared(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "x.jpg.png"):
        picture(tmp_path / name)
    assert len(set(stems(tmp_path))) == 3
    assert stems(tmp_path) == stems(*sorted(tmp_path.iterdir()))


def test_folder_of_frames_is_not_shared_with_pictures(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"")
    picture(tmp_path / "clip/frame_000001.png")
    (tmp_path / "list.txt").write_text("clip.mp4\nclip/frame_000001.png\n")
    assert stems(tmp_path / "list.txt") == ["clip.mp4", "clip/frame_000001"]


def test_file_given_twice_is_read_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    given = ["photos/a", tree / "photos/a/1.jpg", "photos/../photos/a/1.jpg", "photos/*/1.jpg"]
    assert stems(*given) == ["1", "2", "b/1"]


def test_links_to_one_file_are_pictures_of_their_own(tree: Path) -> None:
    (tree / "links").mkdir()
    for name in ("p.jpg", "q.jpg"):
        (tree / "links" / name).symlink_to(tree / "photos/a/1.jpg")
    assert stems(tree / "links") == ["p", "q"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["none.jpg"], "no image at none.jpg"),
        (["photos/a/1.jpg", "none.jpg"], "no image at none.jpg"),
        (["photos"], "holds no image"),
        (["photos/*.bmp"], "no file fits the pattern"),
        (["@none.txt"], "cannot read the list none.txt"),
        (["empty.txt"], "names no picture"),
        (["latin.txt"], "UTF-8"),
        (["https://example.org/x.jpg"], "download"),
        ([], "no picture to read"),
        (["x" * 5000], "no image at"),
    ],
)
def test_what_is_missing_is_named_before_any_work(
    tree: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(tree)
    Path("empty.txt").write_text("# nothing\n")
    Path("latin.txt").write_bytes("müller.jpg".encode("latin-1"))
    with pytest.raises(ImageError, match=message):
        expand(given, stdin=io.BytesIO())


def test_videos_are_told_by_their_suffix(tmp_path: Path) -> None:
    for name, is_video in (("x.MP4", True), ("x.webm", True), ("x.gif", False), ("x.png", False)):
        assert Source(content=tmp_path / name, stem="x").is_video == is_video


def test_picture_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        Source(content=tmp_path / "gone.png", stem="gone").read_bytes()


def test_file_and_its_bytes_give_the_same_pixels(tmp_path: Path) -> None:
    from zegment.images import read_image

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    source = Source(content=tmp_path / "turned.png", stem="turned")
    assert np.array_equal(source.decode(source.read_bytes()), read_image(tmp_path / "turned.png"))
    assert np.array_equal(source.decode(source.read_bytes()), np.rot90(pixels, -1))
