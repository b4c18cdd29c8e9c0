"""A model together with everything that its predictions depend on.

What is trained, imported or read from a folder is one of these, and a checkpoint holds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zegment.clip import Clip, ImageTower
from zegment.config import Config, WindowConfig
from zegment.errors import ConfigError
from zegment.models.base import SegmentationModel
from zegment.text_tower import TextTower
from zegment.vocabulary import TEMPLATES, Vocabulary
from zegment.wording import first_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model together with everything that its predictions depend on.

    Attributes:
        config: The resolved configuration of its run.
        model: The model, in evaluation mode.
        text_tower: The text side of its CLIP.
        fingerprint: Of the image tower before training, see `zegment.clip.fingerprint`; of the
            one that taught it, for a student.
        vocabulary: The classes it was trained for; None if it was not trained.
        seen: Those of them that had masks.
        own_tower: The image tower, if no CLIP has the same one, so that a checkpoint must hold it;
            None if it is the CLIP's.
    """

    config: Config
    model: SegmentationModel
    text_tower: TextTower
    fingerprint: str
    vocabulary: Vocabulary | None = None
    seen: tuple[str, ...] = ()
    own_tower: ImageTower | None = None

    @property
    def needs_clip(self) -> bool:
        """Return whether a checkpoint must be joined to a CLIP's image tower."""
        return self.model.runs_clip and self.own_tower is None

    def state(self) -> dict[str, Tensor]:
        """Return the weights that a checkpoint holds, by name."""
        return self.model.trained_state() if self.own_tower is None else self.model.state_dict()


def training_vocabulary(class_names: tuple[str, ...], templates: str) -> Vocabulary:
    """Return the vocabulary of a data set in the sentences that a configuration names.

    Raises:
        ConfigError: If no set of templates has that name.
    """
    if templates not in TEMPLATES:
        raise ConfigError(
            f"text.templates: no set of templates is called '{templates}'; "
            f"there are {', '.join(TEMPLATES)}"
        )
    return Vocabulary(class_names=class_names, templates=TEMPLATES[templates])


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device that can compute here; None takes a GPU if there is one.

    Raises:
        ConfigError: If no device has that name, or this machine or its PyTorch lacks it.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"--device {device} cannot be used: {first_line(error)}; give cpu"
        ) from error
    return torch.device(device)


def dense_windows(clip: Clip) -> WindowConfig:
    """Return windows of the size that a CLIP was trained on, half overlapping.

    Source:
        The protocol of SCLIP, ClearCLIP and NACLIP: short side 336, windows 224, stride 112.
    """
    shape = clip.image_tower.shape
    size = min(shape.grid) * shape.patch_size
    return WindowConfig(short_side=size * 3 // 2, size=size, stride=size // 2)
