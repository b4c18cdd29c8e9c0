"""Shards: the pieces of a run that are finished or not, and the same in every run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Self

from zegment.wording import readable

#: Endings of the archives that are read.
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz")

#: Bytes of a file's name, without ``.labels.png``, that every file system takes; and of the names
#: of its folders together.
_LONGEST = 240
_DEEPEST = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one argument of a command stands for: pictures below a root, or one archive.

    Attributes:
        root: What the names follow, a path or address with its last slash; or the archive's.
        names: Of the pictures; none of an archive, whose pictures are known when it is read.
        sizes: Bytes of each picture, or of the archive; 0 where it was not asked for.
    """

    root: str
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Pictures that one process segments into one file.

    Attributes:
        number: Its place in the run, from 0.
        root: See `Found`.
        names: See `Found`.
        sizes: See `Found`.
    """

    number: int
    root: str
    names: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (0,)

    @property
    def is_archive(self) -> bool:
        """Whether the pictures are the members of the tar archive ``root``."""
        return not self.names

    @property
    def file_name(self) -> str:
        """Name of its table."""
        return f"part-{self.number:05d}.parquet"

    @property
    def digest(self) -> str:
        """SHA-256 of what it is made from: names and sizes, so that no picture has to be read."""
        content = [self.root, self.names, self.sizes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the shard as text, in ASCII whatever its names are."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the shard that `to_json` wrote."""
        fields = json.loads(text)
        for name in ("names", "sizes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def cut(found: Sequence[Found], size: int) -> list[Shard]:
    """Return the shards of a run, in the order of what was found.

    Args:
        found: From `zegment.large_scale.listing.find`.
        size: Most pictures of a shard; an archive is one shard, however many it holds.
    """
    shards: list[Shard] = []
    for group in found:
        for start in range(0, max(1, len(group.names)), size):
            names = group.names[start : start + size]
            sizes = group.sizes[start : start + size]
            shards.append(Shard(number=len(shards), root=group.root, names=names, sizes=sizes))
    return shards


def digest_of_names(shards: Sequence[Shard]) -> str:
    """Return a short digest of what the shards hold by name, whatever became of the content."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(json.dumps([shard.root, shard.names]).encode())
    return digest.hexdigest()[:16]


def stem_of(shard: Shard, name: str) -> str:
    """Return what the label map of a picture is called, below the folder of label maps.

    Args:
        shard: That the picture belongs to.
        name: One of the shard's names, or of the archive's members; it never leads out of the
            folder.
    """
    *folders, last = _parts(name) or [""]
    whole = "/".join(folders)
    if len(whole.encode()) > _DEEPEST:
        folders = [_shortened(whole.replace("/", "_"))]
    archive = _parts(_without_suffix(PurePosixPath(shard.root).name)) if shard.is_archive else []
    return str(PurePosixPath(*map(_shortened, [*archive, *folders, last])))


def _without_suffix(archive: str) -> str:
    """Return an archive's name without its ending alone, for ``day.1.tar`` is not ``day.2.tar``."""
    endings = (end for end in ARCHIVE_SUFFIXES if archive.lower().endswith(end))
    return archive[: -len(max(endings, key=len, default="")) or None] or archive


def _shortened(part: str) -> str:
    """Return a part of a path, or its beginning and a digest of the whole if it is too long."""
    if len(whole := part.encode()) <= _LONGEST:
        return part
    short = hashlib.blake2s(whole, digest_size=6).hexdigest()
    return f"{whole[: _LONGEST - 13].decode(errors='ignore')}-{short}"


def _parts(name: str) -> list[str]:
    """Return the parts of a path or address, without those that would lead elsewhere."""
    below = name.partition("://")[2] or name
    text = readable(below).replace("\0", "_")
    return [part for part in text.split("/") if part not in ("", ".", "..")]
