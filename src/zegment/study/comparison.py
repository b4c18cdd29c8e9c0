"""The numbers of a chapter: every arm's spread over seeds, and its difference from the reference.

Scores are fractions in [0, 1] here; percent stand in tables and figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from zegment.study.plan import Arm, Chapter, Claim, Measure, Plan
from zegment.study.records import Record
from zegment.study.statistics import Spread, paired

Records: TypeAlias = Mapping[str, Mapping[int, Record]]

METRICS = (
    "pAcc", "mIoU_seen", "mIoU_unseen", "hIoU", "mIoU_seen_things", "mIoU_seen_stuff",
    "mIoU_unseen_things", "mIoU_unseen_stuff",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm in a chapter.

    Attributes:
        arm: Which.
        values: Of each metric the value of each seed, where there is one.
        against: Of each metric the differences from the chapter's reference, seed by seed; None
            for the reference itself.
        seconds: Of training.
        parameters: That are trained.
    """

    arm: Arm
    values: Mapping[str, Mapping[int, float]]
    against: Mapping[str, Spread | None]
    seconds: Spread
    parameters: int

    def spread(self, metric: str) -> Spread | None:
        """Return mean and standard deviation of a metric; None if no seed has it."""
        own = self.values[metric]
        if not own:
            return None
        distinct = [*own.values()] if self.arm.trained else [next(iter(own.values()))]
        return Spread.of(distinct)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        metrics = {}
        for metric, own in self.values.items():
            spread, against = self.spread(metric), self.against[metric]
            metrics[metric] = {
                "seeds": {str(seed): value for seed, value in own.items()},
                **({} if spread is None else asdict(spread)),
                "against_reference": None
                if against is None
                else {**asdict(against), "interval95": against.interval()},
            }
        return {
            "title": self.arm.title,
            "preset": self.arm.preset,
            "settings": list(self.arm.settings),
            "x": self.arm.x,
            "parameters": self.parameters,
            "seconds": asdict(self.seconds),
            "metrics": metrics,
        }


def values_of(records: Mapping[int, Record], metric: str) -> dict[int, float]:
    """Return a metric of every seed that has it."""
    found = {seed: record.scores.get(metric) for seed, record in records.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def measured(records: Mapping[int, Record], arm: Arm, measure: Measure) -> list[Any]:
    """Return what a measure found in each run of an arm; once where nothing is trained."""
    found = [own.measured[measure] for own in records.values() if measure in own.measured]
    return found if arm.trained else found[:1]


def rows_of(chapter: Chapter, plan: Plan, records: Records) -> list[Row]:
    """Return the arms of a chapter that have records, in its order; none if only one of several."""
    reference = records.get(chapter.reference, {})
    rows = []
    for name in chapter.arms:
        own, arm = records[name], plan.arms[name]
        if not own:
            continue
        values = {metric: values_of(own, metric) for metric in METRICS}
        same = arm.recorded_as == plan.arms[chapter.reference].recorded_as
        rows.append(
            Row(
                arm=arm,
                values=values,
                against={
                    metric: None if same else paired(values[metric], values_of(reference, metric))
                    for metric in METRICS
                },
                seconds=Spread.of([record.seconds for record in own.values()]),
                parameters=next(iter(own.values())).parameters,
            )
        )
    # One of several answers no question.
    return rows if len(rows) > 1 or len(chapter.arms) == 1 else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: Which.
        lead: Of the better arm, seed by seed.
        seeds_ahead: In how many seeds it is ahead.
    """

    claim: Claim
    lead: Spread
    seeds_ahead: int

    @property
    def holds(self) -> bool:
        """Return whether the better arm is ahead in the mean."""
        return self.lead.mean > 0

    @property
    def certain(self) -> bool:
        """Return whether the 95 % interval of its lead is above nothing."""
        interval = self.lead.interval()
        return interval is not None and interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            **asdict(self.claim),
            "lead": {**asdict(self.lead), "interval95": self.lead.interval()},
            "seeds_ahead": self.seeds_ahead,
            "holds": self.holds,
            "certain": self.certain,
        }


def verdicts(plan: Plan, records: Records) -> list[Verdict]:
    """Return what became of every claim that there are records for."""
    found = []
    for claim in plan.claims:
        better, worse = (
            values_of(records.get(name, {}), claim.metric) for name in (claim.better, claim.worse)
        )
        lead = paired(better, worse)
        if lead is not None:
            ahead = sum(better[seed] > worse[seed] for seed in better if seed in worse)
            found.append(Verdict(claim=claim, lead=lead, seeds_ahead=ahead))
    return found
