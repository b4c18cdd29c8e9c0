"""What the page accepts from strangers: pictures, words and backgrounds within limits.

Whatever was typed or uploaded is data here: typed words never name a file, and no message of an
error names a place on the server.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from zegment.background import HelperClasses, NoBackground, Threshold
from zegment.errors import ConfigError, ImageError, VocabularyError
from zegment.images import open_image, read_image
from zegment.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zegment.background import Background

MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one visitor, and all visitors together, may ask for.

    Attributes:
        max_pixels: Of one picture.
        max_side: Pixels of its longer side; the model looks at a strip piece by piece.
        max_upload_bytes: Of one uploaded file.
        max_words: Class names in one request.
        max_word_length: Characters of one class name.
        max_waiting: Requests in the queue; the next one is turned away.
        max_kept_bytes: Memory of finished results; beyond it the oldest go.
        max_stored_bytes: Disk space of uploads and downloads; beyond it the oldest go.
        max_stored_files: Number of those files; beyond it the oldest go.
        keep_seconds: Age at which a stored file is deleted.
        upload_seconds: Time within which the body of a request must have arrived.

    Raises:
        ConfigError: If a limit is below 1.
    """

    max_pixels: int = 16_000_000
    max_side: int = 65_535
    max_upload_bytes: int = 20 * MIB
    max_words: int = 200
    max_word_length: int = 100
    max_waiting: int = 16
    max_kept_bytes: int = 1024 * MIB
    max_stored_bytes: int = 1024 * MIB
    max_stored_files: int = 5000
    keep_seconds: float = 3600
    upload_seconds: float = 120

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 1:
                raise ConfigError(f"{field.name} is {value}; expected a number of at least 1")


def mebibytes(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{round(count / MIB, 2):g} MiB" if count >= MIB / 100 else f"{count} bytes"


def read_upload(path: Path, limits: Limits) -> NDArray[np.uint8]:
    """Return an uploaded picture.

    Args:
        path: The stored file; its contents decide what it is, not its name.
        limits: Which sizes are accepted.

    Returns:
        RGB, uint8 (H, W, 3).

    Raises:
        ImageError: If the file has too many bytes or pixels, is no picture, or is damaged.
    """
    if not path.is_file():
        raise ImageError("the picture is no longer here; upload it again")
    if path.stat().st_size > limits.max_upload_bytes:
        raise ImageError(
            f"the picture has more than {mebibytes(limits.max_upload_bytes)}; make it smaller"
        )
    try:
        return _read(path, limits)
    except ImageError as error:
        # What is said to the owner of a machine about a huge picture is no advice for its guests.
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ImageError(
                "the picture has far too many pixels; at most "
                f"{limits.max_pixels} are accepted; make it smaller"
            ) from None
        raise


def _read(path: Path, limits: Limits) -> NDArray[np.uint8]:
    with open_image(path.read_bytes(), name="the picture") as picture:
        width, height = picture.size
        if width * height > limits.max_pixels:
            raise ImageError(
                f"the picture has {width} x {height} = {width * height} pixels; at most "
                f"{limits.max_pixels} are accepted; make it smaller"
            )
        if max(width, height) > limits.max_side:
            raise ImageError(
                f"the picture has {width} x {height} pixels; at most {limits.max_side} on a side "
                "are accepted; cut it into parts"
            )
        return read_image(picture)


def parse_words(text: str, limits: Limits, *, field: str = "the words") -> Vocabulary | None:
    """Return the vocabulary of words as typed; no text means the model's own.

    Args:
        text: Classes between commas or on lines of their own, names of one class between bars.
        limits: How many and how long names may be.
        field: What errors call the text.

    Raises:
        VocabularyError: If there are too many names, or one is too long, empty or repeated.
    """
    # Before anything is split, so that a megabyte of commas costs nothing.
    if len(text) > limits.max_words * (limits.max_word_length + 2):
        raise VocabularyError(
            f"{field} have {len(text)} characters; give at most {limits.max_words} words of at "
            f"most {limits.max_word_length} characters"
        )
    text = re.sub(r"\s*,?\s*[\r\n]\s*", ",", text.strip(", \t\r\n"))
    if not text:
        return None
    names = [name.strip() for name in re.split(r"[,|]", text)]
    if len(names) > limits.max_words:
        raise VocabularyError(
            f"{field} are {len(names)} words; at most {limits.max_words} are accepted"
        )
    for name in names:
        if len(name) > limits.max_word_length:
            raise VocabularyError(
                f"one of {field} has {len(name)} characters, {name[:20]!r}…; at most "
                f"{limits.max_word_length} are accepted"
            )
    return Vocabulary.parse(text)


def parse_policy(text: str, limits: Limits) -> Background:
    """Return the background policy of ``none``, ``threshold:0.5`` or ``helpers:wall, sky``.

    Args:
        text: As typed; ``helpers`` alone takes the usual ones. Nothing else, no file name above
            all, is understood.
        limits: How many and how long helper classes may be.

    Raises:
        ConfigError: If the text is another one, or the threshold is no number in [0, 1].
        VocabularyError: If a helper class is empty, repeated or too long.
    """
    kind, _, value = text.strip().partition(":")
    if kind in ("", "none") and not value:
        return NoBackground()
    if kind == "threshold":
        return Threshold(score=_score(value))
    if kind == "helpers":
        helpers = parse_words(value, limits, field="the other things of the background")
        return HelperClasses() if helpers is None else HelperClasses(names=helpers.class_names)
    raise ConfigError(
        f"the background is {text[:40]!r}; expected none, threshold:0.5 or helpers:wall, sky"
    )


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:  # false for NaN, too
        raise ConfigError(f"the threshold is {text[:20]!r}; expected a number from 0 to 1")
    return score
