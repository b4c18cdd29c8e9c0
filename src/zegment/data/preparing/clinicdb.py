"""CVC-ClinicDB: polyps in endoscopy, from MedCLIPSeg's release or from its publishers' files."""

from functools import partial

from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import prepare_medical
from zegment.data.preparing.medical_layouts import drawn_pairs

#: What an archive has inside, wherever in it.
ANCHORS = (*medclipseg.ANCHORS, "Original", "Ground Truth", "PNG", "TIF")

#: Brings CVC-ClinicDB into the layout of ``clinicdb.toml``; of a publishers' copy with PNG and TIFF
#: files, the first is taken.
prepare = partial(
    prepare_medical,
    layouts=(
        medclipseg.release("ClinicDB"),
        drawn_pairs("clinicdb", "Original", "Ground Truth", within="CVC-ClinicDB"),
    ),
)
