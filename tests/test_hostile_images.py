"""What strangers' files may do: become a right picture, or an error that says what to do."""

import io
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path

import hostile_builders as build
import numpy as np
import pytest
from hostile_doors import by_bytes
from hostile_images import KINDS, bad_images
from hostile_masks import bad_masks
from hostile_odd_images import FOREIGN
from hostile_running import apart
from hostile_scenes import scene
from PIL import EpsImagePlugin, Image
from soaks.images import (
    Examined,
    examine_command,
    examine_images,
    examine_masks,
    examine_paths,
)

from zegment.data.masks import read_mask
from zegment.data.preparing.binary_masks import read_binary_mask
from zegment.errors import DatasetError, ImageError, OutputError
from zegment.formats.georeference import read_georeference
from zegment.image_bytes import BoundedBytes, OverreadError, refuse_missing_pixels
from zegment.images import FORMATS, open_image, read_image
from zegment.prediction import inputs
from zegment.prediction.inputs import Source, expand


@pytest.fixture(scope="module")
def cases():
    return bad_images(amount=0.02, seed=0)


@pytest.fixture(scope="module")
def examined(cases, tmp_path_factory):
    """What became of some hundred pictures of all kinds."""
    found = Examined()
    examine_images(cases, tmp_path_factory.mktemp("bad"), found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_bad_pictures_end_in_the_right_picture_or_in_an_error(examined, kind):
    assert sum(count for (_, name, _), count in examined.outcomes.items() if name == kind) >= 2
    assert [failure for failure in examined.failures if f", {kind}, " in failure] == []


def test_the_files_are_the_same_from_the_same_seed(cases):
    again = bad_images(amount=0.02, seed=0)
    assert [case.data for case in again] == [case.data for case in cases]
    assert len(bad_masks(amount=0.02, seed=0)) > 50


def test_bytes_are_read_as_files_are(cases, tmp_path):
    found = Examined()
    examine_images(cases[::5], tmp_path, found, way="bytes", read=by_bytes)
    assert found.failures == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_paths_that_are_no_files_are_refused_and_odd_names_are_read(tmp_path):
    found = Examined()
    examine_paths(tmp_path, found, seed=0)
    assert found.failures == []
    assert found.of("strange paths")["refused"] > 40


def test_bad_masks_end_in_the_right_labels_or_in_an_error(tmp_path):
    found = Examined()
    examine_masks(tmp_path, found, amount=0.02, seed=0)
    assert found.failures == []


def test_the_command_goes_through_bad_pictures_and_lists_them(cases, tmp_path):
    some = [case for case in cases if case.kind != "long and thin"][::31]
    found = Examined()
    segmented, refused = examine_command(some, tmp_path, found)
    assert found.failures == []
    assert segmented > 0
    assert refused > 0


def test_every_flipped_bit_of_a_png_is_noticed_or_changes_nothing():
    pixels = scene(np.random.default_rng(0), 5, 4)
    data = build.saved(pixels, "PNG")
    seen = 0
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        try:
            with open_image(bytes(changed)) as picture:
                assert np.array_equal(read_image(picture), pixels)
            seen += 1
        except ImageError:
            continue
    assert seen < len(data)  # some of the bits of lengths and sums of what is not needed


# What Pillow must not be asked


def test_no_other_program_is_started_for_postscript(tmp_path, monkeypatch):
    mark, program = tmp_path / "ran", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{mark}'\nexit 0\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    for number, name in enumerate(("a.eps", "a.png")):
        path = tmp_path / name
        path.write_bytes(FOREIGN[number])
        for read in (read_image, read_mask):
            with pytest.raises(ImageError, match=r"a\.\w+ is not a picture .*; convert it"):
                read(path)
    assert not mark.exists()
    with suppress(Exception), Image.open(io.BytesIO(FOREIGN[0])) as picture:
        picture.load()
    assert mark.exists()  # so it would have been


def test_a_text_that_names_other_files_is_no_georeference(tmp_path):
    pytest.importorskip("rasterio")
    other = tmp_path / "other.tif"
    other.write_bytes(build.tiff(np.zeros((4, 4), np.uint8)))
    path = tmp_path / "a.tif"
    path.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="4"><GeoTransform>0,1,0,0,0,-1</GeoTransform>'
        '<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        f"{other}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(OutputError, match=r"a\.tif': it is no TIFF.*; convert it to a GeoTIFF"):
        read_georeference(path)


def test_the_formats_that_are_read_are_those_that_their_suffixes_promise():
    known = Image.registered_extensions()
    from zegment.images import IMAGE_SUFFIXES

    assert {known[suffix] for suffix in IMAGE_SUFFIXES} == set(FORMATS)


def test_bytes_are_not_taken_from_a_file_that_has_the_name_of_their_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("standard input").write_bytes(build.saved(np.full((9, 9), 7, np.uint8), "BMP"))
    given = np.full((9, 9), 200, np.uint8)
    source = Source(content=build.saved(given, "BMP"), stem="x")
    assert (source.decode(source.read_bytes()) == 200).all()


def test_what_says_more_of_itself_than_it_holds_is_given_up():
    stream = BoundedBytes(bytes(1000))
    for _ in range(1000):
        stream.seek(0)
        stream.read()
    with pytest.raises(OverreadError):
        read_often(stream, 10**6, 1000)
    with pytest.raises(OverreadError):
        read_often(BoundedBytes(bytes(10**6)), 10**5, 1)


def test_strips_that_are_read_again_and_again_are_given_up_in_masks_too(tmp_path):
    path = tmp_path / "strips.tif"
    tags = [build.entry(273, 3, [9] * 60_000), build.entry(278, 3, 2)]
    path.write_bytes(build.tiff(np.zeros((3, 60_000), np.uint8), tags=tags))
    for read in (read_image, read_mask):
        with pytest.raises(
            ImageError, match=r"strips\.tif cannot be decoded .*far more about itself"
        ):
            read(path)


def test_long_runs_that_are_decoded_in_python_are_refused(tmp_path):
    path = tmp_path / "runs.bmp"
    path.write_bytes(build.bmp(9000, 9000, b"\0\0" * 9000 + b"\0\1", bits=8, compression=1))
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=r"runs\.bmp has run lengths .*; save it as PNG"):
            read(path)


