"""What the files of a checkpoint say beside its weights, checked before anything is built from it.

Letters: K classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zegment.checkpoint_files import CONFIG, PREPROCESSING, VOCABULARY, read_json
from zegment.checkpoint_weights import read_tensors
from zegment.clip import ImageTower, tower_from_state
from zegment.config.model import MOST_HEADS
from zegment.errors import CheckpointError, UnsupportedModelError, VocabularyError
from zegment.normalization import Channels, channels, deviations
from zegment.vocabulary import Vocabulary
from zegment.wording import brief

MOST_DIMENSIONS = 65_536
"""D of an embedding; CLIPs have at most a few thousand."""

_AGAIN = "copy the whole folder again, or make it again"


def read_words(folder: Path) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return the classes of a checkpoint folder, and those of them that had masks.

    Raises:
        CheckpointError: If they cannot be read, or cannot be classes.
    """
    path, known = folder / VOCABULARY, {field.name for field in fields(Vocabulary)}
    table = read_json(path)
    try:
        for key in ("class_names", "templates", "seen"):
            if not isinstance(table.get(key), list):
                raise VocabularyError(f"{key} is {brief(table.get(key))}, not a list")
        vocabulary = Vocabulary(**{k: _tuples(v) for k, v in table.items() if k in known})
    except VocabularyError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {_AGAIN}") from error
    names = set(vocabulary.class_names)
    for name in table["seen"]:
        if not isinstance(name, str) or name not in names:
            raise CheckpointError(
                f"{path} is damaged: {brief(name)} is seen, and none of its classes; {_AGAIN}"
            )
    return vocabulary, tuple(table["seen"])


def _tuples(value: Any, *, depth: int = 2) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Return lists as tuples, and so the lists in them; a vocabulary has no others."""
    if not isinstance(value, list) or depth == 0:
        return value
    return tuple(_tuples(item, depth=depth - 1) for item in value)


def read_normalization(folder: Path) -> tuple[Channels, Channels]:
    """Return mean and standard deviation of RGB in [0, 1] that a checkpoint's images are given.

    Raises:
        CheckpointError: If they cannot be read, or are not three possible numbers each.
    """
    table = read_json(folder / PREPROCESSING)

    mean, std = channels(table.get("mean")), deviations(table.get("std"))
    if mean is None or std is None:
        key = "mean" if mean is None else "std"
        raise CheckpointError(
            f"{folder / PREPROCESSING} is damaged: {key} is {brief(table.get(key))}, not three "
            f"numbers for red, green and blue; {_AGAIN}"
        )
    return mean, std


def read_embeddings(path: Path, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """Return the unit text embeddings (D,) that a checkpoint brings along, by their sentences.

    Args:
        path: The file.
        vocabulary: Of which none may be missing.

    Raises:
        CheckpointError: If they cannot be read, one is missing, or one is no direction.
    """
    rows = read_tensors(path)
    for sentence in (s for group in vocabulary.sentences() for s in group):
        if sentence not in rows:
            raise CheckpointError(
                f"{path} is damaged: it has no embedding of “{sentence}”; {_AGAIN}"
            )
    shape = next(iter(rows.values())).shape
    for sentence, row in rows.items():
        whole = row.ndim == 1 and row.shape == shape and 0 < len(row) <= MOST_DIMENSIONS
        # In this order: NaN is not close to anything, but other kinds of numbers have no length.
        if not whole or not row.dtype.is_floating_point or not _is_unit(row):
            raise CheckpointError(
                f"{path} is damaged: the embedding of {brief(sentence)} is no row of length one "
                f"like the others ({row.dtype}, {tuple(row.shape)}); {_AGAIN}"
            )
    return {sentence: row.float() for sentence, row in rows.items()}


def _is_unit(row: Tensor) -> bool:
    """Return whether a row (D,) has length one, as exactly as half precision can have it."""
    return abs(float(torch.linalg.vector_norm(row.double())) - 1) < 0.01


def read_tower(
    folder: Path, header: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> ImageTower:
    """Return the image tower that a checkpoint brings along.

    Args:
        folder: The checkpoint, for messages.
        header: What its configuration file says; ``tower`` has what weights do not tell.
        weights: All its weights; those of the tower begin with ``tower.``.

    Raises:
        CheckpointError: If there is no such tower.
    """
    state = {k.removeprefix("tower."): v for k, v in weights.items() if k.startswith("tower.")}
    table = header["tower"]
    try:
        heads, activation, grid = (table[key] for key in ("heads", "activation", "grid"))
        _check_tower(state, heads, grid)
        return tower_from_state(state, heads=heads, activation=activation, grid=tuple(grid))
    except (LookupError, TypeError, ValueError, AttributeError, UnsupportedModelError) as error:
        raise CheckpointError(
            f"{folder / CONFIG} is damaged: its image tower cannot be built ({error}); copy or "
            "import it again"
        ) from error


def _check_tower(state: Mapping[str, Tensor], heads: object, grid: object) -> None:
    """Hold what a header says of a tower against its weights, before room is made for it.

    Raises:
        ValueError: If they do not fit.
    """
    width, positions = state["conv1.weight"].shape[0], state["positional_embedding"].shape[0]
    if type(heads) is not int or not 1 <= heads <= MOST_HEADS or width % heads:
        raise ValueError(f"heads is {brief(heads)} for a width of {width}")
    sides = grid if isinstance(grid, list) and all(type(n) is int and n > 0 for n in grid) else []
    if len(sides) != 2 or sides[0] * sides[1] + 1 != positions:
        raise ValueError(f"grid is {brief(grid)} for {positions} positions")
