"""The ways by which a stranger's file gets into the product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from zegment.cli import app
from zegment.errors import ZegmentError
from zegment.images import read_image
from zegment.prediction.inputs import Source


def by_path(task: tuple[str, str, Any, int]) -> tuple[str, str, Any]:
    """Read a picture as `Segmenter.predict` does."""
    path, *known = task
    return judged(lambda: read_image(path), path, *known)


def by_bytes(task: tuple[str, str, Any, int]) -> tuple[str, str, Any]:
    """Read a picture as ``zegment predict`` does."""
    path, *known = task
    source = Source(content=Path(path), stem="x")
    return judged(lambda: source.decode(source.read_bytes()), path, *known)


def judged(read, path, verdict, expected, tolerance) -> tuple[str, str, Any]:
    """Return (outcome, message, nothing) of reading a file."""
    try:
        pixels = read()
    except ZegmentError as error:
        message = str(error)
        if Path(path).name not in message or not ({";", ":"} & set(message)):
            return "wrong", f"names no file or remedy: {message}", None
        return ("wrong" if verdict == "right" else "refused"), message, None
    problem = _what_is_wrong(pixels, verdict, expected, tolerance)
    return ("wrong" if problem else "right"), problem, None


def _what_is_wrong(pixels, verdict, expected, tolerance) -> str:
    """Return what is wrong with a picture that was read; nothing if it is right."""
    if verdict == "refused":
        return f"was read: {pixels.shape}"
    flags = pixels.flags
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        return f"is no RGB: {pixels.shape} of {pixels.dtype}"
    if not (flags["C_CONTIGUOUS"] and flags["WRITEABLE"]):
        return "is not the caller's own"
    if expected is None:
        return ""
    if expected.shape != pixels.shape:
        return f"is {pixels.shape}, not {expected.shape}"
    off = np.abs(pixels.astype(np.int16) - expected).max(initial=0)
    return f"differs by {off}" if off > tolerance else ""


def by_command(task: tuple[str, str, dict[str, str]]) -> tuple[str, str, Any]:
    """Run ``zegment predict`` on a folder of files, whose verdicts are given by name.

    Returns:
        Outcome, what is wrong, and the number of pictures that were segmented and refused.
    """
    folder, out, verdicts = task
    given = [str(Path(folder, name)) for name in verdicts]
    options = ["--out", out, "--model", "shapes-clip-zss", "--classes", "circle,square"]
    result = CliRunner().invoke(app, ["predict", *options, "--", *given])
    if not isinstance(result.exception, SystemExit | None) or result.exit_code not in (0, 1):
        return "wrong", f"{result.exit_code} {result.exception!r} {result.output[-500:]}", None
    failed = Path(out, "failed.json")
    rows = json.loads(failed.read_text("utf-8")) if failed.exists() else []
    refused = {Path(row["source"]).name for row in rows}
    # Two files may have one stem, and then keep their suffixes.
    done = len(list(Path(out).glob("*.labels.png")))
    problems = [f"Traceback in {result.output[-300:]}"] if "Traceback" in result.output else []
    for name, verdict in verdicts.items():
        if verdict == ("right" if name in refused else "refused"):
            problems.append(f"{name} was {'refused' if name in refused else 'segmented'}")
    problems += [f"{row['source']} has no reason" for row in rows if ";" not in row["reason"]]
    if done + len(rows) != len(verdicts):
        problems.append(f"{done} done and {len(rows)} refused of {len(verdicts)}")
    return ("wrong" if problems else "right"), "; ".join(problems[:5]), (done, len(rows))
