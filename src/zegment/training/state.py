"""What a run needs in order to go on as if it had never stopped, in one file.

The weights being trained and the buffers beside them, those of the objective included (the bank of
class tokens, the count of self-training steps), the optimizer's moments, and where the random
numbers of every process are. The schedule and the order of the images are functions of the step
and need no state. One file, so that it is replaced by one renaming: it is old or new, never half.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from zegment.errors import CheckpointError
from zegment.files import atomic_write_bytes
from zegment.text_files import check_is_file
from zegment.training.randomness import RandomState

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

STATE = "state.safetensors"
"""Name of the file in a run folder; a finished run has none."""

_FORMAT = 1
_REMEDY = "copy it again, or train anew into another folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is.

    Attributes:
        step: Steps that are done.
        stage: Name of the stage that is under way.
        best: Highest validation mIoU of seen classes so far; None before the first.
        skipped: How many of the last steps were left out, because their numbers had gone bad.
        seconds: Time spent so far.
    """

    step: int
    stage: str
    best: float | None
    skipped: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run, stopped between two steps.

    Attributes:
        progress: How far it is.
        facts: What must be the same when it goes on: name to value, told to the user if it differs.
        training: Trained weights and buffers, by name.
        optimizer: Moments, by ``<number of the parameter>.<name>``.
        scaler: State of the gradient scaler, if there is one.
        random: Random numbers of each process.
    """

    progress: Progress
    facts: Mapping[str, Any]
    training: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaler: Mapping[str, Any]
    random: tuple[RandomState, ...]

    def check(self, facts: Mapping[str, Any], path: Path) -> None:
        """Refuse to go on with anything else than what was begun.

        Raises:
            CheckpointError: If a fact differs.
        """
        for name, wanted in facts.items():
            if self.facts.get(name) != wanted:
                raise CheckpointError(
                    f"{path} was saved with {name} {self.facts.get(name)!r}, and now it is "
                    f"{wanted!r}; a run goes on only with what it began with"
                )


def write_state(path: Path, state: RunState) -> None:
    """Write a state, replacing an earlier one in one move.

    Raises:
        OutputError: If it cannot be written; the earlier one is then as it was.
    """
    tensors = {f"training.{name}": value for name, value in state.training.items()}
    tensors |= {f"optimizer.{name}": value for name, value in state.optimizer.items()}
    plain: list[RandomState] = []
    for rank, numbers in enumerate(state.random):
        plain.append({})
        for name, value in numbers.items():
            if isinstance(value, Tensor):
                tensors[f"random.{rank}.{name}"] = value
            else:
                plain[rank][name] = value
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
           for name, value in tensors.items()}  # fmt: skip
    header = {
        "format": _FORMAT,
        "digest": _digest(own),
        "progress": asdict(state.progress),
        "facts": dict(state.facts),
        "scaler": dict(state.scaler),
        "random": plain,
    }
    atomic_write_bytes(path, save(own, metadata={"zegment": json.dumps(header)}))


def read_state(path: Path) -> RunState:
    """Return the state in a file.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        check_is_file(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["zegment"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format"] != _FORMAT:
            raise CheckpointError(
                f"{path} has format {header['format']}, and this version of Zegment reads "
                f"{_FORMAT}; go on with the version that began the run"
            )
        if header["digest"] != _digest(tensors):
            raise ValueError("it does not hold what was saved")
        random = tuple(
            {**plain, **dict(_below(tensors, f"random.{rank}."))}
            for rank, plain in enumerate(header["random"])
        )
        return RunState(
            progress=Progress(**{f.name: header["progress"][f.name] for f in fields(Progress)}),
            facts=header["facts"],
            training=dict(_below(tensors, "training.")),
            optimizer=dict(_below(tensors, "optimizer.")),
            scaler=header["scaler"],
            random=random,
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot read {path}: {error}; {_REMEDY}") from error


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return what tells a damaged file from a whole one, of contiguous tensors on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return (
        (name.removeprefix(prefix), value)
        for name, value in tensors.items()
        if name.startswith(prefix)
    )


def training_tensors(training: nn.Module) -> dict[str, Tensor]:
    """Return what training changes of a module: trained weights and lasting buffers, by name."""
    frozen = {
        name
        for name, parameter in training.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    return {name: t for name, t in training.state_dict().items() if name not in frozen}


@torch.no_grad()
def load_training_tensors(training: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a module back what `training_tensors` took of it.

    Raises:
        CheckpointError: If names or shapes are those of another module.
    """
    own, parameters = training_tensors(training), dict(training.named_parameters())
    for name in sorted(own.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"{STATE} is of another model: it has no or a further '{name}'; {_REMEDY}"
        )
    for name, value in tensors.items():
        if name in parameters and value.shape != own[name].shape:
            raise CheckpointError(
                f"{STATE} is of another model: '{name}' has shape {tuple(value.shape)}, expected "
                f"{tuple(own[name].shape)}; {_REMEDY}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{STATE} is damaged: '{name}' is not finite; {_REMEDY}")
    put_tensors(training, tensors)


@torch.no_grad()
def put_tensors(training: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put values where a module has weights and buffers of these names."""
    own = training_tensors(training)
    for name, value in tensors.items():
        if own[name].shape == value.shape:
            own[name].copy_(value)
        else:  # a bank that had not as many tokens
            place, _, leaf = name.rpartition(".")
            setattr(training.get_submodule(place), leaf, value.to(own[name], copy=True))


def lasting_buffers(training: nn.Module) -> dict[str, Tensor]:
    """Return copies of the lasting buffers of a module, which a training step changes."""
    weights = {name for name, _ in training.named_parameters(remove_duplicate=False)}
    state = training.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if name not in weights}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments of an optimizer, whole; every process of a sharded run must call it."""
    states = optimizer.state_dict()["state"]
    return {
        f"{number}.{name}": _whole(value)
        for number, moments in states.items()
        for name, value in moments.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer back what `optimizer_tensors` took of it.

    Raises:
        CheckpointError: If they are the moments of other weights.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        place = int(number) if number.isdecimal() else -1
        fits = 0 <= place < len(parameters) and value.shape in ((), parameters[place].shape)
        if not fits:
            raise CheckpointError(f"{STATE} has moments of another model: '{key}'; {_REMEDY}")
        states.setdefault(place, {})[name] = _shared_like(parameters[place], value)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _whole(value: Tensor) -> Tensor:
    if _is_shared(value):
        shared: DTensor = value  # type: ignore[assignment]
        return shared.full_tensor()
    return value


def _shared_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a value divided among processes as a parameter is, if it has its shape."""
    if not _is_shared(parameter) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - as of PyTorch 2.5

    shared: DTensor = parameter  # type: ignore[assignment]
    on_device = value.to(parameter.device)
    return distribute_tensor(on_device, shared.device_mesh, shared.placements)


def _is_shared(value: Tensor) -> bool:
    return hasattr(value, "full_tensor")
