"""How much seen classes are held back at test time, and how the amount is chosen.

Letters: K classes, H W pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zegment.errors import ConfigError
from zegment.text_files import parse_json, read_text

RELEASED = "released"

_WARNINGS = {
    "test": "chosen on test data: scores on the same data are too good",
    "train": "chosen on training data, whose seen classes the model has learnt: it is too large",
}
"""What is wrong with a choice, by the split that made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is taken from the scores of seen classes at test time.

    Attributes:
        seen_penalty: How much, in the unit of the scores, [0, 1].
        chosen_on: The data that the value was chosen on, such as ``"shapes/val"``; ``"released"``
            for a value that comes with the method.
        chosen_by: ``"blind"`` if no label of an unseen class was looked at; None if a person chose,
            or masks of all classes.
    """

    seen_penalty: float = 0.0
    chosen_on: str = RELEASED
    chosen_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as JSON can hold it, with a warning where the wrong split chose."""
        record = {key: value for key, value in asdict(self).items() if value is not None}
        warning = _WARNINGS.get(self.chosen_on.rpartition("/")[2])
        return record if warning is None else {**record, "warning": warning}


def read_calibration(path: Path) -> Calibration:
    """Return the calibration that a sweep wrote.

    Raises:
        ConfigError: If the file does not exist or holds none.
    """
    try:
        chosen = parse_json(read_text(path))["chosen"]
        penalty, origin = float(chosen["seen_penalty"]), str(chosen["chosen_on"])
        chooser = chosen.get("chosen_by")
    except FileNotFoundError as error:
        raise ConfigError(
            f"no calibration {path}; write one with zegment evaluate --sweep-calibration"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{path} holds no calibration ({error}); give the calibration.json that "
            "zegment evaluate --sweep-calibration wrote"
        ) from error
    if not 0 <= penalty <= 1:
        raise ConfigError(f"{path}: seen_penalty must be in [0, 1], got {penalty}")
    how = None if chooser is None else str(chooser)
    return Calibration(seen_penalty=penalty, chosen_on=origin, chosen_by=how)
