"""Which number formats a machine computes in, and which it only imitates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

_INSTRUCTIONS = {
    torch.bfloat16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    torch.float16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}
"""What the processors that multiply matrices in a format tell of themselves."""


def is_native(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Return whether a device multiplies matrices in a format about as fast as in float32.

    A processor that lacks the instructions converts every number by itself, which can take a
    hundred times as long. GPUs are taken to have them; so is a processor that does not tell.

    Args:
        dtype: Such as ``torch.bfloat16``.
        device: Where to compute.
    """
    wanted = _INSTRUCTIONS.get(dtype)
    if wanted is None or torch.device(device).type != "cpu":
        return True
    told = _capabilities()
    # Processors with AVX-512 have had fast conversion before they had products.
    return not told or any(told.get(name, False) for name in (*wanted, "avx512_f"))


def _capabilities() -> Mapping[str, Any]:
    ask = getattr(torch.cpu, "get_capabilities", None)  # PyTorch 2.11
    return ask() if ask is not None else {}


def slowness(dtype: torch.dtype, device: torch.device | str) -> str | None:
    """Return what to tell somebody who asks for a format that a device lacks; None if it has it."""
    if is_native(dtype, device):
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f"this processor has no instructions for {name} and imitates it, which can take a hundred "
        "times as long as float32; leave the precision as it is"
    )
