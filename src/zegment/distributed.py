"""What processes of one run tell each other; without others, what a process knows by itself."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from zegment.errors import ZegmentError

ValueT = TypeVar("ValueT")


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


def divisor(amount: Tensor) -> Tensor:
    """Return what sums of a process are divided by, so that the mean over processes is right.

    Args:
        amount: How much this process has of what all together are to be divided by.

    Returns:
        The mean over processes, and no less than if all together had one.
    """
    processes = torch.distributed.get_world_size() if several_processes() else 1
    return mean_over_processes(amount).clamp(min=1 / processes)


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


def gather_objects(value: ValueT) -> list[ValueT]:
    """Return a value of every process, in the order of their ranks."""
    if not several_processes():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values, in place; all have tensors of the same shapes."""
    if not several_processes():
        return
    with torch.no_grad():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)


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

        wanted = os.environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes"}
        PartialState(cpu=wanted or not torch.cuda.is_available())


@contextmanager
def failing_together() -> Iterator[None]:
    """Let a mistake that any process finds in the block end all of them, and be told once.

    The first process that found one raises it, with its name if others found nothing. The rest
    raise `SystemExit` with status 2, as the command line does. Nobody waits for a process that
    has ended.
    """
    failure: ZegmentError | None = None
    try:
        yield
    except ZegmentError as error:
        if not several_processes():
            raise
        failure = error
    if not several_processes():
        return
    count = torch.tensor(int(failure is not None))
    sum_over_processes(count)
    if not count:  # nearly always, so this takes a quarter of the time that gathering does
        return
    size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    failed = gather_objects(failure is not None)
    if failure is None or failed.index(True) != rank:
        # A launcher ends all once one has ended, which must not be before the mistake is told.
        time.sleep(1)
        raise SystemExit(2)
    if not all(failed):
        failure.args = (f"process {rank} of {size}, on {socket.gethostname()}: {failure}",)
    raise failure
