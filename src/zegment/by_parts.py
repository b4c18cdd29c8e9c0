"""Large computations a part at a time, and losses whose gradient is computed with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

CPU_NUMBERS = 2**18
"""Numbers at a time on a CPU, so that what one operation leaves is in the core's cache."""

OTHER_NUMBERS = 2**24
"""Numbers at a time elsewhere, so that each operation occupies the whole device."""

PartT = TypeVar("PartT")
ResultT = TypeVar("ResultT")


def numbers_at_a_time(device: torch.device) -> int:
    """Return how many numbers the tensors of a part should have."""
    return CPU_NUMBERS if device.type == "cpu" else OTHER_NUMBERS


def map_parts(
    work: Callable[[PartT], ResultT],
    parts: Sequence[PartT],
    *,
    numbers: int,
    device: torch.device,
) -> list[ResultT]:
    """Return what a work makes of each part, in order, without autograd and mixed precision.

    On a CPU every thread has parts of its own. If all shared each small operation, they would wait
    for each other, and for whatever else runs on their cores, after every one.

    Args:
        work: Uses what it is given and changes no number that another part reads.
        parts: Of anything.
        numbers: How many numbers all parts have together; few are not worth a thread.
        device: Where they are.
    """

    def plainly(part: PartT) -> ResultT:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return work(part)

    threads = torch.get_num_threads()
    useful = min(len(parts), math.ceil(numbers / CPU_NUMBERS)) if device.type == "cpu" else 1
    workers = min(threads, useful)
    if workers < 2:
        return [plainly(part) for part in parts]
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(plainly, parts))
    finally:
        torch.set_num_threads(threads)  # else threads that are started later would be alone too


def with_gradients(logits: Tensor, losses: Tensor, gradients: Tensor | None) -> Tensor:
    """Return losses whose first derivatives are known, float (n,).

    Differentiating them twice raises a RuntimeError.

    Args:
        logits: What the losses are functions of, of any shape.
        losses: Their values, float (n,).
        gradients: The derivative of each by the logits, float (n, …); None for constants.
    """
    if gradients is None:
        return losses
    tied: Tensor = _KnownGradients.apply(logits, losses, gradients)
    return tied


class _KnownGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, losses: Tensor, gradients: Tensor) -> Tensor:  # noqa: ANN401
        del logits
        ctx.save_for_backward(gradients)
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        if torch.is_grad_enabled():  # create_graph: the gradients would pass for constants
            raise RuntimeError(
                "this loss has no second derivative; leave create_graph out, or use the losses of "
                "zegment.losses on resized logits"
            )
        (gradients,) = ctx.saved_tensors
        total = torch.zeros_like(gradients[0])
        for weight, gradient in zip(weights, gradients, strict=True):
            total += weight * gradient
        return total, None, None
