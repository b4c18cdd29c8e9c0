"""Weights and configuration in open_clip's own format, as a folder that is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from zegment.errors import OutputError
from zegment.files import atomic_folder, refuse_foreign_content
from zegment.shapes_clip.recipe import MEAN, PHASES, STD, model_config

CONFIG, WEIGHTS, LOG = "open_clip_config.json", "open_clip_model.safetensors", "training.json"


def check_place(out: Path, *, replace: bool = False) -> None:
    """Refuse a folder that could not be written in the end, before a training begins.

    Args:
        out: Where a CLIP is to go.
        replace: Whether an earlier CLIP may stand there.

    Raises:
        OutputError: If something is there that may not be replaced.
    """
    if replace:
        refuse_foreign_content(out, (CONFIG, WEIGHTS, LOG), made_by="a training of this CLIP")
    if out.exists() and (not out.is_dir() or (not replace and any(out.iterdir()))):
        raise OutputError(f"'{out}' exists; give a new folder for the CLIP")


def save_clip(model: nn.Module, log: Mapping[str, Any], out: Path, *, replace: bool) -> None:
    """Write a folder that open_clip reads as ``local-dir:<folder>``.

    Args:
        model: For images of the last phase's size.
        log: How the weights came about, for ``training.json``.
        out: The folder; a reader sees the old one or the new one, never half of it.
        replace: Whether an earlier CLIP may stand there.

    Raises:
        OutputError: If something is there that may not be replaced, or it cannot be written.
    """
    check_place(out, replace=replace)
    weights = {key: value.half().cpu().contiguous() for key, value in model.state_dict().items()}
    preprocess = {"mean": MEAN, "std": STD}
    config = {"model_cfg": model_config(PHASES[-1].size), "preprocess_cfg": preprocess}
    with atomic_folder(out, replace=replace) as unfinished:
        path = unfinished / WEIGHTS
        save_file(weights, path)
        path.chmod(0o644)  # safetensors makes private files; a packaged one is for everybody
        for name, content in ((CONFIG, config), (LOG, log)):
            text = json.dumps(content, indent=2) + "\n"
            (unfinished / name).write_text(text, encoding="utf-8")
