"""What a run will write where, settled before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zegment.errors import OutputError
from zegment.files import as_output_error, try_writing
from zegment.formats.fiftyone import check_own
from zegment.prediction.earlier import RECORD
from zegment.prediction.exchange import check_formats, format_paths
from zegment.prediction.files import NOTE, refuse_edited, refuse_replacing, result_path
from zegment.prediction.frames import overlay_path
from zegment.prediction.inputs import Source
from zegment.prediction.record import RunRecord, read_record, record_content
from zegment.prediction.removal import Written
from zegment.prediction.video import pyav

LEGEND = "legend.json"
FAILED = "failed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do; made by `plan_run`.

    Attributes:
        sources: Pictures and videos, in order.
        out: Folder of the run.
        record: What the results are made with.
        formats: Names of formats to write at the end.
        known_formats: Those, and the ones that an earlier run has written here.
        overwrite: Whether finished pictures are made again.
        replaced: What an earlier run wrote here that is to be removed first.
        found: What ``run.json`` held when the run was planned; None if there was none.
    """

    sources: tuple[Source, ...]
    out: Path
    record: RunRecord
    formats: tuple[str, ...] = ()
    known_formats: tuple[str, ...] = ()
    overwrite: bool = False
    replaced: Written | None = None
    found: bytes | None = None

    @property
    def written(self) -> Written:
        """What this run and those that it goes on with write of each picture."""
        return Written(kinds=self.record.save, formats=self.known_formats)


def plan_run(
    sources: Sequence[Source],
    out: Path,
    *,
    record: RunRecord,
    formats: Sequence[str] = (),
    overwrite: bool = False,
) -> Plan:
    """Return what a run will do, after checking that it replaces nothing it should not.

    A folder with an equal record is gone on with. Its finished pictures are left as they are,
    unless their source has changed since: the label map holds a digest of the file's content.
    Times of files are not looked at, because copying changes them and editing may not.

    Args:
        sources: From `zegment.prediction.inputs.expand`.
        out: Folder for the results; nothing is written yet.
        record: What the results will be made with.
        formats: Names of `zegment.formats.FORMATS`, written when all pictures are done. They may
            differ from those of an earlier run.
        overwrite: Whether to begin anew: what an earlier run wrote is removed first, and other
            files are replaced where they are in the way.

    Raises:
        ConfigError: If a format is unknown, or cannot name a picture.
        ConfigError: If a package is missing that a format or a video needs.
        OutputError: If ``out`` is a file, or was made with something else.
        OutputError: If a file is in the way that is not a result of the run.
        OutputError: If two results would have one name.
    """
    _refuse_file(out)
    check_formats(formats, sources)
    if any(source.is_video for source in sources):
        pyav()
    plan = Plan(
        sources=tuple(sources),
        out=out,
        record=record,
        formats=tuple(dict.fromkeys(formats)),
        known_formats=tuple(sorted(set(formats))),
        overwrite=overwrite,
        found=record_content(out),
    )
    if overwrite:
        plan = replace(plan, replaced=_replaced(out))
        _refuse_foreign_folders(plan)
    elif (earlier := read_record(out)) is None:
        refuse_replacing(_results(plan))
    else:
        plan = _going_on(plan, earlier)
    _refuse_collisions(_claims(plan), out)
    return plan


def check_writable(out: Path) -> None:
    """Refuse a folder that cannot be written to, and leave everything as it was.

    Raises:
        OutputError: If ``out`` is a file, or cannot be made or written to.
    """
    _refuse_file(out)
    try_writing(out)


def _refuse_file(out: Path) -> None:
    with as_output_error(out):
        if out.exists() and not out.is_dir():
            raise OutputError(f"--out '{out}' is a file; give a folder")


