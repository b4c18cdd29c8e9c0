"""Any picture as an RGB array: files, PIL images, numpy arrays and torch tensors.

H W pixels.
"""

from __future__ import annotations

import logging
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from zegment.errors import ImageError
from zegment.image_arrays import describe, from_array, over_white
from zegment.image_bytes import (
    ORIENTATION,
    BoundedBytes,
    exif_of,
    orientation_of,
    read_file,
    refuse_misread_bmp,
    refuse_missing_pixels,
    without_metadata,
)

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.generic] | torch.Tensor"

#: Names of files that are taken for images when a folder is given.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")

#: What is read, whatever a file is called. Other readers of Pillow are not for strangers' files:
#: that of PostScript starts another program, and many decode byte by byte in Python. Those that
#: Pillow has at hand come first.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")

#: What Pillow's decoders raise on damaged files, for those that call Pillow themselves. Every
#: format has exceptions of its own; want of memory is none of them.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, AttributeError,
    TypeError, ArithmeticError, AssertionError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip

#: Tags of TIFF files.
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262

#: Run lengths of BMP are decoded in Python, where ten bytes may stand for a row.
_LONGEST_SLOW_SIDE = 4096

#: Pixels that are converted at a time, so that it takes next to no memory.
_BLOCK = 2**20

#: Where Pillow says how many pixels a picture has that it does not decode.
_COUNTED = re.compile(r"\((\d+) pixels\)")

#: Where a picture keeps what errors call it. Pillow takes `filename` for a file to read from.
_NAME = "zegment: name"


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """Return a picture as RGB, whatever it comes as.

    The camera's rotation is applied, grey becomes three equal channels, transparency is laid over
    white, 16 bits are scaled to 8, and of an animation the current frame is taken: the first, if
    the source is a file.

    Args:
        source: A path; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); or a tensor
            (1, H, W), (3, H, W) or (4, H, W). Arrays and tensors are bool, uint8, uint16, or float
            in [0, 1].

    Returns:
        RGB, uint8 (H, W, 3), contiguous, the caller's own.

    Raises:
        ImageError: If the file is missing, is none of `FORMATS`, is damaged, or is too large to be
            safe.
        ImageError: If an array has another shape or type, is empty, or holds NaN or other numbers
            outside its range.
    """
    torch = sys.modules.get("torch")  # a tensor cannot come from a program without torch
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{source} is an address; download the picture and give its path")
    if isinstance(source, str | Path):
        with open_image(Path(source)) as picture:
            return _from_pil(picture)
    if isinstance(source, Image.Image):
        return _from_pil(source)
    if isinstance(source, np.ndarray):
        pixels = from_array(source, name=describe(source))
    elif torch is not None and isinstance(source, torch.Tensor):
        pixels = _from_tensor(source)
    else:
        raise ImageError(
            f"cannot read an image from {type(source).__name__}; give a path, a PIL image, "
            "a numpy array or a torch tensor"
        )
    return np.array(pixels, order="C")  # a copy: broadcasting and the caller lend memory


def open_image(source: Path | bytes, name: str = "the given bytes") -> ImageFile.ImageFile:
    """Open a picture without decoding its pixels.

    Args:
        source: The file, or what it holds.
        name: What errors call the bytes, also those of `read_image`; a file is called by its path.

    Returns:
        The lazily loaded picture; close it, or use it in a ``with``. Of its metadata it knows no
        more than how the camera was held.

    Raises:
        ImageError: If the file is missing, is none of `FORMATS`, is damaged, or is too large to be
            safe.
    """
    data, name = (source, name) if isinstance(source, bytes) else (read_file(source), str(source))
    if not data:
        raise ImageError(f"{name} is empty; copy it again or remove it")
    _keep_quiet()
    try:
        needed, orientation = without_metadata(data)
        content = BoundedBytes(needed)
        picture = Image.open(content, formats=FORMATS)
        content.after_head()
        if picture.format == "BMP":
            _refuse_misread(picture, needed)
        exif = picture.info.pop("exif", None)
    except Image.DecompressionBombError as error:
        raise _bomb(name, error) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not a picture that Pillow can read as PNG, JPEG, WebP, TIFF, BMP or GIF; "
            "convert it to one of them"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # each format's reader has exceptions of its own
        raise _damaged(name, error) from error
    slow = any(tile.codec_name in Image.DECODERS for tile in picture.tile)
    if slow and max(picture.size) > _LONGEST_SLOW_SIDE:
        raise ImageError(
            f"{name} has run lengths and more than {_LONGEST_SLOW_SIDE} pixels on a side, which "
            "take too long; save it as PNG"
        )
    if exif is not None:
        orientation = orientation_of(exif)
    if orientation != 1:
        picture.info["exif"] = exif_of(orientation)
    picture.info[_NAME] = name
    return picture


