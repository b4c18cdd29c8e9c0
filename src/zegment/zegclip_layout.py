"""ZegCLIP's released weights as our modules: their names, and the sizes read off their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zegment.clip import ImageTower, TowerShape
from zegment.errors import CheckpointError, ConfigError
from zegment.models.base import IMAGENET_MEAN, IMAGENET_STD
from zegment.models.zegclip import DeepPrompts, MaskDecoder, ZegCLIP

HEAD_WIDTH = 64
"""Width of an attention head in every CLIP of OpenAI."""

EMPTY_WEIGHT = "decode_head.loss_decode.criterion.empty_weight"
"""Weights of the classes in the loss, one for each of training and one for none of them."""

_UNUSED = re.compile(
    r"text_encoder\.(token_embedding\.weight|positional_embedding|text_projection"
    r"|(ln_final|transformer\.resblocks\.\d+\.(ln_1|ln_2|attn\.out_proj|mlp\.c_fc|mlp\.c_proj))"
    r"\.(weight|bias)|transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias))"
    r"|decode_head\.decoder_1\.layers\.\d+\.(self_attn\.in_proj_(weight|bias)"
    r"|(self_attn\.out_proj|norm1)\.(weight|bias))"
    rf"|{re.escape(EMPTY_WEIGHT)}"
)
"""Parts of released checkpoints that their own forward pass never uses, or that text replaces."""

_SHALLOW, _DEEP = "backbone.prompt_embeddings", "backbone.deep_prompt_embeddings"
_PROMPTS = {
    "backbone.prompt_proj.weight": "prompts.proj.weight",
    "backbone.prompt_proj.bias": "prompts.proj.bias",
    "backbone.prompt_norm.weight": "prompt_norm.weight",
    "backbone.prompt_norm.bias": "prompt_norm.bias",
    "decode_head.q_proj.weight": "descriptor.proj.weight",
    "decode_head.q_proj.bias": "descriptor.proj.bias",
}
_RELEASED_PROMPTS = {ours: theirs for theirs, ours in _PROMPTS.items()}
_DECODER = "decode_head.decoder_1.layers."
_DECODER_PARTS = {
    "multihead_attn.": "",
    "norm2.": "attention_norm.",
    "norm3.": "feed_forward_norm.",
}


def import_zegclip(
    state: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    decoder_heads: int = 8,
    source: str = "the checkpoint",
) -> ZegCLIP:
    """Return a ZegCLIP with the weights of a released checkpoint's ``state_dict``.

    Every size is read off the weights.

    Args:
        state: Released key layout: ``backbone.*``, ``decode_head.*``; ``text_encoder.*`` is not
            read, since text embeddings are given to the model.
        heads: Attention heads of the image tower, which shapes do not tell; None is one for
            every 64 of its width, as in OpenAI's CLIPs.
        decoder_heads: Attention heads of the mask decoder.
        source: Where the weights are from, for messages.

    Raises:
        CheckpointError: If a tensor is missing, left over, of another shape, or not finite.
        ConfigError: If the heads do not share the width.
    """
    sizes = _sizes(state, source)
    heads = _checked_heads(heads, sizes, decoder_heads)
    with torch.device("meta"):  # shapes alone
        expected = _released_shapes(_empty(sizes, heads, decoder_heads))
    _check(state, expected, source)
    model = _empty(sizes, heads, decoder_heads)
    model.load_state_dict(rename_zegclip(state), strict=True)
    return model


def rename_zegclip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return released weights, or gradients, under our names, without the parts never used.

    Raises:
        CheckpointError: If the prompts are missing, or a key is unknown.
    """
    missing = [key for key in (_SHALLOW, _DEEP) if key not in state]
    if missing:
        raise CheckpointError(f"not a ZegCLIP checkpoint: it has no {missing[0]}")
    own = {"prompts.embeddings": torch.cat([state[_SHALLOW], state[_DEEP]])}
    for key, value in state.items():
        if key not in (_SHALLOW, _DEEP) and not _UNUSED.fullmatch(key):
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
    raise CheckpointError(f"not a ZegCLIP checkpoint: unknown tensor '{key}'")


def _released_name(key: str) -> str:
    """Return what `_our_name` was given for one of our names."""
    if key in _RELEASED_PROMPTS:
        return _RELEASED_PROMPTS[key]
    if key.startswith("tower."):
        return "backbone." + key.removeprefix("tower.")
    number, _, part = key.removeprefix("decoder.layers.").partition(".")
    for theirs, ours in _DECODER_PARTS.items():
        if ours and part.startswith(ours):
            return f"{_DECODER}{number}.{theirs}{part.removeprefix(ours)}"
    own = "multihead_attn." if part.startswith(("q.", "k.", "v.", "proj.")) else ""
    return f"{_DECODER}{number}.{own}{part}"


