"""The threads that work on pictures: a few, and always the same.

The system's allocator keeps what a thread frees for that thread. Gradio hands events to any of
forty threads, each of which would come to keep as much memory as the largest picture took in it;
and PyTorch gives each thread that runs a model further threads of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

#: What is drawn or written takes a fraction of the model's time.
_QUICK: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """Where the events of a page run.

    Attributes:
        model: Those that run the model; as many threads as there are workers.
        quick: Those that draw or write from a result; they do not wait for the model.
    """

    model: Executor
    quick: Executor


@contextlib.contextmanager
def working_threads(workers: int) -> Iterator[Threads]:
    """Yield threads that begin nothing more afterwards; what runs is not waited for.

    Args:
        workers: Requests that run the model at the same time.
    """
    model = ThreadPoolExecutor(workers, thread_name_prefix="zegment-model")
    quick = ThreadPoolExecutor(_QUICK, thread_name_prefix="zegment-quick")
    try:
        yield Threads(model=model, quick=quick)
    finally:
        for executor in (model, quick):
            executor.shutdown(wait=False, cancel_futures=True)
