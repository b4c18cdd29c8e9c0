import os
import shutil
from pathlib import Path

import pytest

from zegment.claims import claimed
from zegment.errors import OutputError, ZegmentError
from zegment.files import atomic_folder, atomic_write_bytes, atomic_write_text


def names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def fill(folder: Path, name: str, *, then: BaseException | None = None, **options: bool) -> None:
    with atomic_folder(folder, **options) as stage:
        (stage / name).write_text(name)
        if then is not None:
            raise then


def test_a_file_is_written_with_its_missing_parents(tmp_path):
    atomic_write_bytes(tmp_path / "a" / "b.bin", b"\x00\xff")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\xff"
    assert names(tmp_path / "a") == ["b.bin"]


def test_text_is_utf8_with_its_line_ends_kept(tmp_path):
    atomic_write_text(str(tmp_path / "names.txt"), "café\n猫\r\n")
    assert (tmp_path / "names.txt").read_bytes() == "café\n猫\r\n".encode()


def test_a_second_write_replaces_the_first(tmp_path):
    atomic_write_text(tmp_path / "x", "long old content")
    atomic_write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"


def test_a_written_file_gets_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    atomic_write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_whole(tmp_path, monkeypatch):
    atomic_write_text(tmp_path / "x", "old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match="No space left"):
        atomic_write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_link_keeps_pointing_at_the_file_that_was_written(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_folder_or_a_device_is_not_overwritten_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "device")
    for place in (tmp_path, tmp_path / "device"):
        with pytest.raises(OutputError, match="not a file"):
            atomic_write_text(place, "text")
    assert (tmp_path / "device").is_fifo()


def test_a_file_where_a_parent_folder_should_be_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda p: atomic_write_text(p, ""), lambda p: atomic_folder(p).__enter__()):
        with pytest.raises(OutputError, match="choose a place") as caught:
            write(tmp_path / "file" / "below")
        assert isinstance(caught.value, ZegmentError)
        assert isinstance(caught.value, OSError)


def test_a_folder_appears_only_when_its_block_has_ended(tmp_path):
    with atomic_folder(tmp_path / "run" / "1") as stage:
        (stage / "a").write_text("a")
        assert not (tmp_path / "run" / "1").exists()
    assert names(tmp_path / "run" / "1") == ["a"]
    assert names(tmp_path / "run") == ["1"]


@pytest.mark.parametrize("earlier", ["nothing", "empty", "full"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_block_leaves_everything_as_it_was(tmp_path, earlier, error):
    target = tmp_path / "run"
    if earlier != "nothing":
        target.mkdir()
    if earlier == "full":
        (target / "old").write_text("old")
    with pytest.raises(error):
        fill(target, "half", then=error(), replace=True)
    assert names(tmp_path) == ([] if earlier == "nothing" else ["run"])
    if earlier != "nothing":
        assert names(target) == (["old"] if earlier == "full" else [])


def test_an_empty_folder_is_filled_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    with atomic_folder(".") as stage:
        (stage / "sub").mkdir()
        (stage / "sub" / "a").write_text("a")
    assert names(tmp_path) == ["sub"]
    assert tmp_path.stat().st_ino == inode


def test_a_folder_with_content_is_refused_before_any_work(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(OutputError, match="choose a new folder"):
        atomic_folder(tmp_path).__enter__()
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("earlier", ["nothing", "empty"])
def test_a_folder_filled_meanwhile_is_not_overwritten(tmp_path, earlier):
    target = tmp_path / "run"
    if earlier == "empty":
        target.mkdir()
    folder = atomic_folder(target)
    (folder.__enter__() / "ours").write_text("")
    target.mkdir(exist_ok=True)
    (target / "theirs").write_text("")
    with pytest.raises(OutputError, match="choose a new folder"):
        folder.__exit__(None, None, None)
    assert names(target) == ["theirs"]
    assert names(tmp_path) == ["run"]


def test_replacing_a_folder_leaves_only_the_new_content(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "old").write_text("")
    fill(target, "new", replace=True)
    assert names(target) == ["new"]
    assert names(tmp_path) == ["run"]


def test_a_replacement_that_fails_at_the_last_step_restores_the_old_folder(tmp_path, monkeypatch):
    target = tmp_path / "run"
    target.mkdir()
    (target / "old").write_text("")
    rename = Path.rename

    def refuse_the_new_one(self, to):
        if (self / "new").exists():
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr("zegment.files._exchange", lambda *_: False)  # as on other systems
    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(OutputError, match="Input/output"):
        fill(target, "new", replace=True)
    assert names(target) == ["old"]
    assert names(tmp_path) == ["run"]


def test_a_folder_that_another_process_replaces_while_it_is_listed_is_not_empty(
    tmp_path, monkeypatch
):
    target = tmp_path / "run"
    fill(target, "old")
    fill(tmp_path / "other", "theirs")
    iterdir = Path.iterdir

    def with_another_process(self):
        if self == target and (tmp_path / "other").exists():
            shutil.rmtree(target)
            (tmp_path / "other").rename(target)
            return iter(())  # as a folder is listed whose files have just been removed
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", with_another_process)
    fill(target, "new", replace=True)
    assert names(tmp_path) == ["run"]
    assert names(target) == ["new"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="a file has that name"):
        fill(tmp_path / "taken", "new", replace=True)
    assert (tmp_path / "taken").read_text() == "mine"


def test_links_that_lead_in_a_circle_are_no_place_to_write(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OutputError, match=f"cannot write {loop}"):
        atomic_write_text(loop, "text")
    with pytest.raises(OutputError, match=f"cannot write {loop}"), atomic_folder(loop):
        pytest.fail("there is no such folder")
    with pytest.raises(OutputError, match=f"cannot write {loop}"), claimed(loop, purpose="train"):
        pytest.fail("there is no such folder")
