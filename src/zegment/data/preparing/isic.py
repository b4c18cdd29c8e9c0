"""ISIC 2016: skin lesions, from MedCLIPSeg's release or from part 1 of the challenge's files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zegment.data.benchmarks import benchmark
from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import (
    DRAWN_IN_PART,
    Layout,
    Plan,
    Sample,
    drawn,
    folders_below,
    paired,
    pictures,
    prepare_medical,
    published_sizes,
)
from zegment.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from zegment.data.preparing import Report

#: The challenge's folders, named as its four archives are.
_FOLDERS = {
    part: tuple(f"ISBI2016_ISIC_Part1_{part}_{kind}" for kind in ("Data", "GroundTruth"))
    for part in ("Training", "Test")
}

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, *_FOLDERS["Training"], *_FOLDERS["Test"])


def prepare(root: Path, *, report: Report) -> None:
    """Bring ISIC 2016 into the layout of ``isic.toml``; see `prepare_medical`."""
    challenge = Layout(
        expected="the challenge's files (ISBI2016_ISIC_Part1_Training_Data, "
        "ISBI2016_ISIC_Part1_Training_GroundTruth, and both for Test)",
        read=_read,
    )
    prepare_medical(root, [medclipseg.release("ISIC"), challenge], report=report)


def _read(root: Path) -> Plan | None:
    """Return the challenge's test images, and its training images in a training and a val split."""
    if not any(folder.name.startswith("ISBI2016_ISIC_Part1_") for folder in folders_below(root)):
        return None
    sizes = published_sizes(benchmark("isic"), "train", "val")
    return Plan(
        origin=f"the challenge's files in {root}",
        split=DRAWN_IN_PART,
        samples={**drawn(_samples(root, "Training"), sizes), "test": _samples(root, "Test")},
    )


def _samples(root: Path, part: str) -> list[Sample]:
    images, masks = (pictures(_folder(root, name)) for name in _FOLDERS[part])
    return paired(images, masks, "{}_Segmentation".format)


def _folder(root: Path, name: str) -> Path:
    """Return the folder of a name that holds pictures; some programs unpack it into its like."""
    named = [folder for folder in folders_below(root) if folder.name == name]
    filled = (
        folder
        for folder in named
        if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
    )
    return next(filled, named[0] if named else root / name)
