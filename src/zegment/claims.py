"""A folder claimed by one process, so that two never write one run or one set of results at once.

The claim is a lock of the operating system on the folder itself. Nothing is written for it, and it
ends with the process, however that ends: a folder is never claimed by somebody who is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zegment.errors import OutputError
from zegment.files import as_output_error, whole_path
from zegment.leftovers import remove_leftovers
from zegment.locks import locked_folder


@contextmanager
def claimed(folder: str | Path, *, purpose: str) -> Iterator[None]:
    """Keep other processes from claiming a folder while the block runs.

    What killed processes left half-written directly in the folder is removed, before and after.

    Args:
        folder: Made if missing, with its parents; one that was made here and is still empty
            afterwards is removed again. A link is followed.
        purpose: What the folder is claimed for, as a verb, such as ``"train"``.

    Raises:
        OutputError: If the folder is claimed already, by another process or by this one.
        OutputError: If the folder cannot be made, or is a file.

    Note:
        Windows and some network file systems (NFS among them) cannot lock a folder. There the
        block runs without a claim. What it writes is still whole, for every file and folder is
        renamed into place, but two runs could mix their files.
    """
    with as_output_error(folder):
        place = whole_path(folder)
        made = not place.exists()
        place.mkdir(parents=True, exist_ok=True)
    with locked_folder(place) as ours:
        if ours is False:
            raise OutputError(
                f"cannot {purpose} into '{folder}': another process is writing there; wait until "
                "it ends, or give another folder"
            )
        remove_leftovers(place)
        try:
            yield
        finally:
            remove_leftovers(place)
            if made:
                with suppress(OSError):  # something is in it
                    place.rmdir()  # while it is locked, so that nobody claims what is going
