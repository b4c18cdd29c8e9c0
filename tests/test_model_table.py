"""The list of models against the papers, the presets, the command line and the pages."""

import json
import re
import shlex
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console

from zegment import cli
from zegment.config.loading import load_config, preset_names
from zegment.data.benchmarks import benchmark
from zegment.model_table import (
    ModelEntry,
    ModelScores,
    load_models,
    markdown,
    print_models,
    rich_table,
)

ROOT = Path(__file__).parent.parent
MODELS = {entry.name: entry for entry in load_models()}

# The tables of the ZegCLIP paper, by hand: pAcc, mIoU(S), mIoU(U), hIoU.
ZEGCLIP = {
    "voc-zegclip": (94.6, 91.9, 77.8, 84.3),
    "voc-zegclip-transductive": (95.1, 91.8, 82.2, 86.7),
    "voc-zegclip-transductive-oracle": (96.2, 92.3, 89.9, 91.1),
    "voc-zegclip-supervised": (96.3, 92.4, 90.9, 91.6),
    "coco-zegclip": (62.0, 40.2, 41.4, 40.8),
    "coco-zegclip-transductive": (68.8, 40.6, 54.8, 46.6),
    "coco-zegclip-transductive-oracle": (69.2, 40.7, 59.9, 48.5),
    "coco-zegclip-supervised": (69.9, 40.7, 63.2, 49.6),
    "context-zegclip": (76.2, 46.0, 54.6, 49.9),
    "context-zegclip-transductive": (77.2, 46.6, 65.4, 54.4),
    "context-zegclip-transductive-oracle": (77.3, 46.8, 68.5, 55.6),
    "context-zegclip-supervised": (77.5, 46.5, 78.7, 56.9),
}
ACROSS = {"coco-zegclip-on-context": ("context59", 41.2), "coco-zegclip-on-voc": ("voc20", 93.6)}
ROW_IN_RESULTS = {
    "shapes-dense-clip": "training-free CLIP",
    "shapes-one-stage": "one-stage baseline",
    "shapes-zegclip": "ZegCLIP",
    "shapes-zegclip-transductive": "ZegCLIP, transductive",
    "shapes-zegclip-supervised": "ZegCLIP, supervised",
    "shapes-clip-zss": "+ GLM + PLM labels (the preset)",
}


def numbers(scores: ModelScores) -> tuple[float | None, ...]:
    return scores.pixel_accuracy, scores.seen, scores.unseen, scores.harmonic


def command_words() -> list[tuple[str, list[str]]]:
    """Return the words of every command, with the name of its model."""
    words = [(entry.name, entry.command) for entry in MODELS.values()]
    words += [(entry.name, entry.ours.command) for entry in MODELS.values() if entry.ours]
    return [(name, shlex.split(command)) for name, command in words]


# Published numbers


def test_every_row_of_the_zegclip_paper_is_there() -> None:
    found = {
        entry.name: numbers(entry.paper)
        for entry in MODELS.values()
        if entry.paper is not None and entry.setting != "cross-dataset"
    }
    assert found == ZEGCLIP
    assert {MODELS[name].source for name in ZEGCLIP} == {"CVPR 2023, arXiv 2212.03588"}


