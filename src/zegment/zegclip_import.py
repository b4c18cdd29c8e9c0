"""Reads ZegCLIP's released checkpoint layout into our modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zegment.clip import tower_from_state
from zegment.errors import CheckpointError
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP

PERMITTED_EXTRAS = (".self_attn.", ".norm1.", "loss_decode.criterion.empty_weight")
"""Parts of released checkpoints that their own forward pass never uses."""

_PROMPTS = {
    "backbone.prompt_proj.weight": "prompts.proj.weight",
    "backbone.prompt_proj.bias": "prompts.proj.bias",
    "backbone.prompt_norm.weight": "prompt_norm.weight",
    "backbone.prompt_norm.bias": "prompt_norm.bias",
    "decode_head.q_proj.weight": "descriptor.proj.weight",
    "decode_head.q_proj.bias": "descriptor.proj.bias",
}
_DECODER = "decode_head.decoder_1.layers."
_DECODER_PARTS = {
    "multihead_attn.": "",
    "norm2.": "attention_norm.",
    "norm3.": "feed_forward_norm.",
}
_SHALLOW, _DEEP = "backbone.prompt_embeddings", "backbone.deep_prompt_embeddings"


def import_zegclip(
    state: Mapping[str, Tensor], *, heads: int, decoder_heads: int, seen_penalty: float = 0.1
) -> ZegCLIP:
    """Return a ZegCLIP with the weights of a released checkpoint's ``state_dict``.

    Args:
        state: Released key layout: ``backbone.*``, ``decode_head.*``; ``text_encoder.*`` is not
            read, since text embeddings are given to the model.
        heads: Attention heads of the image tower; shapes do not tell.
        decoder_heads: Attention heads of the mask decoder.
        seen_penalty: 0.1 for inductive and supervised checkpoints, 0 after self-training.

    Raises:
        CheckpointError: If a tensor is missing, left over, or of another shape.
    """
    own = rename_zegclip(state)
    tower_state = {k.removeprefix("tower."): v for k, v in own.items() if k.startswith("tower.")}
    tower = tower_from_state(tower_state, heads=heads, activation="quick_gelu")
    layers, tokens, width = own["prompts.embeddings"].shape
    model = ZegCLIP(
        tower,
        DeepPrompts(layers=layers, tokens=tokens, width=width, patch_size=tower.shape.patch_size),
        MaskDecoder(
            tower.shape.embed_dim,
            layers=sum(k.startswith("decoder.") and k.endswith(".q.weight") for k in own),
            heads=decoder_heads,
        ),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        seen_penalty=seen_penalty,
    )
    try:
        model.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"not a ZegCLIP checkpoint: {error}") from error
    return model


def rename_zegclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return released weights, or gradients, under our names, without the permitted extras.

    Raises:
        CheckpointError: If the prompts or the image tower are missing, or a key is unknown.
    """
    missing = [k for k in (_SHALLOW, _DEEP) if k not in state]
    if missing:
        raise CheckpointError(f"not a ZegCLIP checkpoint: it has no {missing[0]}")
    own = {"prompts.embeddings": torch.cat([state[_SHALLOW], state[_DEEP]])}
    for key, value in state.items():
        if key in (_SHALLOW, _DEEP) or key.startswith("text_encoder."):
            continue
        if any(extra in key for extra in PERMITTED_EXTRAS):
            continue
        own[_our_name(key)] = value
    return own


def _our_name(key: str) -> str:
    if key in _PROMPTS:
        return _PROMPTS[key]
    if key.startswith(_DECODER):
        name = "decoder.layers." + key.removeprefix(_DECODER)
        for theirs, ours in _DECODER_PARTS.items():
            name = name.replace(theirs, ours)
        return name
    if key.startswith("backbone."):
        return "tower." + key.removeprefix("backbone.")
    raise CheckpointError(f"not a ZegCLIP checkpoint: unknown tensor {key}")
