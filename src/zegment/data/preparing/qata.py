"""QaTa-COV19-v2: infections in chest X-rays, from MedCLIPSeg's release or its publishers' files."""

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

if TYPE_CHECKING:
    from zegment.data.preparing import Report

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "Train Set", "Test Set")


def prepare(root: Path, *, report: Report) -> None:
    """Bring QaTa-COV19 into the layout of ``qata.toml``; see `prepare_medical`."""
    publishers = Layout(
        expected="its publishers' files (QaTa-COV19-v2/Train Set and QaTa-COV19-v2/Test Set, each "
        "with Images and Ground-truths)",
        read=_read,
    )
    prepare_medical(root, [medclipseg.release("Covid19"), publishers], report=report)


def _read(root: Path) -> Plan | None:
    """Return the official test images, and the training images in a training and a val split."""
    both = ("Train Set", "Test Set")
    found = (f for f in folders_below(root) if any((f / part).is_dir() for part in both))
    base = next(found, None)
    if base is None:
        return None
    sizes = published_sizes(benchmark("qata"), "train", "val")
    return Plan(
        origin=f"the publishers' files in {base}",
        split=DRAWN_IN_PART,
        samples={
            **drawn(_samples(base / "Train Set"), sizes),
            "test": _samples(base / "Test Set"),
        },
    )


def _samples(folder: Path) -> list[Sample]:
    images, masks = pictures(folder / "Images"), pictures(folder / "Ground-truths")
    return paired(images, masks, "mask_{}".format)
