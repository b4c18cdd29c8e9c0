"""Which models there are, what their papers report, and what was measured here.

The numbers stand in ``models.json``: percent with one decimal, over the joint label space of seen
and unseen classes. ``docs/models.md`` and `print_models` are made from it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.table import Table

from zegment.data.benchmarks import benchmark

#: Beyond this, in points, a printed hIoU is not the harmonic mean of the printed parts.
ROUNDING = 0.25

MISSING = "–"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelScores:
    """Metrics in percent; None was not published.

    Attributes:
        pixel_accuracy: pAcc.
        mean: mIoU over all classes.
        seen: mIoU(S).
        unseen: mIoU(U).
        harmonic: hIoU as it is printed.
    """

    pixel_accuracy: float | None = None
    mean: float | None = None
    seen: float | None = None
    unseen: float | None = None
    harmonic: float | None = None

    @property
    def recomputed_harmonic(self) -> float | None:
        """Return 2 S U / (S + U) where the printed hIoU is another number; else None."""
        if self.seen is None or self.unseen is None or self.harmonic is None:
            return None
        harmonic = 2 * self.seen * self.unseen / (self.seen + self.unseen)
        return round(harmonic, 1) if abs(harmonic - self.harmonic) > ROUNDING else None

    @classmethod
    def from_dict(cls, table: Mapping[str, float]) -> "ModelScores":
        """Return what `to_dict` took apart; other keys are not read."""
        return cls(**{name: table[key] for key, name in _KEYS.items() if key in table})

    def to_dict(self) -> dict[str, float]:
        """Return what there is, as JSON can hold it."""
        known = {key: getattr(self, name) for key, name in _KEYS.items()}
        return {key: value for key, value in known.items() if value is not None}


#: What a metric is called in JSON and in tables, and here.
_KEYS = {
    "pAcc": "pixel_accuracy",
    "mIoU": "mean",
    "mIoU_seen": "seen",
    "mIoU_unseen": "unseen",
    "hIoU": "harmonic",
}
_HEADINGS = {"mIoU_seen": "mIoU(S)", "mIoU_unseen": "mIoU(U)"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured with this code.

    Attributes:
        mean: Over the seeds.
        sd: Standard deviation over the seeds; None where nothing is trained.
        seeds: Of the trainings.
        command: That measured it.
    """

    mean: ModelScores
    sd: ModelScores | None
    seeds: tuple[int, ...]
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "mean": self.mean.to_dict(),
            "sd": self.sd and self.sd.to_dict(),
            "seeds": list(self.seeds),
            "command": self.command,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """One row of a paper, or one model that was measured here.

    Attributes:
        name: Its own.
        preset: The packaged configuration that trains it.
        system: Such as ``ZegCLIP``.
        setting: What is known of the unseen classes in training, or ``cross-dataset``: trained on
            other data; or ``training-free``.
        data: The known data set that it is scored on, or ``shapes``.
        command: That makes the model, or for ``cross-dataset`` and ``training-free`` scores it.
        checkpoint: The packaged model; None if it has to be trained.
        student: The segmenter that CLIP-ZSS teaches.
        notes: What else to know about it.
        paper: What is published.
        source: Where.
        paper_note: What else to know about the published numbers, or why there are none.
        ours: What was measured here.
    """

    name: str
    preset: str
    system: str
    setting: str
    data: str
    command: str
    checkpoint: str | None = None
    student: str | None = None
    notes: str | None = None
    paper: ModelScores | None = None
    source: str | None = None
    paper_note: str | None = None
    ours: Measured | None = None

    @property
    def title(self) -> str:
        """Return the system, and its student if it has one."""
        return f"{self.system}, {self.student}" if self.student else self.system

    @property
    def data_title(self) -> str:
        """Return what its data set is called elsewhere."""
        return "Shapes, 20 classes" if self.data == "shapes" else benchmark(self.data).title

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; ``paper`` and ``ours`` are null if there is none.

        A ``paper`` whose printed hIoU is not the harmonic mean of its parts has that mean beside
        it, as ``hIoU_recomputed``.
        """
        names = (
            "name", "preset", "checkpoint", "system", "setting", "data", "student", "notes",
        )  # fmt: skip
        known = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        known["paper"] = None
        if self.paper is not None:
            known["paper"] = {**self.paper.to_dict(), "source": self.source}
            if self.paper.recomputed_harmonic is not None:
                known["paper"]["hIoU_recomputed"] = self.paper.recomputed_harmonic
        if self.paper_note is not None:
            known["paper_note"] = self.paper_note
        known["ours"] = self.ours and self.ours.to_dict()
        return {**known, "command": self.command}


def load_models() -> tuple[ModelEntry, ...]:
    """Return the entries of ``models.json``, in its order."""
    text = files("zegment").joinpath("models.json").read_text("utf-8")
    return tuple(map(_entry, json.loads(text)))


def markdown(entries: Sequence[ModelEntry]) -> str:
    """Return the tables of ``docs/models.md``: published numbers, then those measured here."""
    published = [e for e in entries if e.paper or not e.ours]
    measured = [e for e in entries if e.ours]
    lines: list[str] = []
    for heading, chosen, table in (
        ("Published", published, _published_table),
        ("Measured here", measured, _measured_table),
    ):
        if chosen:
            lines += [f"## {heading}", ""]
        for group in _by_data(chosen):
            lines += [f"### {group[0].data_title}", "", *table(group), ""]
            notes = _notes(group)
            lines += [*notes, ""] if notes else []
            lines += ["```sh", *dict.fromkeys(_commands(group)), "```", ""]
    return "\n".join(lines).strip() + "\n"


def rich_table(entries: Iterable[ModelEntry]) -> Table:
    """Return a table for a terminal of 80 columns or more; it holds mIoU(S), mIoU(U) and hIoU."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for column in ("paper S/U/h", "ours S/U/h"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in entries:
        about = f"{entry.system} on {entry.data}, {entry.setting}"
        measured = None if entry.ours is None else entry.ours.mean
        table.add_row(f"{entry.name}\n  {about}", _in_short(entry.paper), _in_short(measured))
    return table


