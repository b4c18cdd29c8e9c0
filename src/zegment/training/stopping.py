"""Being asked to stop: by Ctrl-C, or by SIGTERM, as clusters send it before they kill."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 0.5  # seconds within which nobody presses Ctrl-C twice


class TrainingStopped(KeyboardInterrupt):
    """A run was asked to stop, and has saved all that it needs to go on.

    Args:
        step: Steps that are done.
        steps: Steps of the run.
        status: What a process that is ended by such a signal exits with.
    """

    def __init__(self, step: int, steps: int, status: int) -> None:
        super().__init__(f"stopped after step {step} of {steps}")
        self.step, self.steps, self.status = step, steps, status


class Stopping:
    """Notes the first signal that asks to stop; a second Ctrl-C ends the process at once.

    Launchers, clusters and ``timeout`` signal a process and its whole group, so one wish to stop
    may come twice within an instant; and after SIGTERM they kill by themselves.

    A context manager for the main thread; in another one nothing is caught, for Python hears
    signals only there.

    Attributes:
        signal: The number of the signal that came; None as long as none has.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._came = 0.0
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let signals do again what they did before."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """Return the exit status of a process that was ended by the signal."""
        return 128 + (self.signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is None:
            self.signal, self._came = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._came > _PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def keep_loading(worker: int) -> None:
    """Let a process that loads data live on when a terminal or a cluster signals to all.

    Given to a data loader, which ends its processes itself.
    """
    del worker
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
