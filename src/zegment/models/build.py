"""Configuration and CLIP to a model; the numbers live in the configuration."""

from __future__ import annotations

from typing import TypeAlias

from zegment.clip import Clip, TowerShape
from zegment.config.fields import FieldError
from zegment.config.model import ModelConfig, StudentConfig, ZegClipConfig
from zegment.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError, did_you_mean
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.dense_clip import ATTENTIONS, DenseClip
from zegment.models.one_stage import OneStageBaseline
from zegment.models.relations import RELATIONS
from zegment.models.residual_pyramid import residual_pyramid
from zegment.models.segnext_import import segnext
from zegment.models.student import DenseNetwork, Student
from zegment.models.zegclip import (
    DeeplySupervisedZegCLIP,
    DeepPrompts,
    MaskDecoder,
    NoPrompts,
    ZegCLIP,
)

Channels: TypeAlias = tuple[float, float, float]

IMAGENET: tuple[Channels, Channels] = (IMAGENET_MEAN, IMAGENET_STD)


def build_model(config: ModelConfig, clip: Clip) -> SegmentationModel:
    """Return the model that a configuration describes, on top of a CLIP.

    Weights that are not CLIP's, or an encoder's pretrained ones, are initialised from torch's
    global random state.

    Raises:
        ModelNotFoundError: If a student's architecture, encoder or weights do not exist.
        UnsupportedModelError: If they do not work together.
        ConfigError: If a package is missing that the model needs.
        FieldError: If more layers shall have prompts than the CLIP has.
    """
    mean, std = (clip.mean, clip.std) if config.normalization == "clip" else IMAGENET
    if config.kind == "student":
        dim = clip.image_tower.shape.embed_dim
        return build_student(config.student, embed_dim=dim, mean=mean, std=std)
    builders = {
        "zegclip": _zegclip,
        "one_stage": _one_stage,
        "dense_clip": _dense_clip,
        "two_stage": _two_stage,
    }
    return builders[config.kind](config, clip, mean, std)


def build_student(
    config: StudentConfig, *, embed_dim: int, mean: Channels, std: Channels
) -> Student:
    """Return a student; of CLIP it needs the embedding dimension alone.

    Args:
        config: Architecture, encoder, and where its weights come from.
        embed_dim: D of the CLIP.
        mean: Per-channel mean of RGB in [0, 1] that images are normalised with.
        std: Per-channel standard deviation, likewise.

    Raises:
        ModelNotFoundError: If architecture, encoder or weights do not exist, or they need a
            download and there is no network.
        UnsupportedModelError: If architecture and encoder do not work together.
    """
    try:
        network = _network(config, embed_dim)
    except (ModelNotFoundError, UnsupportedModelError, CheckpointError) as error:
        raise type(error)(f"model.student: {error}") from error
    return Student(network, mean=mean, std=std, temperature=config.temperature)


def _network(config: StudentConfig, embed_dim: int) -> DenseNetwork:
    if config.architecture == "segnext":
        return segnext(config.encoder, weights=config.weights, embed_dim=embed_dim)
    if config.architecture == "residual_pyramid":
        return residual_pyramid(config.encoder, weights=config.weights, embed_dim=embed_dim)
    # Here, because the libraries behind it take a second to import.
    from zegment.models.closed_set import ARCHITECTURES, ClosedSetNetwork  # noqa: PLC0415

    known = ("segnext", "residual_pyramid", *ARCHITECTURES)
    if config.architecture not in known:
        raise ModelNotFoundError(
            f'no architecture is called "{config.architecture}"'
            f"{did_you_mean(config.architecture, known) or ';'} known are {', '.join(known)}"
        )
    return ClosedSetNetwork(
        config.architecture, config.encoder, weights=config.weights, embed_dim=embed_dim
    )


def _zegclip(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> ZegCLIP:
    shape, own = clip.image_tower.shape, config.zegclip
    system = DeeplySupervisedZegCLIP if own.auxiliary_losses else ZegCLIP
    model = system(
        clip.image_tower,
        _prompts(own, shape, name=clip.name),
        MaskDecoder(
            shape.embed_dim,
            layers=own.decoder_layers,
            heads=own.decoder_heads,
            dropout=own.decoder_dropout,
        ),
        mean=mean,
        std=std,
        prompt_norm=own.prompt_norm,
        double_class_embedding=own.double_class_embedding,
        relation=RELATIONS[own.relation](),
    )
    if own.tower == "fine_tuned":
        model.fine_tune_tower()
    return model


def _prompts(own: ZegClipConfig, shape: TowerShape, *, name: str) -> DeepPrompts | NoPrompts:
    layers = shape.layers if own.prompt_layers is None else own.prompt_layers
    if layers > shape.layers:
        raise FieldError(
            "model.zegclip.prompt_layers",
            f"must be at most the {shape.layers} layers of '{name}', got {layers}; \"none\" is all",
        )
    if layers == 0:
        return NoPrompts()
    return DeepPrompts(
        layers=layers,
        tokens=own.prompt_tokens,
        width=shape.width,
        patch_size=shape.patch_size,
        dropout=own.prompt_dropout,
    )


def _one_stage(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> OneStageBaseline:
    temperature = config.one_stage.temperature
    return OneStageBaseline(clip.image_tower, mean=mean, std=std, temperature=temperature)


def _dense_clip(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> DenseClip:
    own = config.dense_clip
    attention = ATTENTIONS[own.attention]()
    return DenseClip(clip.image_tower, attention, mean=mean, std=std, temperature=own.temperature)


def _two_stage(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> SegmentationModel:
    # Here, because no other model needs the room of optional packages.
    from zegment.models.two_stage import FelzenszwalbRegions, MaskedCrop, TwoStage  # noqa: PLC0415

    own = config.two_stage
    return TwoStage(
        clip.image_tower,
        FelzenszwalbRegions(
            scales=own.scales, smallest_share=own.smallest_share, most=own.proposals
        ),
        MaskedCrop(margin=own.margin, outside=own.outside),
        mean=mean,
        std=std,
        cell=own.cell,
        temperature=own.temperature,
    )
