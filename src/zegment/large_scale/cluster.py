"""Ray: reached or started, quiet, and how many processes fit on it."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zegment.errors import ConfigError
from zegment.optional import optional

#: Bytes of Ray's own store on this machine; nothing but names of pictures goes through it.
_STORE = 512 * 2**20

#: Cores of a process unless asked otherwise: one computes, and shares the other with decoding.
_CORES = 2.0

#: Smallest share of a core or GPU of a process; many more processes fit on no machine.
_SMALLEST = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The processes of a run.

    Attributes:
        count: How many.
        cpus: Cores of each.
        gpus: GPUs of each, or the share of one.
    """

    count: int
    cpus: float
    gpus: float

    @property
    def device(self) -> str | None:
        """Where a process computes: None is the GPU that it was given."""
        return None if self.gpus else "cpu"


def require() -> None:
    """Refuse to begin without the packages of the extra ``ray``.

    Raises:
        ConfigError: If one is missing.
    """
    _set_defaults()
    for name in ("ray.data", "pyarrow.parquet", "fsspec", "pycocotools.mask"):
        optional(name, extra="ray", purpose="--engine ray")


def _set_defaults() -> None:
    """Set what Ray reads when it is imported or started; the user's own settings hold."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray 2.54 gives up when its own bookkeeper is late ten times, which 5 s are not enough for on a
    # machine that has much else to do.
    os.environ.setdefault("RAY_DATA_AUTOSCALING_COORDINATOR_REQUEST_GET_TIMEOUT_S", "60")
    if not os.environ.get("RAY_ADDRESS"):
        # Ray runs the code of whoever reaches its ports, without asking for a password. Despite its
        # name this makes a cluster of one machine listen to that machine alone, on Linux too.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def connected() -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster; one that was started here is ended.

    It is the cluster of this process if it has one, that of ``RAY_ADDRESS`` if it is set, and else
    a new one of this machine alone.

    Raises:
        ConfigError: If Ray is missing, or there is no cluster at the address.
    """
    _set_defaults()
    ray = optional("ray", extra="ray", purpose="--engine ray")
    optional("ray.data", extra="ray", purpose="--engine ray")
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    own = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        with _silence():
            ray.init(
                address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"cannot reach a Ray cluster at {address or 'this machine'} ({error}); check "
            "RAY_ADDRESS, and RAY_AUTH_MODE=token if the cluster asks for a token, or leave both "
            "out to use this machine alone"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from the terminal what Ray's native part says of its own settings as it starts.

    Nothing is lost: what goes wrong comes as an exception.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def workers_on(
    machines: Sequence[Mapping[str, float]],
    *,
    count: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Workers:
    """Return the processes of a run: as many as the machines hold, unless asked otherwise.

    Args:
        machines: ``CPU`` and ``GPU`` of each; a missing one is 0.
        count: How many processes.
        cpus: Cores of each; by default 2, or fewer where GPUs are many or cores are few.
        gpus: GPUs of each; by default 1 if any machine has one.

    Raises:
        ConfigError: If a number is too small or none, or no machine has what one process needs.
    """
    check_wanted(count=count, cpus=cpus, gpus=gpus)
    if gpus is None:
        gpus = 1.0 if any(machine.get("GPU", 0) >= 1 for machine in machines) else 0.0
    usable = [machine for machine in machines if machine.get("GPU", 0) >= gpus]
    if cpus is None:
        cpus = min([_CORES, *(_cores_left(machine, gpus) for machine in usable)])
        cpus = max(cpus, 1.0)
    room = sum(_room(machine, cpus, gpus) for machine in usable)
    if room == 0:
        raise ConfigError(
            f"no machine has {cpus:g} cores and {gpus:g} GPUs for a process; lower "
            "--cpus-per-actor or --gpus-per-actor"
        )
    return Workers(count=count or room, cpus=cpus, gpus=gpus)


def check_wanted(*, count: int | None, cpus: float | None, gpus: float | None) -> None:
    """Refuse numbers that no cluster could satisfy, before anything is loaded; see `workers_on`.

    Raises:
        ConfigError: If a number is too small or none.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--actors is {count}; give at least 1")
    if cpus is not None and not _SMALLEST <= cpus < math.inf:
        raise ConfigError(
            f"--cpus-per-actor is {cpus:g}; give a number from {_SMALLEST}, usually 2"
        )
    if gpus is not None and gpus != 0 and not _SMALLEST <= gpus < math.inf:
        raise ConfigError(f"--gpus-per-actor is {gpus:g}; give 0, or a number from {_SMALLEST}")


def _cores_left(machine: Mapping[str, float], gpus: float) -> float:
    """Return the cores of a machine for each process, if its GPUs are all used."""
    cores = machine.get("CPU", 0)
    return cores // (machine.get("GPU", 0) // gpus) if gpus else cores


def _room(machine: Mapping[str, float], cpus: float, gpus: float) -> int:
    by_cores = machine.get("CPU", 0) // cpus
    return int(min(by_cores, machine.get("GPU", 0) // gpus) if gpus else by_cores)


def machines_of(ray: Any) -> list[dict[str, float]]:  # noqa: ANN401 - a module
    """Return the resources of each machine of the cluster that is there."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
