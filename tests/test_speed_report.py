"""The report of all comparisons, without the minutes that measuring takes."""

import importlib
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import speed
from comparisons import measuring, prediction

RESULTS = Path(speed.__file__).parent / "results"


def test_every_comparison_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*, rounds: int) -> dict[str, object]:
        return {"rows": [{"rounds": rounds}], "targets": []}

    for name in speed.COMPARISONS:
        module = importlib.import_module(f"comparisons.{name}")
        assert module.__doc__
        monkeypatch.setattr(module, "compare", found)
    report = speed.run(list(speed.COMPARISONS))
    assert report["comparisons"].keys() == speed.COMPARISONS.keys()
    assert report["machine"]["threads"] >= 1
    json.dumps(report)


def test_a_target_says_whether_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    held, missed = (measuring.target("ratio", value, at_least=2) for value in (2.0, 1.9))
    assert (held["holds"], missed["holds"]) == (True, False)
    speed.show("x", {"took_seconds": 1.0, "rows": [{"s": 0.12345}], "targets": [held, missed]})
    said = capsys.readouterr().out
    assert "holds: ratio 2, wanted ≥ 2" in said
    assert "MISSED: ratio 1.9" in said


def test_both_predictions_that_are_timed_give_the_same_labels() -> None:
    model = {"model": prediction.small_zegclip, "dim": 64, "classes": 300, "size": (600, 700)}
    plain, ours = prediction.plain(**model)(), prediction.ours(**model)()
    assert np.array_equal(plain, ours)
    assert len(np.unique(ours)) > 1


def test_memory_is_what_the_work_takes() -> None:
    # What is made in another process has to be a function of a module that it finds, too.
    prepare = partial(partial, np.ones, 64 * 2**17)
    assert measuring.peak_mib(prepare) == pytest.approx(64, abs=8)


def test_what_takes_too_long_is_stopped_and_measured_so_far() -> None:
    prepare = partial(partial, os.system, "sleep 60")
    start = time.monotonic()
    found = measuring.apart(prepare, limit=0.5)
    assert time.monotonic() - start < 30
    assert (found.finished, found.seconds, found.result) == (False, 0.5, None)
    assert 0 <= found.mib < 64


def test_what_fails_in_another_process_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="ended without a result"):
        measuring.apart(np.ones, shape=-1)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_report_that_is_kept_says_where_it_comes_from(path: Path) -> None:
    machine = json.loads(path.read_text())["machine"]
    assert machine["torch"]
    assert machine["threads"]
