"""Options of the training setting, and of calibration at test time."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from zegment.config.fields import FieldError, Name, Section, Share

#: Which classes have a mask or a name in training: the seen ones have masks; or the unseen ones
#: also have names; or all have masks.
Setting: TypeAlias = Literal["inductive", "transductive", "supervised"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTrainingConfig(Section):
    """Transductive training: unseen classes are learnt from the model's own predictions.

    Attributes:
        region: Where they are guessed: ``unlabelled`` is every pixel without an annotation;
            ``oracle`` is where the true labels hold an unseen class, as ZegCLIP's released code
            has it, which uses their location though not which class it is.
        start_share: Share of the steps that are trained inductively first; self-training has the
            rest, with a schedule of its own.
        start: Checkpoint to start from instead of those first steps, such as the ``half`` that
            another run left; None trains them.
        guide: Who guesses: the ``model`` itself, or, in the first steps, training-free ``clip``,
            as in MaskCLIP+, or another trained segmenter, a ``checkpoint``.
        guide_checkpoint: Which one: a folder that a training made, or a packaged one such as
            ``shapes-zegclip``; of any system that was trained with the same CLIP.
        guided_share: Share of self-training in which ``clip`` or that ``checkpoint`` guesses.
    """

    region: Literal["unlabelled", "oracle"] = "unlabelled"
    start_share: Share = 0.5
    start: Name | None = None
    guide: Literal["model", "clip", "checkpoint"] = "model"
    guide_checkpoint: Name | None = None
    guided_share: Share = 0.1

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If self-training would have no steps, or its start is described twice.
            FieldError: If a checkpoint is to guess and none is named, or the other way round.
        """
        if self.start_share == 1:
            raise FieldError("start_share", "leaves no step for self-training; give less than 1")
        if self.start is not None and self.start_share == 0:
            raise FieldError(
                "start", "replaces the inductive steps, of which start_share = 0 leaves none"
            )
        if self.guide == "checkpoint" and self.guide_checkpoint is None:
            raise FieldError(
                "guide_checkpoint", "is missing; name the run folder or model that is to guess"
            )
        if self.guide != "checkpoint" and self.guide_checkpoint is not None:
            raise FieldError(
                "guide_checkpoint",
                f'is for guide = "checkpoint", and the guide is "{self.guide}"; set that, or leave '
                "guide_checkpoint out",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig(Section):
    """What is taken from the scores of seen classes at test time.

    Attributes:
        seen_penalty: How much, in [0, 1]; None is as released: 0.1 for ZegCLIP, 0 after
            self-training and for every other model.
        chosen_on: The split that the value was chosen on, for the record.
    """

    seen_penalty: Share | None = None
    chosen_on: str | None = None
