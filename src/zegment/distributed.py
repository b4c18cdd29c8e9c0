"""What processes of one run tell each other; without others, what a process knows by itself."""

from __future__ import annotations

import torch
from torch import Tensor


def several_processes() -> bool:
    """Return whether this run has more than one process."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value of every process, same shape."""
    if not several_processes():
        return value
    total = value.clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def gather(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of every process, in the order of their ranks, without gradients.

    Every process must have the same n.
    """
    if not several_processes():
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def others(rows: Tensor) -> Tensor:
    """Return the rows (n, ...) of every other process, in the order of their ranks."""
    if not several_processes():
        return rows[:0]
    rank, n = torch.distributed.get_rank(), len(rows)
    everyone = gather(rows)
    return torch.cat([everyone[: rank * n], everyone[(rank + 1) * n :]])
