"""BTMRI: tumours in brain MRI, from MedCLIPSeg's release, the only one with these images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import prepare_medical

if TYPE_CHECKING:
    from zegment.data.preparing import Report

#: What an archive has inside, wherever in it.
ANCHORS = medclipseg.ANCHORS


def prepare(root: Path, *, report: Report) -> None:
    """Bring BTMRI into the layout of ``btmri.toml``; see `prepare_medical`."""
    prepare_medical(root, [medclipseg.release("BTMRI")], report=report)
