"""Numbers recorded from ZegCLIP's released modules, reproduced; and the checker can fail."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "parity.py"
REFERENCE = sorted((Path(__file__).parent / "reference").glob("zegclip_*.safetensors"))


@pytest.fixture(scope="module")
def parity() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["parity"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_recorded_numbers_are_reproduced(parity: ModuleType, path: Path) -> None:
    rows = {row.name: row for row in parity.compare_file(path)}
    assert [row for row in rows.values() if not row.passed] == []
    quantities = {
        *("text", "visual_patch", "visual_cls", "eval_score", "eval_label", "slide_score"),
        *("train_mask_logits", "train_target", "loss_mask", "loss_dice", "loss_total"),
    }
    assert quantities <= rows.keys()
    assert sum(name.startswith("grad/") for name in rows) == 43


@pytest.mark.parametrize(
    "key", ["out/slide_score", "out/loss_dice", "grad/decode_head.q_proj.weight", "out/text"]
)
def test_a_wrong_number_is_noticed(parity: ModuleType, tmp_path: Path, key: str) -> None:
    wrong = changed(tmp_path, key)
    assert len([row for row in parity.compare_file(wrong) if not row.passed]) == 1


def test_the_script_exits_with_one_and_names_the_quantity(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, REFERENCE[0], changed(tmp_path, "out/loss_total")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    (line,) = [line for line in result.stdout.splitlines() if "DIFFERS" in line]
    assert line.startswith("loss_total ")


def changed(tmp_path: Path, key: str) -> Path:
    """Return a copy of a reference file in which one quantity is a little off."""
    with safe_open(REFERENCE[0], framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[key] = tensors[key] + 3e-4 * tensors[key].abs().max()
    save_file(tensors, tmp_path / "wrong.safetensors", metadata)
    return tmp_path / "wrong.safetensors"
