"""The processes of one training run, which train one model, each with a part of every batch.

Every process holds the whole model (DDP), or a share of what is trained and of the optimizer's
state (FSDP). With one process nothing is exchanged and everything here does as little as it can.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zegment.distributed import broadcast, join_processes, mean_over_processes, several_processes
from zegment.errors import ConfigError
from zegment.precision import slowness

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

SHARDING_NEEDS = (2, 7)
"""First PyTorch whose `fully_shard` leaves frozen parameters alone."""


class Launch:
    """What a training loop asks of the processes that it runs in.

    Args:
        precision: Number format of forward passes: ``no``, ``bf16`` or ``fp16``.

    Attributes:
        device: Where this process computes.
        processes: How many there are, on all machines.
        rank: Which of them this one is, from 0.
        is_main: Whether this process is the one that writes.
        sharded: Whether weights, gradients and optimizer state are divided among processes.
        training: What is trained, see `connect`.

    Raises:
        ConfigError: If the launcher asks for something that cannot be done.
        ConfigError: If the device cannot compute in that precision.
    """

    def __init__(self, precision: str) -> None:
        join_processes()
        self.sharded = _wants_sharding()
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
            # accelerate keeps one precision for all runs of a process, and would refuse another.
            AcceleratorState._reset_state()
        if precision == "fp16" and not torch.cuda.is_available():
            raise ConfigError(
                'optim.precision: "fp16" needs a GPU, and there is none here; use "bf16", or "no"'
            )
        self._accelerator = Accelerator(
            mixed_precision=precision,
            # Both are in Zegment's configuration; accelerate's would divide and compile once more.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
            # The decoder's last value path gets no gradient, see `MaskDecoder`.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        self.device: torch.device = self._accelerator.device
        if precision == "bf16" and (told := slowness(torch.bfloat16, self.device)):
            warnings.warn(f"optim.precision: {told}", RuntimeWarning, stacklevel=2)
        self.processes: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.is_main: bool = self._accelerator.is_main_process

    def share(self, batch_size: int) -> int:
        """Return how many images of a batch each process takes.

        Raises:
            ConfigError: If they cannot be shared equally.
        """
        if batch_size % self.processes:
            raise ConfigError(
                f"optim.batch_size: {batch_size} cannot be shared by {self.processes} "
                f"processes; use a multiple of {self.processes}"
            )
        return batch_size // self.processes

    def join_norms(self, model: nn.Module) -> None:
        """Let the batch norms of a model see the images of all processes, on GPUs.

        PyTorch has no such layer for the CPU: there each process normalises its own images.
        """
        if self.processes == 1 or self.device.type != "cuda":
            return
        # PyTorch's own function would lose the activations that timm's layers hold.
        from timm.layers.norm_act import convert_sync_batchnorm  # noqa: PLC0415

        convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]

    def connect(self, training: nn.Module) -> nn.Module:
        """Return a module that exchanges its gradients with the other processes.

        All start with the weights of the first one. If sharded, the parameters of ``training``
        change, so an optimizer is made afterwards.
        """
        self.training = training
        if not self.sharded:
            self.training = self._accelerator.prepare_model(training)
            return self.training
        # Older releases of PyTorch lack these.
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

        broadcast([*training.parameters(), *training.buffers()])
        frozen = {p for p in training.parameters() if not p.requires_grad}
        mesh = init_device_mesh(self.device.type, (self.processes,))
        # Frozen towers have no gradients and no optimizer state, and teachers are asked outside of
        # the forward pass, so each process keeps them whole.
        fully_shard(training, mesh=mesh, ignored_params=frozen)  # changes the module itself
        return training

    def prepare(
        self, optimizer: torch.optim.Optimizer, loader: DataLoader[tuple[Tensor, ...]]
    ) -> tuple[torch.optim.Optimizer, DataLoader[tuple[Tensor, ...]]]:
        """Return the optimizer, scaling gradients if need be, and a loader of own images."""
        own: DataLoader[tuple[Tensor, ...]] = self._accelerator.prepare_data_loader(loader)
        return self._accelerator.prepare_optimizer(optimizer), own

    def draw_apart(self, seed: int) -> None:
        """Let every process draw dropout of its own; the first one's draws stay as they are."""
        if not self.is_main:
            set_seed((seed + 7919 * self.rank) % 2**32)

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context in which a forward pass runs in the precision asked for."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    @contextmanager
    def exchanging(self, *, now: bool) -> Iterator[None]:
        """Exchange the gradients of a backward pass ``now``, or add them up for later."""
        if now or self.processes == 1:
            yield
        elif self.sharded:
            sharded = cast("FSDPModule", self.training)
            sharded.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                sharded.set_requires_gradient_sync(True)
        else:
            with self._accelerator.no_sync(self.training):
                yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, scaled if the precision needs that."""
        self._accelerator.backward(loss)

    def clip(self, max_norm: float | None) -> float:
        """Return the norm of the gradient, over all parameters and shares.

        Args:
            max_norm: What a longer gradient is shortened to; None leaves it.
        """
        self._accelerator.unscale_gradients()
        most = math.inf if max_norm is None else max_norm
        norm = torch.nn.utils.clip_grad_norm_(self.training.parameters(), most)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(whole)

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler of float16, for JSON; empty without one."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else dict(scaler.state_dict())

    def restore_scaler(self, state: Mapping[str, Any]) -> None:
        """Give the gradient scaler, if there is one, its state back."""
        if state and self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(dict(state))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Return the means of numbers that every process has."""
        if self.processes == 1:
            return values
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        return dict(zip(values, mean_over_processes(numbers).tolist(), strict=True))

    def anywhere(self, *, flag: bool) -> bool:
        """Return whether a flag is raised in any process."""
        return self.mean({"raised": float(flag)})["raised"] > 0

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Have every process hold the same, whole model, as it is saved and evaluated.

        Inside, the model itself is called, not ``training``, and as often as each process likes.
        """
        shares = self._gather()
        # Without joined norms each process has statistics of its own; the first one's are saved.
        broadcast(list(self.training.buffers()))
        try:
            with _uncompiled():
                yield
        finally:
            for module, name, share in shares:
                setattr(module, name, share)

    def release(self) -> None:
        """End what `connect` began: the model is whole again, and may be trained anew."""
        self._accelerator.free_memory()
        self._gather()

    def _gather(self) -> list[tuple[nn.Module, str, nn.Parameter]]:
        """Put whole parameters where shares of them are, and return what was where."""
        if not self.sharded:
            return []
        from torch.distributed.tensor import DTensor  # noqa: PLC0415

        shares = []
        for module in self.training.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                share = parameter.detach()
                if isinstance(share, DTensor):
                    shares.append((module, name, parameter))
                    setattr(module, name, nn.Parameter(share.full_tensor()))
        return shares


def _uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which compiled modules run as they were written.

    Images that are evaluated differ in size, and each new size would be compiled.
    """
    stance = getattr(torch.compiler, "set_stance", None)  # as of PyTorch 2.6
    return nullcontext() if stance is None else stance("force_eager")


