"""What the study trains and compares: arms, the chapters that compare them, and the claims.

An *arm* is a preset and what is changed in it; with a seed it makes a *run*. All stands in
``plan.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, TypeAlias

from zegment.errors import ConfigError, did_you_mean

Measure: TypeAlias = Literal["penalties", "distractors", "groups", "speed"]
"""What is measured of a run beside its scores; see `zegment.study.measures`."""

Figure: TypeAlias = Literal["dots", "lines", "penalties", "distractors"]

_NEEDS = re.compile(r"\{(run|clip|unseen):([^{}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A preset and what is changed in it.

    Attributes:
        name: Its own, also of its run folders.
        title: What tables and figures call it.
        preset: The packaged configuration that it starts from.
        settings: Overrides. ``{run:NAME}`` in one stands for the last checkpoint of another arm
            with the same seed, ``{clip:SHARE}`` for a CLIP trained on that share of the packaged
            one's images, ``{unseen:N}`` for N classes, drawn by the seed, that are unseen.
        measures: What is measured beside the scores.
        trained: Whether there is anything to train; otherwise all seeds are the same.
        x: Where it stands on the axis of its chapter's figure; None where that is no number.
        same_as: The arm whose runs are these, under another title; None if it has runs of its own.
    """

    name: str
    title: str
    preset: str
    settings: tuple[str, ...] = ()
    measures: tuple[Measure, ...] = ()
    trained: bool = True
    x: float | None = None
    same_as: str | None = None

    @property
    def recorded_as(self) -> str:
        """Return the name that its runs go by."""
        return self.same_as or self.name

    @property
    def runs_before(self) -> tuple[str, ...]:
        """Return the arms whose checkpoints it needs."""
        return tuple(self._needs("run"))

    @property
    def clips(self) -> tuple[float, ...]:
        """Return the shares of the packaged CLIP's images that CLIPs it needs are trained on."""
        return tuple(float(share) for share in self._needs("clip"))

    def _needs(self, kind: str) -> list[str]:
        return [name for own, name in self.placeholders() if own == kind]

    def filled(self, places: Mapping[str, str]) -> tuple[str, ...]:
        """Return the settings with what stands for each placeholder, such as ``run:zegclip``."""
        return tuple(
            _NEEDS.sub(lambda match: places[f"{match[1]}:{match[2]}"], text)
            for text in self.settings
        )

    def placeholders(self) -> tuple[tuple[str, str], ...]:
        """Return the kind and name of every placeholder."""
        return tuple(match for text in self.settings for match in _NEEDS.findall(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One question, and the arms that answer it.

    Attributes:
        name: Its own.
        title: Above its table.
        question: In a sentence.
        arms: Names of the arms, in the order of the table.
        reference: The arm that the others are compared with, seed by seed.
        figure: How it is drawn.
        axis: What the x of the arms is.
    """

    name: str
    title: str
    question: str
    arms: tuple[str, ...]
    reference: str
    figure: Figure = "dots"
    axis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a paper says, as an order of two arms in one metric.

    Attributes:
        chapter: Where its arms are compared.
        text: In words.
        better: The arm that should be ahead.
        worse: The other one.
        metric: In which number; a key of a record's scores.
    """

    chapter: str
    text: str
    better: str
    worse: str
    metric: str = "hIoU"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Arms, chapters and claims.

    Attributes:
        arms: By name.
        chapters: In the order of the report.
        claims: Of these chapters.
        seeds: Of every arm.
    """

    arms: Mapping[str, Arm]
    chapters: tuple[Chapter, ...]
    claims: tuple[Claim, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[Arm, int]]:
        """Return every run, seed by seed, each after those that it needs."""
        shown = (self.arms[name] for chapter in self.chapters for name in chapter.arms)
        names = dict.fromkeys(arm.recorded_as for arm in shown)
        ordered = list(dict.fromkeys(n for name in names for n in self._with_needs(name)))
        return [
            (self.arms[name], seed)
            for place, seed in enumerate(self.seeds)
            for name in ordered
            if self.arms[name].trained or place == 0
        ]

    def _with_needs(self, name: str) -> list[str]:
        return [n for before in self.arms[name].runs_before for n in self._with_needs(before)] + [
            name
        ]

    def needed_by_others(self) -> set[str]:
        """Return the arms whose checkpoints other arms start from."""
        return {name for arm, _ in self.runs() for name in arm.runs_before}


def read_plan(
    *, quick: bool = False, chapters: Collection[str] = (), seeds: int | None = None
) -> Plan:
    """Return the packaged plan, or a part of it.

    Args:
        quick: Take only the shortened headline: fewer seeds, shorter trainings.
        chapters: Names of the chapters to keep; empty keeps all of the full study.
        seeds: How many seeds; None takes what the plan says.

    Raises:
        ConfigError: If there is no such chapter, or no seed is left.
    """
    table = tomllib.loads(files("zegment.study").joinpath("plan.toml").read_text("utf-8"))
    arms = _arms(table["arms"])
    known = [_chapter(entry) for entry in table["chapters"]]
    by_name = {chapter.name: chapter for chapter in known}
    for name in chapters:
        if name not in by_name:
            raise ConfigError(
                f"--chapter {name}: there is none of that name{did_you_mean(name, by_name)}; "
                f"there are {', '.join(by_name)}"
            )
    if quick and chapters:
        raise ConfigError("--quick is the chapter 'quick'; leave --chapter out")
    chosen = ["quick"] if quick else [*chapters] or [n for n in by_name if n != "quick"]
    count = (table["quick_seeds"] if quick else table["seeds"]) if seeds is None else seeds
    if count < 1:
        raise ConfigError(f"--seeds {count}: give at least one")
    own = tuple(chapter for chapter in known if chapter.name in chosen)
    claims = [Claim(**entry) for entry in table["claims"]]
    return Plan(
        arms=arms,
        chapters=own,
        claims=tuple(claim for claim in claims if claim.chapter in chosen),
        seeds=tuple(range(count)),
    )


def _arms(table: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    arms: dict[str, Arm] = {}
    for name, entry in table.items():  # an arm stands below its base
        own = dict(entry)
        base = (
            arms[own.pop("base", own.get("same_as", ""))]
            if own.keys() & {"base", "same_as"}
            else None
        )
        settings = (*(base.settings if base else ()), *own.pop("set", ()))
        preset = own.pop("preset", base.preset if base else None)
        measures = tuple(own.pop("measures", ()))
        arms[name] = Arm(name=name, preset=preset, settings=settings, measures=measures, **own)
    return arms


def _chapter(entry: Mapping[str, Any]) -> Chapter:
    return Chapter(**{**entry, "arms": tuple(entry["arms"])})