def _released_shapes(model: ZegCLIP) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a released checkpoint of a model must hold."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    layers, *rest = shapes.pop("prompts.embeddings")
    return {
        _SHALLOW: (1, *rest),
        _DEEP: (layers - 1, *rest),
        **{_released_name(key): shape for key, shape in shapes.items()},
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """What the weights of a checkpoint tell about it."""

    width: int
    layers: int
    patch_size: int
    grid: int
    embed_dim: int
    hidden: int
    prompts: int
    decoder_layers: int
    prompt_norm: bool


def _sizes(state: Mapping[str, Tensor], source: str) -> _Sizes:
    def shape(key: str, n: int) -> tuple[int, ...]:
        if key not in state:
            raise _another_model(source, f"it has no tensor '{key}'")
        if state[key].ndim != n:
            raise _another_model(
                source, f"its tensor '{key}' has {state[key].ndim} dimensions, expected {n}"
            )
        return tuple(state[key].shape)

    def layers(prefix: str) -> int:
        own = (key.removeprefix(prefix) for key in state if key.startswith(prefix))
        return len({rest.partition(".")[0] for rest in own})

    width, _, patch_size, _ = shape("backbone.conv1.weight", 4)
    positions, _ = shape("backbone.positional_embedding", 2)
    grid = round(max(positions - 1, 1) ** 0.5)
    if positions != grid * grid + 1:
        raise _another_model(
            source,
            f"its tensor 'backbone.positional_embedding' has {positions} rows, expected one and "
            "those of a square",
        )
    blocks = "backbone.transformer.resblocks."
    return _Sizes(
        width=width,
        layers=layers(blocks),
        patch_size=patch_size,
        grid=grid,
        embed_dim=shape("backbone.proj", 2)[1],
        hidden=shape(f"{blocks}0.mlp.c_fc.weight", 2)[0],
        prompts=shape(_SHALLOW, 3)[1],
        decoder_layers=max(layers(_DECODER), 1),
        prompt_norm=any(key.startswith("backbone.prompt_norm.") for key in state),
    )


def _checked_heads(heads: int | None, sizes: _Sizes, decoder_heads: int) -> int:
    """Return the heads of the image tower, after checking that both numbers are possible."""
    if heads is None:
        if sizes.width % HEAD_WIDTH:
            raise ConfigError(
                f"--heads: this image tower is {sizes.width} wide, which is no multiple of "
                f"{HEAD_WIDTH}, so its number of attention heads is not known; give it"
            )
        heads = sizes.width // HEAD_WIDTH
    for option, given, width in (
        ("--heads", heads, sizes.width),
        ("--decoder-heads", decoder_heads, sizes.embed_dim),
    ):
        if given < 1 or width % given:
            raise ConfigError(
                f"{option}: {given} heads cannot share a width of {width}; give the number that "
                "the checkpoint was trained with"
            )
    return heads


def _empty(sizes: _Sizes, heads: int, decoder_heads: int) -> ZegCLIP:
    """Return a model of the given sizes, with whatever weights."""
    shape = TowerShape(
        width=sizes.width,
        layers=sizes.layers,
        heads=heads,
        patch_size=sizes.patch_size,
        grid=(sizes.grid, sizes.grid),
        embed_dim=sizes.embed_dim,
        hidden=sizes.hidden,
    )
    prompts = DeepPrompts(
        layers=sizes.layers,
        tokens=sizes.prompts,
        width=sizes.width,
        patch_size=sizes.patch_size,
    )
    return ZegCLIP(
        ImageTower(shape),
        prompts,
        MaskDecoder(sizes.embed_dim, layers=sizes.decoder_layers, heads=decoder_heads),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        prompt_norm=sizes.prompt_norm,
    )


def _check(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], source: str
) -> None:
    """Refuse a tensor that is missing, unknown, misshapen, no numbers, or not finite."""
    for key in expected:
        if key not in state:
            raise _another_model(source, f"it has no tensor '{key}'")
    for key, value in state.items():
        if key not in expected:
            if _UNUSED.fullmatch(key):
                continue
            raise _another_model(source, f"it has an unknown tensor '{key}'")
        if tuple(value.shape) != expected[key]:
            raise _another_model(
                source,
                f"its tensor '{key}' has shape {tuple(value.shape)}, expected {expected[key]}",
            )
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or not value.is_floating_point():
            raise _another_model(source, f"its tensor '{key}' holds no plain floating numbers")
        if not value.isfinite().all():
            raise CheckpointError(
                f"{source} is damaged: tensor '{key}' holds NaN or infinity; download it again"
            )


def _another_model(source: str, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is no ZegCLIP checkpoint: {problem}; give one in the layout of the released "
        "ZegCLIP files"
    )
