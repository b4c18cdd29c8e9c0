"""The tensors of a checkpoint: read without being trusted, and given to a model that they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zegment.checkpoint_files import CONFIG, DIGESTS, TEXT, WEIGHTS, copy_again
from zegment.errors import CheckpointError
from zegment.files import sha256_of
from zegment.text_files import check_is_file
from zegment.trained import Trained
from zegment.wording import brief, printable

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Number formats that a floating parameter can be read from."""

_DAMAGE = (
    OSError,
    SafetensorError,
    ValueError,
    LookupError,
    AttributeError,
    RuntimeError,
    TypeError,
)
"""What reading tensors raises for a file that is missing, damaged, or of numbers nobody knows."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of a checkpoint, by name.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        check_is_file(path)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except _DAMAGE as error:
        raise CheckpointError(f"cannot read {path}: {error}; {copy_again(error)}") from error


def check_digests(folder: Path, header: Mapping[str, Any]) -> None:
    """Compare the files of a checkpoint that hold tensors with the digests in its header.

    It finds accidents that leave a file in order, such as a flipped bit or the weights of another
    checkpoint. Whoever means harm can change the digest too. Older checkpoints have none.

    Args:
        folder: The checkpoint.
        header: What its configuration file says.

    Raises:
        CheckpointError: If a file is not the one that was saved.
    """
    promised = header.get(DIGESTS, {})
    if not isinstance(promised, Mapping):
        raise CheckpointError(
            f"{folder / CONFIG} is damaged: {DIGESTS} is {brief(promised)}, not a table; copy the "
            "whole folder again"
        )
    for path in (folder / WEIGHTS, folder / TEXT):
        if path.name in promised and path.is_file() and sha256_of(path) != promised[path.name]:
            raise CheckpointError(
                f"{path} does not hold what was saved: its SHA-256 is not that of {CONFIG}; copy "
                f"the whole folder again or, if you changed it yourself, remove {DIGESTS} there"
            )


def load_weights(trained: Trained, path: Path) -> None:
    """Load trained weights strictly: the same names, the same shapes, all finite.

    Args:
        trained: Whose model is changed.
        path: The weights of a checkpoint.

    Raises:
        CheckpointError: If they cannot be read, are of another model, or damaged.
    """
    weights = read_tensors(path)
    parameters = trained.state()
    for key in sorted(parameters.keys() ^ weights.keys()):
        side = "has no" if key in parameters else "has an unknown"
        raise CheckpointError(
            f"{path} is a checkpoint of another model: it {side} tensor '{printable(key)}'; give "
            "the one that belongs to this configuration"
        )
    checked = {key: _fitting(weights[key], parameters[key], key, path) for key in parameters}
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(checked[key])


def _fitting(value: Tensor, parameter: Tensor, key: str, path: Path) -> Tensor:
    """Return a weight in the number format of the parameter that it is for.

    Raises:
        CheckpointError: If it is none for it.
    """
    if value.shape != parameter.shape:
        raise CheckpointError(
            f"{path} is a checkpoint of another model: tensor '{key}' has shape "
            f"{tuple(value.shape)}, expected {tuple(parameter.shape)}"
        )
    shorter = parameter.dtype.is_floating_point and value.dtype in _FLOATS
    if value.dtype != parameter.dtype and not shorter:
        raise CheckpointError(
            f"{path} is damaged: tensor '{key}' holds numbers of type {value.dtype}, expected "
            f"{parameter.dtype}; copy the whole folder again"
        )
    value = value.to(parameter.dtype)
    if not value.isfinite().all():
        raise CheckpointError(
            f"{path} is damaged: tensor '{key}' holds NaN or infinity; copy the whole folder again"
        )
    return value
