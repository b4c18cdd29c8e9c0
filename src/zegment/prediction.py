"""Many images to files: what goes where is settled, and every image read, before any is written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zegment.errors import ImageError, OutputError
from zegment.files import atomic_write_text
from zegment.images import IMAGE_SUFFIXES, read_image
from zegment.results import legend
from zegment.segmenter import Query, Segmenter

LEGEND = "legend.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image and the stem of the files made from it."""

    image: Path
    stem: str


def plan(images: Sequence[Path], out: Path, *, overwrite: bool = False) -> list[Job]:
    """Return one job per image, after checking that all can be read and written.

    Args:
        images: Image files, or folders whose images are taken in the order of their names.
        out: Folder for the results.
        overwrite: Whether earlier results may be replaced.

    Raises:
        ImageError: If a path does not exist, a folder holds no image, or a file cannot be read.
        OutputError: If two images would share a result, or one exists already.
    """
    jobs: dict[str, Job] = {}
    for path in [image for given in images for image in _expand(given)]:
        read_image(path)
        if path.stem in jobs:
            raise OutputError(
                f"'{path}' and '{jobs[path.stem].image}' would both be written as "
                f"'{path.stem}.labels.png'; segment them into different --out folders"
            )
        jobs[path.stem] = Job(image=path, stem=path.stem)
    results = [out / LEGEND, *(out / f"{stem}.labels.png" for stem in jobs)]
    existing = [path for path in results if path.exists()]
    if existing and not overwrite:
        raise OutputError(f"'{existing[0]}' exists; give another --out or --overwrite")
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out '{out}' is a file; give a folder")
    return list(jobs.values())


def predict_all(
    segmenter: Segmenter, query: Query, jobs: Sequence[Job], out: Path
) -> Iterator[Job]:
    """Segment every image and write its files; yield each job once it is done."""
    for job in jobs:
        segmenter.segment(job.image, query).save(out, job.stem)
        yield job
    text = json.dumps(legend(query.vocabulary.class_names), indent=2, ensure_ascii=False) + "\n"
    atomic_write_text(out / LEGEND, text)


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ImageError(
            f"folder '{path}' holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "give image files or another folder"
        )
    return found
