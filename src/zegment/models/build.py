"""Configuration and CLIP to a model; the numbers live in the configuration."""

from __future__ import annotations

from zegment.clip import Clip
from zegment.config import ModelConfig
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD, SegmentationModel
from zegment.models.dense_clip import ATTENTIONS, DenseClip
from zegment.models.one_stage import OneStageBaseline
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP


def build_model(config: ModelConfig, clip: Clip) -> SegmentationModel:
    """Return the model that a configuration describes, on top of a CLIP's image tower.

    Weights that are not CLIP's are initialised from torch's global random state.
    """
    normalization = {"clip": (clip.mean, clip.std), "imagenet": (IMAGENET_MEAN, IMAGENET_STD)}
    mean, std = normalization[config.normalization]
    builders = {"zegclip": _zegclip, "one_stage": _one_stage, "dense_clip": _dense_clip}
    return builders[config.kind](config, clip, mean, std)


Channels = tuple[float, float, float]


def _zegclip(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> ZegCLIP:
    shape, own = clip.image_tower.shape, config.zegclip
    return ZegCLIP(
        clip.image_tower,
        DeepPrompts(
            layers=shape.layers,
            tokens=own.prompt_tokens,
            width=shape.width,
            patch_size=shape.patch_size,
            dropout=own.prompt_dropout,
        ),
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
        seen_penalty=own.seen_penalty,
    )


def _one_stage(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> OneStageBaseline:
    temperature = config.one_stage.temperature
    return OneStageBaseline(clip.image_tower, mean=mean, std=std, temperature=temperature)


def _dense_clip(config: ModelConfig, clip: Clip, mean: Channels, std: Channels) -> DenseClip:
    own = config.dense_clip
    attention = ATTENTIONS[own.attention]()
    return DenseClip(clip.image_tower, attention, mean=mean, std=std, temperature=own.temperature)
