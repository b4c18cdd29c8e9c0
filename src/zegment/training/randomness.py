"""The random numbers of a process: where they are, and how to get back there."""

from __future__ import annotations

import random
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

RandomState: TypeAlias = dict[str, Any]
"""``torch`` and ``cuda`` as tensors, ``numpy`` and ``python`` as JSON can hold them."""


def random_state(device: torch.device) -> RandomState:
    """Return where the random numbers of this process are, on the CPU and on its device."""
    version, numbers, gauss = random.getstate()
    state: RandomState = {
        "torch": torch.get_rng_state(),
        "numpy": _plain(np.random.get_state(legacy=False)),
        "python": [version, list(numbers), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """Let the random numbers of this process go on from where they were."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    cuda: Tensor | None = state.get("cuda")
    if cuda is not None and device.type == "cuda":
        torch.cuda.set_rng_state(cuda, device)


def _plain(value: Any) -> Any:  # noqa: ANN401 - a tree of dicts, arrays and numbers
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
