"""Every option of a run, with its default, its range and its meaning.

A `Config` comes from `zegment.config_loading.load_config`: the defaults below, then a preset, then
a TOML file, then ``--set`` overrides. The defaults are ZegCLIP as released, on what ships with
Zegment: the Shapes world and its CLIP.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from zegment.config_data import DataConfig, SplitFiles
from zegment.config_fields import (
    Count,
    CountOrZero,
    FieldError,
    Positive,
    PositiveOrZero,
    Range,
    Section,
    Share,
)
from zegment.config_model import (
    DenseClipConfig,
    ModelConfig,
    OneStageConfig,
    StudentConfig,
    ZegClipConfig,
)
from zegment.config_settings import CalibrationConfig, SelfTrainingConfig, Setting
from zegment.config_teaching import TeachingConfig

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
    "WindowConfig",
    "ZegClipConfig",
]


#: What ZegCLIP's released code takes from the scores of seen classes; the paper has no such term.
RELEASED_SEEN_PENALTY = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig(Section):
    """How class names become sentences.

    Attributes:
        templates: Name of a set of prompt templates: ``single`` is "a photo of a {}",
            ``zegclip15`` the fifteen of the ZegCLIP paper.
    """

    templates: str = "single"


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(Section):
    """What is done to a training image and its label map, in the order of the fields.

    Attributes:
        short_side: Length to which the shorter side is scaled, times a random ratio; None starts
            from the size of the file.
        long_side: Length beyond which the longer side is not scaled, times the same ratio.
        scale_range: Smallest and largest random ratio.
        crop_size: (height, width) of the random crop, padded where the image is smaller; None
            keeps the whole image.
        max_class_share: Share of labelled pixels that one class may cover in a crop before another
            crop is tried; 1 takes the first.
        flip: Probability of mirroring left and right.
        photometric: Whether brightness, contrast, saturation and hue vary.
    """

    short_side: Count | None = None
    long_side: Count | None = None
    scale_range: tuple[Positive, Positive] = (1.0, 1.0)
    crop_size: tuple[Count, Count] | None = None
    max_class_share: Annotated[float, Range(above=0, at_most=1)] = 1.0
    flip: Share = 0.5
    photometric: bool = False

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If the sides or the ratios are in the wrong order.
            FieldError: If a crop is described but not asked for.
            FieldError: If images of one batch would differ in size.
        """
        low, high = self.scale_range
        if low > high:
            raise FieldError("scale_range", f"must run from small to large, got [{low}, {high}]")
        if self.long_side is not None:
            if self.short_side is None:
                raise FieldError("long_side", "only limits short_side; set that too")
            if self.long_side < self.short_side:
                raise FieldError(
                    "long_side", f"must be at least short_side, {self.short_side}; raise it"
                )
        if self.crop_size is None and low != high:
            raise FieldError(
                "scale_range", "images of different sizes make no batch; set augment.crop_size"
            )
        if self.crop_size is None and self.max_class_share < 1:
            raise FieldError("max_class_share", "is about crops; set augment.crop_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(Section):
    """The mask loss of ZegCLIP, as its released code computes it.

    Attributes:
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of the positive pixels, in [0, 1]; None does not balance, as the paper
            has it.
        focal_gamma: How much easy pixels are discounted.
        squared_dice: Whether the denominators are squared, as the paper has it.
        ignored_are_negatives: Whether an ignored pixel is a negative for every class.
    """

    focal_weight: PositiveOrZero = 100.0
    dice_weight: PositiveOrZero = 1.0
    focal_alpha: Share | None = 0.25
    focal_gamma: PositiveOrZero = 2.0
    squared_dice: bool = False
    ignored_are_negatives: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(Section):
    """AdamW with linear warm-up and polynomial decay, counted in optimizer steps.

    Attributes:
        steps: Optimizer steps of the whole training.
        batch_size: Images per step, over all devices and accumulated passes.
        micro_batch_size: Images per device and pass; None passes all that fall to a device at once.
        lr: Learning rate after the warm-up.
        head_lr_scale: Times ``lr`` is the rate of what did not come pretrained, in a model that
            has a pretrained part.
        weight_decay: Decoupled weight decay.
        decay_norms: Whether it applies to norm layers, biases and other vectors too; as released,
            ZegCLIP's does.
        max_grad_norm: Gradients that are longer in all are shortened to this; None leaves them.
        warmup_steps: Steps until ``lr`` is reached; 0 starts there.
        warmup_ratio: Share of ``lr`` that the warm-up starts from.
        power: Exponent of the decay; 1 is linear.
        min_lr: Learning rate that the decay ends at.
        precision: Number format of the forward pass: ``no`` is float32.
    """

    steps: Count = 2000
    batch_size: Count = 16
    micro_batch_size: Count | None = None
    lr: Positive = 2e-4
    head_lr_scale: Positive = 1.0
    weight_decay: PositiveOrZero = 0.01
    decay_norms: bool = True
    max_grad_norm: Positive | None = None
    warmup_steps: CountOrZero = 0
    warmup_ratio: Share = 1e-6
    power: PositiveOrZero = 0.9
    min_lr: PositiveOrZero = 1e-6
    precision: Literal["no", "bf16", "fp16"] = "no"

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If the batch does not split into equal passes.
            FieldError: If the learning rate would never be reached, or rise at the end.
        """
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise FieldError(
                "micro_batch_size",
                f"must divide batch_size, {self.batch_size}, got {self.micro_batch_size}",
            )
        if self.warmup_steps >= self.steps:
            raise FieldError(
                "warmup_steps",
                f"must be below steps, {self.steps}, got {self.warmup_steps}; 0 has no warm-up",
            )
        if self.min_lr > self.lr:
            raise FieldError("min_lr", f"must be at most lr, {self.lr:g}, got {self.min_lr:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowConfig(Section):
    """How an image of any size is cut up at test time.

    Attributes:
        short_side: Length that the shorter side is resized to first; None keeps the image.
        size: Side of the square windows; None looks at the whole image at once.
        stride: Step from window to window, at most ``size``; None lays them side by side.
    """

    short_side: Count | None = None
    size: Count | None = None
    stride: Count | None = None

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If there is a stride without a size, or windows would leave gaps.
        """
        if self.stride is None:
            return
        if self.size is None:
            raise FieldError("stride", 'is for windows; set size too, or stride = "none"')
        if self.stride > self.size:
            raise FieldError("stride", f"must be at most size, {self.size}, got {self.stride}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(Section):
    """Everything about a run.

    Attributes:
        setting: What is known of the unseen classes in training: nothing, their names, or their
            masks too.
        seed: Start of every random number.
        workers: Processes that load data; 0 loads in the main one.
        validate_every: Steps between validations; 0 validates only at the end.
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
    seed: CountOrZero = 0
    workers: CountOrZero = 0
    validate_every: CountOrZero = 0
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
            FieldError: If self-training would be over before its warm-up is.
            FieldError: If CLIP's tokens are to be remembered of images that never come again.
        """
        rest = self.optim.steps - self.inductive_steps
        if self.setting == "transductive" and self.optim.warmup_steps >= rest:
            raise FieldError(
                "optim.warmup_steps",
                f"self-training warms up anew and has {rest} of the {self.optim.steps} steps, so "
                f"it must be below {rest}, got {self.optim.warmup_steps}",
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
