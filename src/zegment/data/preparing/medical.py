"""Medical data sets with one target: whatever layout they come in, one that `folder` reads.

Below the root each of ``train``, ``val`` and ``test`` gets ``images``, copied unchanged, ``masks``
with 0 for the background and 1 for the target, and where sentences about the images are known
``descriptions.csv``. A file of the user is never changed, moved or removed. H W pixels.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zegment.data import Split
from zegment.data.preparing.binary_masks import read_binary_mask
from zegment.data.preparing.conversion import is_whole, png
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.images import IMAGE_SUFFIXES, read_image

if TYPE_CHECKING:
    from zegment.data.benchmarks import Benchmark
    from zegment.data.preparing import Report

#: Folders that are written below the root, in this order.
SPLITS: tuple[Split, ...] = ("train", "val", "test")

#: Says where the files came from and how they were split; written when all else is.
NOTE = "prepared.txt"

#: What to say of a split that is not the published one.
DRAWN = "split drawn here, not as published"

#: The same where the publishers have a test split, which is kept.
DRAWN_IN_PART = "train and val drawn here, not as published"

#: What people see of 0 and 1 in a mask.
_COLOURS = ((0, 0, 0), (255, 255, 255))

#: How far below the root a layout is looked for.
_DEPTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One image and what marks its target.

    Attributes:
        name: What image and mask will be called, without an ending.
        image: The picture.
        masks: Pictures whose union is the target; none if the image does not show it.
        description: A sentence about the image.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]
    description: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to be written.

    Attributes:
        origin: Where it was found, for people.
        split: Whose split it is, for people.
        samples: Those of each split.
        texts: Further text files, by their path below the root.
    """

    origin: str
    split: str
    samples: Mapping[Split, Sequence[Sample]]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A way in which a data set lies on disk.

    Attributes:
        expected: What it looks like, for the message when there is none.
        read: Returns what a root holds of it, None if it holds nothing of the kind.
    """

    expected: str
    read: Callable[[Path], Plan | None]


def prepare_medical(root: Path, layouts: Sequence[Layout], *, report: Report) -> None:
    """Write the common layout below ``root``; what is there and whole is left alone.

    Every picture is decoded before the first file is written.

    Args:
        root: Folder that holds the data set in one of the layouts.
        layouts: Those to look for; the first one found counts.
        report: Told of the progress.

    Raises:
        DatasetNotFoundError: If the root, or each of the layouts, is missing.
        DatasetError: If files are missing, do not fit together, or two have one name.
        DatasetError: If the folders to write hold images of another split.
        ConfigError: If there are texts in Excel files, and openpyxl is not installed.
        ImageError: If a picture is damaged.
        OutputError: If the root cannot be written to.
    """
    plan = _find(root, layouts)
    if plan is None:
        return
    _check_names(plan)
    _check_strays(root, plan)
    todo = [
        (split, sample)
        for split in SPLITS
        for sample in plan.samples[split]
        if not _is_whole(root, split, sample)
    ]
    _in_parallel("check pictures", lambda job: read_target(job[1]), todo, report)
    _in_parallel(f"write pictures ({plan.split})", lambda job: _write(root, *job), todo, report)
    for path, text in _texts(plan).items():
        atomic_write_text(root / path, text)
    atomic_write_text(root / NOTE, _note(plan))


def _in_parallel(
    what: str,
    work: Callable[[tuple[Split, Sample]], object],
    jobs: Sequence[tuple[Split, Sample]],
    report: Report,
) -> None:
    """Do the same to every sample; the first error ends it."""
    report.start(what, len(jobs))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(work, jobs):
            report.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def folders_below(root: Path, *, depth: int = _DEPTH) -> Iterator[Path]:
    """Yield a folder and those in it, the outer ones first, but none that is written here."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [
            child
            for folder in level
            for child in _folders(folder)
            if not (folder == root and child.name in SPLITS)
        ]


