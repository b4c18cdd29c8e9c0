"""Known data sets compared with what was published about them.

What a split lacks against its published number is a difference; what cannot be used is a problem.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zegment.config import DataConfig
from zegment.data import Split, build_dataset
from zegment.data.benchmarks import Benchmark, benchmark
from zegment.data.checked import CheckedDataset, CheckReport
from zegment.data.preparing import (
    SPLITS,
    archives_wanted,
    benchmark_config,
    has_files,
    wrong_root,
)
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError

Progress = Callable[[Split, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitReport:
    """What a check found in one split.

    Attributes:
        split: Which.
        published: Published numbers of images.
        counts: What was counted; None if the split is missing or cannot be used.
        missing: Which folder or list is not there.
        problem: What cannot be used, and the remedy.
    """

    split: Split
    published: tuple[int, ...]
    counts: CheckReport | None = None
    missing: str | None = None
    problem: str | None = None

    @property
    def differs(self) -> bool:
        """Return whether the number of images is none of the published ones."""
        return self.counts is not None and self.counts.images not in (*self.published,)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkReport:
    """What a check of a known data set found.

    Attributes:
        benchmark: Its name.
        root: Where it lies.
        class_names: Its classes, in order.
        splits: Those that were looked at.
        problems: What is wrong between splits.
        asked: Splits that were asked for by name, which may not be missing.
    """

    benchmark: str
    root: str
    class_names: tuple[str, ...]
    splits: tuple[SplitReport, ...]
    problems: tuple[str, ...] = field(default=())
    asked: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """Return every problem, each with its remedy."""
        known = benchmark(self.benchmark)
        absent = [s for s in self.splits if s.missing is not None and s.split in self.asked]
        missing = [text for s in absent if (text := _difference(known, self.root, s))]
        return (
            *(s.problem for s in self.splits if s.problem is not None),
            *missing,
            *self.problems,
        )

    @property
    def differences(self) -> tuple[str, ...]:
        """Return every difference from what was published, each with its remedy."""
        known = benchmark(self.benchmark)
        other = [s for s in self.splits if s.missing is None or s.split not in self.asked]
        return tuple(text for s in other if (text := _difference(known, self.root, s)))

    @property
    def exit_status(self) -> int:
        """Return 2 if something cannot be used, 1 if something differs, and else 0."""
        return 2 if self.errors else 1 if self.differences else 0

    def absent(self) -> tuple[str, ...]:
        """Return the classes that no pixel of the splits looked at has."""
        counted = [s.counts.class_pixels for s in self.splits if s.counts is not None]
        return tuple(
            name
            for label, name in enumerate(self.class_names)
            if counted and not any(pixels[label] for pixels in counted)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as nested dicts, lists and scalars, for JSON."""
        return {
            "benchmark": self.benchmark,
            "root": self.root,
            "classes": len(self.class_names),
            "absent_classes": list(self.absent()),
            "splits": {s.split: _split_to_dict(s, self.class_names) for s in self.splits},
            "differences": list(self.differences),
            "errors": list(self.errors),
        }


def check_benchmark(
    name: str,
    root: str | Path,
    *,
    splits: Sequence[str] = (),
    progress: Progress | None = None,
) -> BenchmarkReport:
    """Read every file of a known data set once and compare it with what was published.

    Args:
        name: Such as ``voc20``; see `zegment.data.benchmarks.benchmark_names`.
        root: Where it lies.
        splits: Which to look at; none means all that the data set has.
        progress: Called with the split, the number of images done and of all.

    Returns:
        What was found; a split that cannot be used does not stop the others.

    Raises:
        ConfigError: If there is no such data set, or it has no such split.
        DatasetNotFoundError: If the root has nothing of the data set.
    """
    known, place = benchmark(name), Path(root).expanduser()
    config = benchmark_config(known, place)
    own: list[Split] = [split for split in SPLITS if getattr(config, split) is not None]
    unknown = [split for split in splits if split not in own]
    if unknown:
        raise ConfigError(f"{name} has no {unknown[0]} split; it has {', '.join(own)}")
    if not has_files(known, place):
        raise DatasetNotFoundError(wrong_root(known, place))
    reports, images = [], {}
    for split in (split for split in own if not splits or split in splits):
        report, images[split] = _check_split(known, config, split, progress)
        reports.append(report)
    return BenchmarkReport(
        benchmark=name,
        root=str(root),
        class_names=config.named_classes().names,
        splits=tuple(reports),
        problems=tuple(_shared_images(images)),
        asked=tuple(splits),
    )


