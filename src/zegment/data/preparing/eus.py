"""EUS: tumours in endoscopic ultrasound of the pancreas, as MedCLIPSeg splits it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from zegment.data import Split
from zegment.data.preparing import SPLITS, medclipseg
from zegment.data.preparing.medical import prepare_medical
from zegment.data.preparing.medical_layouts import Layout, Plan, Sample, folders_below, pictures
from zegment.errors import DatasetError, DatasetNotFoundError

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "EUS_cancer", "EUS_healthy", "Annotations", "C01", "H01")

#: A folder of one patient's frames; patients whose letter is H are healthy.
_PATIENT = re.compile(r"[CH]\d+")


def _read(root: Path) -> Plan | None:
    """Return the frames that MedCLIPSeg's texts list; those of healthy patients have no mask.

    Raises:
        DatasetNotFoundError: If there are frames, but no text says which split they are in.
    """
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    # A download from Google Drive comes in several archives, which parts a patient's folder.
    for folder in folders_below(root, depth=4):
        if _PATIENT.fullmatch(folder.name) and folder.is_dir():
            into = masks if folder.parent.name == "Annotations" else images
            for frame, path in pictures(folder).items():
                into.setdefault(f"{folder.name}_{frame}", path)
    if not images:
        return None
    texts = [f.parent for f in folders_below(root) if f.name == "Prompts_Folder"]
    base = texts[0] if texts else root
    return Plan(
        origin=f"the frames in {root}",
        split=medclipseg.PUBLISHED,
        samples={split: _samples(base, split, images, masks) for split in SPLITS},
        texts=medclipseg.variants(base),
    )


def _samples(
    base: Path, split: Split, images: Mapping[str, Path], masks: Mapping[str, Path]
) -> list[Sample]:
    text = medclipseg.text_file(base, split)
    if text is None:
        raise DatasetNotFoundError(
            f"no {split.capitalize()}_text in {base / 'Prompts_Folder'}, which says what is in the "
            f"{split} split; copy data/EUS/Prompts_Folder of MedCLIPSeg's code there"
        )
    samples: dict[str, Sample] = {}
    for row in medclipseg.read_rows(text):
        if row.image not in images:
            raise DatasetError(
                f'{text} lists "{row.image}", but there is no such frame in a folder '
                f"{row.image.partition('_')[0]}; download the folders of all patients"
            )
        healthy = row.image.startswith("H")
        if not healthy and row.image not in masks:
            raise DatasetError(
                f"{images[row.image]} has no mask in a folder Annotations/"
                f"{row.image.partition('_')[0]}; download all of Annotations"
            )
        # A frame listed twice is one frame; its first sentence counts.
        samples.setdefault(
            row.image,
            Sample(
                name=row.image,
                image=images[row.image],
                masks=() if healthy else (masks[row.image],),
                description=row.description,
            ),
        )
    return [samples[name] for name in sorted(samples)]


#: Brings EUS into the layout of ``eus.toml``.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("EUS"),
        Layout(
            expected="the frames of the patients (C01/V1_0164.tif, Annotations/C01/V1_0164.tif, "
            "and so on, with MedCLIPSeg's Prompts_Folder beside them)",
            read=_read,
        ),
    ),
)