def _going_on(plan: Plan, earlier: dict[str, Any]) -> Plan:
    """Return the plan with what is known of an earlier run, if both can share the folder."""
    known = earlier.pop("formats", [])
    if differences := plan.record.differences(earlier):
        raise OutputError(
            f"'{plan.out}' holds results made differently: {'; '.join(differences)}; give another "
            "--out, or --overwrite"
        )
    refuse_edited(_label_maps(plan))
    new = [name for name in plan.formats if name not in known]
    refuse_replacing(format_paths(plan.out, new, plan.sources))
    return replace(plan, known_formats=tuple(sorted({*plan.formats, *known})))


def _replaced(out: Path) -> Written | None:
    try:
        record = read_record(out)
    except OutputError:  # not ours, or damaged: it does not say what there is to remove
        return None
    return None if record is None else Written.of(record)


def _refuse_foreign_folders(plan: Plan) -> None:
    """Refuse to remove or replace a format's folder that holds what no run wrote."""
    ours = plan.replaced.formats if plan.replaced else ()
    for name in {*ours, *plan.formats}:
        for path in format_paths(plan.out, [name], plan.sources):
            if name in ours:
                check_own(path)
            elif path.is_dir() and any(path.iterdir()):
                raise OutputError(
                    f"'{path}' is a folder that no run.json speaks of; move it, or give another "
                    "--out"
                )


def _label_maps(plan: Plan) -> Iterator[Path]:
    for source in plan.sources:
        if source.is_video:
            yield from sorted((plan.out / source.stem).glob("frame_*.labels.png"))
        else:
            yield result_path(plan.out, source.stem, "labels")


def _results(plan: Plan) -> Iterator[Path]:
    """Yield every path that the run may write."""
    yield from (plan.out / LEGEND, plan.out / FAILED)
    for source in plan.sources:
        if source.is_video:
            yield from (overlay_path(plan.out, source), plan.out / source.stem / NOTE)
            yield from sorted((plan.out / source.stem).glob("frame_*"))
        else:
            yield from (result_path(plan.out, source.stem, kind) for kind in plan.record.save)
    yield from format_paths(plan.out, plan.formats, plan.sources)


def _claims(plan: Plan) -> Iterator[tuple[Path, str]]:
    """Yield every file and folder that has one owner, and who that is."""
    yield from ((plan.out / name, "the run itself") for name in (RECORD, LEGEND, FAILED))
    for name in plan.known_formats:
        for path in format_paths(plan.out, [name], plan.sources):
            yield path, f"the format {name}"
    for source in plan.sources:
        if source.is_video:
            folder = plan.out / source.stem
            yield from ((path, source.name) for path in (folder, overlay_path(plan.out, source)))
        else:
            for kind in plan.record.save:
                yield result_path(plan.out, source.stem, kind), source.name


def _refuse_collisions(claims: Iterable[tuple[Path, str]], out: Path) -> None:
    """Refuse results that would replace one another, or lie in a folder that another fills.

    Case is ignored, for some file systems do so.
    """
    owners: dict[str, str] = {}
    written: dict[str, str] = {}
    below = [(path.relative_to(out).as_posix(), owner) for path, owner in claims]
    for path, owner in below:
        if (key := path.casefold()) in owners:
            if path != written[key]:
                raise _differing_in_case((path, owner), (written[key], owners[key]))
            raise _collision(out / path, owner, owners[key])
        owners[key], written[key] = owner, path
    for path, owner in below:
        parts = path.casefold().split("/")
        for depth in range(1, len(parts)):
            if (key := "/".join(parts[:depth])) in owners:
                raise _collision(out / Path(*Path(path).parts[:depth]), owner, owners[key])


def _collision(path: Path, owner: str, other: str) -> OutputError:
    return OutputError(
        f"{os.fspath(path)!r} would be written for {owner} and for {other}; rename the picture or "
        "folder that it is called after, or leave out the format"
    )


def _differing_in_case(one: tuple[str, str], other: tuple[str, str]) -> OutputError:
    return OutputError(
        f"{one[0]!r}, for {one[1]}, and {other[0]!r}, for {other[1]}, differ in capitals alone, "
        "and many disks take them for one file; rename a picture"
    )
