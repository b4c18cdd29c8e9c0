"""Kvasir-SEG: polyps in endoscopy, from MedCLIPSeg's release or from its publishers' files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zegment.data.benchmarks import benchmark
from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import (
    DRAWN,
    SPLITS,
    Layout,
    Plan,
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
ANCHORS = (*medclipseg.ANCHORS, "images", "masks")


def prepare(root: Path, *, report: Report) -> None:
    """Bring Kvasir-SEG into the layout of ``kvasir.toml``; see `prepare_medical`."""
    publishers = Layout(
        expected="its publishers' files (Kvasir-SEG/images and Kvasir-SEG/masks)", read=_read
    )
    prepare_medical(root, [medclipseg.release("Kvasir"), publishers], report=report)


def _read(root: Path) -> Plan | None:
    """Return images and masks of one name; the masks are JPEG files, grey at the edges."""
    both = ("images", "masks")
    found = (f for f in folders_below(root) if any((f / kind).is_dir() for kind in both))
    base = next(found, None)
    if base is None:
        return None
    samples = paired(pictures(base / "images"), pictures(base / "masks"), str)
    return Plan(
        origin=f"the publishers' files in {base}",
        split=DRAWN,
        samples=drawn(samples, published_sizes(benchmark("kvasir"), *SPLITS)),
    )
