"""Picture files put together byte by byte, so that any part of them can be wrong."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

EXIF = b"Exif\0\0"


def saved(pixels, kind, *, mode=None, **options):
    """Return an array (or a PIL image) as a file of a kind of Pillow's."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (picture if mode is None else picture.convert(mode)).save(file, kind, **options)
    return file.getvalue()


# PNG


def chunk(kind, data=b"", *, length=None, checksum=None):
    length = len(data) if length is None else length
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", length & 0xFFFFFFFF) + kind + data + struct.pack(">I", checksum)


def png(width, height, data, *, depth=8, colour=2, interlaced=0, before=b"", after=b""):
    """Return a PNG file of ready rows, each with its filter byte, with chunks around its pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = chunk(b"IHDR", head) + before + chunk(b"IDAT", data) + after
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND")


def filtered(pixels):
    """Return rows with the filter byte 0, uncompressed."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    rows = rows.view(np.uint8).reshape(len(pixels), -1)
    return np.pad(rows, ((0, 0), (1, 0))).tobytes()


def interlaced_png(pixels):
    """Return a PNG file in Adam's seven passes, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)]  # fmt: skip
    parts = [pixels[y::down, x::right] for y, x, down, right in passes]
    data = b"".join(filtered(part) for part in parts if part.size)
    return png(width, height, zlib.compress(data), interlaced=1)


def with_chunks(data, *chunks):
    """Return a PNG file with chunks behind its head."""
    return data[:33] + b"".join(chunks) + data[33:]


def zeros(count):
    """Return that many zeros in zlib's form, without ever having them."""
    packer, block = zlib.compressobj(9), bytes(2**20)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join([*parts, packer.compress(bytes(count % len(block))), packer.flush()])


# TIFF and EXIF

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
_LETTERS = {1: "B", 2: "B", 3: "H", 4: "L", 6: "b", 7: "B", 8: "h", 9: "l", 11: "f", 12: "d"}


def entry(tag, kind, values, *, count=None, order="<"):
    """Return (tag, type, count, bytes); values are numbers, or bytes that are taken as they are."""
    if isinstance(values, bytes):
        data = values
        count = len(data) // _SIZES.get(kind, 1) if count is None else count
    else:
        values = [values] if isinstance(values, int | float) else list(values)
        if kind in (5, 10):
            data = b"".join(struct.pack(f"{order}LL", v, 1) for v in values)
        else:
            data = struct.pack(f"{order}{len(values)}{_LETTERS[kind]}", *values)
        count = len(values) if count is None else count
    return tag, kind, count, data


def directory(entries, *, place=8, order="<", following=0, announced=None):
    """Return a directory of 12-byte entries that begins at ``place``, and its values after it."""
    end = place + 2 + 12 * len(entries) + 4
    rows, values = [], b""
    for tag, kind, count, data in entries:
        if len(data) <= 4:
            field = data.ljust(4, b"\0")
        else:
            field = struct.pack(f"{order}L", end + len(values))
            values += data
        rows.append(struct.pack(f"{order}HHL", tag, kind, count & 0xFFFFFFFF) + field)
    head = struct.pack(f"{order}H", len(entries) if announced is None else announced)
    return head + b"".join(rows) + struct.pack(f"{order}L", following) + values


