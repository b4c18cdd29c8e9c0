"""The weights of a CLIP: where they lie, and whether its configuration speaks of them.

open_clip makes room for whatever a configuration describes, and looks at the weights afterwards.
Who wrote a folder or a repository need not mean well, so both are compared before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import open_clip
import torch
from safetensors import safe_open

from zegment.config.model import MOST_HEADS, MOST_LAYERS
from zegment.text_files import check_is_file
from zegment.torch_files import load_torch
from zegment.wording import brief

if TYPE_CHECKING:
    from zegment.clip_loading import ClipSource

Shape: TypeAlias = tuple[int, ...]

MOST_TOKENS = 4096
"""Of a sentence, and of a picture; the memory for attention grows with the square."""

PREFERRED_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weights in a folder, in the order in which open_clip takes them."""


def weights_file(source: ClipSource) -> Path:
    """Return the file with the weights of both towers, downloaded if need be.

    Raises:
        FileNotFoundError: If there is none in a folder.
        OSError: If it is no file.
    """
    schema, _, place = source.model_name.partition(":")
    if schema == "local-dir":
        path = _weights_in(Path(place))
    else:
        wanted = (
            {"hf_hub": f"{place}/"}  # the slash stands for open_clip's usual file names
            if schema == "hf-hub"
            else open_clip.get_pretrained_cfg(source.model_name, source.tag)
        )
        path = Path(open_clip.download_pretrained(wanted))
    check_is_file(path)
    return path


def _weights_in(folder: Path) -> Path:
    files = sorted(
        (path for path in folder.iterdir() if path.suffix in {".safetensors", ".bin", ".pth"}),
        key=lambda path: (
            PREFERRED_FILES.index(path.name) if path.name in PREFERRED_FILES else 99,
            path.suffix != ".safetensors",
            path,
        ),
    )
    if not files:
        raise FileNotFoundError(f"no weights in '{folder}'; expected {PREFERRED_FILES[0]}")
    return files[0]


def check_size(name: str, size: object, most: int) -> None:
    """Refuse a number of a configuration that would take time or memory without end.

    Raises:
        ValueError: If it is not a whole number from 1 to ``most``.
    """
    if type(size) is not int or not 1 <= size <= most:
        raise ValueError(f"{name} is {brief(size)}; it can be 1 to {most}")


def check_described(source: ClipSource, config: Mapping[str, Any]) -> None:
    """Hold what a configuration says of both towers against limits, and against its weights.

    Of the weights, only names and shapes are read.

    Args:
        source: Where configuration and weights are, written by whomever.
        config: The configuration.

    Raises:
        ValueError: If it describes what no CLIP has, or other weights than there are.
        Exception: Whatever else open_clip and the readers of weight files raise.
    """
    shapes = _shapes_in(weights_file(source))
    _check_limits(config, shapes)
    with torch.device("meta"):  # names and shapes alone
        described = open_clip.create_model(
            source.model_name, load_weights=False, pretrained_text=False, device="meta"
        )
    for key, tensor in described.state_dict().items():
        # open_clip has these in several forms, and they take no room.
        if not key.startswith("logit_") and not key.endswith("position_ids"):
            _check_shape(key, tuple(tensor.shape), shapes)


def _shapes_in(path: Path) -> dict[str, Shape]:
    """Return the shapes of a file's tensors by their names, without ``module`` before them."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    else:
        content = load_torch(path)
        state = content.get("state_dict", content)
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    return {key.removeprefix("module."): shape for key, shape in shapes.items()}


def _check_limits(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Refuse sizes that shapes do not tell, or that take time or memory already on paper."""
    vision = open_clip.CLIPVisionCfg(**config["vision_cfg"])
    text = open_clip.CLIPTextCfg(**config["text_cfg"])
    (height, width), patch = _pair(vision.image_size), _pair(vision.patch_size)
    check_size("patch_size", min(patch), max(height, width))
    check_size("image_size in patches", height // patch[0] * (width // patch[1]), MOST_TOKENS)
    check_size("layers", vision.layers, MOST_LAYERS)
    check_size("heads", vision.width // vision.head_width, MOST_HEADS)
    check_size("layers", text.layers, MOST_LAYERS)
    check_size("context_length", text.context_length, MOST_TOKENS)
    # Fixed positions of this width are computed, not only described.
    _check_shape("visual.conv1.weight", (vision.width, 3, *patch), shapes)


def _pair(size: Any) -> tuple[int, int]:  # noqa: ANN401 - one number or two
    """Return height and width of what may be a square."""
    first, second = size if isinstance(size, list | tuple) else (size, size)
    if type(first) is not int or type(second) is not int:
        raise ValueError(f"{brief(size)} is no size; give one whole number, or two")
    return first, second


def _check_shape(key: str, wanted: Shape, shapes: Mapping[str, Shape]) -> None:
    # The text tower lies beside ``visual``, or under ``text``.
    found = shapes.get(key, shapes.get(key.removeprefix("text.")))
    if found is None:
        raise ValueError(f"its weights have no '{key}'")
    # open_clip resizes the positions of pictures and sentences of another length.
    first = int(key.endswith("positional_embedding"))
    if len(found) != len(wanted) or found[first:] != wanted[first:]:
        raise ValueError(
            f"'{key}' has shape {found} in its weights and {wanted} by its configuration"
        )
