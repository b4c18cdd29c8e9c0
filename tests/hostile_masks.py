"""Pairs of an image and a mask of which something is wrong, or odd but right."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile_builders as build
import numpy as np
from hostile_images import Case, bad_images
from hostile_odd_images import packed
from hostile_scenes import scene, times

from zegment.config import DataConfig, SplitFiles
from zegment.data import IGNORE_INDEX
from zegment.data.folder import FolderDataset
from zegment.errors import ZegmentError

CLASSES = ("sky", "road", "car")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """An image and its mask as files, and what may become of them; see `hostile_images.Case`."""

    kind: str
    image: bytes
    mask: bytes
    verdict: str
    expected: np.ndarray | None = None


def bad_masks(*, amount: float, seed: int) -> list[Pair]:
    """Return at least 300 pairs at amount 1.0."""
    rng = np.random.default_rng([seed, 100])
    pairs = [pair for _ in times(8, amount) for pair in _pairs(rng)]
    # What is bad as an image is bad as a mask: it is read, and of another size, or refused.
    strange = [case for case in bad_images(amount=amount / 5, seed=seed) if len(case.data) < 9e5]
    label = rng.integers(0, 3, (5, 7), dtype=np.uint8)
    image = build.saved(scene(rng, 5, 7), "PNG")
    for place in rng.choice(len(strange), len(times(100, amount)), replace=False).tolist():
        case: Case = strange[place]
        pairs.append(Pair(kind=f"mask: {case.kind}", image=image, mask=case.data, verdict="any"))
        good = build.saved(label, "PNG")
        pairs.append(Pair(kind=f"image: {case.kind}", image=case.data, mask=good, verdict="any"))
    return pairs


def _pairs(rng):
    height, width = (int(side) for side in rng.integers(3, 20, 2))
    pixels = scene(rng, height, width)
    label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    expected = np.where(label == 255, IGNORE_INDEX, label.astype(np.int64))
    image, grey = build.saved(pixels, "PNG"), build.saved(label, "PNG")
    palette = build.chunk(b"PLTE", rng.bytes(768))
    indexed = build.png(
        width, height, zlib.compress(build.filtered(label)), colour=3, before=palette
    )
    wide, deep = label.astype(np.uint16), label.astype(np.int32)
    two = (label == 1).astype(np.uint8)
    bits = build.png(
        width, height, zlib.compress(build.filtered(packed(two, 1))), depth=1, colour=0
    )
    right = {
        "grey": grey, "palette": indexed, "16 bits": build.saved(wide, "PNG"),
        "TIFF": build.saved(label, "TIFF"), "32 bits": build.tiff(deep),
        "packed TIFF": build.saved(label, "TIFF", compression="tiff_lzw"),
        "BMP": build.saved(label, "BMP"),
        "with EXIF": build.with_chunks(grey, build.chunk(b"eXIf", build.oriented(6))),
        "with text": build.with_chunks(grey, build.chunk(b"zTXt", b"a\0\0" + build.zeros(2**21))),
    }  # fmt: skip
    for kind, mask in right.items():
        yield Pair(kind=kind, image=image, mask=mask, verdict="right", expected=expected)
    yield Pair(kind="1 bit", image=image, mask=bits, verdict="right", expected=two.astype(np.int64))
    value = int(rng.integers(3, 255))
    wrong = label.copy()
    wrong[0, 0] = value
    colours = np.repeat(label[..., None], 3, axis=2)
    far = deep.copy()
    far[-1, -1] = rng.choice([-1, 65_536, 2**31 - 1])
    refused = {
        "wrong value": build.saved(wrong, "PNG"),
        "wrong 16 bits": build.saved(wrong.astype(np.uint16) * 200, "PNG"),
        "wrong 32 bits": build.tiff(far),
        "fractions": build.tiff(label.astype(np.float32)),
        "wrong size": build.saved(np.pad(label, ((0, 1), (0, 0))), "PNG"),
        "turned": build.saved(label[: height - 1].T.copy(), "PNG"),
        "one pixel": build.saved(np.zeros((1, 1), np.uint8), "PNG"),
        "colours": build.saved(colours, "PNG"),
        "transparent": build.saved(np.dstack([colours, label]), "PNG"),
        "lossy": build.saved(label, "JPEG", quality=100),
        "lossy colours": build.saved(colours, "WEBP", quality=90),
        "empty": b"",
        "text": b"0 1 2\n",
        "huge": build.png(2**31 - 1, 2**31 - 1, b"", colour=0),
        "bomb": build.png(20_000, 10_000, build.zeros(2 * 10**6), colour=0),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    }
    for kind, mask in refused.items():
        yield Pair(kind=kind, image=image, mask=mask, verdict="refused")
    for mask in (grey, indexed):
        cut = int(rng.integers(0, len(mask)))
        changed = bytearray(mask)
        changed[int(rng.integers(8, len(mask)))] ^= 1 << int(rng.integers(8))
        for kind, damaged in (("cut off", mask[:cut]), ("flipped bits", bytes(changed))):
            yield Pair(kind=kind, image=image, mask=damaged, verdict="whole", expected=expected)


def laid(pairs: list[Pair], root: Path) -> list[tuple[str, str, Any]]:
    """Write pairs as data sets of one image each; return the tasks of `by_dataset`."""
    tasks = []
    for number, pair in enumerate(pairs):
        for folder, data in (("images", pair.image), ("masks", pair.mask)):
            file = root / f"{number:04}" / folder / "a.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(data)
        tasks.append((str(root / f"{number:04}"), pair.verdict, pair.expected))
    return tasks


def by_dataset(task: tuple[str, str, Any]) -> tuple[str, str, Any]:
    """Read a pair as training does; return (outcome, message, nothing)."""
    root, verdict, expected = task
    files = SplitFiles(images="images", masks="masks")
    config = DataConfig(source="folder", root=root, classes=CLASSES, train=files)
    try:
        image, label = FolderDataset(config, "train")[0]
    except ZegmentError as error:
        message = str(error)
        if "a.png" not in message or ";" not in message:
            return "wrong", f"names no file or remedy: {message}", None
        return ("wrong" if verdict == "right" else "refused"), message, None
    if verdict == "refused":
        return "wrong", f"was read: {tuple(label.shape)}", None
    if tuple(image.shape[1:]) != tuple(label.shape):
        return "wrong", "sizes differ", None
    if expected is not None and not np.array_equal(label.numpy(), expected):
        return "wrong", "other labels", None
    return "right", "", None
