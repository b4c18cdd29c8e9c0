"""The record of a run: what it was made of, and what was measured; one JSON file each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zegment.errors import OutputError
from zegment.files import atomic_write_text
from zegment.study.plan import Arm, Plan
from zegment.text_files import parse_json, read_text
from zegment.wording import brief

FOLDER = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of one finished run.

    Attributes:
        arm: Name of its arm.
        seed: Of the run.
        recipe: Preset and overrides that trained it, with placeholders as the plan has them.
        config: The resolved configuration.
        seconds: That training took, on one thread.
        parameters: How many numbers were trained.
        scores: On the test split, as `zegment.study.measures.scores` returns them.
        measured: What else was measured, by name of the measure.
        versions: Of what computed it.
    """

    arm: str
    seed: int
    recipe: dict[str, Any]
    config: dict[str, Any]
    seconds: float
    parameters: int
    scores: dict[str, Any]
    measured: dict[str, Any]
    versions: dict[str, str]

    def save(self, out: Path) -> None:
        """Write the record into a study's folder."""
        content = {name: getattr(self, name) for name in self.__slots__}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        atomic_write_text(record_path(out, self.arm, self.seed), text)


def record_path(out: Path, arm: str, seed: int) -> Path:
    """Return where the record of a run lies."""
    return out / FOLDER / f"{arm}-{seed}.json"


def recipe_of(arm: Arm) -> dict[str, Any]:
    """Return what decides the runs of an arm, beside the seed."""
    return {"preset": arm.preset, "settings": list(arm.settings)}


def read_record(out: Path, arm: Arm, seed: int) -> Record | None:
    """Return the record of a run; None if there is none yet.

    Raises:
        OutputError: If it cannot be read, or is of another recipe than the arm's.
    """
    path = record_path(out, arm.recorded_as, seed)
    if not path.exists():
        return None
    try:
        record = Record(**parse_json(read_text(path)))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{path} is no record of a run ({error}); remove it") from error
    if record.recipe != recipe_of(arm):
        raise OutputError(
            f"{path} is of a run of {brief(record.recipe)}, and the study now trains "
            f"{brief(recipe_of(arm))}; remove it, or take another --out"
        )
    return record


def read_records(out: Path, plan: Plan) -> dict[str, dict[int, Record]]:
    """Return the records that are there, by name of the arm and seed.

    An arm that is not trained is the same for every seed.
    """
    found: dict[str, dict[int, Record]] = {}
    for arm in dict.fromkeys(plan.arms[n] for chapter in plan.chapters for n in chapter.arms):
        own = {seed: read_record(out, arm, seed) for seed in plan.seeds}
        if not arm.trained:
            own = dict.fromkeys(plan.seeds, own[plan.seeds[0]])
        found[arm.name] = {seed: record for seed, record in own.items() if record is not None}
    return found
