"""Loads the text side of a CLIP alone: no image tower is built, and none of its weights read."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import resize_text_pos_embed
from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer
from safetensors import safe_open
from torch import Tensor, nn

from zegment.clip_loading import ClipSource, find_clip
from zegment.clip_weights import MOST_TOKENS, check_size, weights_file
from zegment.config.model import MOST_LAYERS
from zegment.errors import UnsupportedModelError
from zegment.text_tower import TextTower
from zegment.torch_files import load_torch

SUPPORTED = "supported are open_clip's own text transformers, for example those of ViT-B-16/openai"


def load_text_tower(name: str, *, device: torch.device | str = "cpu") -> TextTower:
    """Return the text tower that `zegment.clip_loading.load_clip` gives for the same name.

    Its embeddings are the same to the last bit. What the image tower is, and whether Zegment
    could prompt it, does not matter.

    Args:
        name: One of the names that `load_clip` knows: packaged, MODEL/WEIGHTS, ``hf-hub:`` or a
            folder.
        device: Where it computes.

    Raises:
        ModelNotFoundError: If nothing answers to the name, it needs a download and there is no
            network, or its folder is damaged.
        UnsupportedModelError: If its text tower is not open_clip's own text transformer.
    """
    source = find_clip(name)
    with source.loading():
        config = source.config()
        text = _text_config(source, config)
        file = weights_file(source)
        check_size("layers", text.layers, MOST_LAYERS)
        check_size("context_length", text.context_length, MOST_TOKENS)
        with torch.device("meta"):  # names and shapes alone
            expected = _text_transformer(text, config).state_dict()
        weights = _read_text(source, file, expected)
        _check_weights(weights, expected)
        transformer = _text_transformer(text, config)
        resize_text_pos_embed(weights, transformer)  # as open_clip does for other lengths
        transformer.load_state_dict(weights, strict=True)
    transformer.eval().requires_grad_(False).to(device)
    return source.text_tower(transformer, transformer, device=device)


def _text_config(source: ClipSource, config: dict[str, Any]) -> open_clip.CLIPTextCfg:
    """Return what a configuration says of the text tower.

    Raises:
        UnsupportedModelError: If it is another kind of tower.
    """
    text = open_clip.CLIPTextCfg(**config["text_cfg"])
    if text.hf_model_name or text.embed_cls or "multimodal_cfg" in config:
        kind = f"Hugging Face's {text.hf_model_name}" if text.hf_model_name else "that of a CoCa"
        raise UnsupportedModelError(
            f"CLIP '{source.name}' has a text tower that is no plain text transformer (it is "
            f"{kind}); {SUPPORTED}"
        )
    return text


def _text_transformer(text: open_clip.CLIPTextCfg, config: dict[str, Any]) -> nn.Module:
    """Return open_clip's text transformer of a configuration, with random weights."""
    # Whatever the configuration and the transformer both know, in any version of open_clip.
    known = inspect.signature(TextTransformer).parameters.keys() - {"output_tokens"}
    activation = QuickGELU if config["quick_gelu"] else nn.GELU
    transformer: nn.Module = TextTransformer(
        **{key: value for key, value in asdict(text).items() if key in known},
        output_dim=config["embed_dim"],
        act_layer=partial(activation, **(text.act_kwargs or {})),
        norm_layer=partial(LayerNorm, **(text.norm_kwargs or {})),
    )
    return transformer


def _check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Hold weights against a configuration, before room is made for what it describes.

    Raises:
        ValueError: If one is missing, of another shape, or not finite.
    """
    for key, wanted in expected.items():
        if key not in weights:
            raise ValueError(f"its weights have no '{key}'")
        # open_clip resizes the positions of sentences of another length.
        first = int(key == "positional_embedding")
        if weights[key].shape[first:] != wanted.shape[first:]:
            raise ValueError(
                f"'{key}' has shape {tuple(weights[key].shape)} in its weights and "
                f"{tuple(wanted.shape)} by its configuration"
            )
        if not weights[key].isfinite().all():
            raise ValueError(f"'{key}' holds NaN or infinity")


def _read_text(source: ClipSource, path: Path, expected: Collection[str]) -> dict[str, Tensor]:
    """Return the text tower's weights from a file; the others stay on the disk."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            keys = _text_keys(source, file.keys(), expected)
            return {own: file.get_tensor(key) for own, key in keys.items()}
    if path.suffix in {".npz", ".npy"}:
        raise UnsupportedModelError(f"CLIP '{source.name}' has weights of JAX; {SUPPORTED}")
    content = load_torch(path)
    state = content.get("state_dict", content)
    keys = _text_keys(source, state.keys(), expected)
    return {own: state[key] for own, key in keys.items()}


def _text_keys(
    source: ClipSource, keys: Collection[str], expected: Collection[str]
) -> dict[str, str]:
    """Return the file's keys that are of the text tower, by their names in the transformer.

    A text tower lies beside ``visual`` (OpenAI's layout) or under ``text``; a training
    checkpoint puts ``module`` before either.
    """
    for prefix in ("", "text.", "module.", "module.text."):
        if f"{prefix}token_embedding.weight" in keys:
            parts = {key.partition(".")[0] for key in expected}
            own = {key.removeprefix(prefix): key for key in keys if key.startswith(prefix)}
            return {k: key for k, key in own.items() if k.partition(".")[0] in parts}
    raise UnsupportedModelError(
        f"the weights of CLIP '{source.name}' hold no text transformer in open_clip's key layout "
        f"(no token_embedding.weight); {SUPPORTED}"
    )