def _refuse_misread(picture: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse a BMP that is unpacked as what it is not; run lengths always stand for their own."""
    for tile in picture.tile:
        if tile.codec_name == "raw" and tile.args:
            refuse_misread_bmp(data, tile.args[0])


def decode(picture: Image.Image) -> None:
    """Decode the pixels of a picture, all of them.

    NumPy would take an AttributeError of a decoder for no picture at all, and Pillow shows rows
    that a PNG file lacks as black.

    Args:
        picture: Of `open_image`, or another one, which is only loaded.

    Raises:
        Exception: Whatever the decoder raises, mostly one of `DECODE_ERRORS`.
        ValueError: If pixels are missing.
    """
    content = getattr(picture, "fp", None)  # None as soon as it is loaded
    picture.load()
    if picture.format == "PNG" and isinstance(content, BoundedBytes):
        refuse_missing_pixels(content.getvalue())


def _keep_quiet() -> None:
    """Silence what Pillow says of damaged files, unless somebody asked for it.

    A file can make it say a hundred thousand things, and none of them names the file.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    log = logging.getLogger("PIL")
    if not log.handlers:
        log.addHandler(logging.NullHandler())


def _bomb(name: str, error: Exception) -> ImageError:
    counted = _COUNTED.search(str(error))
    pixels = f"{int(counted[1]):,}" if counted else "too many"
    # Pillow warns at its limit, and refuses at twice as many.
    return ImageError(
        f"{name} is too large to be decoded safely: it has {pixels} pixels, and at most "
        f"{2 * (Image.MAX_IMAGE_PIXELS or 0):,} are taken; shrink it, or cut it into tiles"
    )


def _damaged(name: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        f"{name} cannot be decoded ({reason}); if it is damaged or cut off, copy it again"
    )


def _from_pil(picture: Image.Image) -> NDArray[np.uint8]:
    name = picture.info.get(_NAME) or getattr(picture, "filename", "") or "the given PIL image"
    if 0 in picture.size:
        raise ImageError(f"{name} has no pixels: {picture.width} x {picture.height}")
    try:
        _refuse_unclear(picture, name=name)
        decode(picture)
        turn = _TURNS.get(picture.getexif().get(ORIENTATION) or 1)
        if turn is not None:
            picture = picture.transpose(turn)
        pixels = np.empty((picture.height, picture.width, 3), np.uint8)
        for box in _blocks(*picture.size):
            left, top, right, bottom = box
            block = picture if box == (0, 0, *picture.size) else picture.crop(box)
            pixels[top:bottom, left:right] = _rgb(block, name=name)
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _bomb(name, error) from error
    except Exception as error:  # each format's decoder has exceptions of its own
        raise _damaged(name, error) from error
    return pixels


def _refuse_unclear(picture: Image.Image, *, name: str) -> None:
    """Refuse numbers that do not tell which colour or brightness they stand for.

    Raises:
        ImageError: If a picture has such numbers.
    """
    if picture.mode == "LAB":
        raise ImageError(f"{name} has LAB colours, which depend on its profile; save it as RGB")
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, ())
    if picture.mode.startswith("I") and (32 in bits or 12 in bits):
        raise ImageError(
            f"{name} has {bits[0]}-bit values, whose scale it does not tell; save 8 or 16"
        )
    if picture.mode.startswith(("I", "F")) and tags.get(_PHOTOMETRIC) == 0:
        raise ImageError(f"{name} counts from white to black; save it with 0 for black")


def _blocks(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes (left, top, right, bottom) of parts that are converted one by one."""
    columns = min(width, _BLOCK)
    rows = max(1, _BLOCK // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(left + columns, width), min(top + rows, height)


def _rgb(picture: Image.Image, *, name: str) -> NDArray[np.uint8]:
    """Return RGB, perhaps read-only, of a decoded picture of moderate size."""
    if picture.mode.startswith(("I", "F")):
        return _from_wide_grey(picture, name=name)
    if picture.has_transparency_data:
        return over_white(np.asarray(picture.convert("RGBA")))
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _from_wide_grey(picture: Image.Image, *, name: str) -> NDArray[np.uint8]:
    """Return RGB from one channel of 16 or 32 bits."""
    values = np.asarray(picture)
    if values.dtype.kind == "i":  # 16-bit files may be opened with 32 bits per pixel
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name} has 32-bit values; scale them to 8 or 16 bits")
        values = values.astype(np.uint16)
    pixels = from_array(values, name=name)
    transparent = picture.info.get("transparency")
    if transparent is None:
        return pixels
    return np.where((values == transparent)[..., None], np.uint8(255), pixels)


def _from_tensor(tensor: torch.Tensor) -> NDArray[np.uint8]:
    name = f"the given tensor {tuple(tensor.shape)} of {tensor.dtype}"
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(f"{name} is not (3, height, width); give one image, channels first")
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    return from_array(tensor.detach().cpu().permute(1, 2, 0).numpy(), name=name)
