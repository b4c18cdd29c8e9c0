"""Several processes do what one does: the same losses, weights, bank and scores."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from several_processes import RUNS, STEPS, config, counts, train
from timm.layers import BatchNormAct2d
from torch import nn
from torch._dynamo.utils import counters

from zegment.checkpoint import load_trained
from zegment.errors import ConfigError
from zegment.segmenter import load
from zegment.training import Trainer
from zegment.training.launch import Launch

WORKER = Path(__file__).parent / "several_processes.py"
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def launch(
    processes: int, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in several processes, as torchrun does."""
    with socket.socket() as probe:  # a port that is free now
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}",
        f"--master_port={port}", *map(str, arguments),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def one(
    tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What one process finds that passes each batch in two parts."""
    folder = tmp_path_factory.mktemp("one")
    return {
        run: train(config(run, tiny_clip_folder, "optim.micro_batch_size=2"), folder / run)
        for run in RUNS
    }


class Pair:
    """What two processes found, and left."""

    def __init__(self, folder: Path, clip: Path, **environment: str) -> None:
        done = launch(2, WORKER, "train", folder, clip, *RUNS, **environment)
        assert done.returncode == 0, done.stderr
        self.folder = folder
        self.found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module", params=["DDP", "FSDP"])
def two(
    request: pytest.FixtureRequest, tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    return Pair(folder, tiny_clip_folder, **(FSDP if request.param == "FSDP" else {}))


@pytest.fixture(scope="module")
def three(
    tiny_clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    """What three processes evaluated, and what they said when one then made a mistake."""
    folder = tmp_path_factory.mktemp("three")
    started = time.monotonic()
    done = launch(3, WORKER, "judge", folder, tiny_clip_folder)
    assert done.returncode != 0
    assert time.monotonic() - started < 90, "nobody waits for a process that has ended"
    return done.stderr, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(3)]


DROPLESS = [run for run in RUNS if run != "dropping"]


@pytest.mark.parametrize("run", DROPLESS)
def test_two_processes_have_the_losses_of_one(
    one: dict[str, dict[str, Any]], two: Pair, run: str
) -> None:
    expected = one[run]["losses"]
    assert len(expected) == STEPS
    for found in two.found:
        assert len(found[run]["losses"]) == STEPS
        for ours, theirs in zip(found[run]["losses"], expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)


def test_only_sharded_processes_share_the_optimizer_state(
    one: dict[str, dict[str, Any]], two: Pair
) -> None:
    for run in RUNS:
        whole, held = one[run]["moments"], [found[run]["moments"] for found in two.found]
        if two.folder.name.startswith("DDP"):
            assert held == [whole, whole]
        else:
            assert sum(held) == whole
            assert max(held) < 0.6 * whole


def test_log_holds_the_losses_of_the_whole_batch(one: dict[str, dict[str, Any]], two: Pair) -> None:
    lines = (two.folder / "inductive" / "log.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "loss_mask" in entry]
    assert [entry["step"] for entry in steps] == [*range(1, STEPS + 1)]
    for entry, expected in zip(steps, one["inductive"]["losses"], strict=True):
        assert {name: entry[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("run", RUNS)
def test_processes_end_with_equal_weights_which_are_saved_whole(two: Pair, run: str) -> None:
    first, second = (found[run]["weights"] for found in two.found)
    saved = load_trained(str(two.folder / run)).state()
    assert saved.keys() == first.keys() == second.keys()
    for key, value in saved.items():
        assert torch.equal(value, first[key]), key
        assert torch.equal(value, second[key]) or "running" in key, key


@pytest.mark.parametrize("run", DROPLESS)
def test_two_processes_end_with_the_weights_of_one(
    one: dict[str, dict[str, Any]], two: Pair, run: str
) -> None:
    # Of all together: the gradient of a key's bias is rounding alone, and Adam makes steps of full
    # length of it, so such numbers differ wherever sums are added up in another order.
    ours, alone = (
        torch.cat(
            [
                value.flatten().double()
                for key, value in sorted(weights.items())
                if "running" not in key and "num_batches" not in key
            ]
        )
        for weights in (two.found[0][run]["weights"], one[run]["weights"])
    )
    assert (ours - alone).norm() < 1e-3 * alone.norm()


@pytest.mark.parametrize("run", ["inductive", "one-stage", "student"])
@pytest.mark.parametrize("batch_size", [2, 3])
def test_two_processes_count_each_of_seven_images_once(
    two: Pair, tiny_clip_folder: Path, run: str, batch_size: int
) -> None:
    """The model as it was in memory after training against the one that was saved."""
    segmenter = load(str(two.folder / run))
    alone = counts(segmenter, config(run, tiny_clip_folder), batch_size)
    shares = [found[run]["evaluations"][batch_size] for found in two.found]
    assert sorted(share["own"] for share in shares) == [3, 4]
    for share in shares:
        assert torch.equal(share["matrix"], alone["matrix"])
        assert torch.equal(share["dice"], alone["dice"])
        assert share["images"] == 7


def test_three_processes_count_each_of_seven_images_once(
    three: tuple[str, list[dict[str, Any]]], tiny_clip_folder: Path
) -> None:
    segmenter, asked = load("shapes-zegclip"), config("inductive", tiny_clip_folder)
    for batch_size in (2, 3):
        alone = counts(segmenter, asked, batch_size)
        shares = [found[batch_size] for found in three[1]]
        assert sorted(share["own"] for share in shares) == [2, 2, 3]
        for share in shares:
            assert torch.equal(share["matrix"], alone["matrix"])
            assert torch.equal(share["dice"], alone["dice"])


def test_bank_of_two_processes_is_that_of_one_in_the_same_order(
    one: dict[str, dict[str, Any]], two: Pair
) -> None:
    for found in two.found:
        torch.testing.assert_close(found["student"]["bank"], one["student"]["bank"])
        assert len(found["student"]["bank"]) == 6


def test_processes_drop_out_each_its_own(one: dict[str, dict[str, Any]], two: Pair) -> None:
    first, second = (found["dropping"]["draws"] for found in two.found)
    assert not torch.equal(first, second)
    assert torch.equal(first, one["dropping"]["draws"])


# --- Mistakes -------------------------------------------------------------------------------------


def test_mistake_of_one_process_ends_all_and_is_told_once(
    three: tuple[str, list[dict[str, Any]]],
) -> None:
    told = [line for line in three[0].splitlines() if "error: " in line]
    assert len(told) == 1
    assert re.search(r"error: process 1 of 3, on .*: .*nowhere", told[0])
    assert "zegment/training.py" not in three[0], "no traceback"


def test_mistake_of_all_processes_is_told_once(tiny_clip_folder: Path, tmp_path: Path) -> None:
    done = launch(
        2, "-m", "zegment", "train", "--preset", "shapes-zegclip", "--out", tmp_path / "run",
        "--set", f"model.clip={tiny_clip_folder}", "--set", "optim.batch_size=3",
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("optim.batch_size: 3 cannot be shared by 2 processes") == 1
    assert "on " not in next(x for x in done.stderr.splitlines() if "cannot be shared" in x)
    assert not (tmp_path / "run").exists()


def test_disk_that_is_full_for_the_log_is_told_once_and_nothing_else(
    tiny_clip_folder: Path, tmp_path: Path
) -> None:
    done = launch(2, WORKER, "fill", tmp_path, tiny_clip_folder)
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "error: " in line.lower()]
    ours = [line for line in told if line.startswith("error: ")]
    assert len(ours) == 1, done.stderr
    assert re.search(r"process 0 of 2.*/dev/full: No space left.* --resume ", ours[0])
    assert "gloo" not in done.stderr.lower()
    assert "RuntimeError" not in done.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/log.jsonl").open()]
    assert steps == [1, 2]


def test_what_accelerate_is_told_of_accumulation_and_compilation_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    weight = nn.Linear(1, 1, bias=False)
    started = Launch("no")
    training = started.connect(weight)
    with started.autocast():
        output = training(torch.ones(1, 1))
    started.backward(output.sum())
    assert output.dtype == torch.float32
    assert weight.weight.grad.item() == 1
    assert training is weight


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FSDP_VERSION": "1", "FSDP_SYNC_MODULE_STATES": "true"}, "fsdp_version: 2"),
        ({"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "fsdp_auto_wrap_policy"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, r"optim\.gradient_checkpointing"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed"),
    ],
)
def test_kinds_of_sharding_that_are_not_supported_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    monkeypatch.setattr("zegment.training.launch.several_processes", lambda: True)
    for key, value in {**FSDP, **environment}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=message):
        Launch("no")


def test_accelerate_configuration_in_the_documentation_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "fsdp.yaml").write_text(written)
    command = ["--config_file", str(tmp_path / "fsdp.yaml"), "--module", "zegment", "train"]
    asked, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    for key, value in prepare_multi_gpu_env(asked).items():
        if key.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.setenv(key, value)
    monkeypatch.setattr("zegment.training.launch.several_processes", lambda: True)
    assert asked.num_processes == 4
    assert Launch("no").sharded


# --- One process ----------------------------------------------------------------------------------


def test_joined_norms_keep_weights_names_and_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Launch("no")
    monkeypatch.setattr(alone, "processes", 2)
    monkeypatch.setattr(alone, "device", torch.device("cuda"))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.BatchNorm2d(4))
    image = torch.randn(2, 3, 8, 8)
    expected, names = network.eval()(image), list(network.state_dict())
    parameters = [*network.parameters()]
    alone.join_norms(network)
    assert isinstance(network[2], nn.SyncBatchNorm)
    assert type(network[1]) is not BatchNormAct2d
    assert list(network.state_dict()) == names
    assert all(a is b for a, b in zip(network.parameters(), parameters, strict=True))
    torch.testing.assert_close(network(image), expected)


def test_norms_stay_as_they_are_on_the_cpu() -> None:
    network = nn.Sequential(nn.BatchNorm2d(4))
    Launch("no").join_norms(network)
    assert type(network[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("run", ["inductive", "one-stage", "student"])
def test_bfloat16_trains_alike_and_keeps_weights_in_float32(
    one: dict[str, dict[str, Any]], tiny_clip_folder: Path, tmp_path: Path, run: str
) -> None:
    settings = ("optim.precision=bf16", "optim.micro_batch_size=2")
    trainer = Trainer(config(run, tiny_clip_folder, *settings), tmp_path / "run")
    losses: list[dict[str, float]] = []
    dtypes: set[torch.dtype] = set()

    def remember(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        dtypes.add(output.dtype)

    linear = next(
        m for m in trainer.trained.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))
    )
    linear.register_forward_hook(remember)
    step = trainer.current.step
    trainer.current.step = lambda *args: losses.append(given := step(*args)) or given
    trainer.run()
    totals = [sum(given.values()) for given in losses]
    expected = [sum(given.values()) for given in one[run]["losses"]]
    assert totals[0] == pytest.approx(expected[0], rel=0.01)
    assert totals == pytest.approx(expected, rel=0.1)
    assert totals != expected
    assert torch.bfloat16 in dtypes
    states = trainer.current.optimizer.state.values()
    kept = [*trainer.trained.state().values(), *(v for state in states for v in state.values())]
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


def test_half_precision_without_a_gpu_is_refused(tiny_clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'optim\.precision: "fp16" needs a GPU'):
        Trainer(config("inductive", tiny_clip_folder, "optim.precision=fp16"), tmp_path / "run")


@pytest.mark.parametrize("run", ["inductive", "student"])
def test_compiled_model_trains_alike_under_the_same_names(
    one: dict[str, dict[str, Any]],
    tiny_clip_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: str,
) -> None:
    compiled: list[nn.Module] = []
    compile_in_place = nn.Module.compile

    def without_code(self: nn.Module) -> None:  # what is traced is run as it is: no compiler needed
        compiled.append(self)
        compile_in_place(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", without_code)
    counters.clear()
    settings = ("optim.compile=true", "optim.micro_batch_size=2", "optim.steps=2")
    found = train(config(run, tiny_clip_folder, *settings), tmp_path / "run")
    assert len(compiled) == 1
    assert counters["stats"]["unique_graphs"] > 0
    saved = load_trained(str(tmp_path / "run")).state()
    assert saved.keys() == found["weights"].keys() == one[run]["weights"].keys()
    first, expected = found["losses"][0], one[run]["losses"][0]
    assert first == pytest.approx(expected, rel=1e-4)


def test_gradient_checkpointing_trains_alike(
    one: dict[str, dict[str, Any]], tiny_clip_folder: Path, tmp_path: Path
) -> None:
    settings = ("optim.gradient_checkpointing=true", "optim.micro_batch_size=2")
    for run in ("inductive", "one-stage"):
        found = train(config(run, tiny_clip_folder, *settings), tmp_path / run)
        for ours, theirs in zip(found["losses"], one[run]["losses"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
