"""QaTa-COV19-v2: infections in chest X-rays, from MedCLIPSeg's release or its publishers' files."""

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
    folder_with,
    paired,
)

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "Train Set", "Test Set")


def _read(root: Path) -> Plan | None:
    """Return the official test images, and the training images in a training and a val split."""
    base = folder_with(root, "Train Set", "Test Set")
    if base is None:
        return None
    training, test = _samples(base / "Train Set"), _samples(base / "Test Set")
    return drawn_plan("qata", f"the publishers' files in {base}", training, test=test)


def _samples(folder: Path) -> list[Sample]:
    return paired(folder / "Images", folder / "Ground-truths", "mask_{}")


#: Brings QaTa-COV19 into the layout of ``qata.toml``.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("Covid19"),
        Layout(
            expected="its publishers' files (QaTa-COV19-v2/Train Set and QaTa-COV19-v2/Test Set, "
            "each with Images and Ground-truths)",
            read=_read,
        ),
    ),
)