def _check_split(
    known: Benchmark, config: DataConfig, split: Split, progress: Progress | None
) -> tuple[SplitReport, list[str]]:
    """Return what one split has, and the paths of its images."""
    published = known.counts.get(split, ())
    images: list[str] = []
    try:
        dataset = build_dataset(config, split)
        images = [dataset.name(index) for index in range(len(dataset))]
        if isinstance(dataset, CheckedDataset):
            _refuse_strays(config, split, images)
            counts = dataset.check(
                progress=None if progress is None else lambda *done: progress(split, *done)
            )
        else:
            counts = _counts(dataset.check(), len(dataset))
    except DatasetNotFoundError as error:
        return SplitReport(split=split, published=published, missing=str(error)), images
    except (DatasetError, ImageError) as error:
        problem = f"{split}: {error}. {_replace_file(known, config.root)}"
        return SplitReport(split=split, published=published, problem=problem), images
    return SplitReport(split=split, published=published, counts=counts), images


def _counts(found: object, images: int) -> CheckReport:
    if isinstance(found, CheckReport):
        return found
    return CheckReport(images=images, sizes=0, class_pixels=(), ignored_pixels=0)


def _refuse_strays(config: DataConfig, split: Split, images: Sequence[str]) -> None:
    """Refuse masks without an image where a split is all files of its folders.

    Masks that another program derived from those of an image, ``1_labelTrainIds.png`` beside
    ``1.png``, have the name of the image in front and do no harm.

    Raises:
        DatasetError: If there are any.
    """
    files = getattr(config, split)
    if files.list is not None:
        return
    folder, suffix = Path(config.root, files.masks), config.mask_suffix
    ending = config.image_suffix
    names = {_stem(path, Path(config.root, files.images), ending) for path in images}
    found = folder.rglob(f"*{suffix}") if config.nested else folder.glob(f"*{suffix}")
    strays = []
    for path in sorted(found):
        name = path.relative_to(folder).as_posix().removesuffix(suffix)
        derived = any(name[:end] in names for end, sign in enumerate(name) if sign == "_")
        if name not in names and not derived and not path.name.startswith("."):
            strays.append(path)
    if strays:
        raise DatasetError(
            f"{len(strays)} masks have no image, first {strays[0]}; "
            f"expected their images in {Path(config.root, files.images)}"
        )


def _stem(path: str, folder: Path, suffix: str | None) -> str:
    relative = Path(path).relative_to(folder)
    return relative.as_posix().removesuffix(relative.suffix if suffix is None else suffix)


def _shared_images(images: dict[Split, list[str]]) -> list[str]:
    """Return what to say about images that two splits have, which would be tested on as taught."""
    found = []
    splits = list(images)
    for position, first in enumerate(splits):
        for second in splits[position + 1 :]:
            shared = sorted(set(images[first]) & set(images[second]))
            if shared:
                found.append(
                    f"{first} and {second} share {len(shared)} images, first {shared[0]}; correct "
                    "their lists, or move them away and prepare again"
                )
    return found


def _difference(known: Benchmark, root: str, report: SplitReport) -> str | None:
    again = f"zegment data prepare {known.name} --root {shlex.quote(root)} --archive FILE"
    if report.missing is not None:
        return (
            f"{report.split} is missing: {report.missing}. To have it, {archives_wanted(known)}, "
            f"then {again}; to check another split alone, name it with --split"
        )
    if report.counts is None or not report.differs or not report.published:
        return None
    published = " or ".join(f"{number:,}" for number in report.published)
    return (
        f"{report.split} has {report.counts.images:,} images, published are {published}: an "
        f"archive is not wholly unpacked, or of another release, or a list is not the published "
        f"one. Move away lists that you changed, {archives_wanted(known)}, then {again}"
    )


def _replace_file(known: Benchmark, root: str) -> str:
    return (
        f"The files of {known.title} are not so: this one is damaged, changed or of another "
        f"release; remove it, {archives_wanted(known)}, then zegment data prepare {known.name} "
        f"--root {shlex.quote(root)} --archive FILE, which adds what is missing"
    )


def _split_to_dict(report: SplitReport, class_names: Sequence[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {"published": list(report.published)}
    if report.counts is None:
        return plain | {"missing": report.missing, "problem": report.problem}
    return plain | {
        "images": report.counts.images,
        "sizes": report.counts.sizes,
        "ignored_pixels": report.counts.ignored_pixels,
        "class_pixels": dict(zip(class_names, report.counts.class_pixels, strict=False)),
    }
