import hostile_builders as build
import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from zegment.errors import ImageError
from zegment.images import read_image


@pytest.fixture
def rgb():
    """Noise, 6 x 9 pixels."""
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def saved(tmp_path, picture, name="a.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


# Files


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_a_file_gives_its_pixels(tmp_path, rgb, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, Image.fromarray(rgb), name, **options)
    for source in (path, str(path), Image.open(path)):
        image = read_image(source)
        assert image.dtype == np.uint8
        assert image.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(image, rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_the_camera_is_applied(tmp_path, rgb, orientation):
    shown = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: np.rot90(rgb, -1),
        7: np.rot90(rgb, 2).transpose(1, 0, 2),
        8: np.rot90(rgb, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(rgb), exif=exif)
    np.testing.assert_array_equal(read_image(path), shown)
    np.testing.assert_array_equal(read_image(Image.open(path)), shown)


def test_a_given_picture_is_not_turned_itself(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6
    given = Image.open(saved(tmp_path, Image.fromarray(rgb), exif=exif))
    read_image(given)[:] = 0
    assert given.size == (9, 6)
    assert given.getexif()[0x0112] == 6
    np.testing.assert_array_equal(np.asarray(given), rgb)


def test_grey_becomes_three_equal_channels(tmp_path, rgb):
    grey = rgb[..., 0]
    image = read_image(saved(tmp_path, Image.fromarray(grey)))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert read_image(saved(tmp_path, bits)).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_gives_its_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    picture.putpalette([1, 2, 3, 250, 240, 230])
    assert read_image(saved(tmp_path, picture)).tolist() == [[[1, 2, 3], [250, 240, 230]]]


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 100, 255, 51), (204, 224, 255)),  # a fifth of it, four fifths white
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (7, 255), (7, 7, 7)),
    ],
)
def test_transparency_is_laid_over_white(tmp_path, mode, pixel, expected):
    path = saved(tmp_path, Image.new(mode, (2, 1), pixel))
    assert read_image(path)[0, 0].tolist() == list(expected)


def test_a_transparent_palette_colour_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode="P")
    picture.putpalette([1, 2, 3, 4, 5, 6])
    path = saved(tmp_path, picture, transparency=0)
    assert read_image(path).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tif")
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    for source in (path, Image.fromarray(values.astype(np.int32))):
        assert read_image(source)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(path)[0, 0].tolist() == [255, 0, 0]


# Arrays and tensors


def test_arrays_of_every_accepted_type_give_the_same_picture(rgb):
    sources = [
        rgb,
        rgb.astype(np.uint16) * 257,
        (rgb.astype(np.uint16) * 257).astype(">u2"),
        rgb / 255,
        (rgb / 255).astype(np.float32),
        rgb[::-1][::-1],
        torch.from_numpy(rgb).permute(2, 0, 1),
        torch.from_numpy(rgb).permute(2, 0, 1) / 255,
        (torch.from_numpy(rgb).permute(2, 0, 1) / 255).requires_grad_(),
    ]
    for source in sources:
        np.testing.assert_array_equal(read_image(source), rgb)


def test_half_precision_is_read_to_its_precision(rgb):
    tensor = torch.from_numpy(rgb).permute(2, 0, 1) / 255
    np.testing.assert_allclose(read_image(tensor.half()), rgb, atol=1)
    np.testing.assert_allclose(read_image(tensor.bfloat16()), rgb, atol=2)


def test_one_channel_and_four_channels_are_read(rgb):
    grey = np.stack([rgb[..., 0]] * 3, axis=-1)
    np.testing.assert_array_equal(read_image(rgb[..., 0]), grey)
    np.testing.assert_array_equal(read_image(rgb[..., :1]), grey)
    np.testing.assert_array_equal(read_image(torch.from_numpy(rgb[..., 0])[None]), grey)
    transparent = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    assert (read_image(transparent) == 255).all()
    assert read_image(np.array([[False, True]])).tolist() == [[[0] * 3, [255] * 3]]


def test_the_caller_can_write_into_the_result_without_changing_the_source(tmp_path, rgb):
    before = rgb.copy()
    for source in (rgb, rgb[..., 0], torch.from_numpy(rgb).permute(2, 0, 1), Image.fromarray(rgb)):
        read_image(source)[:] = 0
    np.testing.assert_array_equal(rgb, before)


def test_rounding_beyond_one_is_forgiven():
    assert read_image(np.full((1, 1, 3), 1.00001)).tolist() == [[[255, 255, 255]]]


