"""Files that grow image by image, are whole or not there, and have the same bytes every time."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image

from zegment.files import as_output_error

_COPIED_AT_ONCE = 1 << 20


def write_inside(path: Path, data: bytes) -> None:
    """Write a file of a folder that becomes visible only as a whole; missing folders are made.

    Raises:
        OutputError: If the place cannot be written to.
    """
    with as_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class JsonRows:
    """A JSON list of any length that is written row by row.

    Args:
        stream: Where the list goes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._empty = True
        stream.write(b"[")

    def add(self, row: Any) -> None:  # noqa: ANN401 - any JSON value
        """Append one value, on a line of its own."""
        self._stream.write(b"\n" if self._empty else b",\n")
        self._stream.write(as_json(row))
        self._empty = False

    def close(self) -> None:
        """End the list; the stream stays open."""
        self._stream.write(b"]" if self._empty else b"\n]")


@contextmanager
def spool() -> Iterator[IO[bytes]]:
    """Yield a temporary file for what belongs further down in a file that is being written."""
    with tempfile.TemporaryFile() as stream:
        yield stream


def append(target: IO[bytes], source: IO[bytes]) -> None:
    """Copy the whole of ``source`` to the end of ``target``."""
    source.seek(0)
    shutil.copyfileobj(source, target, _COPIED_AT_ONCE)


def as_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Return a value as one line of JSON with sorted keys, UTF-8."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def add_to_archive(archive: zipfile.ZipFile, name: str, chunks: Iterable[bytes]) -> None:
    """Add a member to a ZIP archive, dated 1980 so that equal content makes equal bytes."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    with archive.open(member, "w", force_zip64=True) as stream:
        for chunk in chunks:
            stream.write(chunk)


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    stream = BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()
