"""Numbers recorded from ZegCLIP's released modules, reproduced; and the checker can fail."""

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
REFERENCE = sorted((Path(__file__).parent / "reference").glob("zegclip_*.safetensors"))


def check(*files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "parity.py", *files],
        capture_output=True,
        text=True,
        check=False,
    )


def test_recorded_numbers_are_reproduced() -> None:
    assert len(REFERENCE) == 2
    result = check(*REFERENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all equal" in result.stdout
    for quantity in ("text", "visual_patch", "visual_cls", "slide_score", "loss_total"):
        assert result.stdout.count(f"\n{quantity} ") == 2
    assert result.stdout.count("\ngrad/") > 80


@pytest.mark.parametrize(
    "key", ["out/slide_score", "out/loss_dice", "grad/decode_head.q_proj.weight", "out/text"]
)
def test_a_wrong_number_is_noticed(tmp_path: Path, key: str) -> None:
    with safe_open(REFERENCE[0], framework="pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[key] = tensors[key] + 3e-4 * tensors[key].abs().max()
    save_file(tensors, tmp_path / "wrong.safetensors", metadata)
    result = check(tmp_path / "wrong.safetensors")
    assert result.returncode == 1
    assert result.stdout.count("DIFFERS") == 1
