"""CVC-ClinicDB: polyps in endoscopy, from MedCLIPSeg's release or from its publishers' files."""

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
ANCHORS = (*medclipseg.ANCHORS, "Original", "Ground Truth", "PNG", "TIF")


def prepare(root: Path, *, report: Report) -> None:
    """Bring CVC-ClinicDB into the layout of ``clinicdb.toml``; see `prepare_medical`."""
    publishers = Layout(
        expected="its publishers' files (CVC-ClinicDB/Original and CVC-ClinicDB/Ground Truth)",
        read=_read,
    )
    prepare_medical(root, [medclipseg.release("ClinicDB"), publishers], report=report)


def _read(root: Path) -> Plan | None:
    """Return images and masks of one name; of a copy with PNG and TIFF files, the first."""
    both = ("Original", "Ground Truth")
    found = (f for f in folders_below(root) if any((f / kind).is_dir() for kind in both))
    base = next(found, None)
    if base is None:
        return None
    samples = paired(pictures(base / "Original"), pictures(base / "Ground Truth"), str)
    return Plan(
        origin=f"the publishers' files in {base}",
        split=DRAWN,
        samples=drawn(samples, published_sizes(benchmark("clinicdb"), *SPLITS)),
    )
