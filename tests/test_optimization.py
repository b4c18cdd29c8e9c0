"""Who learns how fast."""

import torch
from torch import nn

from zegment.config import OptimConfig
from zegment.config.model import StudentConfig
from zegment.models.build import build_student
from zegment.training.optimization import parameter_groups

OPTIM = OptimConfig(lr=1e-3, head_lr_scale=10.0, weight_decay=0.1, decay_norms=False)


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = build_student(StudentConfig(), embed_dim=8, mean=(0, 0, 0), std=(1, 1, 1))
    own = nn.Linear(2, 2)
    groups = parameter_groups(model, own, OPTIM)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in [*model.parameters(), *own.parameters()]}


def test_pretrained_part_learns_slowly_and_vectors_do_not_decay() -> None:
    model = build_student(StudentConfig(), embed_dim=8, mean=(0, 0, 0), std=(1, 1, 1))
    own = nn.Linear(2, 2)
    where = {
        id(p): (group["scale"], group["weight_decay"])
        for group in parameter_groups(model, own, OPTIM)
        for p in group["params"]
    }
    network = model.network
    assert where[id(network.stem[0].weight)] == (1.0, 0.1)
    assert where[id(network.stem[1].weight)] == (1.0, 0.0)
    assert where[id(network.projection.weight)] == (10.0, 0.1)
    assert where[id(own.weight)] == (10.0, 0.1)
    assert where[id(own.bias)] == (10.0, 0.0)


def test_frozen_parameters_are_left_out() -> None:
    model = build_student(StudentConfig(), embed_dim=8, mean=(0, 0, 0), std=(1, 1, 1))
    model.network.stem.requires_grad_(False)
    frozen = {id(p) for p in model.network.stem.parameters()}
    groups = parameter_groups(model, nn.Identity(), OPTIM)
    assert not frozen & {id(p) for group in groups for p in group["params"]}
    assert torch.optim.AdamW(groups).param_groups[0]["scale"] == 1.0
