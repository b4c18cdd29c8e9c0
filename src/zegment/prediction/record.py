"""What a folder of results was made with, so that a later run can tell whether it may go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zegment import __version__
from zegment.errors import ConfigError, OutputError
from zegment.formats import KINDS, check_kinds
from zegment.prediction.earlier import RECORD
from zegment.text_files import json_text

if TYPE_CHECKING:
    from zegment.labelling import Extra
    from zegment.query import Query
    from zegment.segmenter import Segmenter

#: Numbers that are looked at in each array of a model; training changes nearly all of them.
_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """Everything that decides what the files of a picture hold.

    Attributes:
        model: What the model was loaded as.
        fingerprint: Of its weights; see `fingerprint`.
        windows: How pictures are resized and cut before the model sees them.
        vocabulary: Names, sentences and colours of the classes, as JSON can hold them.
        background: How pixels of no class are found, in words.
        calibration: What is taken from the scores of seen classes.
        save: The outputs asked for, some of `zegment.formats.KINDS` in their order, labels always.
        smoothing: Weight of the past in videos, [0, 1).
        every: Of a video, one frame in so many is segmented.
        precision: Of matrix products.
        version: Of Zegment.

    Raises:
        ConfigError: If ``save`` names an unknown output.
        ConfigError: If ``smoothing`` is outside [0, 1) or ``every`` is below 1.
    """

    model: str
    fingerprint: str = ""
    windows: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Mapping[str, Any]
    background: str = "none"
    calibration: Mapping[str, Any] = field(default_factory=dict)
    save: tuple[str, ...] = ("overlay", "labels")
    smoothing: float = 0.0
    every: int = 1
    precision: str = "float32"
    version: str = __version__

    def __post_init__(self) -> None:
        check_outputs(self.save, smoothing=self.smoothing, every=self.every)
        wanted = tuple(kind for kind in KINDS if kind in {*self.save, "labels"})
        object.__setattr__(self, "save", wanted)

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What the segmenter has to keep beside labels and confidence."""
        extras: tuple[Extra, ...] = ("entropy", "margin", "scores")
        return tuple(extra for extra in extras if extra in self.save)

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        query: Query,
        *,
        save: Sequence[str] = ("overlay", "labels"),
        smoothing: float = 0.0,
        every: int = 1,
    ) -> Self:
        """Return the record of what a segmenter makes of a query.

        Raises:
            ConfigError: If an argument is outside what the class allows.
        """
        return cls(
            model=segmenter.name,
            fingerprint=fingerprint(segmenter),
            windows=asdict(segmenter.windows),
            vocabulary=json.loads(json.dumps(asdict(query.vocabulary))),  # tuples become lists
            background=query.background.describe(),
            calibration=segmenter.calibration.to_dict(),
            save=tuple(save),
            smoothing=smoothing,
            every=every,
            precision=segmenter.execution.precision,
        )

    def to_json(self) -> str:
        """Return the record as text; equal records give equal texts."""
        return json_text(asdict(self), sort_keys=True)

    def mark(self, digest: str) -> str:
        """Return what tells the results of one picture, made this way, from all others.

        Args:
            digest: SHA-256 of the file that the picture came from.
        """
        return hashlib.sha256(f"{self.to_json()}{digest}".encode()).hexdigest()

    def differences(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return in words where an earlier record, read from its file, differs from this one."""
        now = json.loads(self.to_json())
        return [
            f"{name.replace('_', ' ')} was {_brief(before)} and is {_brief(after)}"
            for name, before, after in _leaves(earlier, now)
        ]


def check_outputs(save: Sequence[str], *, smoothing: float, every: int) -> None:
    """Refuse what no run could write, before a model is loaded.

    Raises:
        ConfigError: If ``save`` names an unknown output.
        ConfigError: If ``smoothing`` is outside [0, 1) or ``every`` is below 1.
    """
    check_kinds(save)
    if not 0 <= smoothing < 1:
        raise ConfigError(f"the smoothing weight is {smoothing:g}; give a number from 0 to below 1")
    if every < 1:
        raise ConfigError(f"every is {every}; give 1 for all frames, 2 for every second")


def fingerprint(segmenter: Segmenter) -> str:
    """Return a short digest of a segmenter's weights, the same on every device.

    It depends on the name and shape of each array and on up to 64 numbers, evenly spaced in it.
    A run folder that was trained again under the same name gives another one.
    """
    digest = hashlib.sha256()
    for name, array in sorted(segmenter.model.state_dict().items()):
        flat = array.detach().flatten()
        sample = flat[:: max(1, -(-flat.numel() // _SAMPLES))].double().cpu().numpy()
        digest.update(f"{name} {tuple(array.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()[:16]


def read_record(out: Path) -> dict[str, Any] | None:
    """Return what ``run.json`` holds, or None if the folder has none.

    Raises:
        OutputError: If it cannot be read as the record of a run.
    """
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{out / RECORD} cannot be read ({error}); give another --out, or --overwrite"
        ) from error
    if not isinstance(record, dict) or "vocabulary" not in record:
        raise OutputError(
            f"{out / RECORD} is not the record of a run; give another --out, or --overwrite"
        )
    return record


def refuse_other_run(out: Path, *, found: bytes | None, own: bytes) -> None:
    """Refuse to go on if another run has begun or changed a folder since this one was planned.

    Args:
        out: Folder of the run.
        found: What `record_content` gave then.
        own: What this run writes; another run of equal settings is in nobody's way.

    Raises:
        OutputError: If ``run.json`` holds something else now.
    """
    if record_content(out) not in (found, own):
        raise OutputError(
            f"another run has begun in '{out}' meanwhile; give the same command again to see "
            "whether it fits, or give another --out"
        )


def record_content(out: Path) -> bytes | None:
    """Return the bytes of ``run.json``, or None if there is none that can be read."""
    try:
        return (out / RECORD).read_bytes()
    except OSError:
        return None


def _leaves(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Return name, old and new value of every entry that differs, in the order of the names."""
    found = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _leaves(old, new, f"{prefix}{name}: ")
        elif old != new:
            found.append((f"{prefix}{name}", old, new))
    return found


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{text[:77]}...'" if len(text) > 80 else f"'{text}'"
