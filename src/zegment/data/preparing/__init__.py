"""From what the publishers of a data set offer to files that `folder` reads.

A preparation is a module here with ``prepare(root, *, report)``, which writes what is missing below
the root and nothing else, and ``ANCHORS``, which tell where the files of an archive belong. A data
set that is read as published has the preparation ``none``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zegment.data.preparing.report import Report
from zegment.errors import ConfigError, DatasetError, DatasetNotFoundError

if TYPE_CHECKING:
    from zegment.config import DataConfig
    from zegment.data import Split
    from zegment.data.benchmarks import Benchmark

#: Splits in the order in which people name them.
SPLITS: tuple[Split, ...] = ("train", "val", "test")

#: How far below a wrong root the right one is looked for.
_DEPTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What lies below a root after a preparation.

    Attributes:
        images: Number of images of each split that can be read.
        missing: Why the other splits cannot.
    """

    images: Mapping[str, int]
    missing: Mapping[str, str]


def prepare_benchmark(
    name: str,
    root: str | Path,
    *,
    archives: Sequence[str | Path] = (),
    report: Report | None = None,
) -> Prepared:
    """Unpack archives of a known data set and convert what cannot be read as it is.

    What is there and whole stays, so that the same call goes on after an interruption.

    Args:
        name: Such as ``voc20``; see `zegment.data.benchmarks.benchmark_names`.
        root: Where the data set lies or shall lie.
        archives: What was downloaded; none if it is unpacked already.
        report: Told of the progress.

    Returns:
        What can be read then. A split of which nothing was given is missing, not wrong.

    Raises:
        ConfigError: If there is no such data set.
        DatasetNotFoundError: If an archive or what the conversion reads is missing.
        DatasetError: If an archive is damaged or of another data set, or files do not fit together.
        OutputError: If the root cannot be written to.
    """
    from zegment.data.benchmarks import benchmark  # noqa: PLC0415 - it needs `zegment.data`

    known, place, report = benchmark(name), Path(root).expanduser(), report or Report()
    for archive in archives:
        if not Path(archive).expanduser().is_file():
            raise DatasetNotFoundError(
                f"no archive {archive}; download it from {known.home}, or correct its path"
            )
    module = _module(known)
    if archives:
        from zegment.data.archives import inspect, unpack  # noqa: PLC0415 - only then

        for archive in archives[1:]:  # the first is looked at before it is unpacked anyhow
            inspect(Path(archive).expanduser(), anchors(known))
        for archive in archives:
            unpack(Path(archive).expanduser(), place, anchors(known), report=report)
    elif not place.is_dir() or (module is None and not has_files(known, place)):
        raise DatasetNotFoundError(wrong_root(known, place))
    if module is not None:
        module.prepare(place, report=report)
    return _look(known, place)


def benchmark_config(known: Benchmark, root: str | Path) -> DataConfig:
    """Return the options of a known data set below a root."""
    from zegment.config.loading import load_config  # noqa: PLC0415 - it needs `zegment.data`

    # The root is set apart: as an override it would be read as TOML.
    config = load_config(overrides=[f"data.benchmark={known.name}"])
    return replace(config.data, root=str(root))


def anchors(known: Benchmark) -> tuple[str, ...]:
    """Return what tells where the files of an archive belong; see `zegment.data.archives`."""
    own: tuple[str, ...] = getattr(_module(known), "ANCHORS", ())
    if own:
        return own
    data, found = known.data, []
    for split in SPLITS:
        files = data.get(split)
        if files:
            found.append(f"{files['images']}/*{data.get('image_suffix', '')}")
            found.append(f"{files['masks']}/*{data.get('mask_suffix', '.png')}")
    return tuple(found)


def has_files(known: Benchmark, root: Path) -> bool:
    """Return whether a folder has one of the folders or files of a data set."""
    places = [anchor.partition("/*")[0] for anchor in anchors(known)]
    for split in SPLITS:
        files = known.data.get(split, {})
        places += [files[kind] for kind in ("images", "masks") if kind in files]
    return any((root / place).exists() for place in places if place)


def archives_wanted(known: Benchmark) -> str:
    """Return which files to download, and from where."""
    offered = ", ".join(known.archives) or "the data set"
    return f"download {offered} from {known.home}"


def wrong_root(known: Benchmark, root: Path) -> str:
    """Return what is wrong with a folder that has nothing of a data set."""
    near = _near(known, root)
    if near is not None:
        return (
            f"{root.absolute()} is not the root of {known.name}, but {near} looks like it; give "
            "that"
        )
    what = "has nothing of" if root.is_dir() else "is no folder with"
    places = dict.fromkeys(anchor.partition("/*")[0] for anchor in anchors(known))
    return (
        f"{root.absolute()} {what} {known.name} ({known.title}): expected {', '.join(places)} in "
        f"it; {archives_wanted(known)}, then zegment data prepare {known.name} --root "
        f"{shlex.quote(str(root))} --archive FILE, with each of them; or correct the root, which "
        f"often ends in {known.folder}"
    )


def _near(known: Benchmark, root: Path) -> Path | None:
    """Return the folder above or below ``root`` that was probably meant."""
    level = [root.absolute()]
    places = [*level[0].parents][:_DEPTH]
    for _ in range(_DEPTH):
        level = [child for folder in level for child in _folders(folder)][:1000]
        places += level
    return next((place for place in places if has_files(known, place)), None)


def _folders(folder: Path) -> list[Path]:
    try:
        return [
            child
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.name.startswith(".")
        ]
    except OSError:
        return []


def _module(known: Benchmark) -> Any:  # noqa: ANN401 - a module
    if known.preparation == "none":
        return None
    return import_module(f"zegment.data.preparing.{known.preparation}")


def _look(known: Benchmark, root: Path) -> Prepared:
    """Pair the files of every split; reads none."""
    from zegment.data import build_dataset  # noqa: PLC0415 - loads torch

    config = benchmark_config(known, root)
    images: dict[str, int] = {}
    missing: dict[str, str] = {}
    for split in SPLITS:
        if getattr(config, split) is None:
            continue
        try:
            images[split] = len(build_dataset(config, split))
        except (DatasetNotFoundError, ConfigError) as error:
            missing[split] = str(error)
        except DatasetError as error:
            raise DatasetError(
                f"{error}. It is a file of {known.title}: {archives_wanted(known)}"
            ) from error
    if not images:
        raise DatasetNotFoundError(
            f"{next(iter(missing.values()))}. {root} has no split of {known.name}: "
            f"{archives_wanted(known)}, and give them with --archive"
        )
    return Prepared(images=images, missing=missing)
