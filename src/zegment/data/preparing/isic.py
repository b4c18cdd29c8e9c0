"""ISIC 2016: skin lesions, from MedCLIPSeg's release or from part 1 of the challenge's files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import prepare_medical
from zegment.data.preparing.medical_layouts import (
    Layout,
    Plan,
    Sample,
    drawn_plan,
    folders_below,
    paired,
)
from zegment.images import IMAGE_SUFFIXES

#: The challenge's folders, named as its four archives are.
_FOLDERS = {
    part: tuple(f"ISBI2016_ISIC_Part1_{part}_{kind}" for kind in ("Data", "GroundTruth"))
    for part in ("Training", "Test")
}

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, *_FOLDERS["Training"], *_FOLDERS["Test"])


def _read(root: Path) -> Plan | None:
    """Return the challenge's test images, and its training images in a training and a val split."""
    if not any(folder.name.startswith("ISBI2016_ISIC_Part1_") for folder in folders_below(root)):
        return None
    training, test = _samples(root, "Training"), _samples(root, "Test")
    return drawn_plan("isic", f"the challenge's files in {root}", training, test=test)


def _samples(root: Path, part: str) -> list[Sample]:
    images, masks = (_folder(root, name) for name in _FOLDERS[part])
    return paired(images, masks, "{}_Segmentation")


def _folder(root: Path, name: str) -> Path:
    """Return the folder of a name that holds pictures; some programs unpack it into its like."""
    named = [folder for folder in folders_below(root) if folder.name == name]
    filled = (
        folder
        for folder in named
        if any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
    )
    return next(filled, named[0] if named else root / name)


#: Brings ISIC 2016 into the layout of ``isic.toml``.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("ISIC"),
        Layout(
            expected="the challenge's files (ISBI2016_ISIC_Part1_Training_Data, "
            "ISBI2016_ISIC_Part1_Training_GroundTruth, and both for Test)",
            read=_read,
        ),
    ),
)
