"""The training loop: plain, and counted in optimizer steps."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zegment.checkpoint import restore_weights
from zegment.checkpoint_files import save_checkpoint
from zegment.clip import Clip
from zegment.clip_loading import load_clip
from zegment.config import Config
from zegment.config.loading import config_to_toml
from zegment.config.model import TRAINING_FREE
from zegment.data import checked_dataset, describe
from zegment.data.stream import TrainingStream
from zegment.data.transforms import TrainTransform
from zegment.distributed import failing_together, join_processes
from zegment.errors import ConfigError, OutputError
from zegment.evaluation import Evaluation, evaluate
from zegment.files import atomic_write_text
from zegment.launch import Launch
from zegment.models.base import SegmentationModel
from zegment.models.build import build_model
from zegment.objectives import Objective
from zegment.optimization import compile_network, learning_rate, parameter_groups
from zegment.segmenter import Segmenter
from zegment.trained import Trained, training_vocabulary
from zegment.training_settings import (
    Stage,
    build_described,
    build_objective,
    build_self_training,
    seen_names,
    stages,
)


class Observer(Protocol):
    """Watches a run; the command line draws a progress bar with it."""

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Be told the losses of a finished optimizer step, counted from 1."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Be told the scores on the validation split after a step."""


class Silent:
    """An observer that does nothing."""

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Ignore a step."""

    def validated(self, step: int, evaluation: Evaluation) -> None:
        """Ignore a validation."""


class _Training(nn.Module):
    """A model and its objective as one module, so that processes exchange gradients of both."""

    def __init__(self, model: SegmentationModel, objective: Objective[Any, Any]) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: object) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.objective(self.model, batch)
        return losses


class Trainer:
    """One run: everything is made and checked here, before the first step.

    Several processes that a launcher started train together. A mistake that one of them finds here
    ends all of them, see `zegment.distributed.failing_together`.

    Args:
        config: What to train, on what, how.
        out: Run folder; it must not exist or be empty.

    Raises:
        ConfigError: If the configuration asks for something that cannot be trained.
        OutputError: If the run folder is in use.
        DatasetNotFoundError: If files are missing.
        DatasetError: If images, masks and class names do not fit together.
        ModelNotFoundError: If the CLIP cannot be found or downloaded.
    """

    def __init__(self, config: Config, out: Path) -> None:
        join_processes()
        self.config, self.out = config, out
        self.observer: Observer = Silent()
        with failing_together():
            self._check_free()
            self.launch = Launch(config.optim.precision)
            self.own_batch = self.launch.share(config.optim.batch_size)
            self.stages = stages(config)
            self.train_data = checked_dataset(config.data, "train")
            validates = config.data.source == "shapes" or config.data.val is not None
            self.val_data = checked_dataset(config.data, "val") if validates else None
            set_seed(config.seed)
            self._build_model()
            self._check_crop()
        self._enter(self.stages[0])

    def _check_free(self) -> None:
        """Check that there is something to train, and a place for it."""
        if self.config.model.kind in TRAINING_FREE:
            raise ConfigError(
                f'model.kind: "{self.config.model.kind}" has nothing to train; evaluate it'
            )
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise OutputError(f"run folder '{self.out}' is in use; give another --out or remove it")

    def _build_model(self) -> None:
        config, device = self.config, self.launch.device
        names, unseen = self.train_data.class_names, self.train_data.unseen
        seen = seen_names(config, names, unseen)
        clip = load_clip(config.model.clip, device=device)
        model = build_model(config.model, clip).to(device)
        self.launch.join_norms(model)
        if config.optim.gradient_checkpointing:
            model.use_gradient_checkpointing()
        if config.optim.compile:
            compile_network(model)
        self.trained = Trained(
            config=config,
            model=model,
            text_tower=clip.text_tower,
            fingerprint=clip.fingerprint,
            vocabulary=training_vocabulary(names, config.text.templates),
            seen=seen,
        )
        if config.self_training.start is not None and config.setting == "transductive":
            restore_weights(self.trained, config.self_training.start)
        self.objectives = {
            stage.name: self._build_objective(stage, clip).to(device) for stage in self.stages
        }

    def _build_objective(self, stage: Stage, clip: Clip) -> Objective[Any, Any]:
        vocabulary, model = self.trained.vocabulary, self.trained.model
        assert vocabulary is not None  # noqa: S101 - made above
        seen = [vocabulary.class_names.index(name) for name in self.trained.seen]
        if describe(self.train_data, 0) is not None:
            items = range(len(self.train_data))
            sentences = [describe(self.train_data, item) or "" for item in items]
            return build_described(self.config, vocabulary, clip.text_tower, sentences)
        if stage.name == "self-training":
            embeddings = vocabulary.embed(clip.text_tower)
            return build_self_training(self.config, clip, model, embeddings, seen)
        # Unseen names are not even encoded.
        own = training_vocabulary(self.trained.seen, self.config.text.templates)
        return build_objective(self.config, clip, model, own.embed(clip.text_tower), seen)

    def _check_crop(self) -> None:
        patch, crop = self.trained.model.patch_size, self.config.augment.crop_size
        if crop is None and self.config.data.source == "shapes":
            crop = (self.config.data.image_size, self.config.data.image_size)
        if crop is None:
            raise ConfigError(
                "augment.crop_size: photographs differ in size, so training needs one; "
                f"for example crop_size = [{14 * patch}, {14 * patch}]"
            )
        most = self.config.optim.micro_batch_size or self.own_batch
        batch = self.own_batch % most or most  # the smallest pass
        try:
            self.trained.model.check_batch(crop, batch=batch, training=True)
        except ConfigError as error:
            raise ConfigError(
                f"augment.crop_size {list(crop)}, optim.micro_batch_size {batch}: {error}"
            ) from error

    def _enter(self, stage: Stage) -> None:
        """Make loader, objective and optimizer of a stage."""
        config, optim, model = self.config, stage.optim, self.trained.model
        transform = TrainTransform(config.augment, mean=model.mean.tolist(), std=model.std.tolist())
        stream = TrainingStream(
            self.train_data,
            transform,
            seed=config.seed,
            length=stage.steps * optim.batch_size,
            first=stage.first * optim.batch_size,
        )
        loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
            stream,
            batch_size=self.own_batch,
            num_workers=config.workers,
            pin_memory=self.launch.device.type == "cuda",
        )
        self.stage, self.objective = stage, self.objectives[stage.name]
        if stage.first:
            # A run that starts here draws the same dropout as one that comes from before.
            set_seed((config.seed + stage.first) % 2**32)
            self.launch.release()
        self.training = self.launch.connect(_Training(model, self.objective))
        groups = parameter_groups(model, self.objective, optim)
        optimizer = torch.optim.AdamW(groups, lr=optim.lr)
        self.optimizer, self.loader = self.launch.prepare(optimizer, loader)
        self.launch.draw_apart(config.seed + stage.first)

    def run(self, observer: Observer | None = None) -> Evaluation | None:
        """Train to the end, save ``last`` and ``best``, and return the last validation.

        The observer is told about every step and validation.

        ``best`` is the checkpoint of the last stage with the highest mIoU of *seen* classes on the
        validation split: masks of unseen classes choose nothing. A stage before the last one
        leaves its model as ``half``.
        """
        self.observer = observer or self.observer
        if self.launch.is_main:
            self.out.mkdir(parents=True, exist_ok=True)
            atomic_write_text(self.out / "config.toml", config_to_toml(self.config))
        best, evaluation, started = -math.inf, None, time.perf_counter()
        for stage in self.stages:
            if stage is not self.stage:
                self._enter(stage)
            last = stage is self.stages[-1]
            for own_step, batch in enumerate(self.loader, start=1):
                step = stage.first + own_step
                losses = self._step(own_step - 1, *batch)
                self.observer.step(step, losses)
                seconds = time.perf_counter() - started
                self._log({"step": step, "stage": stage.name, "seconds": seconds, **losses})
                if own_step == stage.steps and not last:
                    with self.launch.whole():
                        self._save("half", None)
                if not self._due(step):
                    continue
                with self.launch.whole():
                    evaluation = self._validate(step)
                    self._save("last", evaluation)
                    score = -math.inf if evaluation is None else evaluation.scores.mIoU_seen or 0.0
                    if last and score > best:
                        best = score
                        self._save("best", evaluation)
        self.launch.release()
        return evaluation

    def _step(self, step: int, image: Tensor, *rest: Tensor) -> dict[str, float]:
        """Take one optimizer step on a batch, in parts that fit into memory.

        ``step`` counts from the beginning of the stage, from 0.
        """
        rate = learning_rate(step, self.stage.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
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
        if self.config.optim.max_grad_norm is not None:
            self.launch.clip(self.config.optim.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.launch.mean({name: scale * total for name, total in totals.items()})

    def _due(self, step: int) -> bool:
        every = self.config.validate_every
        return step == self.config.optim.steps or bool(every and step % every == 0)

    def _validate(self, step: int) -> Evaluation | None:
        if self.val_data is None:
            return None
        evaluation = evaluate(Segmenter.of(self.trained), self.val_data)
        self.observer.validated(step, evaluation)
        self._log({"step": step, "validation": evaluation.to_dict()})
        return evaluation

    def _save(self, name: str, evaluation: Evaluation | None) -> None:
        if self.launch.is_main:
            metrics = None if evaluation is None else {"validation": evaluation.to_dict()}
            save_checkpoint(self.out / name, self.trained, metrics=metrics)

    def _log(self, entry: dict[str, Any]) -> None:
        if self.launch.is_main:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
