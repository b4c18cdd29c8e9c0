"""Going on with a run: with its own configuration, of which little may be changed."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from zegment.config import Config
from zegment.config.loading import config_from_dict, config_to_dict, load_config
from zegment.errors import CheckpointError, ConfigError, ModelNotFoundError

CHANGEABLE = ("workers", "save_every", "optim.skip_nonfinite")
"""Options that do not change what a run computes as long as its numbers are finite."""


def resumed_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a run that is to be gone on with.

    Args:
        run: Its folder.
        overrides: Texts such as ``workers=4``, for options among `CHANGEABLE`.

    Raises:
        ModelNotFoundError: If there is no run in the folder.
        CheckpointError: If its configuration cannot be read.
        ConfigError: If an override is wrong, or would make another run of it.
    """
    path = run / "config.toml"
    keys = [override.partition("=")[0].strip() for override in overrides]
    for key in keys:
        if key not in CHANGEABLE:
            raise ConfigError(
                f"--set {key}: a run that is gone on with keeps its configuration but for "
                f"{', '.join(CHANGEABLE)}; train anew to change more"
            )
    given = config_to_dict(load_config(overrides=overrides))
    try:
        options = tomllib.loads(path.read_text("utf-8"))
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
            f"no run in '{run}': it has no config.toml; give the --out of a `zegment train`"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; copy it again, or train anew into another folder"
        ) from error
