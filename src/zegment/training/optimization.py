"""Which parameters learn how fast, and when."""

from __future__ import annotations

from typing import Any

from torch import nn

from zegment.config import OptimConfig
from zegment.models.base import SegmentationModel
from zegment.models.student import Student


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Return the learning rate of an optimizer step, counted from 0.

    Source:
        ZegCLIP released configuration: polynomial decay to ``min_lr``, and a linear warm-up that
        scales it.
    """
    decay = float((1 - step / optim.steps) ** optim.power)
    rate = (optim.lr - optim.min_lr) * decay + optim.min_lr
    if step < optim.warmup_steps:
        missing = (1 - step / optim.warmup_steps) * (1 - optim.warmup_ratio)
        rate *= 1 - missing
    return rate


def parameter_groups(
    model: SegmentationModel, objective: nn.Module, optim: OptimConfig
) -> list[dict[str, Any]]:
    """Return what is trained, for an optimizer, apart by learning rate and by weight decay.

    Each group has the key ``scale``: its learning rate over ``optim.lr``.

    Args:
        model: Its pretrained part, if it has one, learns at ``lr``, the rest ``head_lr_scale``
            times as fast.
        objective: Learns as fast as that rest.
        optim: The numbers.

    Source:
        mmsegmentation's settings for SegFormer and SegNeXt: heads ten times as fast, no decay on
        norm layers.
    """
    encoder = {id(p) for p in model.encoder_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in [*model.trained_parameters().values(), *objective.parameters()]:
        if not parameter.requires_grad:
            continue
        fresh = bool(encoder) and id(parameter) not in encoder
        scale = optim.head_lr_scale if fresh else 1.0
        decays = optim.decay_norms or parameter.dim() > 1
        groups.setdefault((scale, optim.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "scale": scale, "lr": scale * optim.lr, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def compile_network(model: SegmentationModel) -> None:
    """Compile what training calls of a model, in place, so that names of its weights stay."""
    network = model.network if isinstance(model, Student) else model
    assert isinstance(network, nn.Module)  # noqa: S101 - for the type checker
    network.compile()