def read_often(stream, times, size):
    for _ in range(times):
        stream.seek(0)
        stream.read(size)


def test_a_directory_that_stands_for_much_memory_costs_little(tmp_path):
    path = tmp_path / "bomb.tif"
    path.write_bytes(build.many_entries(65_535, 800_000))  # 51 GB, entry by entry
    (found,) = apart(by_bytes, [(str(path), "refused", None, 0)])
    assert found.outcome == "refused"
    assert found.mib < 50


@pytest.mark.parametrize(("colour", "channels"), [(6, 4), (3, 1)])
def test_reading_takes_few_bytes_per_pixel(tmp_path, colour, channels):
    side, path = 4000, tmp_path / "large.png"
    clear = build.chunk(b"PLTE", bytes(6)) + build.chunk(b"tRNS", bytes(1))
    rows = build.zeros((side * channels + 1) * side)
    before = clear if colour == 3 else b""
    path.write_bytes(build.png(side, side, rows, colour=colour, before=before))
    (found,) = apart(by_bytes, [(str(path), "right", None, 0)])
    assert found.outcome == "right"
    assert found.mib < 12 * side * side / 2**20  # 4 that Pillow has, 3 of the result


# What must not be lost on the way


def test_metadata_is_left_behind_and_the_picture_is_not():
    pixels = scene(np.random.default_rng(0))
    text = build.chunk(b"tEXt", b"a\0b") + build.chunk(b"tIME", bytes(7))
    data = build.with_chunks(build.saved(pixels, "PNG"), text)
    with open_image(data) as picture:
        assert "a" not in picture.info
        assert np.array_equal(read_image(picture), pixels)


def test_a_wrong_checksum_is_said():
    data = bytearray(build.saved(scene(np.random.default_rng(0)), "PNG"))
    data[data.index(b"IDAT") + 9] ^= 1
    with pytest.raises(ImageError, match=r"the checksum of its IDAT is wrong.*copy it again"):
        open_image(bytes(data))


def test_a_picture_too_large_for_the_memory_does_not_end_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    (tmp_path / "a.png").write_bytes(build.saved(scene(np.random.default_rng(0)), "PNG"))
    monkeypatch.setattr(inputs, "read_image", full)
    source = Source(content=tmp_path / "a.png", stem="a")
    with pytest.raises(ImageError, match=r"a\.png is too large for the memory .*; shrink"):
        source.decode(source.read_bytes())


