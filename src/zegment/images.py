"""Any picture as an RGB array: files, PIL images, numpy arrays and torch tensors.

H W pixels.
"""

from __future__ import annotations

import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from zegment.errors import ImageError

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = "str | Path | Image.Image | NDArray[np.generic] | torch.Tensor"

#: Names of files that are taken for images when a folder is given.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")

#: What Pillow's decoders raise on damaged files, for those that call Pillow themselves. Every
#: format has exceptions of its own; want of memory is none of them.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, RuntimeError, AttributeError,
    TypeError, ArithmeticError, AssertionError, struct.error, zlib.error,
)  # fmt: skip

#: Tag of TIFF files.
_BITS_PER_SAMPLE = 258

#: Rounding that a float image may overshoot [0, 1] by.
_OVERSHOOT = 1e-4


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
        ImageError: If the file is missing, is no picture, is damaged, or is too large to be safe.
        ImageError: If an array has another shape or type, is empty, or holds NaN or other numbers
            outside its range.
    """
    torch = sys.modules.get("torch")  # a tensor cannot come from a program without torch
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        raise ImageError(f"{source} is an address; download the picture and give its path")
    if isinstance(source, str | Path):
        pixels = _read_file(Path(source))
    elif isinstance(source, Image.Image):
        pixels = _from_pil(source, name=getattr(source, "filename", "") or "the given PIL image")
    elif isinstance(source, np.ndarray):
        pixels = _from_array(source, name=_describe(source))
    elif torch is not None and isinstance(source, torch.Tensor):
        pixels = _from_tensor(source)
    else:
        raise ImageError(
            f"cannot read an image from {type(source).__name__}; give a path, a PIL image, "
            "a numpy array or a torch tensor"
        )
    return np.array(pixels, order="C")  # a copy: Pillow and broadcasting lend read-only memory


def open_image(source: Path | bytes, name: str = "the given bytes") -> ImageFile.ImageFile:
    """Open a picture without decoding its pixels.

    Args:
        source: The file, or what it holds.
        name: What errors call the bytes, also those of `read_image`; a file is called by its path.

    Returns:
        The lazily loaded picture; close it, or use it in a ``with``.

    Raises:
        ImageError: If the file is missing, is no picture, or is too large to be safe.
    """
    name = name if isinstance(source, bytes) else str(source)
    try:
        if not isinstance(source, bytes):
            return Image.open(source)
        picture = Image.open(BytesIO(source))
        picture.filename = name
        return picture
    except FileNotFoundError as error:
        raise ImageError(f"no image at {name}; check the path") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder; give an image file in it") from error
    except Image.DecompressionBombError as error:
        raise _bomb(name, error) from error
    except UnidentifiedImageError as error:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise ImageError(f"{name} is empty; copy it again or remove it") from error
        raise ImageError(
            f"{name} is not a picture that Pillow can read; convert it to PNG or JPEG"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # each format's reader has exceptions of its own
        remedy = "give another" if isinstance(source, bytes) else "check the file and its rights"
        raise ImageError(
            f"cannot open {name}: {error or type(error).__name__}; {remedy}"
        ) from error


def _read_file(path: Path) -> NDArray[np.uint8]:
    with open_image(path) as picture:
        return _from_pil(picture, name=str(path), ours=True)


def _bomb(name: str, error: Exception) -> ImageError:
    return ImageError(
        f"{name} is too large to be decoded safely ({error}); if you trust it, shrink it, or raise "
        "PIL.Image.MAX_IMAGE_PIXELS"
    )


def _from_pil(picture: Image.Image, *, name: str, ours: bool = False) -> NDArray[np.uint8]:
    """Return RGB, perhaps read-only; a picture that is ours may be changed, which saves a copy."""
    if 0 in picture.size:
        raise ImageError(f"{name} has no pixels: {picture.width} x {picture.height}")
    if picture.mode == "I" and 32 in getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, ()):
        raise ImageError(f"{name} has 32-bit values, whose scale it does not tell; save 8 or 16")
    try:
        picture.load()  # numpy would take an AttributeError of a decoder for no picture at all
        if ours:
            ImageOps.exif_transpose(picture, in_place=True)
        else:
            picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith(("I", "F")):
            return _from_wide_grey(picture, name=name)
        if picture.has_transparency_data:
            return _over_white(np.asarray(picture.convert("RGBA")))
        return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except (ImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _bomb(name, error) from error
    except Exception as error:  # each format's decoder has exceptions of its own
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name} cannot be decoded ({reason}); if it is damaged or cut off, copy it again"
        ) from error


def _from_wide_grey(picture: Image.Image, *, name: str) -> NDArray[np.uint8]:
    """Return RGB from one channel of 16 or 32 bits."""
    values = np.asarray(picture)
    if values.dtype.kind == "i":  # 16-bit files may be opened with 32 bits per pixel
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{name} has 32-bit values; scale them to 8 or 16 bits")
        values = values.astype(np.uint16)
    return _from_array(values, name=name)


def _from_tensor(tensor: torch.Tensor) -> NDArray[np.uint8]:
    name = f"the given tensor {tuple(tensor.shape)} of {tensor.dtype}"
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(f"{name} is not (3, height, width); give one image, channels first")
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    return _from_array(tensor.detach().cpu().permute(1, 2, 0).numpy(), name=name)


def _from_array(array: NDArray[np.generic], *, name: str) -> NDArray[np.uint8]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        remedy = "use array.transpose(1, 2, 0)" if first else "give one image"
        raise ImageError(f"{name} is not (height, width, 3); {remedy}")
    if array.size == 0:
        raise ImageError(f"{name} has no pixels; give an image of at least 1 x 1")
    pixels = _to_uint8(array, name=name)
    if pixels.shape[2] == 4:
        return _over_white(pixels)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _to_uint8(array: NDArray[np.generic], *, name: str) -> NDArray[np.uint8]:
    """Return values of any accepted type on the scale 0 to 255."""
    if array.dtype == np.uint8:
        return array.view(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(f"{name} is not bool, uint8, uint16 or float; convert it to uint8")
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} holds NaN or infinity; remove them")
    low, high = values.min(), values.max()
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ImageError(
            f"{name} has float values from {low:g} to {high:g}, expected 0 to 1; scale them, or "
            "give 0 to 255 as uint8"
        )
    scaled: NDArray[np.float32] = np.rint(values.clip(0, 1) * 255)
    return scaled.astype(np.uint8)


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB (H, W, 3) of straight RGBA (H, W, 4) laid over white."""
    colour, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _describe(array: NDArray[np.generic]) -> str:
    return f"the given array {array.shape} of {array.dtype}"
