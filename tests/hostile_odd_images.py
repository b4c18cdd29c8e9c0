"""Odd pictures that are whole, with what they show, reckoned from their numbers alone.

And the beginnings of other formats: a reader of one of them must never be asked.
"""

from __future__ import annotations

import io
import tarfile
import zlib

import hostile_builders as build
import numpy as np
from PIL import Image


def grey(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def scaled(values):
    """Return 16 bits as 8, to the nearest."""
    return np.rint(np.asarray(values) / 257).astype(np.uint8)


def over_white(rgb, alpha):
    share = np.asarray(alpha, np.float64)[..., None] / 255
    return np.floor(rgb * share + 255 * (1 - share) + 0.5).astype(np.uint8)


def packed(values, depth):
    """Return rows of values of fewer than 8 bits, the first in the highest bits."""
    bits = np.unpackbits(values[..., None].astype(np.uint8), axis=2)[..., 8 - depth :]
    return np.packbits(bits.reshape(len(values), -1), axis=1)


def odd_pictures(rng, amount):
    """Yield (file, verdict, what it shows, tolerance)."""
    for _ in range(max(1, round(3 * amount))):
        height, width = (int(side) for side in rng.integers(2, 30, 2))
        for make in (_png, _tiff, _bmp, _gif, _others):
            yield from make(rng, height, width)


def _png(rng, height, width):
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    alphas = rng.integers(0, 256, 256, dtype=np.uint8)
    for depth in (1, 2, 4, 8):
        values = rng.integers(0, 2**depth, (height, width))
        rows = zlib.compress(build.filtered(packed(values, depth)))
        plain = {"depth": depth, "colour": 0}
        shown = grey(values * (255 // (2**depth - 1)))
        yield build.png(width, height, rows, **plain), "right", shown
        if depth in (1, 8):
            gone = build.chunk(b"tRNS", b"\0\1" if depth == 1 else b"\0\x07")
            clear = values == (1 if depth == 1 else 7)
            cleared = np.where(clear[..., None], 255, shown).astype(np.uint8)
            yield build.png(width, height, rows, **plain, before=gone), "right", cleared
        colours = build.chunk(b"PLTE", palette[: 2**depth].tobytes())
        indexed = {"depth": depth, "colour": 3}
        yield build.png(width, height, rows, **indexed, before=colours), "right", palette[values]
        clear = build.chunk(b"tRNS", alphas[: 2**depth].tobytes())
        shown = over_white(palette[values], alphas[values])
        yield build.png(width, height, rows, **indexed, before=colours + clear), "right", shown
    wide = rng.integers(0, 65_536, (height, width, 4))
    wide[..., 3] = rng.choice([0, 65_535], (height, width))
    for colour, channels in ((0, 1), (2, 3), (4, 2), (6, 4)):
        values = wide[..., 4 - channels :] if channels in (2, 4) else wide[..., :channels]
        data = zlib.compress(build.filtered(values.astype(">u2")))
        shown = scaled(values[..., : channels - (channels in (2, 4))])
        shown = shown if shown.shape[2] == 3 else shown.repeat(3, axis=2)
        if channels in (2, 4):
            shown = np.where(values[..., -1:] == 0, 255, shown).astype(np.uint8)
        tolerance = 0 if channels == 1 else 1  # Pillow takes the upper byte
        yield build.png(width, height, data, depth=16, colour=colour), "right", shown, tolerance
    values = wide[..., 0]
    data = zlib.compress(build.filtered(values.astype(">u2")))
    gone = build.chunk(b"tRNS", int(values[0, 0]).to_bytes(2, "big"))
    shown = np.where((values == values[0, 0])[..., None], 255, grey(scaled(values)))
    yield build.png(width, height, data, depth=16, colour=0, before=gone), "right", shown


def _tiff(rng, height, width):
    entry = build.entry
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    level = rng.uniform(0, 1, (height, width)).astype(np.float32)
    wide = rng.integers(0, 65_536, (height, width), dtype=np.uint16)
    for order in "<>":
        yield build.tiff(rgb, order=order), "right", rgb
        yield build.tiff(wide, order=order), "right", grey(scaled(wide))
        yield build.tiff(level, order=order), "right", grey(np.rint(level * 255))
        for bad in (level * 300, level - 2, np.where(level < 0.5, np.nan, level),
                    np.full((height, width), np.inf)):  # fmt: skip
            yield build.tiff(bad.astype(np.float32), order=order), "refused"
        yield build.tiff(wide.astype(np.int32), order=order), "refused"
        yield build.tiff(wide.astype(np.uint32), order=order), "refused"
        yield build.tiff(level.astype(np.float64), order=order), "refused"
    deep = rng.integers(0, 65_536, (height, width, 3), dtype=np.uint16)
    yield build.tiff(deep), "right", scaled(deep), 1
    white_is_zero = entry(262, 3, 0)
    yield build.tiff(rgb[..., 0], tags=[white_is_zero]), "right", grey(255 - rgb[..., 0])
    yield build.tiff(wide, tags=[white_is_zero]), "refused"
    yield build.tiff(level, tags=[white_is_zero]), "refused"
    twelve = rng.integers(0, 256, (height, width * 2), dtype=np.uint8)
    tags = [entry(256, 4, width), entry(258, 3, 12)]
    yield build.tiff(twelve, tags=tags), "refused"
    rows = [entry(278, 4, 1), entry(279, 4, [width * 3] * height)]
    place = len(build.tiff(rgb, tags=[*rows, entry(273, 4, [0] * height)])) - rgb.size
    strips = entry(273, 4, [place + width * 3 * row for row in range(height)])
    yield build.tiff(rgb, tags=[*rows, strips]), "right", rgb
    cmyk = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    ink = (255 - cmyk[..., :3].astype(np.float64)) * (255 - cmyk[..., 3:]) / 255
    yield build.tiff(cmyk, tags=[entry(262, 3, 5)]), "right", np.rint(ink).astype(np.uint8), 1
    yield build.tiff(rgb, tags=[entry(262, 3, 8)]), "refused"  # LAB
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    shown = over_white(rgba[..., :3], rgba[..., 3])
    yield build.tiff(rgba, tags=[entry(338, 3, 2)]), "right", shown
    yield build.tiff(rgba, tags=[entry(338, 3, 0)]), "right", rgba[..., :3]
    planes = entry(284, 3, 2)
    layers = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    sizes = [entry(279, 4, [height * width] * 3), entry(278, 4, height)]
    head = len(build.tiff(rgb, tags=[planes, *sizes, entry(273, 4, [0] * 3)])) - rgb.size
    places = entry(273, 4, [head + height * width * k for k in range(3)])
    flat = layers.reshape(height, width, 3)
    yield build.tiff(flat, tags=[planes, *sizes, places]), "right", rgb
    bits = Image.fromarray((rgb[..., 0] > 99).astype(np.uint8) * 255).convert("1")
    for code in ("group3", "group4", "raw", "packbits"):
        yield build.saved(bits, "TIFF", compression=code), "right", grey((rgb[..., 0] > 99) * 255)
    yield build.saved(rgb, "TIFF", big_tiff=True), "right", rgb
    yield build.saved(rgb, "TIFF", compression="zstd"), "right", rgb
    yield build.saved(wide, "TIFF", compression="tiff_lzw"), "right", grey(scaled(wide))


def _bmp(rng, height, width):
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    table = np.pad(palette[:, ::-1], ((0, 0), (0, 1))).astype(np.uint8)
    for depth in (1, 4, 8):
        values = rng.integers(0, 2**depth, (height, width))
        rows = packed(values, depth)[::-1]
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
        colours = table[: 2**depth].tobytes()
        data = build.bmp(width, height, rows.tobytes(), bits=depth, palette=colours)
        yield data, "right", palette[values]
    values = rng.integers(0, 256, (height, width))
    runs = b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in values[::-1].tolist())
    options = {"bits": 8, "compression": 1, "palette": table.tobytes()}
    yield build.bmp(width, height, runs + b"\0\1", **options), "right", palette[values]


def _gif(rng, height, width):
    palette = rng.integers(0, 256, (128, 3), dtype=np.uint8)
    indices = rng.integers(0, 128, (height, width), dtype=np.uint8)
    control = build.gif_control(transparent=5)
    shown = np.where((indices == 5)[..., None], 255, palette[indices]).astype(np.uint8)
    yield build.gif(width, height, palette, build.gif_frame(indices)), "right", palette[indices]
    yield (
        build.gif(width, height, palette, build.gif_frame(indices, control=control)),
        "right",
        shown,
    )


def _others(rng, height, width):
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    shown = over_white(rgba[..., :3], rgba[..., 3])
    yield build.saved(rgba, "WEBP", lossless=True, exact=True), "right", shown
    smooth = np.full((16, 16, 4), rng.integers(0, 200, 4), np.uint8)
    ink = (255 - smooth[..., :3].astype(np.float64)) * (255 - smooth[..., 3:]) / 255
    picture = Image.fromarray(smooth, mode="CMYK")
    yield build.saved(picture, "JPEG", quality=95), "right", np.rint(ink).astype(np.uint8), 8


def _tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member, data = tarfile.TarInfo("a.png"), build.saved(np.zeros((4, 4, 3), np.uint8), "PNG")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


_PIXELS = np.full((8, 8, 3), 90, np.uint8)

#: PostScript, which Pillow would hand to another program, and others that it would read.
FOREIGN = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    b"\xc5\xd0\xd3\xc6\x20\0\0\0\x40\0\0\0" + bytes(20) + b"%!PS-Adobe-3.0 EPSF-3.0\n"
    b"%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    *(build.saved(_PIXELS, kind) for kind in ("PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "AVIF",
                                              "ICNS", "IM", "DDS", "QOI", "EPS", "PDF")),
    build.saved(_PIXELS[..., 0], "MSP", mode="1"), build.saved(_PIXELS[..., 0], "XBM", mode="1"),
    b"P3\n# c\n3000 3000\n255\n" + b"1 " * 1000, b"P5\n9 9\n65535\n" + bytes(200),
    b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + bytes(200),
    b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =  8".ljust(80) + b"END".ljust(2720),
    b"\xd7\xcd\xc6\x9a" + bytes(60), b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(40),
    b"\0\0\1\xb3" + b"\x10\0\x10" + bytes(30), b"\x89HDF\r\n\x1a\n" + bytes(90),
    b"GRIB" + bytes(3) + b"\1" + bytes(90), b"BUFR" + bytes(90),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), bytes(128) + b"DICM" + bytes(90),
    b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<!DOCTYPE html><html></html>",
    b"PK\3\4" + bytes(40), b"\x1f\x8b\x08" + bytes(40), _tar(), b"text\n", b"\0" * 1000,
)  # fmt: skip