def test_standard_input_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(inputs, "MOST_BYTES", 1000)
    with pytest.raises(ImageError, match="more than 1000 bytes are piped into '-'"):
        expand(["-"], stdin=io.BytesIO(bytes(1001)))


def test_a_lossy_mask_is_refused_whatever_its_name(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(build.saved(np.zeros((8, 8), np.uint8), "JPEG"))
    with pytest.raises(DatasetError, match=r"mask\.png is a JPEG file .*; save masks as PNG"):
        read_mask(path)


def test_numbers_of_unclear_brightness_are_refused():
    wide = np.zeros((4, 4), np.uint16)
    for tags, reason in (
        ([build.entry(258, 3, 12)], "12-bit values"),
        ([build.entry(262, 3, 0)], "counts from white"),
    ):
        with pytest.raises(ImageError, match=reason), open_image(build.tiff(wide, tags=tags)) as p:
            read_image(p)
    lab = build.tiff(np.zeros((4, 4, 3), np.uint8), tags=[build.entry(262, 3, 8)])
    with pytest.raises(ImageError, match="LAB colours"), open_image(lab) as picture:
        read_image(picture)


def test_a_transparent_16_bit_grey_is_white():
    values = np.array([[100, 40_000]], ">u2")
    gone = build.chunk(b"tRNS", (40_000).to_bytes(2, "big"))
    rows = zlib.compress(build.filtered(values))
    with open_image(build.png(2, 1, rows, depth=16, colour=0, before=gone)) as picture:
        assert read_image(picture)[0, :, 0].tolist() == [0, 255]


# Pixels that are missing


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1)]  # fmt: skip
"""Row and column that each pass begins with, and the steps to the next."""


def length_of_rows(bits, *, interlaced):
    """Return the length of each row of a PNG file of 9 x 6 pixels, counted in an array of them."""
    pixels = np.zeros((6, 9))
    parts = [pixels[y::down, x::right] for y, x, down, right in ADAM7] if interlaced else [pixels]
    return [1 + -(-bits * len(row) // 8) for part in parts if part.size for row in part]


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(
    ("depth", "colour", "bits"),
    [(1, 0, 1), (2, 0, 2), (2, 3, 2), (4, 3, 4), (8, 4, 16), (8, 2, 24), (16, 6, 64)],
)
def test_a_png_needs_every_byte_of_its_pixels(tmp_path, interlaced, depth, colour, bits):
    before = build.chunk(b"PLTE", bytes(12)) if colour == 3 else b""
    rows = length_of_rows(bits, interlaced=interlaced)
    size = sum(rows)

    def short(missing):
        data = zlib.compress(bytes(size - missing))
        return build.png(
            9, 6, data, depth=depth, colour=colour, interlaced=interlaced, before=before
        )

    path = tmp_path / "a.png"
    path.write_bytes(short(0))
    assert read_image(path).shape == (6, 9, 3)
    for missing in (rows[-1], sum(rows[-3:]), size):
        path.write_bytes(short(missing))
        with pytest.raises(ImageError, match=r"a\.png cannot be decoded \(.*copy it again"):
            read_image(path)
    refuse_missing_pixels(short(0))
    with pytest.raises(ValueError, match=f"its pixels end after {size - 1} of {size} bytes"):
        refuse_missing_pixels(short(1))


def test_masks_without_their_last_rows_are_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(build.png(9, 6, zlib.compress(b"\0" + bytes(9)), colour=0))
    with pytest.raises(ImageError, match=r"a\.png cannot be decoded \(its pixels end after 10 of"):
        read_mask(path)
    with pytest.raises(ImageError, match=r"a\.png cannot be decoded \(its pixels end after 10 of"):
        read_binary_mask(path)


def test_pixels_in_many_pieces_and_of_which_there_are_more_are_read():
    pixels = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)
    data = zlib.compress(build.filtered(pixels) + bytes(10**6))
    pieces = [build.chunk(b"IDAT", data[i : i + 1000]) for i in range(0, len(data), 1000)]
    whole = build.png(300, 400, b"", before=b"".join(pieces))
    with open_image(whole) as picture:
        assert np.array_equal(read_image(picture), pixels)


def test_the_first_picture_of_an_animated_png_is_read():
    first, second = scene(np.random.default_rng(0)), scene(np.random.default_rng(1))
    frames = [Image.fromarray(second)]
    with open_image(build.saved(first, "PNG", save_all=True, append_images=frames)) as picture:
        assert np.array_equal(read_image(picture), first)
