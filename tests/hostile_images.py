"""Bad pictures, and odd ones that are good: the same from the same seed.

A case knows what may become of it: ``right`` must be read as expected, ``refused`` must be an
error, ``whole`` may be refused but if it is read it must be as expected, and ``any`` may become any
picture, because its format has no checksum.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import hostile_builders as build
import numpy as np
from hostile_forgeries import (
    bad_directories,
    bad_exif,
    bad_frames,
    bad_profiles,
    bombs,
    lying_riff,
)
from hostile_odd_images import FOREIGN, odd_pictures
from hostile_scenes import scene, times
from numpy.typing import NDArray
from PIL import Image

#: Suffixes that files are given at random where their name must not matter.
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".jpeg", ".tiff")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A file, and what may become of it.

    Attributes:
        kind: What is wrong with it, for the report.
        name: Of the file.
        data: Its content.
        verdict: ``right``, ``refused``, ``whole`` or ``any``.
        expected: RGB (H, W, 3), where it is known.
        tolerance: By how much values may differ.
    """

    kind: str
    name: str
    data: bytes
    verdict: str
    expected: NDArray[np.uint8] | None = None
    tolerance: int = 0


def bad_images(*, amount: float, seed: int) -> list[Case]:
    """Return at least 2,000 cases at amount 1.0, of every kind at any amount."""
    cases: list[Case] = []
    for place, (kind, make) in enumerate(KINDS.items()):
        rng = np.random.default_rng([seed, place])
        for number, (data, verdict, *rest) in enumerate(make(rng, amount)):
            suffix = SUFFIXES[int(rng.integers(len(SUFFIXES)))]
            cases.append(
                Case(
                    kind=kind,
                    name=f"{kind.replace(' ', '-')}-{number:04}{suffix}",
                    data=data,
                    verdict=verdict,
                    expected=rest[0] if rest else None,
                    tolerance=rest[1] if len(rest) > 1 else 0,
                )
            )
    return cases


