"""Files that lie: small ones that stand for much, directories in circles, frames that do not fit.

Each function yields (file, verdict, what it shows, tolerance); see `hostile_images.Case`.
"""

from __future__ import annotations

import struct
import zlib

import hostile_builders as build
import numpy as np
from hostile_scenes import scene, times
from PIL import Image


def bombs(rng, amount):
    """Small files that stand for far more than there is room for."""
    rows = build.zeros(round(20_001 * 10_000 * min(amount, 1)))
    for colour in (0, 3):
        yield build.png(20_000, 10_000, rows, colour=colour), "refused"
    yield build.png(160_000, 10_000, rows, depth=1, colour=0), "refused"
    pixels = scene(rng)
    tags = [build.entry(256, 4, 20_000), build.entry(257, 4, 10_000), build.entry(259, 3, 8)]
    yield build.tiff(pixels, tags=[*tags, build.entry(279, 4, len(rows))]) + rows, "refused"
    for packed in (b"\0\x02\0\xff" * 40, b"\0\0" * 20_000, b"\xff\x01" * 5000):
        yield build.bmp(170_000_000, 1, packed, bits=8, compression=1), "refused"
        yield build.bmp(13_000, 13_000, packed, bits=4, compression=2), "refused"
        yield build.bmp(2, 85_000_000, packed, bits=8, compression=1), "refused"
    plain, much = build.saved(pixels, "PNG"), build.zeros(round(100 * 2**20 * max(0.1, amount)))
    for data in (
        build.chunk(b"zTXt", b"a\0\0" + much),
        build.chunk(b"iTXt", b"a\0\1\0\0\0" + much),
        build.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + much),
        build.chunk(b"iCCP", b"a\0\0" + much),
        b"".join(build.chunk(b"tEXt", b"k%d\0" % k + bytes(2**20)) for k in times(70, amount)),
    ):
        yield build.with_chunks(plain, data), "right", pixels
        yield plain[:-12] + data + plain[-12:], "right", pixels
    jpeg = build.saved(pixels, "JPEG", quality=95, subsampling=0)
    for count in times(4, amount):
        few = build.segment(0xE1, build.EXIF + b"x") * (200_000 // (count + 1))
        yield build.with_segments(jpeg, few), "right", pixels, 12
    indices, palette = np.ones((9, 9), np.uint8), [[0, 0, 0], [7, 8, 9]]
    shown = np.full((9, 9, 3), palette[1], np.uint8)
    long = round(4_000_000 * max(0.2, amount))
    blocks = b"!\xfe" + (b"\xff" + b"x" * 255) * (long // 256) + b"\0"
    for comment in (b"!\xfe\x01x\0" * (long // 5), blocks):
        yield build.gif(9, 9, palette, comment, build.gif_frame(indices)), "whole", shown
    for order in ("<", ">"):
        many = [build.entry(273, 3, [9] * 60_000, order=order)]
        tall = np.zeros((3, 60_000), np.uint8)
        rows_each = build.entry(278, 3, 2, order=order)
        yield build.tiff(tall, tags=[*many, rows_each], order=order), "refused"


def bad_exif(rng, amount):
    """EXIF that turns, or that loops, lies, or stands for more memory than there is."""
    pixels = scene(rng, 11, 17)
    turned = {3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels, 1)}
    odd = [build.oriented(value) for value in (0, 9, 255, 65_535, 1)]
    odd += [
        build.exif([build.entry(0x0112, 2, b"left\0")]),
        build.exif([build.entry(0x0112, 5, [6])]),
        build.exif([build.entry(0x0112, 3, [6] * 2000)]),
        build.exif([build.entry(0x0112, 3, 1, count=2**32 - 1)]),
        build.exif([build.entry(0x8769, 4, 8)], following=8),  # a directory inside itself
        build.exif([build.entry(0x8769, 4, 2**32 - 1)]),
        build.exif([build.entry(0x0100, 2, b"x" * 50)], announced=65_535),
        b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0", b"II*\0", b"MM\0*", b"", b"Exif\0\0",
        b"x" * 90, build.many_entries(3000, 60_000),
    ]  # fmt: skip
    odd += [rng.bytes(int(rng.integers(1, 300))) for _ in times(12, amount)]
    valid = [(build.oriented(v, order=o), turned[v]) for v in turned for o in "<>"]
    valid += [(build.oriented(6, order=">", kind=4), turned[6])]
    png = build.saved(pixels, "PNG")
    jpeg = build.saved(pixels, "JPEG", quality=95, subsampling=0)
    webp = build.saved(pixels, "WEBP", lossless=True)
    for data, shown in [*valid, *[(blob, pixels) for blob in odd]]:
        yield build.with_chunks(png, build.chunk(b"eXIf", data)), "right", shown
        yield png[:-12] + build.chunk(b"eXIf", data) + png[-12:], "right", shown
        for head in (build.EXIF, build.EXIF[:5]):
            known = shown if head == build.EXIF else pixels
            if len(data) < 65_000:
                inside = build.segment(0xE1, head + data)
                yield build.with_segments(jpeg, inside), "right", known, 12
        size = {"width": 17, "height": 11}
        yield build.webp_with(webp, b"EXIF", data, **size), "right", shown
    large = build.many_entries(65_535, 800_000)
    yield build.with_chunks(png, build.chunk(b"eXIf", large)), "right", pixels
    yield build.webp_with(webp, b"EXIF", large, width=17, height=11), "right", pixels
    pieces = [
        build.segment(0xE1, build.EXIF + large[k : k + 65_000]) for k in range(0, 800_000, 65_000)
    ]
    yield build.with_segments(jpeg, *pieces), "right", pixels, 12
    for value, verdict, shown in (
        (3, "right", turned[3]),
        (0, "right", pixels),
        (9, "right", pixels),
    ):
        yield build.tiff(pixels, tags=[build.entry(0x0112, 3, value)]), verdict, shown


def bad_profiles(rng, amount):
    """Colour profiles are not looked at, whatever is in them."""
    pixels = scene(rng, 11, 17)
    png, jpeg = build.saved(pixels, "PNG"), build.saved(pixels, "JPEG", quality=95, subsampling=0)
    webp = build.saved(pixels, "WEBP", lossless=True)
    for number in times(10, amount):
        profile = [b"", rng.bytes(100), bytes(60_000), b"\xff" * 128][number % 4]
        announced = (len(profile), 2**32 - 1)[number % 2]
        profile = struct.pack(">I", announced) + profile
        packed = build.chunk(b"iCCP", b"p\0\0" + zlib.compress(profile)[: 30 * (number + 1)])
        yield build.with_chunks(png, packed), "right", pixels
        parts = build.segment(0xE2, b"ICC_PROFILE\0" + bytes([number + 1, 200]) + profile)
        yield build.with_segments(jpeg, parts, parts), "right", pixels, 12
        yield build.webp_with(webp, b"ICCP", profile, width=17, height=11), "right", pixels
        yield build.tiff(pixels, tags=[build.entry(34675, 7, profile)]), "right", pixels


def bad_frames(rng, amount):
    """Animations whose first frame is good or not, and whose others are not."""
    pixels = scene(rng, 11, 17)
    palette = rng.integers(0, 255, (128, 3), dtype=np.uint8)
    indices = rng.integers(0, 128, (11, 17), dtype=np.uint8)
    good = build.gif_frame(indices)
    for number in times(20, amount):
        box = tuple(int(v) for v in rng.integers(0, (17, 11, 65_535, 65_535)))
        control = build.gif_control(disposal=number % 4, transparent=[None, 5][number % 2])
        hostile = build.gif_frame(indices[:3, :3], box=box, control=control)
        yield build.gif(17, 11, palette, good, hostile), "right", palette[indices]
        yield build.gif(17, 11, palette, hostile, good), "any"
    png = build.saved(pixels, "PNG", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    for number in times(12, amount):
        control = struct.pack(">IIIIIHHBB", number, *rng.integers(0, 99, 4), 1, 0, number, number)
        for kind in (b"fcTL", b"acTL", b"fdAT"):
            data = build.chunk(kind, control[: int(rng.integers(0, 27))])
            yield build.with_chunks(png, data), "right", pixels
    webp = build.saved(
        pixels, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(255 - pixels)]
    )
    for back in rng.integers(1, len(webp), len(times(16, amount))).tolist():
        yield webp[:-back], "whole", pixels


def lying_riff(rng, amount):
    pixels = scene(rng, 11, 17)
    for lossless in (True, False):
        data = build.saved(pixels, "WEBP", lossless=lossless, quality=95)
        tolerance = 0 if lossless else 24
        for size in (0, 1, 4, 12, 13, len(data) - 9, len(data), 2**31, 2**32 - 1):
            yield data[:4] + struct.pack("<I", size) + data[8:], "whole", pixels, tolerance
            yield data[:16] + struct.pack("<I", size) + data[20:], "any"
        for _ in times(10, amount):
            chunks = [build.riff_chunk(*chunk) for chunk in build.riff_chunks(data)]
            junk = build.riff_chunk(
                rng.bytes(4), rng.bytes(9), size=int(rng.choice([0, 9, 2**31, 2**32 - 1]))
            )
            chunks.insert(int(rng.integers(len(chunks) + 1)), junk)
            yield build.riff(*chunks), "whole", pixels, tolerance


def bad_directories(rng, amount):
    """TIFF files whose directory loops, lies, lacks entries or has far too many."""
    pixels = scene(rng)
    width = pixels.shape[1]
    entry = build.entry
    yield build.tiff(pixels, following=8), "right", pixels  # a loop of pages
    yield build.tiff(pixels, announced=65_535), "any"
    for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279):
        yield build.tiff(pixels, without=(tag,)), "any"
        for count in (0, 2**16, 2**32 - 1):
            yield build.tiff(pixels, tags=[entry(tag, 4, 1, count=count)]), "any"
        yield build.tiff(pixels, tags=[entry(tag, 2, b"text\0")]), "any"
        yield build.tiff(pixels, tags=[entry(tag, 12, [float("nan")])]), "any"
    for compression in (2, 3, 4, 5, 6, 7, 8, 9, 32_773, 34_676, 34_712, 34_925, 50_000, 50_001, 0,
                        65_535):  # fmt: skip
        yield build.tiff(pixels, tags=[entry(259, 3, compression)]), "any"
    for tile_width, tile_length in ((16, 16), (0, 0), (1, 1), (2**31 - 1, 16), (width, 2**32 - 1)):
        tiles = [entry(322, 4, tile_width), entry(323, 4, tile_length), entry(324, 4, [200] * 9)]
        yield build.tiff(pixels, tags=[*tiles, entry(325, 4, [9] * 9)], without=(273, 279)), "any"
        packed = [*tiles, entry(325, 4, [9] * 9), entry(259, 3, 8)]
        yield build.tiff(pixels, tags=packed, without=(273, 279)), "any"
    for offset in (0, 2**31, 2**32 - 1):
        yield build.tiff(pixels, tags=[entry(273, 4, offset)]), "any"
    for count in (0, 2**31, 2**32 - 1):
        yield build.tiff(pixels, tags=[entry(279, 4, count)]), "any"
    for samples in (0, 2, 5, 7, 65_535):
        yield build.tiff(pixels, tags=[entry(277, 3, samples)]), "any"
        yield build.tiff(pixels, tags=[entry(277, 4, samples * 65_535)]), "any"
    yield build.many_entries(65_535, 800_000), "refused"
    yield build.many_entries(4000, 300_000, first=0x100), "refused"
    for announced in (1, 2**20, 2**63, 2**64 - 1):
        head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, announced)
        yield head + bytes(400_000), "refused"
    for _ in times(50, amount):
        tags = [
            entry(int(tag), int(kind), rng.bytes(int(rng.integers(0, 40))), count=int(count))
            for tag, kind, count in zip(
                rng.integers(254, 346, 3),
                rng.integers(0, 19, 3),
                rng.choice([0, 1, 9, 2**32 - 1], 3),
                strict=True,
            )
        ]
        yield build.tiff(pixels, tags=tags), "any"
