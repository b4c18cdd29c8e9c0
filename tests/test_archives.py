"""Archives as users have them: whole, cut off, damaged, malicious, of another data set."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from miniatures import pack

from zegment.data import archives
from zegment.data.archives import unpack
from zegment.data.preparing.report import Report
from zegment.errors import DatasetError, DatasetNotFoundError, OutputError

ANCHORS = ("images/val", "masks/val/*.png", "photos/val/*.jpg")
TREE = {"set/images/val/a.jpg": b"a" * 700, "set/images/val/b.jpg": b"b" * 512, "set/x.txt": b""}
KINDS = ("x.zip", "x.tar", "x.tar.gz", "x.tgz")


class Steps(Report):
    """Remembers what it was told, and stops at a step if asked to."""

    def __init__(self, stop_at=None):
        self.steps, self.done, self.stop_at = [], 0, stop_at

    def start(self, what, total):
        self.steps.append((what, total))

    def advance(self, n=1):
        self.done += n
        if self.done == self.stop_at:
            raise KeyboardInterrupt


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(archive, root, match, error=DatasetError):
    """Expect an error that names the archive, and a root that is as it was."""
    before = content(root) if root.exists() else None
    with pytest.raises(error, match=match) as raised:
        unpack(archive, root, ANCHORS, report=Report())
    assert str(archive) in str(raised.value)
    assert (content(root) if root.exists() else None) == before
    return str(raised.value)


# Where files go


@pytest.mark.parametrize("kind", [*KINDS, "x.tar.bz2", "x.tar.xz"])
@pytest.mark.parametrize("outer", ["", "set/", "deep/er/set/", "./"])
def test_the_folder_that_holds_an_anchor_becomes_the_root(tmp_path, kind, outer):
    tree = {f"{outer}images/val/a.jpg": b"1", f"{outer}x.txt": b"2", "other/y.txt": b"3"}
    archive = tmp_path / kind
    if kind.endswith(("bz2", "xz")):
        with tarfile.open(archive, f"w:{kind.rpartition('.')[2]}") as packed:
            for name, data in tree.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))
    else:
        pack(archive, tree)
    unpack(archive, tmp_path / "root", ANCHORS, report=Report())
    expected = {"images/val/a.jpg": b"1", "x.txt": b"2"}
    if outer in ("", "./"):
        expected["other/y.txt"] = b"3"
    assert content(tmp_path / "root") == expected


def test_files_find_their_place_by_their_last_folder_and_ending(tmp_path):
    root = tmp_path / "root"
    photos = pack(tmp_path / "a.zip", {"val/1.jpg": b"1", "README": b"", "val/info.json": b"{}"})
    masks = pack(tmp_path / "b.zip", {"maps/val/1.png": b"2", "maps/train/1.png": b"3"})
    unpack(photos, root, ANCHORS, report=Report())
    unpack(masks, root, ANCHORS, report=Report())
    assert content(root) == {"photos/val/1.jpg": b"1", "masks/val/1.png": b"2"}


def test_what_systems_add_to_archives_is_left_out(tmp_path):
    clutter = {"__MACOSX/set/images/val/._a.jpg": b"x", "set/images/val/.DS_Store": b"x"}
    unpack(pack(tmp_path / "x.zip", clutter | TREE), tmp_path / "r", ANCHORS, report=Report())
    assert content(tmp_path / "r") == {k.removeprefix("set/"): v for k, v in TREE.items()}


# Again, and after an interruption


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_the_same_size_stay_and_others_are_replaced(tmp_path, kind):
    archive, root = pack(tmp_path / kind, TREE), tmp_path / "root"
    assert unpack(archive, root, ANCHORS, report=Report()) == 3
    (root / "images/val/a.jpg").write_bytes(b"cut")
    kept = (root / "images/val/b.jpg").stat().st_mtime_ns
    report = Steps()
    assert unpack(archive, root, ANCHORS, report=report) == 1
    assert report.steps == [(f"unpack {kind}", 1)]
    assert report.done == 1
    assert (root / "images/val/a.jpg").read_bytes() == b"a" * 700
    assert (root / "images/val/b.jpg").stat().st_mtime_ns == kept


@pytest.mark.parametrize("kind", KINDS)
def test_an_interruption_leaves_nothing_in_place_and_the_next_call_goes_on(
    tmp_path, kind, monkeypatch
):
    archive, root = pack(tmp_path / kind, TREE), tmp_path / "root"
    with pytest.raises(KeyboardInterrupt):
        unpack(archive, root, ANCHORS, report=Steps(stop_at=2))
    assert [path for path in root.iterdir() if not path.name.startswith(".")] == []
    copied = []
    real = archives.shutil.copyfileobj
    monkeypatch.setattr(
        archives.shutil,
        "copyfileobj",
        lambda source, target, size: copied.append(target.name) or real(source, target, size),
    )
    unpack(archive, root, ANCHORS, report=Report())
    assert [Path(name).name for name in copied] == ["x.txt"]
    assert content(root) == {k.removeprefix("set/"): v for k, v in TREE.items()}


# Cut off and damaged


def test_a_tar_cut_anywhere_is_refused_and_nothing_is_written(tmp_path):
    whole = pack(tmp_path / "whole.tar", TREE).read_bytes()
    end = 512 * (1 + 2 + 1 + 1 + 1)  # headers and blocks of the three files
    assert whole[end:] == bytes(len(whole) - end)
    archive = tmp_path / "cut.tar"
    for length in (*range(0, end + 1, 256), end - 1):
        archive.write_bytes(whole[:length])
        message = refused(archive, tmp_path / "root", "again")
        assert "download it again" in message
    archive.write_bytes(whole[: end + 512])
    assert unpack(archive, tmp_path / "root", ANCHORS, report=Report()) == 3


@pytest.mark.parametrize("kind", ["x.zip", "x.tar.gz"])
def test_a_compressed_archive_cut_anywhere_is_refused(tmp_path, kind):
    whole = pack(tmp_path / kind, TREE).read_bytes()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "kept.txt").write_text("mine")
    for length in range(0, len(whole), 23):
        (tmp_path / kind).write_bytes(whole[:length])
        refused(tmp_path / kind, tmp_path / "root", "download it again")


def test_a_damaged_member_leaves_the_root_as_it_was(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name, data in TREE.items():
            packed.writestr(name, data)
    archive.write_bytes(archive.read_bytes().replace(b"b" * 512, b"b" * 511 + b"c"))
    refused(archive, tmp_path / "new", "damaged or cut off .*download it again")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old/images/val").mkdir(parents=True)
    (tmp_path / "old/images/val/a.jpg").write_bytes(b"older")
    refused(archive, tmp_path / "old", "download it again")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"<html>please log in</html>" * 100)
    refused(tmp_path / "x.zip", tmp_path / "root", "no .zip or .tar archive")
    with pytest.raises(DatasetNotFoundError, match=r"no archive .*y\.zip"):
        unpack(tmp_path / "y.zip", tmp_path / "root", ANCHORS, report=Report())


def test_a_password_is_an_error(tmp_path):
    archive = pack(tmp_path / "x.zip", TREE)
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # says that the first member is encrypted, in both of its headers
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refused(archive, tmp_path / "root", "password|encrypted")


def test_an_archive_of_another_data_set_is_refused_with_what_it_holds(tmp_path):
    archive = pack(tmp_path / "x.zip", {"annotations/instances.json": b"{}"})
    message = refused(archive, tmp_path / "root", "holds nothing that this data set has")
    assert "images/val" in message
    assert "found annotations" in message


# Members that mean harm


@pytest.mark.parametrize("kind", ["x.zip", "x.tar"])
@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "set/images/val/../../../../evil.jpg",
        "/tmp/evil.jpg",  # noqa: S108 - a name in an archive
        "C:\\evil.jpg",
        "set\\..\\..\\evil.jpg",
        "\\\\server\\share\\evil.jpg",
    ],
)
def test_a_member_that_leads_out_is_refused(tmp_path, kind, name):
    archive = pack(tmp_path / kind, TREE | {name: b"evil"})
    refused(archive, tmp_path / "inner" / "root", "Nothing was unpacked")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_a_device_in_a_tar_is_refused(tmp_path, type_):
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as packed:
        link = tarfile.TarInfo("set/images/val")
        link.type, link.linkname = type_, "/etc"
        packed.addfile(link)
    refused(archive, tmp_path / "root", "is a link or a device")


def test_a_link_in_a_zip_is_refused(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        link = zipfile.ZipInfo("set/images/val")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "/etc")
    refused(archive, tmp_path / "root", "is a link")


# No room, no right


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    usage = archives.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage)
    archive = pack(tmp_path / "x.zip", TREE)
    refused(archive, tmp_path / "root", "make room", error=OutputError)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_root_that_cannot_be_written_to_is_named(tmp_path):
    archive, root = pack(tmp_path / "x.zip", TREE), tmp_path / "root"
    root.mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"cannot (unpack|write)"):
        unpack(archive, root, ANCHORS, report=Report())


def test_a_file_in_the_place_of_the_root_is_named(tmp_path):
    archive = pack(tmp_path / "x.zip", TREE)
    (tmp_path / "root").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot (unpack|write)"):
        unpack(archive, tmp_path / "root", ANCHORS, report=Report())
    assert (tmp_path / "root").read_text() == "mine"
