"""The processes that do runs side by side: one thread each, and gone when their parent is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

import torch

from zegment.study.records import Record
from zegment.study.running import Run
from zegment.training.stopping import TrainingStopped


def begin_worker() -> None:
    """Make a process ready for runs.

    One thread each is the fastest way to do many runs. Ctrl-C reaches every process of a terminal;
    a training hears it and saves itself, see `zegment.training.stopping`, and nothing else should.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ask this process to stop once nobody is there to take its results."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def perform(run: Run) -> Record | None:
    """Do a run and return its record; None if it was asked to stop."""
    try:
        return run.perform()
    except TrainingStopped:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # the pool would wait for its next run, and nobody is there to give one
        return None