def formats(pixels):
    """Yield (name, file, tolerance, whether damage can be told) of a picture in every format."""
    frames = [Image.fromarray(255 - pixels)]
    several = {"save_all": True, "append_images": frames}
    grey = pixels[..., :1].repeat(3, axis=2)
    yield "png", build.saved(pixels, "PNG"), pixels, 0
    yield "png interlaced", build.interlaced_png(pixels), pixels, 0
    yield "png animated", build.saved(pixels, "PNG", **several), pixels, 0
    yield "png grey", build.saved(grey[..., 0], "PNG"), grey, 0
    yield "jpeg", build.saved(pixels, "JPEG", quality=95, subsampling=0), pixels, 12
    yield "jpeg progressive", build.saved(pixels, "JPEG", quality=95, progressive=True), pixels, 20
    yield "jpeg grey", build.saved(grey[..., 0], "JPEG", quality=95), grey, 12
    yield "jpeg optimised", build.saved(pixels, "JPEG", quality=90, optimize=True), pixels, 20
    yield "webp", build.saved(pixels, "WEBP", quality=95), pixels, 24
    yield "webp lossless", build.saved(pixels, "WEBP", lossless=True), pixels, 0
    yield "webp animated", build.saved(pixels, "WEBP", lossless=True, **several), pixels, 0
    yield "bmp", build.saved(pixels, "BMP"), pixels, 0
    yield "bmp grey", build.saved(grey[..., 0], "BMP"), grey, 0
    for packed in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield f"tiff {packed}", build.saved(pixels, "TIFF", compression=packed), pixels, 0
    yield "tiff jpeg", build.saved(pixels, "TIFF", compression="jpeg", quality=95), pixels, 20
    yield "tiff own", build.tiff(pixels), pixels, 0
    indices = (pixels[..., 0] // 2).astype(np.uint8)
    palette = np.arange(384).reshape(128, 3).astype(np.uint8)
    frame = build.gif_frame(indices)
    size = indices.shape[::-1]
    yield "gif", build.gif(*size, palette, frame), palette[indices], 0
    yield "gif animated", build.gif(*size, palette, frame, frame), palette[indices], 0


def undamaged(rng, amount):
    for _ in times(3, amount):
        for _, data, expected, tolerance in formats(scene(rng)):
            yield data, "right", expected, tolerance


def cut_off(rng, amount):
    """Cut at every region: inside the head, at places in between, and just before the end."""
    for _, data, expected, tolerance in formats(scene(rng)):
        head = [1, 2, 3, 4, 8, 12, 16, 20, 26, 30, 33, 40, 54, 60]
        ends = [len(data) - back for back in (1, 2, 4, 8, 12, 13)]
        cuts = [*head, *ends, *rng.integers(0, len(data), 10).tolist()]
        for cut in rng.choice(cuts, len(times(len(cuts), amount)), replace=False).tolist():
            yield data[: max(0, cut)], "whole", expected, tolerance


def flipped(rng, amount):
    """Flip bits anywhere; only PNG can tell that its pixels are others."""
    for name, data, expected, _ in formats(scene(rng)):
        for number in times(28, amount):
            changed = bytearray(data)
            end = min(len(data), 64) if number % 2 else len(data)
            for place in rng.integers(0, end, (1, 1, 3, 16)[number % 4]):
                changed[place] ^= 1 << int(rng.integers(8))
            sure = name.startswith("png") and bytes(changed) != data
            yield bytes(changed), "whole" if sure else "any", expected if sure else None


def spliced(rng, amount):
    """Leave out, double or exchange stretches of a file."""
    for name, data, expected, _ in formats(scene(rng)):
        for number in times(9, amount):
            a, b = sorted(rng.integers(0, len(data), 2).tolist())
            parts = (
                data[:a] + data[b:],
                data[:b] + data[a:],
                data[:a] + data[a:b][::-1] + data[b:],
            )
            sure = name in ("png", "png interlaced", "png grey")
            yield parts[number % 3], "whole" if sure else "any", expected if sure else None


def nothing(rng, amount):
    """Files without content, with noise, with a magic number only, and of other formats."""
    magic = [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0",
             b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\xff\xff\xff\xffWEBPVP8X"]  # fmt: skip
    yield b"", "refused"
    for data in FOREIGN:
        yield data, "refused"
    for _ in times(3, amount):
        for start in (b"", *magic):
            yield start + rng.bytes(int(rng.integers(0, 400))), "refused"
            yield start + bytes(int(rng.integers(0, 400))), "refused"


def long_and_thin(rng, amount):
    for length in rng.integers(1, 65_500, len(times(14, amount))).tolist():
        for height, width in ((1, length), (length, 1)):
            row = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
            yield build.saved(row, "PNG"), "right", row
            yield build.tiff(row), "right", row
            if length < 16_383:
                yield build.saved(row, "WEBP", lossless=True), "right", row


def declared_sides(rng, amount):
    """Say that there are far more pixels than the file has, or none."""
    sides = [(65_535, 65_535), (2**31 - 1, 1), (1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (0, 5),
             (5, 0), (2**32 - 1, 2**32 - 1), (65_500, 4), (20_000, 20_000)]  # fmt: skip
    pixels = scene(rng)
    packed = zlib.compress(build.filtered(pixels))
    jpeg = build.saved(pixels, "JPEG")
    place = jpeg.index(b"\xff\xc0") + 5
    for width, height in sides:
        yield build.png(width, height, packed), "refused"
        yield build.png(width, height, packed, colour=3), "refused"
        tags = [build.entry(256, 4, width), build.entry(257, 4, height)]
        yield build.tiff(pixels, tags=tags), "refused"
        yield build.tiff(pixels, tags=[*tags, build.entry(259, 3, 8)]), "refused"
        small = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
        known = "refused" if 0 in (width & 0xFFFF, height & 0xFFFF) else "any"
        yield jpeg[:place] + small + jpeg[place + 4 :], known
        frame = build.gif_frame(pixels[..., 0] // 2)
        wide = width & 0xFFFF, height & 0xFFFF
        sure = "refused" if min(wide) * max(wide) > 2e8 else "any"
        yield build.gif(*wide, [[1, 2, 3]], frame), sure
        yield build.gif(9, 9, [[1, 2, 3]], build.gif_frame([[1]], box=(0, 0, *wide))), sure
        if max(width, height) < 2**31:
            yield build.bmp(width, height, pixels.tobytes()), "refused"
            yield build.bmp(width, -height, pixels.tobytes(), bits=8, compression=1), "refused"
        canvas = [max(0, side - 1) & 0xFFFFFF for side in (width, height)]
        head = bytes(4) + b"".join(side.to_bytes(3, "little") for side in canvas)
        chunks = build.riff_chunks(build.saved(pixels, "WEBP", lossless=True))
        pieces = [build.riff_chunk(*chunk) for chunk in chunks]
        yield build.riff(build.riff_chunk(b"VP8X", head), *pieces), "refused"


KINDS = {
    "undamaged": undamaged,
    "odd": odd_pictures,
    "cut off": cut_off,
    "flipped bits": flipped,
    "spliced": spliced,
    "no picture": nothing,
    "long and thin": long_and_thin,
    "declared sides": declared_sides,
    "bombs": bombs,
    "EXIF": bad_exif,
    "profiles": bad_profiles,
    "frames": bad_frames,
    "RIFF": lying_riff,
    "TIFF directories": bad_directories,
}