@pytest.mark.parametrize("name", ZEGCLIP)
def test_a_preset_carries_its_row_in_its_header(name: str) -> None:
    text = (ROOT / "src" / "zegment" / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    accuracy, seen, unseen, harmonic = ZEGCLIP[name]
    line = f"# Paper: pAcc {accuracy}, mIoU(S) {seen}, mIoU(U) {unseen}, hIoU {harmonic}."
    assert line in text.splitlines()


def test_results_across_data_sets_are_evaluations_of_the_coco_model() -> None:
    across = [entry for entry in MODELS.values() if entry.setting == "cross-dataset"]
    found = {entry.name: (entry.data, entry.paper.mean) for entry in across if entry.paper}
    assert found == ACROSS
    for entry in across:
        assert entry.preset == "coco-zegclip"
        folder = benchmark(entry.data).folder
        # The released configuration puts VOC's names into one sentence, PASCAL Context's into 15.
        sentences = " --templates single" if entry.data == "voc20" else ""
        assert entry.command == (
            f"zegment evaluate runs/coco-zegclip --benchmark {entry.data} --root data/{folder}"
            f"{sentences}"
        )


def test_clip_zss_has_no_published_row_and_says_so() -> None:
    students = [entry for entry in MODELS.values() if "clip-zss" in entry.name]
    published = [entry for entry in students if entry.data != "shapes"]
    assert len(published) == 9
    for entry in published:
        gain = {"voc20": "2.2", "coco_stuff": "1.3", "context59": "8.5"}[entry.data]
        assert entry.paper is None
        assert entry.ours is None
        assert f"hIoU {gain} points above" in (entry.paper_note or "")
        assert "does not say with which student" in (entry.paper_note or "")
        assert entry.student is not None


def test_only_one_printed_hiou_is_not_the_harmonic_mean_of_its_parts() -> None:
    recomputed = {
        entry.name: entry.paper.recomputed_harmonic
        for entry in MODELS.values()
        if entry.paper and entry.paper.recomputed_harmonic is not None
    }
    assert recomputed == {"context-zegclip-supervised": 58.5}  # 2 * 46.5 * 78.7 / 125.2 = 58.459
    assert MODELS["context-zegclip-supervised"].paper_note
    assert "41.1" in (MODELS["coco-zegclip"].paper_note or "")


def test_hiou_is_recomputed_beyond_a_quarter_of_a_point() -> None:
    printed = ModelScores(seen=60.0, unseen=40.0, harmonic=48.2)  # 2 * 60 * 40 / 100 = 48
    assert printed.recomputed_harmonic is None
    assert replace(printed, harmonic=48.3).recomputed_harmonic == 48.0
    assert replace(printed, harmonic=47.7).recomputed_harmonic == 48.0
    assert replace(printed, unseen=None).recomputed_harmonic is None


def test_recomputed_numbers_are_not_stored() -> None:
    assert "recomputed" not in (ROOT / "src/zegment/models.json").read_text(encoding="utf-8")


# Measured numbers


def test_measured_numbers_are_those_of_the_results_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    measured = {name: entry.ours for name, entry in MODELS.items() if entry.ours}
    assert measured.keys() == ROW_IN_RESULTS.keys()
    for name, ours in measured.items():
        row = re.search(rf"^\| {re.escape(ROW_IN_RESULTS[name])} \|(.*)$", page, re.MULTILINE)
        assert row is not None, name
        cells = [cell.strip(" *") for cell in row.group(1).split("|")[:4]]
        means = [float(cell.partition(" ± ")[0]) for cell in cells]
        assert numbers(ours.mean) == tuple(means), name
        spread = [float(cell.partition(" ± ")[2]) for cell in cells if "±" in cell]
        assert (numbers(ours.sd) if ours.sd else ()) == tuple(spread), name
        assert ours.seeds == ((0, 1, 2) if spread else ())


# Presets, checkpoints, commands


def test_presets_and_models_name_each_other() -> None:
    assert {entry.preset for entry in MODELS.values()} == set(preset_names())
    assert len(MODELS) == len(load_models())
    for entry in MODELS.values():
        if entry.setting != "cross-dataset":
            assert entry.name == entry.preset


@pytest.mark.parametrize("entry", MODELS.values(), ids=MODELS)
def test_an_entry_describes_its_preset(entry: ModelEntry) -> None:
    config = load_config(preset=entry.preset)
    systems = {
        "zegclip": "ZegCLIP",
        "one_stage": "one-stage baseline",
        "dense_clip": "dense CLIP",
        "student": "CLIP-ZSS",
    }
    assert entry.system == systems[config.model.kind]
    if entry.setting == "cross-dataset":
        assert config.setting == "inductive"
        return
    assert entry.data == config.data.title
    if entry.setting == "training-free":
        assert config.model.kind == "dense_clip"
        return
    setting, _, region = entry.setting.partition(", ")
    assert setting == config.setting
    assert config.self_training.region == (region or "unlabelled")


def test_packaged_checkpoints_are_named() -> None:
    packaged = {folder.name for folder in (ROOT / "src/zegment/assets").iterdir()}
    assert {entry.checkpoint for entry in MODELS.values() if entry.checkpoint} == packaged


@pytest.mark.parametrize(("name", "words"), command_words())
def test_a_command_is_one_that_exists_with_options_that_exist(name: str, words: list[str]) -> None:
    program, *arguments = words
    if program == "python":
        script = (ROOT / arguments[0]).read_text(encoding="utf-8")
        options = [word for word in arguments if word.startswith("--")]
        assert all(f'"{option}"' in script for option in options)
        return
    assert program == "zegment"
    commands = typer.main.get_command(cli.app).commands
    # Parses the words, and runs nothing.
    context = commands[arguments[0]].make_context(arguments[0], arguments[1:])
    if context.params.get("preset") is not None:
        assert context.params["preset"] == name
    if arguments[0] == "train":
        assert str(context.params["out"]) == str(Path("runs") / name)


# Tables


def test_the_page_holds_the_tables_of_the_list() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    tables = page.split("<!-- model tables -->\n\n")[1].split("\n<!-- end of model tables -->")[0]
    assert tables == markdown(load_models()), (
        "docs/models.md differs from src/zegment/models.json; "
        "run `python scripts/write_model_table.py`"
    )


def test_published_and_measured_numbers_stand_apart() -> None:
    published, measured = markdown(load_models()).split("## Measured here")
    for name in ZEGCLIP.keys() | ACROSS.keys():
        assert f"| `{name}` |" in published
        assert f"`{name}`" not in measured
    for name in ROW_IN_RESULTS:
        assert f"| `{name}` |" in measured
        assert f"`{name}`" not in published
    supervised = next(x for x in published.splitlines() if "`context-zegclip-supervised` |" in x)
    assert supervised.endswith("| 56.9 (from its parts 58.5) |")


def test_a_table_has_a_heading_for_each_data_set_and_each_row_is_complete() -> None:
    text = markdown(load_models())
    headings = [line[4:] for line in text.splitlines() if line.startswith("### ")]
    assert headings == [
        *(benchmark(name).title for name in ("voc20", "coco_stuff", "context60", "context59")),
        "Shapes, 20 classes",
    ]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_a_list_of_measured_models_alone_has_no_published_heading() -> None:
    text = markdown([MODELS["shapes-zegclip"]])
    assert "## Published" not in text
    assert "| 84.7 ± 1.4 | 65.7 ± 1.0 | 46.0 ± 4.0 | 54.0 ± 3.1 |" in text


def test_the_terminal_shows_every_model_in_eighty_columns() -> None:
    console = Console(file=StringIO(), width=80)
    print_models(console)
    lines = console.file.getvalue().splitlines()
    assert rich_table(load_models()).row_count == len(MODELS)
    for name in MODELS:
        assert any(line.split()[:1] == [name] for line in lines), name
    shown = next(line for line in lines if line.startswith("context-zegclip-supervised"))
    assert shown.split() == ["context-zegclip-supervised", "46.5/78.7/56.9", "–"]
    assert any("mIoU 93.6" in line for line in lines)


def test_json_is_the_list_and_what_is_computed_from_it() -> None:
    console = Console(file=StringIO(), width=40)
    print_models(console, as_json=True)
    printed = json.loads(console.file.getvalue())
    stored = json.loads((ROOT / "src/zegment/models.json").read_text(encoding="utf-8"))
    computed = {
        entry["name"]: entry["paper"].pop("hIoU_recomputed")
        for entry in printed
        if entry["paper"] and "hIoU_recomputed" in entry["paper"]
    }
    assert computed == {"context-zegclip-supervised": 58.5}
    assert printed == stored