def _folders(folder: Path) -> list[Path]:
    """Return the visible folders in a folder, none if it may not be read."""
    try:
        children = sorted(folder.iterdir())
        return [c for c in children if not c.name.startswith((".", "__MACOSX")) and c.is_dir()]
    except OSError:
        return []


def pictures(folder: Path) -> dict[str, Path]:
    """Return the pictures of a folder by their names without ending, sorted.

    Raises:
        DatasetNotFoundError: If there is no such folder.
        DatasetError: If two have one name, or there is none.
    """
    if not folder.is_dir():
        raise DatasetNotFoundError(
            f"no folder {folder.absolute()}; unpack the archive again, all of it"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        twin = found.setdefault(path.stem, path)
        if twin is not path:
            raise DatasetError(f"{twin} and {path} have one name; move one of them away")
    if not found:
        raise DatasetError(f"no picture in {folder}; unpack the archive again, all of it")
    return found


def paired(
    images: Mapping[str, Path], masks: Mapping[str, Path], mask_name: Callable[[str], str]
) -> list[Sample]:
    """Return a sample for each image, with the one mask that is named after it.

    Args:
        images: By name.
        masks: By name; capitals do not count.
        mask_name: Turns the name of an image into that of its mask.

    Raises:
        DatasetError: If an image or a mask has no partner.
    """
    left = {name.casefold(): path for name, path in masks.items()}
    folder = next(iter(masks.values())).parent
    samples = []
    for name, image in images.items():
        mask = left.pop(mask_name(name).casefold(), None)
        if mask is None:
            raise DatasetError(
                f'{image} has no mask: looked for "{mask_name(name)}" in {folder}; unpack the '
                "archives of images and of masks again"
            )
        samples.append(Sample(name=name, image=image, masks=(mask,)))
    if left:
        raise DatasetError(
            f"{len(left)} masks have no image, first {min(left.values())}; unpack the archives of "
            "images and of masks again"
        )
    return samples


def drawn(samples: Iterable[Sample], sizes: Mapping[Split, int]) -> dict[Split, list[Sample]]:
    """Return samples in splits of the given sizes, the same ones on every machine.

    The order of the draw is that of the SHA-256 of the names. If there are more or fewer samples
    than the sizes add up to, every split grows or shrinks alike.

    Args:
        samples: In any order.
        sizes: Published number of samples of each split.

    Raises:
        DatasetError: If there are so few that a split has none.
    """
    ranked = sorted(samples, key=lambda sample: hashlib.sha256(sample.name.encode()).digest())
    total, taken, start = sum(sizes.values()), 0, 0
    splits: dict[Split, list[Sample]] = {}
    for split, size in sizes.items():
        taken += size
        end = round(len(ranked) * taken / total)
        splits[split] = sorted(ranked[start:end], key=lambda sample: sample.name)
        if not splits[split]:
            folder = ranked[0].image.parent if ranked else "the folder"
            raise DatasetError(
                f"{len(ranked)} images in {folder} are too few for {' and '.join(sizes)}; unpack "
                "the archive again, all of it"
            )
        start = end
    return splits


def published_sizes(known: Benchmark, *splits: Split) -> dict[Split, int]:
    """Return how many images the named splits have."""
    return {split: known.counts[split][0] for split in splits}


def read_target(sample: Sample) -> NDArray[np.bool_]:
    """Return where the target is, bool (H, W), after decoding the image and its masks.

    Raises:
        ImageError: If a picture is damaged.
        DatasetError: If a mask has another size than its image, or is not black and white.
    """
    height, width, _ = read_image(sample.image).shape
    target: NDArray[np.bool_] = np.zeros((height, width), dtype=np.bool_)
    for path in sample.masks:
        mask = read_binary_mask(path)
        if mask.shape != target.shape:
            mask_height, mask_width = mask.shape
            raise DatasetError(
                f"mask {path} is {mask_width} x {mask_height} pixels, its image {sample.image} "
                f"{width} x {height}; download both again"
            )
        target |= mask
    return target


def _find(root: Path, layouts: Sequence[Layout]) -> Plan | None:
    """Return what a root holds, None if it was prepared and its originals are gone.

    Raises:
        DatasetNotFoundError: If it holds nothing of the data set.
    """
    if not root.is_dir():
        raise DatasetNotFoundError(
            f"no folder {root.absolute()}; unpack the data set there, or correct data.root"
        )
    for layout in layouts:
        plan = layout.read(root)
        if plan is not None:
            return plan
    if (root / NOTE).is_file():
        return None
    expected = "; nor ".join(layout.expected for layout in layouts)
    raise DatasetNotFoundError(
        f"{root.absolute()} holds neither {expected}; unpack one of them there, or correct "
        "data.root"
        if len(layouts) > 1
        else f"{root.absolute()} does not hold {expected}; unpack it there, or correct data.root"
    )


def _image_path(root: Path, split: Split, sample: Sample) -> Path:
    return root / split / "images" / f"{sample.name}{sample.image.suffix}"


def _mask_path(root: Path, split: Split, sample: Sample) -> Path:
    return root / split / "masks" / f"{sample.name}.png"


def _check_names(plan: Plan) -> None:
    """Refuse two samples that would become one file, also where capitals do not count."""
    for split in SPLITS:
        known: dict[str, Sample] = {}
        for sample in plan.samples[split]:
            twin = known.setdefault(sample.name.casefold(), sample)
            if twin is not sample:
                raise DatasetError(
                    f"{twin.image} and {sample.image} would have one name; move one of them away"
                )


def _check_strays(root: Path, plan: Plan) -> None:
    """Refuse pictures of an earlier, different split: an image may be in only one of them."""
    for split in SPLITS:
        expected = {
            path(root, split, sample)
            for sample in plan.samples[split]
            for path in (_image_path, _mask_path)
        }
        for kind in ("images", "masks"):
            folder = root / split / kind
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not path.name.startswith(".") and path not in expected:
                    raise DatasetError(
                        f"{path} is there already, but not in the {split} split of {plan.origin}; "
                        f"move {', '.join(SPLITS)} out of {root} and prepare it again"
                    )


def _is_whole(root: Path, split: Split, sample: Sample) -> bool:
    """Return whether an earlier run wrote both files."""
    image, mask = _image_path(root, split, sample), _mask_path(root, split, sample)
    same = image.is_file() and image.stat().st_size == sample.image.stat().st_size
    return same and is_whole(mask)


def _write(root: Path, split: Split, sample: Sample) -> None:
    mask = png(read_target(sample).astype(np.uint8), _COLOURS)
    # The image comes last: without it, the mask is not mistaken for a finished pair.
    atomic_write_bytes(_mask_path(root, split, sample), mask)
    atomic_write_bytes(_image_path(root, split, sample), sample.image.read_bytes())


def descriptions_csv(sentences: Iterable[tuple[str, str]]) -> str:
    """Return the text of a file of descriptions, of pairs of name and sentence."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("image", "description"))
    writer.writerows(sentences)
    return stream.getvalue()


def _texts(plan: Plan) -> dict[str, str]:
    """Return every text file of a plan by its path below the root."""
    texts = dict(plan.texts)
    for split in SPLITS:
        samples = plan.samples[split]
        sentences = [(s.name, s.description) for s in samples if s.description is not None]
        if len(sentences) == len(samples):
            texts[f"{split}/descriptions.csv"] = descriptions_csv(sentences)
    return texts


def _note(plan: Plan) -> str:
    counts = ", ".join(f"{split} {len(plan.samples[split])}" for split in SPLITS)
    return f"Prepared from {plan.origin}.\nImages: {counts}; {plan.split}.\n"
