"""Training runs as processes that can be killed, stopped or refused at any chosen moment.

    python tests/killed_process.py

reads orders from its input, one JSON object per line (see `killing.Runner`), and carries each out
in processes of its own, one per rank. They are forked from this one, which has imported what a run
needs: whatever befalls them befalls a real process, and only the time of importing is shared.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NEEDED = (
    "accelerate.optimizer",
    "segmentation_models_pytorch",
    "torch.distributed.fsdp",
    "zegment.cli",
    "zegment.models.build",
    "zegment.models.closed_set",
    "zegment.models.segnext",
    "zegment.progress",
    "zegment.training.trainer",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
SIGNALS = {
    "term": signal.SIGTERM,
    "term twice": signal.SIGTERM,  # at once: to a group, and to each process in it
    "interrupt": signal.SIGINT,
    "interrupt twice": signal.SIGINT,  # by somebody who has waited
}
REFUSED = {
    "full": (errno.ENOSPC, ("open ", "os.mkdir ", "fsync")),
    "read-only": (errno.EROFS, ("open ", "os.", "fsync")),
}


class Moments:
    """Counts what a process does, in order, and strikes at one of those moments.

    A moment is the beginning of something: of a change in the run's folder, as Python's audit
    events tell it before the operating system is asked; of a part of a step; of a validation. Each
    belongs to a phase: start, step, validation, checkpoint, state, log, end.

    Args:
        folder: Changes outside of it are no moments.
        fate: ``phase``, ``moment`` (its number in that phase, or in all if there is no phase) and
            ``deed``; an empty one never strikes.
        record: Descriptor that every moment is told to.
    """

    def __init__(self, folder: Path, fate: dict[str, Any], record: int) -> None:
        self.folder, self.fate, self.record = folder, fate, record
        self.process, self.phases, self.struck = os.getpid(), ["start"], 0
        self.counts: dict[str, int] = {}
        self._busy = False

    def listen(self) -> None:
        """Hear of everything from now on."""
        import torch
        from torch.optim import optimizer

        from zegment.data.stream import TrainingStream
        from zegment.segmenter import Segmenter
        from zegment.training import trainer

        sys.addaudithook(self._heard)
        for name, phase in (
            ("evaluate", "validation"),
            ("save_checkpoint", "checkpoint"),
            ("write_state", "state"),
        ):
            setattr(trainer, name, self._within(phase, getattr(trainer, name)))
        for owner, name, base in (
            (os, "fsync", None),
            (Segmenter, "label", None),
            (TrainingStream, "__getitems__", "step"),
            (torch.Tensor, "backward", "step"),
        ):
            setattr(owner, name, self._told(base, name, getattr(owner, name)))
        optimizer.register_optimizer_step_pre_hook(lambda *_: self.come("optimizer", "step"))
        optimizer.register_optimizer_step_post_hook(lambda *_: self.come("stepped", "step"))

    def come(self, what: str, base: str | None = None) -> None:
        """Count a moment, tell of it, and strike if it is the one.

        Args:
            what: What is about to be done.
            base: Phase that begins with it, unless it is inside of another.
        """
        if self._busy or os.getpid() != self.process:
            return  # of our own writing, or of a process that loads data
        self._busy = True
        try:
            if base is not None and len(self.phases) == 1:
                self.phases = [base]
            phase = self._phase(what)
            self.counts[phase] = self.counts.get(phase, 0) + 1
            os.write(self.record, f"{phase}|{what}\n".encode())
            if self.struck or self._meant(phase):
                self._strike(what)
        finally:
            self._busy = False

    def _phase(self, what: str) -> str:
        if what == "os.remove state.safetensors":
            return "end"
        return "log" if what.endswith("log.jsonl") else self.phases[-1]

    def _meant(self, phase: str) -> bool:
        if not self.fate:
            return False
        if self.fate["phase"] is None:
            return bool(sum(self.counts.values()) == self.fate["moment"])
        return bool(phase == self.fate["phase"] and self.counts[phase] == self.fate["moment"])

    def _strike(self, what: str) -> None:
        deed = self.fate["deed"]
        self.struck += 1
        if self.struck == 1:
            os.write(self.record, f"struck|{deed}\n".encode())
        if deed == "kill":  # the group: what the end of a container does
            os.killpg(os.getpgid(0), signal.SIGKILL)
        elif deed == "kill alone":  # what a machine does that runs out of memory
            os.kill(os.getpid(), signal.SIGKILL)
        elif deed in SIGNALS:
            number = SIGNALS[deed]
            if self.struck == 1:
                os.kill(os.getpid(), number)
            if self.struck == 1 and deed == "term twice":
                os.kill(os.getpid(), number)
            if self.struck == 2 and deed == "interrupt twice":
                time.sleep(1)
                os.kill(os.getpid(), number)
        else:
            number, refused = REFUSED[deed]
            if what.startswith(refused):
                raise OSError(number, os.strerror(number))

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event, if it is about to change something in the folder."""
        if event not in CHANGES and (event != "open" or not (arguments[2] or 0) & WRITES):
            return
        if self._busy or not isinstance(arguments[0], str | os.PathLike):
            return
        place = Path(os.fspath(arguments[0]))
        if event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
            place = Path(f"/proc/self/fd/{arguments[1]}").readlink() / place
        place = Path.cwd() / place
        if not place.is_relative_to(self.folder):
            return
        what = f"{event} {place.relative_to(self.folder)}"
        if event == "os.rename":
            target = Path(arguments[1]).name
            state = f" {digest(place)}" if target == "state.safetensors" else ""
            what = f"{event} {target}{state}"
        self.come(what)

    def _told(
        self, base: str | None, what: str, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        def telling(*args: Any, **kwargs: Any) -> Any:
            self.come(what, base)
            return function(*args, **kwargs)

        return telling

    def _within(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            self.phases.append(phase)
            try:
                self.come(function.__name__)
                result = function(*args, **kwargs)
                left = (
                    f" {args[0].name} {checkpoint_digest(args[0])}" if phase == "checkpoint" else ""
                )
                self.come(f"{function.__name__} done{left}")
                return result
            finally:
                self.phases.pop()

        return within


def digest(state: Path) -> str:
    """Return a saved step, and a digest of all that was saved with it but the time."""
    content = state.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    own = json.loads(header["__metadata__"].pop("zegment"))
    own["progress"].pop("seconds")
    whole = json.dumps([header, own], sort_keys=True).encode() + content[length:]
    return f"{own['progress']['step']} {hashlib.sha256(whole).hexdigest()}"


def checkpoint_digest(folder: Path) -> str:
    """Return a digest of the weights in a checkpoint folder."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def live(order: dict[str, Any], rank: int) -> NoReturn:
    """Be one process of a run, to its end."""
    fate = order["fate"] if rank in order["ranks_meant"] else {}
    folder = Path(order["folder"])
    os.chdir(folder)
    os.environ.update(order["environment"])
    if order["ranks"] > 1:
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, append), number)
    record = os.open(os.devnull if rank or "limit" in fate else "moments.txt", append)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if "limit" in fate:
        if fate["deed"] == "kill":  # in the midst of a write: the kernel itself, at that byte
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fate["limit"], resource.RLIM_INFINITY))
        fate = {}
    Moments(folder / "run", fate, record).listen()
    status = 1
    try:
        from zegment.cli import main

        sys.argv = ["zegment", *order["arguments"]]
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def carry_out(order: dict[str, Any], answers: int) -> None:
    """Begin the processes of an order, tell which they are, and in the end how each ended."""
    ranks = order["ranks"]
    if ranks > 1:
        with socket.socket() as probe:  # a port that is free now
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        order["environment"] |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        order["environment"] |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    processes: list[int] = []
    for rank in range(ranks):
        process = os.fork()
        if not process:
            os.setpgid(0, processes[0] if processes else 0)
            os.close(answers)
            live(order, rank)
        with contextlib.suppress(OSError):  # it was faster
            os.setpgid(process, processes[0] if processes else process)
        processes.append(process)
    os.write(answers, (json.dumps(processes) + "\n").encode())
    ends: dict[int, int] = {}
    while len(ends) < ranks:
        process, status = os.wait()
        ends[process] = os.waitstatus_to_exitcode(status)
        if ends[process]:  # a launcher ends the others once one has failed
            for other in set(processes) - set(ends):
                os.kill(other, signal.SIGTERM)
    os.write(answers, (json.dumps([ends[process] for process in processes]) + "\n").encode())


def main() -> None:
    """Import what runs need, and carry out orders until there are none."""
    for name in NEEDED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that no copy looks through all that was imported
    answers = os.dup(1)
    os.write(answers, b"ready\n")
    for line in sys.stdin:
        carry_out(json.loads(line), answers)
    os._exit(0)  # nothing here needs to be put away


if __name__ == "__main__":
    main()
