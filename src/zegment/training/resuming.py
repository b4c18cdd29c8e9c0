"""Going on with a run: with its own configuration, of which little may be changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from zegment.checkpoint_files import RUN_CONFIG
from zegment.config import Config
from zegment.config.loading import config_from_dict, config_to_dict, load_config
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError
from zegment.text_files import parse_toml, read_text
from zegment.training.run_folder import check_run_folder

CHANGEABLE = ("workers", "save_every", "optim.skip_nonfinite")
"""Options that do not change what a run computes as long as its numbers are finite."""

PLACES = (
    "data.root", "model.clip", "self_training.start", "self_training.guide_checkpoint",
    "teaching.cache",
)  # fmt: skip
"""Where things lie. They may have been moved; what lies there is compared by other means."""


def resumed_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a run that is to be gone on with.

    Args:
        run: Its folder.
        overrides: Texts such as ``workers=4``, for options among `CHANGEABLE`.

    Raises:
        ModelNotFoundError: If there is no run in the folder.
        CheckpointError: If something in the folder is a link, or no file or folder of a run.
        CheckpointError: If its configuration cannot be read.
        ConfigError: If an override is wrong, or would make another run of it.
    """
    check_run_folder(run)
    path = run / RUN_CONFIG
    keys = [override.partition("=")[0].strip() for override in overrides]
    for key in keys:
        if key not in CHANGEABLE:
            raise ConfigError(
                f"--set {key}: a run that is gone on with keeps its configuration but for "
                f"{', '.join(CHANGEABLE)}; train anew to change more"
            )
    given = config_to_dict(load_config(overrides=overrides))
    try:
        options = parse_toml(read_text(path))
        for key in keys:
            *tables, name = key.split(".")
            source, target = given, options
            for table in tables:
                source, target = source[table], target[table]
            target[name] = source[name]
        # Not read as a user's own file, to which folders are relative: these are as first given.
        return config_from_dict(options)
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"no run in '{run}': it has no {RUN_CONFIG}; give the --out of a `zegment train`"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; copy it again, or train anew into another folder"
        ) from error


def recipe_digest(config: Config) -> str:
    """Return 16 hex digits that change with any option but those of `CHANGEABLE` and `PLACES`."""
    options = config_to_dict(config)
    for key in (*CHANGEABLE, *PLACES):
        *tables, name = key.split(".")
        table = options
        for inner in tables:
            table = table[inner]
        del table[name]
    text = json.dumps(options, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