def _wants_sharding() -> bool:
    """Return whether accelerate's configuration asks for FSDP.

    Raises:
        ConfigError: If it asks for a kind of it that is not supported, or for DeepSpeed.
    """
    for variable, name in (("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if _asked(f"ACCELERATE_USE_{variable}"):
            raise ConfigError(f"accelerate asks for {name}; use DDP, or FSDP with fsdp_version: 2")
    if not _asked("ACCELERATE_USE_FSDP") or not several_processes():
        return False
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SHARDING_NEEDS:
        raise ConfigError(
            f"FSDP needs PyTorch {'.'.join(map(str, SHARDING_NEEDS))} or later, and this is "
            f"{torch.__version__}; install that, or launch without FSDP"
        )
    for variable, accepted, remedy in (
        ("FSDP_VERSION", {"2"}, "set fsdp_version: 2"),
        ("FSDP_AUTO_WRAP_POLICY", {"", "no_wrap"}, "set fsdp_auto_wrap_policy: NO_WRAP"),
        ("FSDP_OFFLOAD_PARAMS", {"", "false"}, "set fsdp_offload_params: false"),
        (
            "FSDP_ACTIVATION_CHECKPOINTING",
            {"", "false"},
            "leave fsdp_activation_checkpointing out, and set optim.gradient_checkpointing = true",
        ),
    ):
        given = os.environ.get(variable, "")
        if given.lower() not in accepted:
            raise ConfigError(
                f"accelerate's configuration sets {variable} to '{given}', which Zegment does not "
                f"do; {remedy}"
            )
    return True


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in {"1", "true", "yes"}
