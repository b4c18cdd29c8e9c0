"""The study: its plan, its arithmetic, its runs, and what it says of them."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from zegment import cli
from zegment.checkpoint import load_trained
from zegment.errors import ConfigError, OutputError
from zegment.study import Plan, Study, read_plan
from zegment.study.comparison import measured, rows_of, verdicts
from zegment.study.measures import MEASURES, Subject, scores
from zegment.study.plan import Arm, Chapter, Claim
from zegment.study.records import Record, read_records, record_path
from zegment.study.report import markdown, write_report
from zegment.study.running import Run, unseen_classes
from zegment.study.statistics import Spread, paired, quantile
from zegment.study.tables import table

TINY = (
    "optim.steps=3",
    "optim.warmup_steps=1",
    "optim.batch_size=2",
    "data.train_length=6",
    "data.val_length=2",
    "data.test_length=2",
)


def tiny_plan(**arms: tuple[str, tuple[str, ...]]) -> Plan:
    """Return a plan of two seeds with one chapter: of each arm its preset and settings."""
    made = {
        name: Arm(name=name, title=name, preset=preset, settings=(*TINY, *settings))
        for name, (preset, settings) in arms.items()
    }
    names = tuple(made)
    chapter = Chapter(name="one", title="One", question="Which?", arms=names, reference=names[0])
    return Plan(arms=made, chapters=(chapter,), claims=(), seeds=(0, 1))


def record(arm: str, seed: int, **scores: float) -> Record:
    return Record(
        arm=arm, seed=seed, recipe={}, config={}, seconds=1.0, parameters=5, scores=scores,
        measured={}, versions={},
    )  # fmt: skip


# The plan


@pytest.mark.parametrize("name", list(read_plan().arms))
def test_every_arm_is_a_configuration(name: str, tmp_path: Path) -> None:
    arm = read_plan().arms[name]
    config = Run(arm=arm, seed=3, out=tmp_path).config()
    assert config.seed == 3
    assert (config.model.kind in ("dense_clip", "two_stage")) is not arm.trained


def test_arms_that_train_alike_are_one_arm() -> None:
    plan = read_plan()
    recipes: dict[object, str] = {}
    for arm in plan.arms.values():
        if arm.same_as is None:
            other = recipes.setdefault((arm.preset, arm.settings), arm.name)
            assert other == arm.name, f"{arm.name} trains what {other} trains"
        else:
            same = plan.arms[arm.same_as]
            assert (arm.preset, arm.settings) == (same.preset, same.settings)


def test_chapters_and_claims_name_arms_that_exist() -> None:
    plan = read_plan()
    for chapter in (*plan.chapters, *read_plan(quick=True).chapters):
        assert chapter.reference in chapter.arms
        assert set(chapter.arms) <= set(plan.arms)
        if chapter.figure == "lines":
            assert all(plan.arms[name].x is not None for name in chapter.arms)
    for claim in (*plan.claims, *read_plan(quick=True).claims):
        quick = claim.chapter == "quick"
        (chapter,) = read_plan(quick=quick, chapters=[] if quick else [claim.chapter]).chapters
        assert {claim.better, claim.worse} <= set(chapter.arms)
    shown = {arm.name for arm, _ in plan.runs()}
    assert {arm.name for arm in plan.arms.values() if arm.same_as is None} == shown
    assert len(plan.claims) == 7
    assert len(read_plan(quick=True).claims) == 5


def test_a_run_comes_after_those_that_it_needs() -> None:
    order = [(arm.name, seed) for arm, seed in read_plan(chapters=["distillation"]).runs()]
    for seed in range(5):
        assert order.index(("zegclip", seed)) < order.index(("distilled", seed))


def test_what_is_not_trained_is_measured_once() -> None:
    runs = read_plan(chapters=["headline"]).runs()
    assert len([arm for arm, _ in runs if arm.name == "training-free"]) == 1
    assert len([arm for arm, _ in runs if arm.name == "zegclip"]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chapters": ["headlin"]}, 'did you mean "headline"'),
        ({"quick": True, "chapters": ["headline"]}, "leave --chapter out"),
        ({"seeds": 0}, "at least one"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_plan(**arguments)  # type: ignore[arg-type]


def test_unseen_classes_are_drawn_by_the_seed_and_more_contain_fewer() -> None:
    for seed in range(5):
        few, many = (set(unseen_classes(seed, count)) for count in (5, 10))
        assert few < many
        assert len(many) == 10
    assert len({tuple(unseen_classes(seed, 5)) for seed in range(5)}) == 5


# Arithmetic


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 10, 11, 12, 20, 50, 1000])
def test_quantiles_are_those_of_student(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_an_interval_is_that_of_a_paired_t_test() -> None:
    ours, theirs = {0: 0.50, 1: 0.57, 2: 0.61, 7: 0.9}, {0: 0.41, 1: 0.55, 2: 0.52, 8: 0.1}
    found = paired(ours, theirs)
    assert found is not None
    expected = stats.ttest_rel([0.50, 0.57, 0.61], [0.41, 0.55, 0.52])
    low, high = expected.confidence_interval(0.95)
    assert found.count == 3
    assert found.interval() == pytest.approx((low, high), rel=1e-4)
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert Spread.of([0.5]).interval() is None


def test_rows_compare_seed_by_seed() -> None:
    plan = tiny_plan(a=("shapes-zegclip", ()), b=("shapes-clip-zss", ()))
    records = {
        "a": {0: record("a", 0, hIoU=0.5), 1: record("a", 1, hIoU=0.7)},
        "b": {0: record("b", 0, hIoU=0.6), 1: record("b", 1, hIoU=0.8)},
    }
    first, second = rows_of(plan.chapters[0], plan, records)
    assert first.against["hIoU"] is None
    difference = second.against["hIoU"]
    assert difference is not None
    assert difference.mean == pytest.approx(0.1)
    assert difference.sd == pytest.approx(0.0, abs=1e-12)


def test_a_claim_holds_by_its_mean_and_is_certain_by_its_interval() -> None:
    claim = Claim(chapter="one", text="b is ahead", better="b", worse="a")
    plan = replace(tiny_plan(a=("shapes-zegclip", ()), b=("shapes-clip-zss", ())), claims=(claim,))
    records = {
        "a": {seed: record("a", seed, hIoU=0.5) for seed in range(3)},
        "b": {seed: record("b", seed, hIoU=h) for seed, h in enumerate((0.45, 0.6, 0.7))},
    }
    (verdict,) = verdicts(plan, records)
    assert verdict.holds
    assert not verdict.certain
    assert verdict.seeds_ahead == 2


def test_what_was_measured_counts_once_where_nothing_is_trained() -> None:
    trained = Arm(name="a", title="a", preset="shapes-zegclip", measures=("speed",))
    runs = [replace(record("a", seed), measured={"speed": seed}) for seed in range(3)]
    records = dict(enumerate([*runs, record("a", 3)]))
    assert measured(records, trained, "speed") == [0, 1, 2]
    assert measured(records, replace(trained, trained=False), "speed") == [0]


# Runs


def test_runs_are_done_once_recorded_and_reported(tmp_path: Path) -> None:
    plan = tiny_plan(
        zegclip=("shapes-zegclip", ()),
        student=(
            "shapes-clip-zss",
            (
                "setting=transductive", "self_training.start_share=0",
                "self_training.guide=checkpoint",
                "self_training.guide_checkpoint={run:zegclip}", "self_training.guided_share=1",
            ),
        ),
    )  # fmt: skip
    out, told = tmp_path / "study", []
    Study(plan=plan, out=out, jobs=2).run(lambda name, _: told.append(name))
    assert sorted(told) == ["student-0", "student-1", "zegclip-0", "zegclip-1"]
    assert told.index("zegclip-0") < told.index("student-0")
    records = read_records(out, plan)
    assert [len(records[name]) for name in ("zegclip", "student")] == [2, 2]
    one = records["zegclip"][1]
    assert one.config["seed"] == 1
    assert one.parameters > 1000
    assert 0 <= one.scores["pAcc"] <= 1
    # Checkpoints stay as long as others start from them.
    assert (out / "runs" / "zegclip-0" / "last").is_dir()
    assert not (out / "runs" / "student-0").exists()
    written = json.loads((out / "report.json").read_text(encoding="utf-8"))
    seeds = written["chapters"][0]["arms"]["zegclip"]["metrics"]["pAcc"]["seeds"]
    assert seeds == {"0": records["zegclip"][0].scores["pAcc"], "1": one.scores["pAcc"]}
    assert "4 of 4 runs" in (out / "report.md").read_text(encoding="utf-8")
    assert (out / "figures" / "one.png").stat().st_size > 1000

    before = {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()}
    Study(plan=plan, out=out).run(lambda name, _: told.append(name))
    assert len(told) == 4
    assert {path: path.stat().st_mtime_ns for path in (out / "records").iterdir()} == before


def test_a_record_of_another_recipe_is_not_taken_for_this_one(tmp_path: Path) -> None:
    plan = tiny_plan(zegclip=("shapes-zegclip", ()))
    record("zegclip", 0, hIoU=0.5).save(tmp_path)
    with pytest.raises(OutputError, match=r"zegclip-0\.json.*another --out"):
        Study(plan=plan, out=tmp_path).left()
    record_path(tmp_path, "zegclip", 0).write_text("{}")
    with pytest.raises(OutputError, match="no record"):
        Study(plan=plan, out=tmp_path).left()


def test_a_run_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "sys.path.insert(0, sys.argv[1]); import test_study\n"
        "from zegment.study.running import Run\n"
        "Run(arm=test_study.LONGER, seed=0, out=Path(sys.argv[2])).perform()"
    )
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", program, tests, str(tmp_path / "killed")]
    state = tmp_path / "killed" / "runs" / "longer-0" / "state.safetensors"
    with subprocess.Popen(command) as process:
        while process.poll() is None and not state.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not record_path(tmp_path / "killed", "longer", 0).exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in ("killed", "whole"):
        Run(arm=LONGER, seed=0, out=tmp_path / name).perform()
    torch.set_num_threads(threads)
    killed, whole = (
        json.loads(record_path(tmp_path / name, "longer", 0).read_text(encoding="utf-8"))
        for name in ("killed", "whole")
    )
    del killed["scores"]["images_per_second"], whole["scores"]["images_per_second"]
    assert killed["scores"] == whole["scores"]


LONGER = Arm(
    name="longer",
    title="longer",
    preset="shapes-clip-zss",
    settings=(*TINY[1:], "optim.steps=60", "save_every=5"),
)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    sys.path.insert(0, sys.argv[1]); import test_study\n"
        "    from zegment.study import Study\n"
        "    plan = test_study.tiny_plan(a=('shapes-zegclip', ('optim.steps=100000',)))\n"
        "    Study(plan=plan, out=Path(sys.argv[2]), jobs=1).run(print)\n"
    )
    script = tmp_path / "study.py"
    script.write_text(program)
    out = tmp_path / "out"
    arguments = [sys.executable, str(script), str(Path(__file__).parent), str(out)]
    log = out / "runs" / "a-0" / "log.jsonl"
    with subprocess.Popen(arguments, env={**os.environ, "MARK": str(tmp_path)}) as process:
        while process.poll() is None and not log.exists():
            time.sleep(0.05)
        process.kill()
    deadline = time.monotonic() + 60
    while _marked(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _marked(tmp_path) == []
    assert (out / "runs" / "a-0" / "state.safetensors").exists()


def _marked(mark: Path) -> list[int]:
    """Return the processes that were started with a mark in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in place.read_bytes().split(b"\0"):
                found.append(int(place.parent.name))
        except OSError:
            continue
    return found


