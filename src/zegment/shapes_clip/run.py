"""The whole training: phase after phase, then the gates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch

from zegment.errors import ConfigError
from zegment.shapes_clip.gates import Gates, measure_gates
from zegment.shapes_clip.learning import Schedule, Step, train_phase
from zegment.shapes_clip.recipe import FIRST_SEED, shared_phases, warmup_steps
from zegment.shapes_clip.saving import check_place, save_clip
from zegment.shapes_clip.towers import build_model
from zegment.trained import usable_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """What a training led to.

    Attributes:
        model: In evaluation mode.
        gates: What it can do.
        log: How it came about, as JSON can hold it.
    """

    model: open_clip.CLIP
    gates: Gates
    log: dict[str, Any]

    def save(self, out: Path, *, replace: bool = False) -> None:
        """Write a folder in open_clip's format; see `zegment.shapes_clip.saving.save_clip`."""
        save_clip(self.model, self.log, out, replace=replace)


def train_shapes_clip(
    out: str | Path,
    *,
    share: float = 1.0,
    seed: int = 0,
    on_step: Callable[[Step], object] | None = None,
) -> Gates:
    """Train a CLIP of the Shapes world into a folder that ``model.clip`` takes.

    It is written whole at the end; a training that is interrupted leaves nothing.

    Args:
        out: A new folder.
        share: Of the 145,000 images that the packaged weights have seen; fewer make a weaker CLIP,
            by the same schedule.
        seed: Of the first weights and of the scenes, at least 0.
        on_step: Called after each step.

    Returns:
        What the weights can do. A weak CLIP is written all the same.

    Raises:
        OutputError: If the folder has content, or cannot be written.
        ConfigError: If ``share`` or ``seed`` is out of range.
    """
    check_place(Path(out))
    learnt = learn(share=share, seed=seed, on_step=on_step)
    learnt.save(Path(out))
    return learnt.gates


def learn(
    *,
    share: float = 1.0,
    seed: int = 0,
    device: str | torch.device | None = None,
    on_step: Callable[[Step], object] | None = None,
) -> Learnt:
    """Return a CLIP of the Shapes world, trained and measured; see `train_shapes_clip`.

    Args:
        share: Of the packaged weights' images; above 1 for more.
        seed: Of the first weights and of the scenes.
        device: Where to compute; None takes a GPU if there is one.
        on_step: Called after each step.
    """
    if seed < 0:
        raise ConfigError(f"seed is {seed}; expected at least 0")
    phases, place = shared_phases(share), usable_device(device)
    total = sum(phase.images for phase in phases)
    start = time.perf_counter()
    log: dict[str, Any] = {"seed": seed, "scale": share, "device": place.type}
    log |= {"phases": [asdict(phase) for phase in phases], "curve": []}
    with torch.random.fork_rng():  # the caller's own chance goes on as if nothing had been
        torch.manual_seed(seed)
        model = build_model(phases[0].size).to(place)
        for number, phase in enumerate(phases):
            weights = {key: value.float() for key, value in model.state_dict().items()}
            model = build_model(phase.size, weights).to(place)
            schedule = Schedule(
                before=sum(earlier.images for earlier in phases[:number]),
                total=total,
                warmup=warmup_steps(share),
            )
            log["curve"] += train_phase(
                model,
                phase,
                seed=FIRST_SEED + len(phases) * seed + number,
                schedule=schedule,
                device=place,
                on_step=on_step,
            )
    gates = measure_gates(model, place, size=phases[-1].size)
    log |= {"seconds": round(time.perf_counter() - start), "gates": asdict(gates)}
    return Learnt(model=model, gates=gates, log=log)
