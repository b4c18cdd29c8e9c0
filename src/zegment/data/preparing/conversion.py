"""What conversions share: lists of names, index pictures, and writing what is missing.

H W pixels.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zegment.data.preparing.report import Report
from zegment.errors import DatasetError, DatasetNotFoundError
from zegment.files import atomic_write_bytes, atomic_write_text
from zegment.optional import optional

JobT = TypeVar("JobT")

#: What every PNG file ends with.
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"

_REWRITE = "move it away and prepare again, which writes it anew"

#: What reading a damaged .mat file raises, besides the reader's own exception.
_MAT_ERRORS = (ValueError, TypeError, KeyError, IndexError, OSError, EOFError, zlib.error,
               NotImplementedError)  # fmt: skip


def read_names(path: Path, *, remedy: str) -> list[str]:
    """Return the image names of a list file, one a line.

    Raises:
        DatasetNotFoundError: If there is none.
        DatasetError: If it is empty or no text.
    """
    try:
        names = path.read_text("utf-8-sig").split()
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"no list {path}; {remedy}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"cannot read {path} ({error}); {remedy}") from error
    if not names:
        raise DatasetError(f"{path} lists no image; {remedy}")
    return names


def demand_files(names: Sequence[str], folder: Path, suffix: str, *, origin: str) -> None:
    """Compare a list with a folder.

    Args:
        names: What must be there.
        folder: Where.
        suffix: What follows a name.
        origin: Where the names come from, and what to do if a file is missing.

    Raises:
        DatasetNotFoundError: If files are missing; names the first.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    missing = [name for name in names if f"{name}{suffix}" not in there]
    if missing:
        raise DatasetNotFoundError(
            f"{len(missing)} of {len(names)} files are missing, first "
            f"{folder / (missing[0] + suffix)}: {origin}"
        )


def write_list(path: Path, names: Sequence[str]) -> None:
    """Write a list of images, unless somebody has made one, of all of them or of some.

    Raises:
        DatasetError: If one is there that is empty or lists other images.
    """
    if not path.is_file():
        atomic_write_text(path, "\n".join(names) + "\n")
        return
    other = sorted(set(read_names(path, remedy=_REWRITE)) - set(names))
    if other:
        raise DatasetError(
            f'{path} lists {len(other)} images that are none of this split, first "{other[0]}"; '
            f"{_REWRITE}"
        )


def is_whole(path: Path) -> bool:
    """Return whether a PNG file is there with its end."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def write_masks(
    jobs: Mapping[Path, Path],
    convert: Callable[[Path], bytes],
    *,
    what: str,
    report: Report,
) -> None:
    """Write the masks that are missing or cut off, several at a time.

    Args:
        jobs: The source of every mask, by where it goes.
        convert: Returns the PNG file that a source becomes.
        what: What is done, for people.
        report: Told of each file.
    """
    todo = [(target, source) for target, source in jobs.items() if not is_whole(target)]
    do_all(todo, lambda job: atomic_write_bytes(job[0], convert(job[1])), what=what, report=report)


def do_all(
    jobs: Sequence[JobT], work: Callable[[JobT], object], *, what: str, report: Report
) -> None:
    """Do every job, several at a time; the first error ends it.

    Args:
        jobs: Any.
        work: Does one.
        what: What is done, for people.
        report: Told of each job.
    """
    report.start(what, len(jobs))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for _ in pool.map(work, jobs):
            report.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def png(mask: NDArray[np.integer], colours: Iterable[Sequence[int]] = ()) -> bytes:
    """Return a mask as a PNG file whose values are the labels.

    Args:
        mask: (H, W), 0 to 65535; of more than 255 values two bytes are kept for each pixel.
        colours: What the first values are shown as; none makes a grey picture.
    """
    wide = mask.dtype.itemsize > 1
    picture = Image.fromarray(mask.astype(np.uint16 if wide else np.uint8))
    shown = [channel for colour in colours for channel in colour]
    if shown:
        # The palette goes to 255, which stands for no label and is shown as VOC does.
        picture.putpalette([*shown, *[0] * (765 - len(shown)), 224, 224, 192])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def read_mat(path: Path, variable: str, *, remedy: str) -> Any:  # noqa: ANN401 - Matlab has no types
    """Return a variable of a Matlab file.

    Raises:
        ConfigError: If SciPy is not installed.
        DatasetError: If the file is damaged or has no such variable.
    """
    scipy_io = optional("scipy.io", extra="data", purpose="reading masks in Matlab files")
    try:
        return scipy_io.loadmat(path, variable_names=[variable])[variable]
    except FileNotFoundError as error:
        raise DatasetNotFoundError(f"no file {path}; {remedy}") from error
    except (*_MAT_ERRORS, scipy_io.matlab.MatReadError) as error:
        raise DatasetError(
            f"{path} is damaged or of another data set: cannot read {variable} "
            f"({type(error).__name__}: {error}); {remedy}"
        ) from error


def as_mask(values: Any, path: Path, *, largest: int, remedy: str) -> NDArray[np.uint16]:  # noqa: ANN401
    """Return a label map (H, W) after comparing its values with those of the data set.

    Raises:
        DatasetError: If it is no map, or has a value above ``largest``.
    """
    mask = np.asarray(values)
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "uif":
        raise DatasetError(f"{path} holds no label map, but {mask.dtype} {mask.shape}; {remedy}")
    if mask.min() < 0 or mask.max() > largest:
        raise DatasetError(
            f"{path} has values from {mask.min()} to {mask.max()}, expected 0 to {largest}; it is "
            f"of another release: {remedy}"
        )
    return mask.astype(np.uint16)
