"""What a run will write where, settled before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zegment.errors import OutputError
from zegment.prediction.exchange import check_formats, format_paths
from zegment.prediction.files import refuse_edited, refuse_replacing, result_path
from zegment.prediction.frames import NOTE, overlay_path
from zegment.prediction.inputs import Source
from zegment.prediction.record import RECORD, RunRecord, read_record
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
    """

    sources: tuple[Source, ...]
    out: Path
    record: RunRecord
    formats: tuple[str, ...] = ()
    known_formats: tuple[str, ...] = ()
    overwrite: bool = False


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
        overwrite: Whether results of whatever origin may be replaced; none is removed.

    Raises:
        ConfigError: If a format is unknown.
        ConfigError: If a package is missing that a format or a video needs.
        OutputError: If ``out`` is a file, or was made with something else.
        OutputError: If a file is in the way that is not a result of the run.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"--out '{out}' is a file; give a folder")
    check_formats(formats, sources)
    if any(source.is_video for source in sources):
        pyav()
    pictures = tuple(source for source in sources if not _is_result(source, out))
    plan = Plan(
        sources=pictures,
        out=out,
        record=record,
        formats=tuple(dict.fromkeys(formats)),
        known_formats=tuple(sorted(set(formats))),
        overwrite=overwrite,
    )
    if overwrite:
        return plan
    earlier = read_record(out)
    if earlier is None:
        refuse_replacing(_results(plan))
        return plan
    known = earlier.pop("formats", [])
    if differences := record.differences(earlier):
        raise OutputError(
            f"'{out}' holds results made differently: {'; '.join(differences)}; give another "
            "--out, or --overwrite"
        )
    refuse_edited(result_path(out, source.stem, "labels") for source in pictures)
    refuse_replacing(format_paths(out, [f for f in plan.formats if f not in known], pictures))
    return replace(plan, known_formats=tuple(sorted({*plan.formats, *known})))


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


def _is_result(source: Source, out: Path) -> bool:
    """Return whether a source is what an earlier run wrote, as when ``out`` is the folder given."""
    if isinstance(source.content, bytes) or not (out / RECORD).exists():
        return False
    inside = out.resolve() in source.content.resolve().parents
    endings = (".labels.png", ".overlay.png", ".confidence.png", ".entropy.png", ".overlay.mp4")
    folder = source.content.parent.name
    return inside and (source.content.name.endswith(endings) or folder.endswith(".masks"))
