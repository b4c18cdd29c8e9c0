"""What a user can get wrong, as exceptions that say how to put it right.

Every class derives from `ZegmentError`, which the command line turns into one line and exit
status 2, and from the built-in that a Python caller would catch.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ZegmentError(Exception):
    """A mistake in the input, named together with its remedy."""


class ConfigError(ZegmentError, ValueError):
    """A configuration file, preset or option is wrong."""


class VocabularyError(ZegmentError, ValueError):
    """A list of class names cannot be used."""


class ImageError(ZegmentError, ValueError):
    """An image file or array cannot be read as a picture."""


class DatasetError(ZegmentError, ValueError):
    """Images, masks and class names do not fit together."""


class DatasetNotFoundError(ZegmentError, FileNotFoundError):
    """A folder or file of a data set does not exist."""


class ModelNotFoundError(ZegmentError, FileNotFoundError):
    """No CLIP, checkpoint or asset answers to the given name."""


class UnsupportedModelError(ZegmentError, ValueError):
    """A CLIP exists, but its image tower is not one that Zegment can prompt."""


class CheckpointError(ZegmentError, ValueError):
    """A checkpoint is damaged, incomplete, or belongs to another model."""


class OutputError(ZegmentError, OSError):
    """A result cannot be written, or would overwrite an earlier one."""


class LeakError(ZegmentError, RuntimeError):
    """Something of an unseen class was about to reach an inductive loss."""


class NotFiniteError(ZegmentError, ArithmeticError):
    """A model computed infinities, or what is no number."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``'; did you mean "..."?'`` with the most similar known word, or nothing."""
    match = get_close_matches(word, list(known), n=1)
    return f'; did you mean "{match[0]}"?' if match else ""
