"""Which formats a machine computes in, and what is said of those that it imitates."""

import time
import warnings

import pytest
import torch

from zegment import precision
from zegment.inference.running import Execution, Runner
from zegment.precision import is_native, slowness
from zegment.segmenter import load


@pytest.mark.parametrize(
    ("told", "native"),
    [
        ({"avx2": True, "avx512_f": False}, False),
        ({"avx2": True, "avx512_f": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({}, True),  # an older PyTorch does not tell
    ],
)
def test_a_processor_without_instructions_is_known(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], native: bool
) -> None:
    monkeypatch.setattr(precision, "_capabilities", lambda: told)
    assert is_native(torch.bfloat16, "cpu") is native
    assert (slowness(torch.bfloat16, "cpu") is None) is native
    assert is_native(torch.float32, "cpu")
    assert is_native(torch.bfloat16, "cuda")


def test_what_it_says_of_this_processor_is_so() -> None:
    def seconds(dtype: torch.dtype) -> float:
        one, other = (torch.randn(128, 128).to(dtype) for _ in range(2))
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            one @ other
            rounds.append(time.perf_counter() - start)
        return min(rounds)

    if not is_native(torch.bfloat16, "cpu"):
        assert seconds(torch.bfloat16) > 5 * seconds(torch.float32)


def test_whoever_asks_for_a_format_that_is_imitated_is_warned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "_capabilities", lambda: {"avx2": True})
    model = load("shapes-zegclip").model
    with pytest.warns(RuntimeWarning, match="no instructions for bfloat16.*leave the precision"):
        Runner(model, Execution(precision="bfloat16"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Runner(model)
