"""Every option of a run, with its default, its range and its meaning.

A `Config` comes from `zegment.config.loading.load_config`: the defaults below, then a preset, then
a TOML file, then ``--set`` overrides. The defaults are ZegCLIP as released, on what ships with
Zegment: the Shapes world and its CLIP.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from zegment.config.data import DataConfig, SplitFiles
from zegment.config.fields import (
    CountOrZero,
    FieldError,
    Name,
    Range,
    Section,
    Side,
)
from zegment.config.model import (
    DenseClipConfig,
    ModelConfig,
    OneStageConfig,
    StudentConfig,
    TwoStageConfig,
    ZegClipConfig,
)
from zegment.config.settings import CalibrationConfig, SelfTrainingConfig, Setting
from zegment.config.teaching import TeachingConfig
from zegment.config.training import AugmentConfig, LossConfig, OptimConfig

__all__ = [
    "AugmentConfig",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "DenseClipConfig",
    "LossConfig",
    "ModelConfig",
    "OneStageConfig",
    "OptimConfig",
    "SelfTrainingConfig",
    "Setting",
    "SplitFiles",
    "StudentConfig",
    "TeachingConfig",
    "TextConfig",
    "TwoStageConfig",
    "WindowConfig",
    "ZegClipConfig",
]


MOST_WORKERS = 256
"""Processes that load data, of one process that trains; each has all libraries in its memory."""

MOST_OVERLAP = 64
"""Windows over a pixel along each side, so at most the square of that in all; publications have up
to three."""

#: What ZegCLIP's released code takes from the scores of seen classes; the paper has no such term.
RELEASED_SEEN_PENALTY = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig(Section):
    """How class names become sentences.

    Attributes:
        templates: Name of a set of prompt templates: ``single`` is "a photo of a {}",
            ``zegclip15`` the fifteen of the ZegCLIP paper.
    """

    templates: Name = "single"


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig(Section):
    """How an image of any size is cut up at test time.

    Attributes:
        short_side: Length that the shorter side is resized to first; None keeps the image.
        size: Side of the square windows; None looks at the whole image at once.
        stride: Step from window to window, at most ``size`` and at least a 64th of it; None lays
            them side by side.
        blend: How windows share the pixels in which they overlap: ``"average"``, as released, or
            ``"smooth"``, in which a window counts less the nearer its edge is.
    """

    short_side: Side | None = None
    size: Side | None = None
    stride: Side | None = None
    blend: Literal["average", "smooth"] = "average"

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If there is a stride without a size, or windows would leave gaps, or
                nearly cover each other.
        """
        if self.stride is None:
            return
        if self.size is None:
            raise FieldError("stride", 'is for windows; set size too, or stride = "none"')
        if self.stride > self.size:
            raise FieldError("stride", f"must be at most size, {self.size}, got {self.stride}")
        if self.stride * MOST_OVERLAP < self.size:
            raise FieldError(
                "stride",
                f"must be at least size / {MOST_OVERLAP}, {math.ceil(self.size / MOST_OVERLAP)}, "
                f"got {self.stride}; each pixel would be looked at thousands of times",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Section):
    """Everything about a run.

    Attributes:
        setting: What is known of the unseen classes in training: nothing, their names, or their
            masks too.
        seed: Start of every random number.
        workers: Processes that load data; 0 loads in the main one.
        validate_every: Steps between validations; 0 validates only at the end.
        save_every: Steps after which the run is saved, to go on from if it is killed, as it is
            with every validation and when it is asked to stop; 0 saves only then.
        data: Images, label maps and class names.
        text: How class names become sentences.
        augment: What is done to training images.
        model: The segmenter and the CLIP under it.
        loss: The mask loss.
        teaching: How CLIP teaches a student.
        optim: Optimizer and schedule.
        self_training: The transductive setting.
        windows: How an image is cut up at test time.
        calibration: What is taken from the scores of seen classes at test time.
    """

    setting: Setting = "inductive"
    seed: Annotated[int, Range(at_least=0, at_most=2**32 - 1)] = 0  # all that NumPy takes
    workers: Annotated[int, Range(at_least=0, at_most=MOST_WORKERS)] = 0
    validate_every: CountOrZero = 0
    save_every: CountOrZero = 500
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teaching: TeachingConfig = field(default_factory=TeachingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    self_training: SelfTrainingConfig = field(default_factory=SelfTrainingConfig)
    windows: WindowConfig = field(default_factory=WindowConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)

    @property
    def inductive_steps(self) -> int:
        """Return after how many steps self-training begins; all of them if it never does."""
        if self.setting != "transductive":
            return self.optim.steps
        return round(self.optim.steps * self.self_training.start_share)

    @property
    def seen_penalty(self) -> float:
        """Return what is taken from the scores of seen classes at test time."""
        if self.calibration.seen_penalty is not None:
            return self.calibration.seen_penalty
        released = self.model.kind == "zegclip" and self.setting != "transductive"
        return RELEASED_SEEN_PENALTY if released else 0.0

    def check(self) -> None:
        """Compare sections with each other.

        Raises:
            FieldError: If self-training is described in a setting that has none.
            FieldError: If its guide would be the very tower that is trained.
            FieldError: If it would be over before its warm-up is.
            FieldError: If what is compiled is not what is trained.
            FieldError: If CLIP's tokens are to be remembered of images that never come again.
        """
        if self.setting != "transductive" and self.self_training != SelfTrainingConfig():
            raise FieldError(
                "self_training",
                f'is for setting = "transductive", and the setting is {self.setting}; set that, or '
                "leave self_training out",
            )
        if self.self_training.guide == "clip" and self.model.trains_clip:
            raise FieldError(
                "self_training.guide",
                f"is the CLIP that this {self.model.kind} model trains, so it would guess what the "
                'model does; leave guide = "model"',
            )
        rest = self.optim.steps - self.inductive_steps
        if self.setting == "transductive" and self.optim.warmup_steps >= rest:
            raise FieldError(
                "optim.warmup_steps",
                f"self-training warms up anew and has {rest} of the {self.optim.steps} steps, so "
                f"it must be below {rest}, got {self.optim.warmup_steps}",
            )
        own = self.model.zegclip
        if self.optim.compile and self.model.kind == "zegclip" and own.auxiliary_losses:
            raise FieldError(
                "optim.compile",
                "is for what predicts, and model.zegclip.auxiliary_losses train more than that; "
                "leave one of the two out",
            )
        if self.teaching.cache is None:
            return
        low, high = self.augment.scale_range
        for key, random in (("photometric", self.augment.photometric), ("scale_range", low < high)):
            if random:
                raise FieldError(
                    "teaching.cache",
                    f"augment.{key} makes every image a new one, so nothing would be found again; "
                    "leave one of the two out",
                )
