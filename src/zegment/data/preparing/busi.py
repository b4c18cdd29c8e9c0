"""BUSI: tumours in breast ultrasound, from MedCLIPSeg's release or from its publishers' files."""

from __future__ import annotations

import re
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
    pictures,
)
from zegment.errors import DatasetError

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "benign", "malignant")

#: Kinds of images; the last shows no tumour.
_KINDS = ("benign", "malignant", "normal")

#: What the name of a mask adds to that of its image: ``_mask``, and ``_mask_1`` for a second one.
_MASK_ENDING = re.compile(r"_mask(_\d+)?$")


def _read(root: Path) -> Plan | None:
    """Return the union of each image's masks; images of the kind "normal" may be without any."""
    base = folder_with(root, "benign")
    if base is None:
        return None
    samples = [sample for kind in _KINDS for sample in _samples(base / kind)]
    return drawn_plan("busi", f"the publishers' files in {base}", samples)


def _samples(folder: Path) -> list[Sample]:
    masks: dict[str, list[Path]] = {}
    images: dict[str, Path] = {}
    for name, path in pictures(folder).items():
        image = _MASK_ENDING.sub("", name)
        if image == name:
            images[name] = path
        else:
            masks.setdefault(image, []).append(path)
    for name, paths in masks.items():
        if name not in images:
            raise DatasetError(
                f'mask {paths[0]} has no image: looked for "{name}" in {folder}; unpack the '
                "archive again, all of it"
            )
    for name, path in images.items():
        if name not in masks and folder.name != "normal":
            raise DatasetError(
                f'{path} has no mask: looked for "{name}_mask" in {folder}; unpack the archive '
                "again, all of it"
            )
    return [
        Sample(name=name, image=path, masks=tuple(masks.get(name, ())))
        for name, path in images.items()
    ]


#: Brings BUSI into the layout of ``busi.toml``.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("BUSI"),
        Layout(
            expected="its publishers' files (Dataset_BUSI_with_GT/benign, malignant and normal)",
            read=_read,
        ),
    ),
)
