"""What processes of one run tell each other; without others, what a process knows by itself."""

from __future__ import annotations

import os

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


def sum_over_processes(state: Tensor) -> None:
    """Add what every process counted, in place; integers, so the order does not matter."""
    if not several_processes():
        return
    # NCCL knows only tensors on a GPU; counts live on the CPU.
    on_gpu = torch.distributed.get_backend() == "nccl"
    total = state.cuda() if on_gpu else state
    torch.distributed.all_reduce(total)
    state.copy_(total)


def process_share(length: int) -> list[int]:
    """Return the items of 0 … length − 1 that this process looks at."""
    if not several_processes():
        return list(range(length))
    return list(range(torch.distributed.get_rank(), length, torch.distributed.get_world_size()))


def is_main_process() -> bool:
    """Return whether this process is the one that prints and writes."""
    return not several_processes() or torch.distributed.get_rank() == 0


def join_processes() -> None:
    """Join the other processes of a launcher such as torchrun, if this process has one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Here, because it takes a second to import.
        from accelerate import PartialState  # noqa: PLC0415

        PartialState(cpu=not torch.cuda.is_available())
