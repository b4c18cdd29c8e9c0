"""Purity of pseudo labels: against a loop, on what training makes, and out of training's reach."""

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

import zegment
from zegment.clip_loading import load_clip
from zegment.config.loading import load_config
from zegment.data import IGNORE_INDEX, PADDING_INDEX
from zegment.data.shapes import CLASS_NAMES, UNSEEN, ShapesDataset
from zegment.data.transforms import normalize
from zegment.models.build import build_model
from zegment.teaching.pixel_learning import NOWHERE
from zegment.teaching.purity import group_purity, measure_purity
from zegment.training.settings import build_objective


def by_hand(groups: Tensor, label: Tensor, unannotated: Tensor, classes: int) -> dict[str, object]:
    truth, pure, count = Counter(label.flatten().tolist()), Counter(), 0
    for own, true in zip(groups, label, strict=True):
        for group in set(own.flatten().tolist()) - {NOWHERE}:
            count += 1
            inside = Counter(k for k in true[own == group].tolist() if k < classes)
            if inside:
                owner = min(inside, key=lambda k: (-inside[k], k))
                pure[owner] += inside[owner]
    return {
        "groups": count,
        "grouped": int(((groups != NOWHERE) & unannotated).sum()),
        "truth": [truth[k] for k in range(classes)],
        "pure": [pure[k] for k in range(classes)],
    }


@pytest.mark.parametrize("seed", range(5))
def test_purity_equals_a_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 6, (3, 4, 5), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.1] = IGNORE_INDEX
    label[:, -1] = PADDING_INDEX
    unannotated = (label > 3) & (label != PADDING_INDEX)
    groups = torch.randint(0, 3 + seed, label.shape, generator=generator).where(
        unannotated & (torch.rand(label.shape, generator=generator) < 0.8), NOWHERE
    )
    found = group_purity(groups, label, unannotated, num_classes=6)
    expected = by_hand(groups, label, unannotated, 6)
    assert (found.images, found.unannotated) == (3, int(unannotated.sum()))
    assert {
        "groups": found.groups,
        "grouped": found.grouped,
        "truth": found.truth.tolist(),
        "pure": found.pure.tolist(),
    } == expected
    alone = [group_purity(groups[i : i + 1], label[i : i + 1], unannotated[i : i + 1],
             num_classes=6) for i in range(3)]  # fmt: skip
    total = alone[0] + alone[1] + alone[2]
    names = "abcdef"
    assert total.to_dict(names, "ef") == found.to_dict(names, "ef")


def test_purity_by_hand() -> None:
    """Class 1 has four pixels, three of them in a group of its own; class 2 has one among those."""
    label = torch.tensor([[[0, 1, 1, 1], [0, 1, 2, 0]]])
    groups = torch.tensor([[[-1, 0, 0, 0], [-1, -1, 0, -1]]])
    found = group_purity(groups, label, label != 0, num_classes=4)
    assert found.to_dict(["seen", "a", "b", "c"], ["a", "b", "c"]) == {
        "purity": 3 / 5,
        "per_class": {"a": 3 / 4, "b": 0.0, "c": None},
        "groups_per_image": 1.0,
        "grouped_share": 4 / 5,
    }


def test_without_groups_nothing_is_pure() -> None:
    label = torch.tensor([[[0, 1]]])
    found = group_purity(torch.full_like(label, NOWHERE), label, label == 1, num_classes=2)
    shares = found.to_dict(["a", "b"], ["b"])
    assert (shares["purity"], shares["groups_per_image"], shares["grouped_share"]) == (0, 0, 0)


@pytest.mark.parametrize("pseudo_classes", ["synthesizer", "none"])
def test_a_data_set_is_judged_by_the_labels_that_training_fuses(
    tiny_clip_folder: Path, pseudo_classes: str
) -> None:
    overrides = [f"model.clip={tiny_clip_folder}", f"teaching.pseudo_classes={pseudo_classes}"]
    config = load_config(preset="shapes-clip-zss", overrides=overrides)
    clip = load_clip(str(tiny_clip_folder))
    torch.manual_seed(0)
    model = build_model(config.model, clip)
    seen = [i for i, name in enumerate(CLASS_NAMES) if name not in UNSEEN]
    embeddings = torch.nn.functional.normalize(torch.randn(len(seen), 16), dim=-1)
    objective = build_objective(config, clip, model, embeddings, seen)
    data = ShapesDataset("val", length=5, size=32)
    done: list[int] = []
    found = measure_purity(objective, model, data, batch_size=2, on_image=done.append)
    assert done == [2, 4, 5]

    images, labels = (torch.stack(part) for part in zip(*data, strict=True))
    tokens = objective.teacher(normalize(images, model.mean, model.std)).patch_tokens
    fused, centres, _ = objective.fused_labels(labels, tokens)
    unannotated = ~torch.isin(labels, torch.tensor(seen))
    groups = torch.full_like(fused, NOWHERE)
    for group in range(centres.shape[1]):
        groups[fused == len(seen) + group] = group
    expected = by_hand(groups, labels, unannotated, 20)
    assert found.truth.tolist() == expected["truth"]
    assert found.pure.tolist() == expected["pure"]
    assert (found.groups, found.grouped) == (expected["groups"], expected["grouped"])
    assert found.unannotated == int(unannotated.sum())
    assert (found.grouped > 0) == (pseudo_classes != "none")


def imported_modules(folder: Path) -> dict[str, set[str]]:
    """Return, for each module of the package, what it imports anywhere, also within functions."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[".".join(parts).removesuffix(".__init__")] = names
    return found


def reached(imports: dict[str, set[str]], starts: set[str]) -> set[str]:
    known, new = set(), set(starts)
    while new:
        known |= new
        new = set().union(*(imports[name] for name in new)) & set(imports) - known
    return known


def test_nothing_in_training_can_reach_what_reads_true_labels() -> None:
    imports = imported_modules(Path(zegment.__file__).parent)
    judge = "zegment.teaching.purity"
    training = {
        name for name in imports
        if name.startswith(("zegment.training", "zegment.teaching.")) and name != judge
    }  # fmt: skip
    training |= {"zegment.objectives", "zegment.self_training", "zegment.clip_zss"}
    assert judge in imports
    assert "zegment.teaching.pixel_learning" in reached(imports, {judge}), "imports are followed"
    assert judge not in reached(imports, training)