def exif(entries, *, order="<", **options):
    """Return EXIF of these entries."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    return head + directory(entries, order=order, **options)


def oriented(value, *, order="<", kind=3):
    return exif([entry(0x0112, kind, value, order=order)], order=order)


def many_entries(count, size, *, first=0x9000):
    """Return EXIF whose entries all stand for the same ``size`` bytes."""
    rows = b"".join(
        struct.pack("<HHLL", (first + k) % 65536, 7, size, 8) for k in range(min(count, 65535))
    )
    data = b"II*\0" + struct.pack("<L", 8) + struct.pack("<H", min(count, 65535)) + rows + bytes(4)
    return data.ljust(size + 8, b"x")


def tiff(pixels, *, tags=(), order="<", without=(), **options):
    """Return an uncompressed TIFF file; later tags replace earlier ones.

    Args:
        pixels: (H, W) or (H, W, C) of any type, or raw bytes if tags say the rest.
        tags: Entries that replace or extend the usual ones.
        order: ``<`` or ``>``.
        without: Tags to leave out.
        options: Of `directory`.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    usual = [
        entry(256, 4, width, order=order), entry(257, 4, height, order=order),
        entry(258, 3, [pixels.dtype.itemsize * 8] * channels, order=order),
        entry(259, 3, 1, order=order), entry(262, 3, 1 if channels == 1 else 2, order=order),
        entry(273, 4, 0, order=order), entry(277, 3, channels, order=order),
        entry(278, 4, height, order=order), entry(279, 4, len(data), order=order),
        entry(339, 3, [kind] * channels, order=order),
    ]  # fmt: skip
    known = {row[0]: row for row in usual} | {row[0]: row for row in tags}
    rows = [known[tag] for tag in sorted(known) if tag not in without]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", 8)
    length = len(head + directory(rows, order=order))
    if 273 not in [row[0] for row in tags]:
        rows = [entry(273, 4, length, order=order) if row[0] == 273 else row for row in rows]
    return head + directory(rows, order=order, **options) + data


# JPEG


def segment(marker, payload, *, length=None):
    length = len(payload) + 2 if length is None else length
    return struct.pack(">BBH", 0xFF, marker, length & 0xFFFF) + payload


def with_segments(data, *segments):
    """Return a JPEG file with segments at its beginning."""
    return data[:2] + b"".join(segments) + data[2:]


# GIF


def gif_data(indices):
    """Return indices below 128 as codes that are never long, because the table is cleared."""
    codes = bytearray()
    flat = np.asarray(indices, np.uint8).ravel().tolist()
    for start in range(0, len(flat), 120):
        codes += bytes([0x80, *flat[start : start + 120]])
    codes.append(0x81)
    blocks = [bytes(codes[k : k + 255]) for k in range(0, len(codes), 255)]
    return b"\x07" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"


def gif_frame(indices, *, box=None, control=b""):
    height, width = np.shape(indices)
    left, top, width, height = box or (0, 0, width, height)
    head = struct.pack("<BHHHHB", 0x2C, left, top, width, height, 0)
    return control + head + gif_data(indices)


def gif(width, height, palette, *parts):
    """Return a GIF file of 128 colours."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0)
    return head + np.asarray(palette, np.uint8).tobytes().ljust(384, b"\0") + b"".join(parts) + b";"


def gif_control(*, disposal=0, transparent=None):
    flags = disposal << 2 | (transparent is not None)
    return b"!\xf9\x04" + struct.pack("<BHB", flags, 1, transparent or 0) + b"\0"


# BMP and WebP


def bmp(width, height, data, *, bits=24, compression=0, palette=b"", colours=0):
    offset = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", (offset + len(data)) & 0xFFFFFFFF, 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0,
                       colours, 0)  # fmt: skip
    return head + info + palette + data


def riff(*chunks, size=None):
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def riff_chunk(kind, data, *, size=None):
    padded = data + b"\0" * (len(data) % 2)
    return kind + struct.pack("<I", len(data) if size is None else size) + padded


def riff_chunks(data):
    """Return the chunks of a WebP file as (kind, data)."""
    found, place = [], 12
    while place + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, place + 4)
        found.append((data[place : place + 4], data[place + 8 : place + 8 + size]))
        place += 8 + size + size % 2
    return found


def webp_with(data, kind, payload, *, width, height):
    """Return a WebP file in the extended form, with a chunk of metadata."""
    flag = {b"EXIF": 8, b"ICCP": 32, b"XMP ": 4}[kind]
    chunks = [c for c in riff_chunks(data) if c[0] in (b"VP8 ", b"VP8L", b"ALPH")]
    flags = flag | (16 if any(c[0] in (b"ALPH", b"VP8L") for c in chunks) else 0)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    head = riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size)
    extra, pixels = riff_chunk(kind, payload), b"".join(riff_chunk(*c) for c in chunks)
    return riff(head, extra + pixels if kind == b"ICCP" else pixels + extra)
