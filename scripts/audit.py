"""Looks the installed packages up among PyPI's known vulnerabilities; fails on one not accepted.

    python scripts/audit.py SITE_PACKAGES [--direct]

Needs pip-audit, which asks pypi.org. The exit status is 0 if nothing is known, 1 if something is,
and 2 if that cannot be told, because there was no answer or a mirror of PyPI knows nothing of
vulnerabilities. What to make of 2 is for the caller; it never looks like 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities by any of their names, and why they may stay."""

TRIES = 3

OWN = "zegment"
"""Need not be known to PyPI."""


def direct_dependencies(project: Path) -> set[str]:
    """Return the normalised names that a ``pyproject.toml`` asks for, extras included."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    wanted = chain(table["dependencies"], *table["optional-dependencies"].values())
    names = (re.match(r"[\w.-]+", line) for line in wanted)
    return {_normal(name.group()) for name in names if name} - {_normal(table["name"])}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def ask(site_packages: str) -> list[dict[str, Any]]:
    """Return pip-audit's row for each package in a folder.

    Raises:
        ConnectionError: If it has no answer.
    """
    command = ["pip_audit", "--path", site_packages, "--format", "json", "--progress-spinner=off"]
    reason = ""
    for attempt in range(TRIES):
        time.sleep(5 * attempt)
        run = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", *command], capture_output=True, text=True, check=False
        )
        try:
            rows: list[dict[str, Any]] = json.loads(run.stdout)["dependencies"]
        except (ValueError, KeyError):
            reason = (run.stderr.strip().splitlines() or ["no output"])[-1]
        else:
            return rows
    raise ConnectionError(reason)


def problems(rows: Iterable[dict[str, Any]], accepted: dict[str, str]) -> list[str]:
    """Return a line for each vulnerability that is not accepted."""
    lines = []
    for row in rows:
        for found in row.get("vulns", ()):
            names = {found["id"], *found.get("aliases", ())}
            if not names & accepted.keys():
                fixed = ", ".join(found.get("fix_versions") or ["no release"])
                lines.append(
                    f"{row['name']} {row['version']}: {', '.join(sorted(names))}; fixed in {fixed}"
                )
    return lines


def main() -> int:
    """Check one environment; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site_packages", help="Folder with the packages.")
    parser.add_argument(
        "--direct", action="store_true", help="Only what pyproject.toml itself asks for."
    )
    arguments = parser.parse_args()
    try:
        rows = ask(arguments.site_packages)
    except ConnectionError as error:
        return _not_audited(f"pip-audit had no answer ({error})")
    if arguments.direct:
        wanted = direct_dependencies(Path(__file__).parent.parent / "pyproject.toml")
        rows = [row for row in rows if _normal(row["name"]) in wanted]
    found = problems(rows, ACCEPTED)
    # Builds of a version with a label of their own, such as 2.10.0+cpu, have no page at PyPI.
    skipped = [row for row in rows if "skip_reason" in row]
    unknown = [row["name"] for row in skipped if "+" not in row["skip_reason"]]
    sys.stdout.writelines(f"{line}\n" for line in found)
    for name, reason in ACCEPTED.items():
        sys.stdout.write(f"accepted: {name}: {reason}\n")
    for row in skipped:
        if row["name"] not in unknown:
            sys.stdout.write(f"not looked up: {row['skip_reason']}\n")
    sys.stdout.write(f"{len(rows) - len(skipped)} packages, {len(found)} problems\n")
    if found:
        return 1
    if unknown := [name for name in unknown if _normal(name) != OWN]:
        return _not_audited(f"PyPI's service knows nothing of {_some(unknown)}")
    return 0


def _not_audited(reason: str) -> int:
    sys.stdout.write(
        f"NOT AUDITED: {reason}. What was not looked up is not known to be safe; run this where "
        "pypi.org itself answers\n"
    )
    return 2


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


if __name__ == "__main__":
    sys.exit(main())
