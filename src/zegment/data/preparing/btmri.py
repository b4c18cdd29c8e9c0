"""BTMRI: tumours in brain MRI, from MedCLIPSeg's release, the only one with these images."""

from functools import partial

from zegment.data.preparing import medclipseg
from zegment.data.preparing.medical import prepare_medical

#: What an archive has inside, wherever in it.
ANCHORS = medclipseg.ANCHORS

#: Brings BTMRI into the layout of ``btmri.toml``.
prepare = partial(prepare_medical, layouts=[medclipseg.release("BTMRI")])
