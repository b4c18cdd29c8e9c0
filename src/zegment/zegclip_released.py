"""Reads the files of ZegCLIP's authors, weights and text embeddings, and executes nothing in them.

Letters: K classes, D embedding.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.errors import CheckpointError, ModelNotFoundError
from zegment.models.segnext_import import DAMAGE
from zegment.torch_files import load_torch
from zegment.wording import first_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What a file holds.

    Attributes:
        state: Weights by their released names.
        class_names: In the order of the labels; None if the file does not name them.
    """

    state: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None


def read_released(path: Path) -> Released:
    """Return the weights and class names of a checkpoint file, without executing anything in it.

    Args:
        path: A file of mmcv (a table with ``state_dict`` and ``meta``), or a bare state dict; a
            ``module.`` before every name is dropped.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, holds objects that could run code, or no state dict.
    """
    content = _load(path)
    table = content if isinstance(content, dict) else {}
    state, meta = table.get("state_dict", table), table.get("meta")
    if not isinstance(state, dict) or not state:
        raise CheckpointError(
            f"{path} holds no state dict (tensors by name, or those under 'state_dict'); give a "
            "checkpoint of ZegCLIP"
        )
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict: {key!r} is no tensor; give a checkpoint of ZegCLIP"
            )
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    named = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return Released(state=state, class_names=tuple(names) if names and named else None)


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return what a PyTorch file holds, if it is plain data."""
    if not path.is_file():
        raise ModelNotFoundError(f"no checkpoint at '{path}'; give a .pth file of ZegCLIP")
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(path) and file.read(2) == b"PK":
                raise CheckpointError(
                    f"cannot read {path}: it was cut short; download or copy it again"
                )
        with _numpy_metadata(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused anyhow
            return load_torch(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"cannot read {path}: it is no PyTorch file, or holds objects that could run code "
            "when loaded; download it again from ZegCLIP's authors, whose files hold tensors and "
            "plain metadata alone"
        ) from error
    except DAMAGE as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"cannot read {path}: {first_line(error)}; it is no PyTorch file, or damaged: "
            "download it again"
        ) from error


def _numpy_metadata() -> AbstractContextManager[object]:
    """Let the reader make NumPy's arrays and numbers, which hold metadata such as a palette.

    These functions build arrays from bytes; an array of objects stays refused.
    """
    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        return nullcontext()  # before torch 2.6 such a file is refused
    allowed: list[Any] = [np.ndarray, np.dtype]
    allowed += {type(np.dtype(code)) for code in ("?", "u1", "i1", "i2", "i4", "i8", "f4", "f8")}
    functions = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.int64().__reduce__()[0]}
    # NumPy 2 has renamed the module; files know either name.
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(function, f"{module}.{name}") for name, function in functions.items()]
    return torch.serialization.safe_globals(allowed)


def read_text_embeddings(path: Path, shape: tuple[int, int]) -> Tensor:
    """Return published text embeddings as unit rows, float32 (K, D).

    Args:
        path: A ``.npy`` file, float16 or float32.
        shape: K and D.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it is no such file, of another shape, or a row is no direction.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"no text embeddings at '{path}'; give a .npy file")
    try:
        rows = np.load(path, allow_pickle=False)
    except DAMAGE as error:
        raise CheckpointError(
            f"cannot read {path}: {first_line(error)}; give a .npy file of numbers, as "
            "np.save writes it"
        ) from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f" or rows.shape != shape:
        found = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else "an archive"
        raise CheckpointError(
            f"{path} holds {found}, expected one row of floating numbers for each class, {shape}; "
            "rows are in the order of the class names"
        )
    tensor = torch.from_numpy(rows.astype(np.float32))
    bad = ~tensor.isfinite().all(dim=1) | (tensor.norm(dim=1) == 0)
    if bad.any():
        raise CheckpointError(
            f"{path}: row {int(bad.nonzero()[0])} (counted from 0) holds NaN, infinity or zeros "
            "alone; it is damaged, make or download it again"
        )
    return F.normalize(tensor, dim=1)