# Mistakes


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"\(2, 2, 2\) of uint8 is not \(height, width, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"use array.transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "give one image"),
        (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
        (np.zeros((8, 8, 3), np.int64), "uint16 or float; convert it to uint8"),
        (np.zeros((8, 8, 3), np.complex64), "is not bool, uint8, uint16 or float"),
        (np.full((8, 8, 3), np.nan), "holds NaN or infinity"),
        (np.full((8, 8, 3), np.inf), "holds NaN or infinity"),
        (np.full((8, 8, 3), 200.0), "float values from 200 to 200, expected 0 to 1"),
        (np.full((8, 8, 3), -0.5), "float values from -0.5"),
        (torch.zeros(8, 8, 3), r"give one image, channels first"),
        (torch.zeros(1, 3, 8, 8), r"give one image, channels first"),
        (torch.zeros(3, 0, 8), "has no pixels"),
        (torch.full((3, 8, 8), float("nan")), "holds NaN or infinity"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "is not bool, uint8, uint16 or float"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (Image.fromarray(np.full((2, 2), 70000, np.int32)), "32-bit values"),
        (Image.fromarray(np.full((2, 2), 9.0, np.float32)), "expected 0 to 1"),
        ([[1, 2], [3, 4]], "cannot read an image from list; give a path"),
        (b"bytes", "cannot read an image from bytes"),
        ("https://example.org/a.png", "is an address; download"),
    ],
)
def test_what_is_no_image_is_refused_with_a_remedy(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"no image at .*gone\.jpg; check the path"):
        read_image(tmp_path / "gone.jpg")


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="is a folder; give an image file"):
        read_image(tmp_path)


def test_an_empty_file_and_a_text_file_are_no_images(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.png is empty"):
        read_image(path)
    path.write_text("not a picture")
    with pytest.raises(ImageError, match=r"a\.png is not a picture that Pillow .*; convert"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_a_file_cut_off_is_named(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"a\.\w+ cannot be decoded .*copy it again"):
        read_image(path)


def test_a_picture_too_large_to_be_safe_is_refused(tmp_path, rgb, monkeypatch):
    path = saved(tmp_path, Image.fromarray(rgb))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    size = f"it has {rgb.shape[0] * rgb.shape[1]} pixels, and at most 20 are taken; shrink it"
    with pytest.raises(ImageError, match=rf"a\.png is too large .*: {size}"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about what we damaged
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tif", "a.webp", "a.bmp"])
def test_damaged_files_never_raise_anything_but_an_image_error(tmp_path, rgb, name):
    rng = np.random.default_rng(1)
    path = saved(tmp_path, Image.fromarray(rgb), name)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(40):
        bytes_ = whole.copy()
        bytes_[rng.integers(0, len(bytes_), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(bytes_.tobytes())
        try:
            assert read_image(path).ndim == 3
        except ImageError as error:
            assert name in str(error)  # noqa: PT017 - it may also be readable


@pytest.mark.parametrize("step", ["_open", "load"])
def test_whatever_a_decoder_raises_names_the_picture(tmp_path, rgb, monkeypatch, step):
    path = saved(tmp_path, Image.fromarray(rgb))
    read_image(path)  # Pillow's readers are loaded
    kinds = (RuntimeError, NotImplementedError, AttributeError, KeyError, OverflowError, Exception)
    for kind in kinds:
        with monkeypatch.context() as patched:
            patched.setattr(PngImagePlugin.PngImageFile, step, raising(kind("odd")))
            with pytest.raises(ImageError, match=r"cannot .*odd|is not a picture"):
                read_image(path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, step, raising(MemoryError))
    with pytest.raises(MemoryError):
        read_image(path)


def raising(error):
    def method(*_, **__):
        raise error

    return method


def test_a_file_of_32_bit_values_is_refused_instead_of_turned_black(tmp_path):
    Image.fromarray(np.full((8, 8), 200, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ImageError, match=r"wide\.tif has 32-bit values"):
        read_image(tmp_path / "wide.tif")
    Image.fromarray(np.full((8, 8), 51400, np.uint16)).save(tmp_path / "sixteen.tif")
    assert (read_image(tmp_path / "sixteen.tif") == 200).all()


def bmp_of_palette(tmp_path, colours, *, bits):
    """Write a BMP of one row that shows the first colour, then the second; return its path."""
    palette = b"".join(bytes([*colour[::-1], 0]) for colour in colours)
    row = {1: b"\x40", 4: b"\x01", 8: b"\0\x01"}[bits].ljust(4, b"\0")
    path = tmp_path / "picture.bmp"
    path.write_bytes(build.bmp(2, 1, row, bits=bits, palette=palette, colours=len(colours)))
    return path


BLACK_AND_WHITE = [(0, 0, 0), (255, 255, 255)]
RED_AND_WHITE = [(200, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    ("colours", "bits"),
    [
        (BLACK_AND_WHITE, 8),
        (BLACK_AND_WHITE, 4),
        ([(grey, grey, grey) for grey in range(16)], 4),
    ],
)
def test_a_bmp_that_pillow_misreads_is_refused(tmp_path, colours, bits):
    path = bmp_of_palette(tmp_path, colours, bits=bits)
    with pytest.raises(ImageError, match=rf"picture\.bmp .*BMP of {bits} bits.*save it as PNG"):
        read_image(path)


@pytest.mark.parametrize(
    ("colours", "bits"),
    [
        (BLACK_AND_WHITE, 1),
        (RED_AND_WHITE, 1),
        (RED_AND_WHITE, 4),
        (RED_AND_WHITE, 8),
        ([(grey, grey, grey) for grey in range(256)], 8),
    ],
)
def test_a_bmp_with_few_colours_shows_them(tmp_path, colours, bits):
    path = bmp_of_palette(tmp_path, colours, bits=bits)
    assert read_image(path).tolist() == [[list(colour) for colour in colours[:2]]]
