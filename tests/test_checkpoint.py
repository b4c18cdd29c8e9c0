"""Checkpoints whose files are in order, and are not those that were saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile_checkpoints import STUDENT
from safetensors.torch import load_file, save_file
from torch import Tensor

from zegment.checkpoint import load_trained, restore_weights
from zegment.checkpoint_files import CONFIG, DIGESTS, TEXT, WEIGHTS, save_checkpoint
from zegment.errors import CheckpointError
from zegment.hub.upload import upload_files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a student, with text embeddings beside its weights."""
    folder = tmp_path_factory.mktemp("saved") / "student"
    save_checkpoint(folder, load_trained(str(STUDENT), device="cpu"))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copied"))


def header_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / CONFIG).read_text("utf-8"))


def flip(tensors: dict[str, Tensor]) -> None:
    """Flip the lowest bit of a number, which stays finite."""
    next(t for t in tensors.values() if t.ndim).view(-1)[:1].view(torch.int32).bitwise_xor_(1)


def swap(tensors: dict[str, Tensor]) -> None:
    """Let two tensors of one shape change places."""
    names = sorted(tensors)
    first, second = next(
        (a, b) for a in names for b in names
        if tensors[a].shape == tensors[b].shape and not torch.equal(tensors[a], tensors[b])
    )  # fmt: skip
    tensors[first], tensors[second] = tensors[second].clone(), tensors[first].clone()


@pytest.mark.parametrize("change", [flip, swap])
@pytest.mark.parametrize("name", [WEIGHTS, TEXT])
def test_a_file_that_is_in_order_and_not_the_saved_one_is_refused(
    folder: Path, name: str, change: Callable[[dict[str, Tensor]], None]
) -> None:
    load_trained(str(folder), device="cpu")
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    with pytest.raises(CheckpointError, match=rf"{name} does not hold what was saved.*copy the"):
        load_trained(str(folder), device="cpu")
    with pytest.raises(CheckpointError, match=f"{name} does not hold what was saved"):
        restore_weights(load_trained(str(STUDENT), device="cpu"), str(folder))


def test_an_older_checkpoint_without_digests_is_loaded(folder: Path) -> None:
    header = header_of(folder)
    assert set(header.pop(DIGESTS)) == {WEIGHTS, TEXT}
    (folder / CONFIG).write_text(json.dumps(header), encoding="utf-8")
    tensors = load_file(folder / WEIGHTS)
    flip(tensors)
    save_file(tensors, folder / WEIGHTS)
    load_trained(str(folder), device="cpu")


@pytest.mark.parametrize("digests", [5, [], None, {WEIGHTS: None}, {WEIGHTS: ["a"]}])
def test_digests_that_are_none_are_refused(folder: Path, digests: object) -> None:
    header = header_of(folder) | {DIGESTS: digests}
    (folder / CONFIG).write_text(json.dumps(header), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"copy the whole folder again"):
        load_trained(str(folder), device="cpu")


def test_a_shared_checkpoint_keeps_its_digests(folder: Path) -> None:
    files = upload_files(folder, "somebody/student", licence="mit")
    assert json.loads(bytes(files[CONFIG]))[DIGESTS] == header_of(folder)[DIGESTS]  # type: ignore[arg-type]
