"""The bytes of a picture, bounded, and without what their reader could be made to work on for ever.

Pillow reads text, profiles and EXIF that Zegment has no use for, and a file of a megabyte can make
it take hours or all memory there is: thousands of entries of a directory that each stand for the
whole file, texts that grow piece by piece, archives of zeros. None of it reaches Pillow.
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from io import BytesIO
from pathlib import Path

from zegment.errors import ImageError

#: A picture in RGB that has as many pixels as Pillow takes has half as many bytes uncompressed.
MOST_BYTES = 2**30

#: Directories are read up to three times; what is read more often stands for more than there is.
_MOST_READ = 8
_ALLOWANCE = 2**20
_MOST_READS_OF_HEAD = 10_000

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
#: Numbers of a pixel, by the type of its colours: grey, RGB, palette, and two with transparency.
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: First column, first row, and the steps to the next ones, of each pass of an interlaced picture.
_PNG_PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
_PNG_WHOLE = ((0, 0, 1, 1),)
#: Bytes that are inflated at a time.
_INFLATED = 2**18

_JPEG = b"\xff\xd8\xff"
_JPEG_SCAN = 0xDA
_JPEG_EXIF = 0xE1
_JPEG_WITHOUT_CONTENT = frozenset([0x00, 0x01, *range(0xD0, 0xDA)])
#: Application data and comments, but for JFIF's and Adobe's, which say what the colours are.
_JPEG_METADATA = frozenset([*range(0xE1, 0xEE), 0xEF, 0xFE])

#: What comes next after a segment or the pixels of a scan: anything but stuffed bytes and restarts.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG_END = 0xD9
#: Each is a pass over all pixels and may take twelve bytes; encoders make ten or so.
_MOST_SCANS = 100

_EXIF = b"Exif\0\0"
ORIENTATION = 0x0112
#: How many bytes a number has that EXIF may give the orientation in, by its type.
_NUMBERS = {1: "B", 3: "H", 4: "L"}

#: Bits of a pixel, by how Pillow has it unpacked.
_UNPACKED_BITS = {"1": 1, "P;1": 1, "P;2": 2, "P;4": 4, "P": 8, "L": 8}
#: Where a BMP has the size of its header, and where the bits of a pixel, by that size.
_BMP_HEADER, _BMP_BITS, _BMP_OLD_BITS, _BMP_OLD = 14, 28, 24, 12


class OverreadError(RuntimeError):
    """What reads a picture reads the same bytes again and again."""


class BoundedBytes(BytesIO):
    """Bytes that can be read through a few times, which is all that an honest picture needs.

    Args:
        data: All that can be read.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._bytes_left = _MOST_READ * len(data) + _ALLOWANCE
        self._reads_left: float = _MOST_READS_OF_HEAD

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises:
            OverreadError: If too much has been read.
        """
        data = super().read(size)
        self._bytes_left -= len(data)
        self._reads_left -= 1
        if self._bytes_left < 0 or self._reads_left < 0:
            raise OverreadError("it says far more about itself than a picture needs")
        return data

    def after_head(self) -> None:
        """Allow as many reads as the pixels may take."""
        self._reads_left = float("inf")


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a device and the like, which might be waited for without end.

    Raises:
        ImageError: If ``path`` is not a regular file.
        OSError: If nothing can be said of it.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path} is a folder; give an image file in it")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path} is not a regular file; give a file, or pipe a picture into '-'")


def read_file(path: Path) -> bytes:
    """Return what a file holds that may be a picture.

    Raises:
        ImageError: If it does not exist, is no regular file, cannot be read, or has more than
            `MOST_BYTES`.
    """
    try:
        refuse_special(path)
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ImageError(
                f"{path} has {size} bytes, more than a picture may have ({MOST_BYTES}); cut it "
                "into tiles, or store it compressed"
            )
        return path.read_bytes()
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"no image at {path}; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a name with NUL
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"cannot open {path}: {reason}; check the file and its rights") from error


def without_metadata(data: bytes) -> tuple[bytes, int]:
    """Return what decoding a picture needs, and how the camera was held.

    Of PNG and JPEG files texts, profiles, EXIF and animations are taken out; others are returned as
    they are.

    Args:
        data: What a file holds, picture or not.

    Returns:
        The bytes for Pillow, and the orientation, 1 to 8.

    Raises:
        ValueError: If a checksum of a PNG file is wrong, or a JPEG file goes over its pixels again
            and again.
    """
    if data.startswith(_PNG):
        return _slim_png(data)
    if data.startswith(_JPEG):
        return _slim_jpeg(data)
    return data, 1


def _slim_png(data: bytes) -> tuple[bytes, int]:
    view, place, orientation = memoryview(data), len(_PNG), 1
    kept = [view[:place]]
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if kind in _PNG_KEPT:
            # Pillow does not look at the checksums of pixels.
            sums = zlib.crc32(view[place + 4 : end - 4]).to_bytes(4, "big"), data[end - 4 : end]
            if end <= len(data) and sums[0] != sums[1]:
                raise ValueError(f"the checksum of its {kind.decode()} is wrong")
            kept.append(view[place:end])
        elif kind == b"eXIf":
            orientation = orientation_of(data[place + 8 : end - 4])
        if kind == b"IEND":
            break
        place = end
    return b"".join(kept), orientation


def refuse_missing_pixels(data: bytes) -> None:
    """Refuse a PNG file whose pixels end early; Pillow would show black for the missing ones.

    Args:
        data: A whole file that Pillow can open.

    Raises:
        ValueError: If it has fewer pixels than it says.
        zlib.error: If they cannot be inflated.
    """
    view, place = memoryview(data), len(_PNG)
    inflater, needed, found = zlib.decompressobj(), 0, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IHDR":
            needed = _inflated_size(data[place + 8 : place + 8 + length])
        elif kind == b"IDAT":
            rest: bytes | memoryview = view[place + 8 : place + 8 + length]
            while rest and found < needed and not inflater.eof:
                found += len(inflater.decompress(rest, _INFLATED))
                rest = inflater.unconsumed_tail
        elif kind == b"IEND":
            break
        place += 12 + length
    # What fills a last piece to the brim is given out when asked again.
    while found < needed and (more := len(inflater.decompress(b"", _INFLATED))):
        found += more
    if found < needed:
        raise ValueError(f"its pixels end after {found} of {needed} bytes")


def _inflated_size(header: bytes) -> int:
    """Return how many bytes the rows of a PNG file have, each with one for its filter."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", header)
    size = 0
    for left, top, across, down in _PNG_PASSES if interlaced else _PNG_WHOLE:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            size += rows * (1 + (columns * depth * _PNG_CHANNELS[colour] + 7) // 8)
    return size


def refuse_misread_bmp(data: bytes, unpacked: str) -> None:
    """Refuse a BMP whose pixels Pillow takes for wider or narrower ones than they are.

    It goes by the palette alone: one of black and white stands for one bit to it, and one of greys
    that equal their place for eight, whatever the header says. Other pixels come out.

    Args:
        data: The file.
        unpacked: Pillow's name for how the pixels are unpacked.

    Raises:
        ValueError: If they are misread.
    """
    (size,) = struct.unpack_from("<I", data, _BMP_HEADER)
    (bits,) = struct.unpack_from("<H", data, _BMP_OLD_BITS if size == _BMP_OLD else _BMP_BITS)
    if _UNPACKED_BITS.get(unpacked, bits) != bits:
        raise ValueError(
            f"Pillow misreads BMP of {bits} bits a pixel with such a palette; save it as PNG"
        )


def _slim_jpeg(data: bytes) -> tuple[bytes, int]:
    view, place, begin, orientation = memoryview(data), 2, 0, None
    kept = []
    # Whatever lies between two segments is passed over, as Pillow does.
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 3:
        marker = data[place + 1]
        if marker == _JPEG_SCAN:
            break
        if marker == 0xFF or marker in _JPEG_WITHOUT_CONTENT:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + max(2, int.from_bytes(data[place + 2 : place + 4], "big"))
        if marker in _JPEG_METADATA:
            if marker == _JPEG_EXIF and orientation is None and data.startswith(_EXIF, place + 4):
                orientation = orientation_of(data[place + 4 : end])
            kept.append(view[begin:place])
            begin = end
        place = end
    kept.append(view[begin:])
    _refuse_endless(data, place)
    return b"".join(kept), orientation or 1


def _refuse_endless(data: bytes, place: int) -> None:
    """Refuse a JPEG file with more scans, from ``place`` on, than a picture has reason for.

    Raises:
        ValueError: If there are too many.
    """
    scans = 0
    while (found := _JPEG_MARKER.search(data, place)) and found[1][0] != _JPEG_END:
        scans += found[1][0] == _JPEG_SCAN
        if scans > _MOST_SCANS:
            raise ValueError(f"it goes over its pixels more than {_MOST_SCANS} times")
        place = found.end()
        if found[1][0] not in _JPEG_WITHOUT_CONTENT:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))


def orientation_of(exif: bytes) -> int:
    """Return how the camera was held, 1 to 8; 1 is upright, and what holds if EXIF is damaged."""
    exif = exif.removeprefix(_EXIF)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for entry in range(place + 2, place + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHL", exif, entry)
            if tag == ORIENTATION and kind in _NUMBERS and number == 1:
                (value,) = struct.unpack_from(f"{order}{_NUMBERS[kind]}", exif, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def exif_of(orientation: int) -> bytes:
    """Return EXIF that says nothing but how the camera was held."""
    head = _EXIF + b"MM\0*\0\0\0\x08"
    return head + struct.pack(">HHHLHHL", 1, ORIENTATION, 3, 1, orientation, 0, 0)