def print_models(console: Console, *, as_json: bool = False) -> None:
    """Print every model with its published and measured numbers.

    Args:
        console: Where to.
        as_json: Whether to print all that is known, for programs, instead of a table.
    """
    entries = load_models()
    if as_json:
        text = json.dumps([entry.to_dict() for entry in entries], indent=2, ensure_ascii=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    console.print(rich_table(entries), highlight=False)
    console.print(
        "\npercent: S is mIoU of seen classes, U of unseen ones, h their harmonic mean\n"
        "train one: zegment train --preset NAME --out runs/NAME; "
        "--json has every number, note and command",
        highlight=False,
        soft_wrap=True,
    )


def _entry(table: Mapping[str, Any]) -> ModelEntry:
    own = dict(table)
    paper, ours = own.pop("paper"), own.pop("ours")
    if paper is not None:
        own |= {"paper": ModelScores.from_dict(paper), "source": paper["source"]}
    if ours is not None:
        own["ours"] = Measured(
            mean=ModelScores.from_dict(ours["mean"]),
            sd=None if ours["sd"] is None else ModelScores.from_dict(ours["sd"]),
            seeds=tuple(ours["seeds"]),
            command=ours["command"],
        )
    return ModelEntry(**own)


def _by_data(entries: Sequence[ModelEntry]) -> list[list[ModelEntry]]:
    """Return the entries of each data set, in the order in which the data sets first come."""
    groups: dict[str, list[ModelEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.data, []).append(entry)
    return list(groups.values())


def _published_table(group: Sequence[ModelEntry]) -> list[str]:
    """Return the lines of one data set's table of printed numbers."""
    # Only results across data sets are published as one mIoU.
    keys = [k for k in _KEYS if k != "mIoU" or any(e.paper and e.paper.mean for e in group)]
    rows = []
    for entry in group:
        scores = entry.paper or ModelScores()
        cells = [_number(getattr(scores, _KEYS[key])) for key in keys]
        if scores.recomputed_harmonic is not None:
            cells[-1] += f" (from its parts {_number(scores.recomputed_harmonic)})"
        rows.append([f"`{entry.name}`", entry.title, entry.setting, *cells])
    return _table(["name", "system", "setting", *(_HEADINGS.get(k, k) for k in keys)], rows)


def _measured_table(group: Sequence[ModelEntry]) -> list[str]:
    """Return the lines of one data set's table of means and standard deviations."""
    keys = [key for key in _KEYS if key != "mIoU"]
    rows = []
    for entry in group:
        if entry.ours is None:
            continue
        mean, sd = entry.ours.mean, entry.ours.sd
        cells = [_number(getattr(mean, _KEYS[key])) for key in keys]
        if sd is not None:
            spread = [_number(getattr(sd, _KEYS[key])) for key in keys]
            cells = [f"{m} ± {s}" for m, s in zip(cells, spread, strict=True)]
        seeds = ", ".join(map(str, entry.ours.seeds)) or MISSING
        rows.append([f"`{entry.name}`", entry.title, entry.setting, seeds, *cells])
    headings = [_HEADINGS.get(key, key) for key in keys]
    return _table(["name", "system", "setting", "seeds", *headings], rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _notes(group: Sequence[ModelEntry]) -> list[str]:
    """Return one item for each note, with the names of all that it is about."""
    about: dict[str, list[str]] = {}
    kinds: tuple[Callable[[ModelEntry], str | None], ...] = (
        lambda entry: None if entry.source is None else f"Printed in {entry.source}.",
        lambda entry: entry.notes,
        lambda entry: entry.paper_note,
    )
    for note_of in kinds:
        for entry in group:
            note = note_of(entry)
            if note is not None:
                about.setdefault(note, []).append(f"`{entry.name}`")
    return [f"- {', '.join(names)}: {note}" for note, names in about.items()]


def _commands(group: Sequence[ModelEntry]) -> list[str]:
    """Return the commands that make the models, then those that measured them."""
    return [e.command for e in group] + [e.ours.command for e in group if e.ours]


def _in_short(scores: ModelScores | None) -> str:
    if scores is None:
        return MISSING
    if scores.mean is not None:
        return f"mIoU {_number(scores.mean)}"
    return "/".join(map(_number, (scores.seen, scores.unseen, scores.harmonic)))


def _number(percent: float | None) -> str:
    return MISSING if percent is None else f"{percent:.1f}"
