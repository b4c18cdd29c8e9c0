"""Small models that every test may use: the real loading code reads them from disk."""

import json
import os
from collections.abc import Callable
from pathlib import Path

# No test may wait for a network that is not there; read once, when the hub is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
# Workers share the cores; torch would start as many threads in each as there are.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nor may one find what another run left in the user's cache.
os.environ["ZEGMENT_CACHE"] = "off"

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from zegment.clip import Clip
from zegment.clip_loading import load_clip

TINY_CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


def save_tiny_clip(folder: Path, *, seed: int = 0, **vision: object) -> Path:
    """Write a random CLIP in open_clip's local format, with changes to its vision tower."""
    config = {**TINY_CONFIG, "vision_cfg": {**TINY_CONFIG["vision_cfg"], **vision}}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess})
    )
    return folder


@pytest.fixture(scope="session")
def tiny_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def tiny_clip(tiny_clip_folder: Path) -> Clip:
    return load_clip(str(tiny_clip_folder))


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., str]:
    """Return a function that saves a random CLIP with changes and returns its folder."""

    def make(name: str = "made", **changes: object) -> str:
        return str(save_tiny_clip(tmp_path / name, **changes))

    return make
