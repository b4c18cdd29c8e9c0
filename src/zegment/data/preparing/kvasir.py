"""Kvasir-SEG: polyps in endoscopy, from MedCLIPSeg's release or from its publishers' files."""

from functools import partial

from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import prepare_medical
from zegment.data.preparing.medical_layouts import drawn_pairs

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "images", "masks")

#: Brings Kvasir-SEG into the layout of ``kvasir.toml``; the publishers' masks are JPEG files, grey
#: at the edges.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("Kvasir"),
        drawn_pairs("kvasir", "images", "masks", within="Kvasir-SEG"),
    ),
)
