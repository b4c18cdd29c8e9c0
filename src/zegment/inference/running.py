"""Windows through a model: so many at a time, in which precision, and what if memory runs out."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from zegment.config import WindowConfig
from zegment.errors import ConfigError, NotFiniteError
from zegment.models.base import SegmentationModel
from zegment.precision import slowness

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

WINDOW_BATCH = {"cpu": 1, "cuda": 8}
"""How many windows go through the model at a time, by the kind of device; see `Execution`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a model is run, as far as that is not a part of the model.

    Attributes:
        precision: Of matrix products; scores are always formed in float32. The shorter ones are
            faster where the processor has them and change a few labels, see
            `zegment.segmenter.Segmenter.agreement`.
        window_batch: How many windows go through the model together; None takes what suits the
            device. Halved, with a warning, when memory runs out.
        compile: Whether ``torch.compile`` is given the model; it needs a C++ compiler on the CPU.
        windows: How images are resized and cut; None does it as the model's training says.

    Raises:
        ConfigError: If a value is none of these.
    """

    precision: Precision = "float32"
    window_batch: int | None = None
    compile: bool = False
    windows: WindowConfig | None = None

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ConfigError(f'precision is "{self.precision}"; give one of {known}')
        if self.window_batch is not None and self.window_batch < 1:
            raise ConfigError(f"window_batch is {self.window_batch}; give at least 1")


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return normalised images (B, 3, H, W) padded at right and bottom with the mean colour."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple))


class Runner:
    """A model that is run as an `Execution` says.

    Args:
        model: In evaluation mode.
        execution: How to run it.
        name: What the model was loaded as, for messages.
    """

    def __init__(
        self, model: SegmentationModel, execution: Execution | None = None, *, name: str = ""
    ) -> None:
        self.model, self.name = model, name
        self.execution = execution or Execution()
        self._dtype = _DTYPES.get(self.execution.precision)
        if self._dtype and (told := slowness(self._dtype, model.mean.device)):
            warnings.warn(told, RuntimeWarning, stacklevel=3)
        self._batch = self.execution.window_batch
        # Other numbers of classes and other sizes must not each be compiled anew.
        self._forward = torch.compile(model, dynamic=True) if self.execution.compile else model

    @property
    def batch(self) -> int:
        """How many windows go through the model at a time."""
        return self._batch or WINDOW_BATCH.get(self.model.mean.device.type, 1)

    @torch.inference_mode()
    def __call__(self, windows: Tensor, text_embeddings: Tensor) -> Tensor:
        """Return logits on the feature grid, float32 (N, K, h, w).

        Args:
            windows: Normalised, of any size, float (N, 3, H, W); padded here.
            text_embeddings: Unit rows, float (K, D).

        Raises:
            NotFiniteError: If a logit is infinite or not a number.
            torch.OutOfMemoryError: If not even one window fits into memory.
        """
        padded = pad_to_multiple(windows, self.model.patch_size)
        parts: list[Tensor] = []
        done = 0
        while done < len(padded):
            try:
                parts.append(self._run(padded[done : done + self.batch], text_embeddings))
                done += len(parts[-1])
            except (RuntimeError, MemoryError) as error:
                if self.batch == 1 or not is_out_of_memory(error):
                    raise
                self._halve()
        return torch.cat(parts)

    def _run(self, windows: Tensor, text_embeddings: Tensor) -> Tensor:
        with self._autocast():
            logits: Tensor = self._forward(windows, text_embeddings).float()
        if not torch.isfinite(logits).all():
            whose = f"the logits of '{self.name}'" if self.name else "the model's logits"
            raise NotFiniteError(
                f"{whose} are not all finite numbers, so its labels would mean nothing; "
                + (
                    "its weights are damaged, or training has diverged: take another checkpoint"
                    if self.execution.precision == "float32"
                    else f"{self.execution.precision} may be too coarse for it: use float32"
                )
            )
        return logits

    def _autocast(self) -> AbstractContextManager[object]:
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self.model.mean.device.type, dtype=self._dtype)

    def _halve(self) -> None:
        before, self._batch = self.batch, self.batch // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory with {before} windows at a time; going on with {self._batch}",
            RuntimeWarning,
            stacklevel=2,
        )


def is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Return whether an error says that memory ran out, on whatever device."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "can't allocate memory" in str(error)  # the CPU's allocator has none of its own
