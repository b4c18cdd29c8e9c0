"""Options of training: what is done to images, what is minimised, and how."""

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from zegment.config.fields import (
    MOST_SIDE,
    Count,
    CountOrZero,
    FieldError,
    Positive,
    PositiveOrZero,
    Range,
    Section,
    Share,
    Side,
)

MOST_IMAGES = 65_536
"""Of a step: many times what any publication has; a batch is read before its first step."""

MOST_RATIO = 16
"""Of the sides of a scaled image, up or down; publications go from a half to two."""

Ratio: TypeAlias = Annotated[float, Range(at_least=1 / MOST_RATIO, at_most=MOST_RATIO)]
Batch: TypeAlias = Annotated[int, Range(at_least=1, at_most=MOST_IMAGES)]


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

    short_side: Side | None = None
    long_side: Side | None = None
    scale_range: tuple[Ratio, Ratio] = (1.0, 1.0)
    crop_size: tuple[Side, Side] | None = None
    max_class_share: Annotated[float, Range(above=0, at_most=1)] = 1.0
    flip: Share = 0.5
    photometric: bool = False

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If the sides or the ratios are in the wrong order.
            FieldError: If a side would be scaled beyond all measure.
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
        longest = max(self.short_side or 0, self.long_side or 0)
        if longest * high > MOST_SIDE:
            raise FieldError(
                "scale_range",
                f"makes sides of {longest} pixels up to {longest * high:g} long, and at most "
                f"{MOST_SIDE} are scaled to; lower one of the two",
            )
        if self.crop_size is None and low != high:
            raise FieldError(
                "scale_range", "images of different sizes make no batch; set augment.crop_size"
            )
        if self.crop_size is None and self.max_class_share < 1:
            raise FieldError("max_class_share", "is about crops; set augment.crop_size")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig(Section):
    """What holds logits against labels, and ZegCLIP's loss as its released code computes it.

    Attributes:
        kind: ``released`` is what each system was published with: ``non_mutually_exclusive``
            (NEL, all other options below) for ZegCLIP, ``cross_entropy`` for the one-stage
            baseline and for a student's self-training, both for a student that CLIP teaches.
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the dice loss.
        focal_alpha: Weight of the positive pixels, in [0, 1]; None does not balance, as the paper
            has it.
        focal_gamma: How much easy pixels are discounted.
        squared_dice: Whether the denominators are squared, as the paper has it.
        ignored_are_negatives: Whether an ignored pixel is a negative for every class.
    """

    kind: Literal["released", "non_mutually_exclusive", "cross_entropy"] = "released"
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
        skip_nonfinite: How many steps in a row may be left out because a loss or the gradient is
            not finite; one more ends the run.
        precision: Number format of the forward pass: ``no`` is float32.
        gradient_checkpointing: Whether activations are computed again in the backward pass
            instead of being kept: less memory, more time, the same gradients.
        compile: Whether the model is compiled for training, by ``torch.compile``.
    """

    steps: Count = 2000
    batch_size: Batch = 16
    micro_batch_size: Batch | None = None
    lr: Positive = 2e-4
    head_lr_scale: Positive = 1.0
    weight_decay: PositiveOrZero = 0.01
    decay_norms: bool = True
    max_grad_norm: Positive | None = None
    warmup_steps: CountOrZero = 0
    warmup_ratio: Share = 1e-6
    power: PositiveOrZero = 0.9
    min_lr: PositiveOrZero = 1e-6
    skip_nonfinite: CountOrZero = 0
    precision: Literal["no", "bf16", "fp16"] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False

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
