"""One stage of a run under way: batches come from a loader, and an optimizer takes steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zegment.config import Config
from zegment.data.stream import TrainingStream
from zegment.data.transforms import TrainTransform
from zegment.distributed import failing_together
from zegment.errors import NotFiniteError
from zegment.models.base import SegmentationModel
from zegment.objectives import Objective
from zegment.training.launch import Launch
from zegment.training.optimization import learning_rate, parameter_groups
from zegment.training.preparation import Prepared
from zegment.training.randomness import RandomState, random_state, restore_random_state
from zegment.training.settings import Stage
from zegment.training.state import (
    RunState,
    lasting_buffers,
    load_optimizer_tensors,
    load_training_tensors,
    optimizer_tensors,
    put_tensors,
    training_tensors,
)
from zegment.training.stopping import keep_loading


class Joined(nn.Module):
    """A model and its objective as one module, so that processes exchange gradients of both."""

    def __init__(self, model: SegmentationModel, objective: Objective[Any, Any]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: object) -> dict[str, Tensor]:
        """Return named losses."""
        losses: dict[str, Tensor] = self.objective(self.model, batch)
        return losses


class StageRun:
    """A stage of a run, from where it begins or from where it was saved.

    Args:
        config: Of the run.
        stage: Which part of it.
        prepared: What it consists of.
        launch: The processes that train.
        state: What it goes on from; None begins the stage.

    Raises:
        CheckpointError: If the state is that of another model.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        prepared: Prepared,
        launch: Launch,
        state: RunState | None = None,
    ) -> None:
        self.config, self.stage, self.launch = config, stage, launch
        self.objective, model = prepared.objectives[stage.name], prepared.trained.model
        done = stage.first if state is None else state.progress.step
        if stage.first:
            # A run that starts here draws the same dropout as one that comes from before.
            set_seed((config.seed + stage.first) % 2**32)
            launch.release()
        self.joined = Joined(model, self.objective)
        with failing_together():
            if state is not None:
                load_training_tensors(self.joined, state.training)
        self.training = launch.connect(self.joined)
        groups = parameter_groups(model, self.objective, stage.optim)
        optimizer = torch.optim.AdamW(groups, lr=stage.optim.lr)
        self.stream = self._stream(prepared, done)
        self.optimizer, self.loader = launch.prepare(optimizer, self._batches())
        launch.draw_apart(config.seed + stage.first)
        self._random: RandomState | None = None
        if state is not None:
            load_optimizer_tensors(self.optimizer, state.optimizer)
            launch.restore_scaler(state.scaler)
            self._random = state.random[launch.rank]

    def _stream(self, prepared: Prepared, done: int) -> TrainingStream:
        """Return the images of the stage from a step on; which those are is no state."""
        model, images = prepared.trained.model, self.stage.optim.batch_size
        return TrainingStream(
            prepared.train_data,
            TrainTransform(self.config.augment, mean=model.mean.tolist(), std=model.std.tolist()),
            seed=self.config.seed,
            length=(self.stage.first + self.stage.steps - done) * images,
            first=done * images,
        )

    def _batches(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            self.stream,
            batch_size=self.launch.share(self.stage.optim.batch_size),
            num_workers=self.config.workers,
            pin_memory=self.launch.device.type == "cuda",
            worker_init_fn=keep_loading,
        )

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield what this process takes of the batches that are left."""
        for batch in self.loader:
            if self._random is not None:  # asking for the first one has drawn a number
                restore_random_state(self._random, self.launch.device)
                self._random = None
            yield batch

    def images(self, step: int) -> list[str]:
        """Return what the images of a step are called, counted from 1 in the whole run."""
        size = self.stage.optim.batch_size
        draws = range((step - 1) * size, step * size)
        return [self.stream.dataset.name(self.stream.item(draw)) for draw in draws]

    def step(self, step: int, image: Tensor, *rest: Tensor) -> dict[str, float]:
        """Take one optimizer step on a batch, in parts that fit into memory.

        Args:
            step: Counted from the beginning of the stage, from 0.
            image: Normalised images of this process, float (B, 3, H, W).
            rest: What else the data set has of them.

        Returns:
            The losses, averaged over processes.

        Raises:
            NotFiniteError: If a loss or a gradient is not; all is then as it was before the step.
        """
        before = lasting_buffers(self.joined), random_state(self.launch.device)
        rate = learning_rate(step, self.stage.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        losses = self._pass(image, *rest)
        norm = self.launch.clip(self.stage.optim.max_grad_norm)
        wrong = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        # The scaler of float16 meets infinite gradients, and deals with them itself.
        if not wrong and not math.isfinite(norm) and self.config.optim.precision != "fp16":
            wrong = [f"the norm of the gradient is {norm}"]
        if wrong:
            self.optimizer.zero_grad()
            put_tensors(self.joined, before[0])
            restore_random_state(before[1], self.launch.device)
            raise NotFiniteError(", ".join(wrong))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _pass(self, image: Tensor, *rest: Tensor) -> dict[str, float]:
        """Leave the gradient of a batch in the parameters, and return its losses."""
        self.training.train()
        with self.launch.autocast():
            batch = self.objective.prepare(image, *rest)
        parts = batch.split(self.config.optim.micro_batch_size or len(image))
        totals: dict[str, float] = {}
        for i, part in enumerate(parts):
            # Gradients are exchanged between processes once, with the last part.
            with self.launch.exchanging(now=i == len(parts) - 1):
                with self.launch.autocast():
                    losses = self.training(part)
                self.launch.backward(torch.stack(list(losses.values())).sum())
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.item()
        scale = float(self.objective.gradient_scale())
        if scale != 1.0:
            for parameter in self.training.parameters():
                if parameter.grad is not None:
                    parameter.grad *= scale
        return self.launch.mean({name: scale * total for name, total in totals.items()})

    def tensors(self) -> dict[str, Mapping[str, Any]]:
        """Return what `RunState` holds of a stage, inside `Launch.whole`."""
        return {
            "training": training_tensors(self.joined),
            "optimizer": optimizer_tensors(self.optimizer),
            "scaler": self.launch.scaler_state(),
        }
