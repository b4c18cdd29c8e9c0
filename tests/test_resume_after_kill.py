"""Runs that are killed, stopped or refused, and go on: they end as if nothing had been.

The long version is `benchmarks/soaks/kills.py`, whose draws these are.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import KINDS, Fate, Runner
from soaks.kills import Soak, draws, kill_once, limits
from survival import RESUME, STATE, Trial, differences, refused, stopped

KIND = "inductive"


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    with Runner() as runner:
        folder = tmp_path_factory.mktemp("kills").resolve()
        yield Soak(runner=runner, folder=folder, seed=0)


@pytest.fixture
def begin(soak: Soak, request: pytest.FixtureRequest) -> Callable[..., Trial]:
    def begin(kind: str = KIND, save_every: int = 2) -> Trial:
        return soak.trial(kind, request.node.name, save_every=save_every)

    return begin


@pytest.mark.parametrize(
    ("kind", "phases"), [(KIND, ["step", "checkpoint"]), ("student", ["state"])]
)
def test_killed_run_ends_as_if_it_had_never_been(
    begin: Callable[..., Trial], kind: str, phases: list[str]
) -> None:
    trial, draw = begin(kind), draws(kind)
    for phase in phases:
        kill_once(trial, phase, draw)
    assert trial.kills == phases
    assert trial.finish() == []


def test_run_killed_before_it_began_can_begin(begin: Callable[..., Trial]) -> None:
    trial = begin()
    trial.live(Fate(deed="kill", phase="start", moment=4))
    assert not (trial.run / "config.toml").exists()
    assert trial.finish() == []


def test_kill_within_a_write_leaves_what_was_there(begin: Callable[..., Trial]) -> None:
    trial = begin(save_every=1)
    trial.live(Fate(deed="term", phase="step", moment=7))
    for limit in limits(trial.expected, draws(0), 1):
        trial.live(Fate(deed="kill", limit=limit))
    assert trial.kills == ["writing"]
    assert trial.finish() == []


def test_disk_that_is_full_or_read_only_ends_a_run_that_can_go_on(
    begin: Callable[..., Trial],
) -> None:
    trial = begin("workers", save_every=1)  # which must end too
    size = (trial.expected.run / "last" / "model.safetensors").stat().st_size
    for fate in (
        Fate(deed="full", phase="checkpoint", moment=draws(1).randint(2, 13)),
        Fate(deed="read-only", phase="checkpoint", moment=draws(2).randint(2, 13)),
        Fate(deed="full", limit=size * 5 // 4),  # room for a checkpoint, but not for a state
    ):
        assert refused(trial, trial.live(fate)) == []
    assert trial.finish() == []


def test_run_that_is_asked_to_stop_saves_and_says_how_to_go_on(
    begin: Callable[..., Trial],
) -> None:
    trial = begin(save_every=0)
    for deed, status in (("term", 143), ("interrupt", 130), ("term twice", 143)):
        ended = trial.live(Fate(deed=deed, phase="step", moment=draws(deed).randint(1, 6)))
        assert ended.statuses == (status,)
        assert stopped(trial, ended, status) == []
    assert trial.finish() == []


def test_second_interrupt_ends_at_once(begin: Callable[..., Trial]) -> None:
    trial = begin(save_every=0)
    ended = trial.live(Fate(deed="interrupt twice", phase="step", moment=2))
    assert ended.statuses == (-signal.SIGINT,)
    assert not (trial.run / STATE).exists()
    assert trial.failures == []


def test_finished_run_is_left_as_it_is(soak: Soak, tmp_path: Path) -> None:
    expected = soak.expected(KIND).run
    shutil.copytree(expected, tmp_path / "run")
    ended = soak.runner.run(tmp_path, RESUME, kind=KINDS[KIND])
    assert ended.statuses == (0,)
    assert "is finished" in ended.out
    assert differences(tmp_path / "run", expected) == []


def test_state_that_a_finished_run_could_not_remove_is_removed(
    begin: Callable[..., Trial],
) -> None:
    trial = begin(save_every=3)
    kill_once(trial, "end", draws(0))
    assert (trial.run / STATE).is_file()
    assert trial.finish() == []


def test_comparison_sees_a_changed_bit_a_lost_line_and_a_leftover(
    soak: Soak, tmp_path: Path
) -> None:
    expected = soak.expected(KIND).run
    shutil.copytree(expected, tmp_path / "run")
    weights = tmp_path / "run" / "best" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[1:]))
    (tmp_path / "run" / ".zegment-0.partial").touch()
    assert differences(tmp_path / "run", expected) == [
        ".zegment-0.partial is in one only",
        "best/model.safetensors differs",
        "log.jsonl differs",
    ]
