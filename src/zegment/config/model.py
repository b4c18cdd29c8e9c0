"""Options of each system: the segmenter and the CLIP under it."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from zegment.config.fields import (
    Dropout,
    FieldError,
    Name,
    Positive,
    Range,
    Section,
    Share,
    Side,
)

MOST_LAYERS, MOST_HEADS, MOST_PROMPTS = 100, 1024, 1000
"""Many times what any publication has; a checkpoint that asks for more is damaged."""

MOST_PROPOSALS, MOST_MARGIN = 10_000, 10
"""Each proposal is a mask of the image and a picture for CLIP; a margin of 10 makes it a speck."""

Attention: TypeAlias = Literal["value", "sclip", "clearclip", "naclip"]
"""How CLIP's last layer attends for dense features; see `zegment.models.dense_clip`."""

Layers: TypeAlias = Annotated[int, Range(at_least=1, at_most=MOST_LAYERS)]
Heads: TypeAlias = Annotated[int, Range(at_least=1, at_most=MOST_HEADS)]

TRAINING_FREE = ("dense_clip", "two_stage")
"""Kinds that are CLIP as it is, and have nothing to train."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZegClipConfig(Section):
    """ZegCLIP: deep prompts, relationship descriptor and mask decoder.

    Attributes:
        tower: Whether CLIP's image tower is ``frozen``, as released, or ``fine_tuned``, beside its
            prompts or without any; then a checkpoint holds all of it.
        prompt_tokens: Prompts in each layer of the image tower that has any.
        prompt_layers: How many of its first layers have prompts of their own: None is all, as
            released; 1 is shallow; 0 has none. Those of the last such layer stay to the end.
        prompt_dropout: Probability of dropping a prompt value in training.
        decoder_layers: Layers of the mask decoder.
        decoder_heads: Attention heads of each of them.
        decoder_dropout: Probability of dropping a decoder value in training.
        double_class_embedding: Whether the class embedding is added twice, as the released code
            does and its checkpoints expect.
        prompt_norm: Whether a trained LayerNorm precedes the frozen one of the image tower.
        relation: What a class query is made of, of the text embedding T and the image's class
            token g: ``product_text`` is [T ⊙ g, T], as released, ``class_text`` [g, T],
            ``difference_text`` [|T − g|, T], ``product`` T ⊙ g, each projected; ``text`` is T
            alone, without a relationship descriptor.
        auxiliary_losses: Whether the masks of earlier decoder layers are held against the labels
            too, with the same losses and weights; the released code is prepared for it, and has
            none.
    """

    tower: Literal["frozen", "fine_tuned"] = "frozen"
    prompt_tokens: Annotated[int, Range(at_least=1, at_most=MOST_PROMPTS)] = 10
    prompt_layers: Annotated[int, Range(at_least=0, at_most=MOST_LAYERS)] | None = None
    prompt_dropout: Dropout = 0.1
    decoder_layers: Layers = 3
    decoder_heads: Heads = 8
    decoder_dropout: Dropout = 0.1
    double_class_embedding: bool = True
    prompt_norm: bool = True
    relation: Literal["product_text", "text", "class_text", "product", "difference_text"] = (
        "product_text"
    )
    auxiliary_losses: bool = False

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If there are no earlier layers whose masks could be looked at.
        """
        if self.auxiliary_losses and self.decoder_layers == 1:
            raise FieldError(
                "auxiliary_losses",
                "are those of layers before the last, and decoder_layers is 1; raise it, or leave "
                "auxiliary_losses out",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OneStageConfig(Section):
    """The one-stage baseline of the ZegCLIP paper.

    Attributes:
        temperature: Divides the cosine similarities.
    """

    temperature: Positive = 0.07


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseClipConfig(Section):
    """Training-free dense CLIP.

    Attributes:
        attention: What the last attention layer is replaced with.
        temperature: Divides the cosine similarities.
    """

    attention: Attention = "naclip"
    temperature: Positive = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageConfig(Section):
    """Two stages: class-agnostic regions, and a class of CLIP for each.

    The numbers but the cell were chosen on Shapes' validation split.

    Attributes:
        cell: Pixels per side of a cell, in which regions are found and scores are given.
        scales: How much difference a region may have within, one set of regions for each; see
            scikit-image's ``felzenszwalb``.
        smallest_share: Share of the image below which a region is merged with a neighbour.
        proposals: Most regions of an image.
        margin: What is cut out on each side beyond a region, as a share of its longer side.
        outside: What is left of the contrast outside of the region, where 0 is the mean colour.
        temperature: Divides the cosine similarities.
    """

    cell: Side = 4
    scales: tuple[Positive, ...] = (50.0, 100.0, 400.0, 1600.0)
    smallest_share: Annotated[float, Range(at_least=1e-9, at_most=1)] = 0.02
    proposals: Annotated[int, Range(at_least=1, at_most=MOST_PROPOSALS)] = 100
    margin: Annotated[float, Range(at_least=0, at_most=MOST_MARGIN)] = 0.0
    outside: Share = 0.1
    temperature: Positive = 0.01

    def check(self) -> None:
        """Compare fields with each other.

        Raises:
            FieldError: If there is no scale, or regions could leave a part of the image out.
        """
        if not self.scales:
            raise FieldError("scales", "is empty; give at least one, such as [400]")
        if self.proposals * self.smallest_share < 1:
            raise FieldError(
                "proposals",
                f"{self.proposals} regions of {self.smallest_share:g} of the image each need not "
                f"cover it; allow at least {math.ceil(1 / self.smallest_share)}, or raise "
                "smallest_share",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig(Section):
    """The segmenter that CLIP-ZSS teaches; at test time it is alone.

    Attributes:
        architecture: ``segnext``; or one of segmentation_models_pytorch, such as ``unet``,
            ``fpn``, ``deeplabv3plus``, ``segformer``, ``upernet``, ``dpt``; or
            ``residual_pyramid``, which is for images of a hundred pixels.
        encoder: For ``segnext`` its size, ``t``, ``s``, ``b`` or ``l``, for ``residual_pyramid``
            ``tiny``, ``small`` or ``base``; else any encoder of segmentation_models_pytorch
            (``resnet50``, ``mit_b2``) or, after ``tu-``, of timm (``tu-convnext_tiny``).
        weights: Pretrained weights of the encoder: ``imagenet``, a tag of timm, or for ``segnext``
            a file; None starts from random ones.
        temperature: 1/α, divides the cosines with text embeddings.
    """

    architecture: Name = "residual_pyramid"
    encoder: Name = "small"
    weights: Name | None = None
    temperature: Positive = 0.07


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """The segmenter and the CLIP under it.

    Attributes:
        kind: Which system; only the table of that name is read.
        clip: Name of the CLIP: the packaged ``shapes-clip``, or an open_clip model and its
            weights, such as ``ViT-B-16/openai``.
        normalization: Whose mean and standard deviation images are normalised with.
        zegclip: Options of ZegCLIP.
        one_stage: Options of the one-stage baseline.
        dense_clip: Options of training-free dense CLIP.
        two_stage: Options of regions that CLIP classifies one by one.
        student: Options of the student that CLIP-ZSS teaches.
    """

    kind: Literal["zegclip", "one_stage", "dense_clip", "two_stage", "student"] = "zegclip"
    clip: Name = "shapes-clip"
    normalization: Literal["clip", "imagenet"] = "clip"
    zegclip: ZegClipConfig = field(default_factory=ZegClipConfig)
    one_stage: OneStageConfig = field(default_factory=OneStageConfig)
    dense_clip: DenseClipConfig = field(default_factory=DenseClipConfig)
    two_stage: TwoStageConfig = field(default_factory=TwoStageConfig)
    student: StudentConfig = field(default_factory=StudentConfig)

    @property
    def trains_clip(self) -> bool:
        """Return whether training changes CLIP's own image tower."""
        if self.kind == "zegclip":
            return self.zegclip.tower == "fine_tuned"
        return self.kind == "one_stage"
