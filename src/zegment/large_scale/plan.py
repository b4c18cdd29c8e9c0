"""What a run over shards will do, and whether the folder of an earlier one can be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zegment.errors import ConfigError, OutputError
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.large_scale.parts import PARTS, remove_attempts, remove_parts
from zegment.large_scale.shards import Shard, digest_of_names, stem_of
from zegment.leftovers import remove_leftovers
from zegment.prediction.earlier import RECORD
from zegment.prediction.files import refuse_replacing
from zegment.prediction.plan import FAILED, LEGEND
from zegment.prediction.record import RunRecord, read_record, record_content
from zegment.prediction.removal import Written, remove_run
from zegment.results import legend
from zegment.text_files import json_text

if TYPE_CHECKING:
    from zegment.query import Query

#: Folder of the index PNGs within that of the run.
LABELS = "labels"

#: What a run writes of each picture below that folder.
LABELS_ONLY = Written(kinds=("labels",), formats=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedRecord(RunRecord):
    """Everything that decides what the tables hold.

    Attributes:
        engine: What the run was made with, so that no other engine goes on with it.
        label_maps: Whether there are index PNGs beside the tables.
        pictures: What the shards are: how many, their size, and a digest of the names in them. A
            picture that changed is no other run; its shard alone is made again.
    """

    engine: str = "ray"
    label_maps: bool = False
    pictures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def over(
        cls, shards: Sequence[Shard], record: RunRecord, *, size: int, label_maps: bool
    ) -> Self:
        """Return the record of a run over shards.

        Args:
            shards: All of them.
            record: Of the model and the classes.
            size: Most pictures of a shard of a listing.
            label_maps: See the class.
        """
        pictures = {
            "archives": sum(shard.is_archive for shard in shards),
            "listed": sum(len(shard.names) for shard in shards),
            "names": digest_of_names(shards),
            "shard size": size,
        }
        fields = {**asdict(record), "save": ("labels",)}
        return cls(**fields, label_maps=label_maps, pictures=pictures)

    def mark_of(self, shard: Shard) -> str:
        """Return what tells the table of a shard, made this way, from all others."""
        return self.mark(shard.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedPlan:
    """What a run over shards will do; made by `plan_shards`.

    Attributes:
        shards: All of them, also the finished ones.
        out: Folder of the run, absolute; the same on every machine.
        record: What the tables are made with.
        overwrite: Whether an earlier run's results are removed first.
        found: What ``run.json`` held when the run was planned; None if there was none.
    """

    shards: tuple[Shard, ...]
    out: Path
    record: ShardedRecord
    overwrite: bool = False
    found: bytes | None = None

    def part(self, shard: Shard) -> Path:
        """Return where the table of a shard lies."""
        return self.out / PARTS / shard.file_name

    def attempts(self, shard: Shard) -> Path:
        """Return where it is noted how often the shard was begun; readers pass over the name."""
        return self.out / PARTS / f".part-{shard.number:05d}.begun"


def plan_shards(
    shards: Sequence[Shard], out: Path, *, record: ShardedRecord, overwrite: bool = False
) -> ShardedPlan:
    """Return what a run will do, after checking that it replaces nothing it should not.

    Args:
        shards: From `zegment.large_scale.shards.cut`.
        out: Folder for the results; nothing is written yet.
        record: What the results will be made with.
        overwrite: Whether to begin anew.

    Raises:
        OutputError: If ``out`` holds other results, or files that no record speaks of.
        ConfigError: If two pictures would have one label map.
    """
    found, earlier = record_content(out), read_record(out)
    if earlier is None:
        refuse_replacing(path for name in (PARTS, LABELS, LEGEND, FAILED) if (path := out / name))
    elif earlier.get("engine") != record.engine:
        raise OutputError(f"'{out}' holds results of --engine local; give another --out")
    elif not overwrite and (differences := record.differences(earlier)):
        raise OutputError(
            f"'{out}' holds results made differently: {'; '.join(differences)}; give another "
            "--out, or --overwrite"
        )
    if record.label_maps:
        _refuse_collisions(shards)
    return ShardedPlan(
        shards=tuple(shards),
        out=out.absolute(),
        record=record,
        overwrite=overwrite,
        found=found,
    )


def _refuse_collisions(shards: Sequence[Shard]) -> None:
    """Refuse pictures whose label maps would replace one another; case is ignored."""
    owners: dict[str, str] = {}
    archives = {stem_of(s, "").casefold(): s.root for s in shards if s.is_archive}
    for shard in shards:
        for name in shard.names or ("",):
            stem, source = stem_of(shard, name), shard.root + name
            if (other := owners.setdefault(stem.casefold(), source)) != source:
                raise ConfigError(
                    f"{other} and {source} would both have the label map {stem}.labels.png; give "
                    "them to two runs, each with its own --out"
                )
            folder = stem.casefold().partition("/")[0]
            if not shard.is_archive and (archive := archives.get(folder)) is not None:
                raise ConfigError(
                    f"the label map of {source} would lie among those of {archive}, and could "
                    "replace one; give them to two runs, each with its own --out"
                )


def begin(plan: ShardedPlan, query: Query) -> None:
    """Write what the folder is, before its first result; remove what is no longer to be there.

    Raises:
        OutputError: If the folder cannot be written to.
    """
    remove_leftovers(plan.out, deep=True)
    if plan.overwrite:
        remove_run(plan.out / LABELS, LABELS_ONLY, files=())
        remove_parts(plan.out / PARTS)
    remove_parts(plan.out / PARTS, first=len(plan.shards))
    remove_attempts(plan.out / PARTS)
    words = query.vocabulary
    entries = legend(words.class_names, words.palette(), words.synonyms)
    entries[-1]["background"] = plan.record.background  # it decides which pixels are unknown
    atomic_write_text(plan.out / LEGEND, json_text(entries))
    atomic_write_bytes(plan.out / RECORD, content_of(plan.record))


def content_of(record: ShardedRecord) -> bytes:
    """Return what ``run.json`` holds, by which a process knows the folder of its run."""
    return record.to_json().encode()
