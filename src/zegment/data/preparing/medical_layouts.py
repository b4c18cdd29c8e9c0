"""How medical data sets lie on disk: their pictures, whose mask is which, and their splits.

A layout is looked for below a root and makes a plan of samples, which `prepare_medical` writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zegment.data import Split
from zegment.data.benchmarks import benchmark
from zegment.data.preparing import SPLITS
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.images import IMAGE_SUFFIXES

#: What to say of a split that is not the published one.
DRAWN = "split drawn here, not as published"

#: The same where the publishers have a test split, which is kept.
DRAWN_IN_PART = "train and val drawn here, not as published"

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


def folder_with(root: Path, *names: str) -> Path | None:
    """Return the outermost folder that has one of the named folders, None if there is none."""
    found = (f for f in folders_below(root) if any((f / name).is_dir() for name in names))
    return next(found, None)


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


def paired(images: Path, masks: Path, mask_name: str = "{}") -> list[Sample]:
    """Return a sample for each image, with the one mask that is named after it.

    Args:
        images: Folder of the images.
        masks: Folder of the masks; capitals in their names do not count.
        mask_name: What a mask is called, with ``{}`` for the name of its image.

    Raises:
        DatasetNotFoundError: If there is no such folder.
        DatasetError: If an image or a mask has no partner, or two have one name.
    """
    pairs = pictures(images)
    left = {name.casefold(): path for name, path in pictures(masks).items()}
    samples = []
    for name, image in pairs.items():
        wanted = mask_name.format(name)
        mask = left.pop(wanted.casefold(), None)
        if mask is None:
            raise DatasetError(
                f'{image} has no mask: looked for "{wanted}" in {masks}; unpack the archives of '
                "images and of masks again"
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


def drawn_plan(
    name: str, origin: str, samples: Iterable[Sample], *, test: Sequence[Sample] | None = None
) -> Plan:
    """Return samples in splits of the sizes that were published, as far as the split was not.

    Args:
        name: The data set, see `zegment.data.benchmarks`.
        origin: Where they were found, for people.
        samples: Those to draw from.
        test: The publishers' test split, which is kept; None if they have none.

    Raises:
        DatasetError: If there are too few samples.
    """
    kept: Mapping[Split, Sequence[Sample]] = {} if test is None else {"test": test}
    counts = benchmark(name).counts
    sizes = {split: counts[split][0] for split in SPLITS if split not in kept}
    return Plan(
        origin=origin,
        split=DRAWN_IN_PART if kept else DRAWN,
        samples={**drawn(samples, sizes), **kept},
    )


def drawn_pairs(name: str, images: str, masks: str, *, within: str) -> Layout:
    """Return the layout of publishers' files that are two folders, paired by name, and no split.

    Args:
        name: The data set, see `zegment.data.benchmarks`.
        images: Name of the folder of images.
        masks: Name of the folder of masks beside it.
        within: What the publishers call the folder of both.
    """

    def read(root: Path) -> Plan | None:
        base = folder_with(root, images, masks)
        if base is None:
            return None
        samples = paired(base / images, base / masks)
        return drawn_plan(name, f"the publishers' files in {base}", samples)

    expected = f"its publishers' files ({within}/{images} and {within}/{masks})"
    return Layout(expected=expected, read=read)
