"""Medical data sets with one target: whatever layout they come in, one that `folder` reads.

Below the root each of ``train``, ``val`` and ``test`` gets ``images``, copied unchanged, ``masks``
with 0 for the background and 1 for the target, and where sentences about the images are known
``descriptions.csv``. A file of the user is never changed, moved or removed. H W pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zegment.data import Split
from zegment.data.preparing import SPLITS
from zegment.data.preparing.binary_masks import read_binary_mask
from zegment.data.preparing.conversion import do_all, is_whole, png
from zegment.data.preparing.medical_layouts import Layout, Plan, Sample
from zegment.data.preparing.report import Report
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.images import read_image

#: Says where the files came from and how they were split; written when all else is.
NOTE = "prepared.txt"

#: What people see of 0 and 1 in a mask.
_COLOURS = ((0, 0, 0), (255, 255, 255))


def prepare_medical(root: Path, *, layouts: Sequence[Layout], report: Report) -> None:
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
    what = f"write pictures ({plan.split})"
    do_all(todo, lambda job: read_target(job[1]), what="check pictures", report=report)
    do_all(todo, lambda job: _write(root, *job), what=what, report=report)
    for path, text in _texts(plan).items():
        atomic_write_text(root / path, text)
    atomic_write_text(root / NOTE, _note(plan))


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
