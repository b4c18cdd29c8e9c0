"""What is said of a run that ended before its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zegment.errors import NotFiniteError, ZegmentError


def advice(
    step: int, reason: NotFiniteError, images: Sequence[str], allowed: int, out: Path
) -> str:
    """Return what to do about numbers that went bad.

    Args:
        step: That was not taken, counted from 1.
        reason: Which numbers.
        images: Of that step.
        allowed: How many steps in a row the run was allowed to leave out, and has left out.
        out: Its folder.
    """
    what = (
        f"The {allowed} before it were left out already, so leaving out more is of no help: train "
        "anew with a lower learning rate, or without such images"
        if allowed
        else "Look at these images and at the learning rate, train anew, or leave such steps out: "
        f"zegment train --resume {out} --set optim.skip_nonfinite=3"
    )
    return (
        f"step {step}: {reason}; images: {', '.join(images)}. The run is saved as it was before "
        f"this step. {what}"
    )


def told(error: ZegmentError) -> str:
    """Return what an error says, without the trace that a process which loads data adds to it."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text