# Measures


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("shapes-zegclip", ("penalties", "distractors", "speed")),
        ("shapes-clip-zss", ("groups", "distractors")),
    ],
)
def test_measures_of_a_model(model: str, names: tuple[str, ...]) -> None:
    trained = load_trained(model)
    data = replace(trained.config.data, val_length=8, test_length=8)
    small = replace(trained, config=replace(trained.config, data=data))
    subject = Subject.of(small, seed=0)
    found = {name: MEASURES[name](subject) for name in names}
    usual = scores(subject)
    assert json.loads(json.dumps(found)) == found
    assert found["distractors"]["0"]["hIoU"] == usual["hIoU"]
    assert list(found["distractors"]) == ["0", "20", "100", "500"]
    if "penalties" in found:
        released = found["penalties"]["choices"]["released"]
        assert released["seen_penalty"] == 0.1
        assert released["hIoU"] == pytest.approx(usual["hIoU"])
        assert found["speed"]["seconds_per_scene"] > 0
    else:
        assert 0 < found["groups"]["purity"] <= 1


# The command


def test_the_command_lists_what_is_left(tmp_path: Path) -> None:
    arguments = ["study", "--out", str(tmp_path / "x"), "--quick", "--list"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    assert "11 of 11 runs are left" in result.output
    assert not (tmp_path / "x").exists()


def test_a_report_of_half_a_study_says_so(tmp_path: Path) -> None:
    names = "abc"
    plan = tiny_plan(**dict.fromkeys(names, ("shapes-zegclip", ())))
    records = {name: {0: record(name, 0, hIoU=0.5)} for name in "ab"} | {"c": {}}
    text = markdown(plan, records)
    assert "2 of 6 runs are done" in text
    assert "2 of 3 arms are measured so far" in text
    assert "| a | – | – | – | 50.0 |" in text
    alone = markdown(plan, {"a": records["a"], "b": {}, "c": {}})
    assert "Not measured yet" in alone
    assert "| a |" not in alone
    write_report(plan, tmp_path)
    assert "Not measured yet" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_bars_in_a_title_end_no_cell() -> None:
    text = table(["arm", "hIoU"], [["[|T − g|, T]", "34.0"]])
    assert text == "| arm | hIoU |\n| --- | --- |\n| [\\|T − g\\|, T] | 34.0 |\n"


def test_no_mean_hides_a_number_that_is_none() -> None:
    plan = tiny_plan(a=("shapes-zegclip", ()))
    records = {"a": {0: record("a", 0, hIoU=0.5)}}
    (row,) = rows_of(plan.chapters[0], plan, records)
    assert row.spread("mIoU_unseen") is None
    spread = row.spread("hIoU")
    assert spread is not None
    assert math.isclose(spread.mean, 0.5)


# A whole study, of records that were made up


SCORES = ("mIoU_seen", "mIoU_unseen", "hIoU", "pAcc")


def made_up(arm: Arm, place: int, seed: int) -> Record:
    """Return a record whose hIoU is 0.50 for the plan's first arm, 0.01 more for each next one."""
    level = 0.5 + 0.01 * place + 0.002 * seed
    points = [{"seen_penalty": p, **dict.fromkeys(SCORES, level + p)} for p in (0.0, 0.1, 0.2)]
    found = {
        "penalties": {
            "curve": points,
            "choices": dict(zip(("released", "validation", "blind"), points, strict=True)),
        },
        "distractors": {
            str(count): dict.fromkeys(SCORES, level - count / 1000) for count in (0, 20, 100)
        },
        "groups": {"purity": 0.9, "grouped_share": 0.8, "groups_per_image": 2.25},
        "speed": {"seconds_per_scene": 0.02 if place else 0.04},
    }
    return replace(
        record(arm.name, seed, **dict.fromkeys(SCORES, level)),
        recipe={"preset": arm.preset, "settings": list(arm.settings)},
        measured={name: found[name] for name in arm.measures},
    )


def write_made_up(plan: Plan, out: Path) -> None:
    arms = list(dict.fromkeys(arm.name for arm, _ in plan.runs()))
    for arm, seed in plan.runs():
        made_up(arm, arms.index(arm.name), seed).save(out)


def test_a_whole_study_is_reported_with_every_table_and_figure(tmp_path: Path) -> None:
    plan = read_plan(seeds=2)
    write_made_up(plan, tmp_path)
    write_report(plan, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"{len(plan.runs())} of {len(plan.runs())} runs are done" in text
    assert "measured so far" not in text
    assert "Not measured yet" not in text
    for chapter in plan.chapters:
        assert f"![{chapter.title}](figures/{chapter.name}.png)" in text
        with Image.open(tmp_path / "figures" / f"{chapter.name}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # something is drawn
    # ZegCLIP, the third arm: 0.520 and 0.522, with 0.2 more at the penalty that is chosen blind.
    assert "| ZegCLIP | blind | 0.200 | 72.1 ± 0.1 | 72.1 ± 0.1 | 72.1 ± 0.1 | **+20.0" in text
    assert "| hIoU with … names that are not there | 0 | 20 | 100 |" in text
    assert "| ZegCLIP | 52.1 ± 0.1 | 50.1 ± 0.1 | 42.1 ± 0.1 |" in text
    assert "| GLM + PLM: bank of 24, λ = 0.8, windows ¼ and ½ | 90.0 ± 0.0 | 80.0 ± 0.0 |" in text
    assert "| student + GLM + PLM | 20.0 | 1.00 |" in text
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in report["chapters"]] == [one.name for one in plan.chapters]


def test_a_command_with_nothing_left_reports_and_tells_what_holds(tmp_path: Path) -> None:
    write_made_up(read_plan(quick=True), tmp_path)
    arguments = ["study", "--out", str(tmp_path), "--quick"]
    result = CliRunner().invoke(cli.app, arguments)
    assert "0 of 11 runs are left" in result.output
    assert f"wrote {tmp_path / 'report.md'}" in result.output
    # Arms that come later are better in these records, and the baseline comes before ZegCLIP.
    assert result.output.count("holds: ") == len(read_plan(quick=True).claims)
    assert result.exit_code == 0, result.output
    path = record_path(tmp_path, "zegclip-short", 0)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["scores"]["hIoU"] = 0.0
    path.write_text(json.dumps(content), encoding="utf-8")
    result = CliRunner().invoke(cli.app, arguments)
    assert "does not hold: ZegCLIP is ahead of the one-stage baseline (-25" in result.output
    assert "1 of 2 seeds" in result.output
    assert result.exit_code == 1, result.output


def test_a_file_is_no_folder_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    result = CliRunner().invoke(cli.app, ["study", "--out", str(tmp_path / "x"), "--quick"])
    assert isinstance(result.exception, ConfigError)
    assert "is a file; give a folder" in str(result.exception)
