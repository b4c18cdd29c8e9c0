"""The same command, the same seed: the same bytes, whatever else differs between two processes."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from soaks.determinism import COMMANDS, NEEDS, compare, give, lay, timed_files
from torch import Tensor, nn

from zegment.teaching.teacher import Tokens
from zegment.teaching.token_cache import TokenCache

SLOW = {"train in two stages", "export", "export frozen", "figure", "predict with ray", "demo"}
"""Left to `soaks.determinism.soak`; `test_export` compares bytes of exports."""


@pytest.mark.parametrize("seed", [0])
def test_commands_given_twice_write_the_same_bytes(tmp_path: Path, seed: int) -> None:
    names = [
        name
        for name in COMMANDS
        if name not in SLOW and (name not in NEEDS or find_spec(NEEDS[name]))
    ]
    lay(tmp_path / "given", seed)
    draw = random.Random(seed)  # noqa: S311
    one, other = (give(names, folder=tmp_path, number=number, draw=draw) for number in range(2))
    assert list(compare(one, other)) == []
    assert len(list(one.rglob("*.*"))) > 80
    # What holds times by its nature, and nothing else does.
    assert timed_files(one, other) <= {"report.json", "run/log.jsonl", "student/log.jsonl"}


def test_a_file_that_differs_is_noticed(tmp_path: Path) -> None:
    for number, (text, times) in enumerate((("a", 1), ("b", 2))):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / "x.png").write_text(text)
        (folder / "x.json").write_text(f'{{"miou": "{text}"}}')
        (folder / "log.jsonl").write_text(f'{{"seconds": {times}}}\n{{"loss": 1}}\n')
        (folder / text).touch()
    found = list(compare(tmp_path / "0", tmp_path / "1"))
    assert found == [
        "a is there but once", "b is there but once", "x.json differs", "x.png differs",
    ]  # fmt: skip


class Sociable(nn.Module):
    """A teacher whose numbers depend on how many images it is shown, as products of matrices do."""

    name = "teacher"
    attention = None

    def renormalize(self, image: Tensor) -> Tensor:
        return image

    def forward(self, image: Tensor) -> Tokens:
        places = torch.arange(len(image)).view(-1, 1, 1, 1) + len(image) * 100.0
        return Tokens((image + places).mean((-1, -2)), (image + places).permute(0, 2, 3, 1))


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_what_a_stopped_run_remembers_changes_no_number_when_it_goes_on(
    tmp_path: Path, kept: int
) -> None:
    cache = TokenCache(Sociable(), tmp_path)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(kept))
    images[2] = images[0]  # a crop may come twice in a batch
    undisturbed = cache(images)
    for image in images[kept:]:
        cache.path(image).unlink(missing_ok=True)
    assert all(map(torch.equal, cache(images), undisturbed))
    assert all(map(torch.equal, cache(images), undisturbed))
