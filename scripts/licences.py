"""Lists the licences of everything that an installation brings, and refuses what none may bring.

    python scripts/licences.py                              # checks this environment
    python scripts/licences.py --write docs/licences.md     # and writes the list

Zegment is distributed under Apache-2.0 and alone: its wheel holds no dependency. Still, whoever
ships a program with it ships the others too, so the base installation and every extra must be free
of obligations that reach into that program. What only its tests need may be anything free.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = "zegment"

PERMISSIVE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "CNRI-Python", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "NCSA",
    "PSF-2.0", "Python-2.0", "TCL", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip
"""Ask for their text to be kept, and no more."""

BY_FILE = {"MPL-2.0", "GPL-3.0-or-later WITH GCC-exception-3.1"}
"""Reach no further than their own files, or except programs that use them."""

NVIDIA = "LicenseRef-NVIDIA-Proprietary"
"""CUDA, which PyTorch's packages for NVIDIA ask for and those for processors do not."""

PROPRIETARY = "LicenseRef-Proprietary"
"""What some of CUDA's packages say instead; of anybody else it is accepted nowhere."""

STRONG = {"GPL-2.0-or-later", "GPL-3.0-or-later", "GPL-3.0-only", "GPL-2.0-only"}
"""Free, and accepted for tests alone."""

SPOKEN = {
    "3-clause bsd license": "BSD-3-Clause", "apache": "Apache-2.0", "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0", "apache-2": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0", "apache software license": "Apache-2.0",
    "bsd": "BSD", "bsd 3-clause license": "BSD-3-Clause", "bsd license": "BSD",
    "freebsd": "BSD-2-Clause", "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "isc license": "ISC", "isc license (iscl)": "ISC", "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0", "new bsd": "BSD-3-Clause",
    "nvidia proprietary software": NVIDIA, "other/proprietary license": PROPRIETARY,
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0", "the unlicense (unlicense)": "Unlicense",
}  # fmt: skip
"""What metadata says in words, and its identifier."""

READ = {
    "cuda-toolkit": (NVIDIA, "names packages of CUDA and holds nothing"),
    "label-studio-sdk": ("Apache-2.0", "its LICENSE file"),
    "kiwisolver": ("BSD-3-Clause", "its licence text"),
    "datumaro": ("MIT", "its LICENSE file"),
    "json-stream-rs-tokenizer": ("MIT", "its LICENSE file"),
}
"""Packages whose metadata say nothing that can be looked up: the licence, and who read it where."""

COPYLEFT_LIBRARIES = {"libx264": "GPL-2.0-or-later", "libx265": "GPL-2.0-or-later"}
"""Libraries that wheels bring in ``*.libs``, under another licence than the package's own."""

BUNDLED = {
    "av": "its wheels bring FFmpeg with x264 and x265, which are under the GPL. Zegment only "
    "decodes; who passes on an installation with this extra passes those on too, under their "
    "terms, or builds PyAV with an FFmpeg of their own",
    "opencv-python-headless": "its wheels bring FFmpeg under the LGPL",
    "rasterio": "its wheels bring GEOS under the LGPL",
    "shapely": "its wheels bring GEOS under the LGPL",
    "numpy": "its wheels bring GCC's libgfortran, whose GPL excepts programs that use it",
    "scipy": "its wheels bring GCC's libgfortran, whose GPL excepts programs that use it",
    "scikit-learn": "its wheels bring GCC's libgomp, whose GPL excepts programs that use it",
}
"""What is known of such libraries. One in `COPYLEFT_LIBRARIES` must be accounted for here."""


@dataclass(frozen=True, slots=True)
class Package:
    """One installed distribution.

    Attributes:
        name: Normalised.
        licence: An SPDX expression, or the words of its metadata if they are unknown.
        libraries: Licences of bundled libraries that are stricter than its own.
    """

    name: str
    licence: str
    libraries: frozenset[str] = frozenset()


def extras(root: str = ROOT) -> list[str]:
    """Return the extras of a distribution, but for those that only bundle others."""
    names = distribution(root).metadata.get_all("Provides-Extra") or []
    return [name for name in names if name not in {"all", "dev"}]


def closure(root: str, extra: str = "") -> set[str]:
    """Return the distributions that an installation of ``root[extra]`` brings here."""
    found: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(root), "")] + (
        [(canonicalize_name(root), extra)] if extra else []
    )
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:  # needed on another platform or Python only, or not installed
            continue
        found.add((name, wanted))
        for requirement in map(Requirement, requires):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, part) for part in ("", *requirement.extras)]
    return {name for name, _ in found}


def package(name: str) -> Package:
    """Return a distribution with its licence."""
    dist = distribution(name)
    return Package(str(canonicalize_name(name)), licence(dist), frozenset(_libraries(dist)))


def licence(dist: Distribution) -> str:
    """Return the licence of a distribution as its metadata have it, in SPDX's words if known."""
    metadata = dist.metadata
    if expression := metadata.get_all("License-Expression"):
        return str(expression[0])
    if (read := READ.get(canonicalize_name(metadata["Name"]))) is not None:
        return read[0]
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License :: ") and not line.endswith(":: OSI Approved")
    ]
    first = (metadata.get_all("License") or [""])[0].strip().partition("\n")[0].strip()
    # One line of words is more exact than "BSD License"; a whole text begins with a name at most.
    if first and (first in PERMISSIVE | BY_FILE or first.lower() in SPOKEN or not classifiers):
        classifiers = [first]
    return " AND ".join(SPOKEN.get(name.lower(), name) for name in classifiers) or "not stated"


def _libraries(dist: Distribution) -> Iterator[str]:
    for file in dist.files or ():
        if file.parts[0].endswith(".libs"):
            for library, name in COPYLEFT_LIBRARIES.items():
                if file.name.startswith(library):
                    yield name


def accepted(expression: str, allowed: Iterable[str]) -> bool:
    """Return whether an SPDX expression can be met by licences that are allowed."""
    known = set(allowed)
    words = re.findall(r"[()]|[^\s()]+", expression.replace(" WITH ", "\0"))

    def either() -> bool:
        met = both()
        while words and words[0].upper() == "OR":
            words.pop(0)
            met = both() or met
        return met

    def both() -> bool:
        met = one()
        while words and words[0].upper() == "AND":
            words.pop(0)
            met = one() and met
        return met

    def one() -> bool:
        word = words.pop(0) if words else ""
        if word == "(":
            met = either()
            if words:
                words.pop(0)
            return met
        return word.replace("\0", " WITH ") in known

    return either() and not words  # words are left of what is no expression


def problem(package: Package, *, for_tests: bool) -> str | None:
    """Return why an installation may not bring a package, or None."""
    allowed = PERMISSIVE | BY_FILE | (STRONG if for_tests else set())
    if package.name.startswith(("nvidia-", "cuda-")):
        allowed = allowed | {NVIDIA, PROPRIETARY}
    if not accepted(package.licence, allowed):
        return f"{package.name}: licence {package.licence!r} is not in the list"
    if package.libraries and package.name not in BUNDLED:
        return f"{package.name} brings libraries under {', '.join(sorted(package.libraries))}"
    return None


def listing(root: str = ROOT) -> dict[str, list[Package]]:
    """Return the packages of the base installation, and what each extra adds to them."""
    base = closure(root)
    parts = {"": base, **{extra: closure(root, extra) - base for extra in extras(root)}}
    parts["test"] = parts.get("test", set()) - set().union(
        *(names for extra, names in parts.items() if extra != "test")
    )
    return {
        extra: [package(name) for name in sorted(names - {root})] for extra, names in parts.items()
    }


def _remark(package: Package) -> str:
    if package.licence == NVIDIA:
        return "not with PyTorch's builds for processors"
    return BUNDLED.get(package.name, "")


def page(packages: dict[str, list[Package]]) -> str:
    """Return the list as Markdown."""
    lines = [
        "# Licences",
        "",
        "Zegment is under Apache-2.0, and its wheel holds nothing else. This is what installing it",
        "brings on Linux, and what each extra adds. `python scripts/licences.py` fails on any",
        "other licence, and runs with every change; `--write docs/licences.md` writes this page.",
        "`fiftyone` is not in it: it brings MongoDB, which is under the SSPL.",
    ]
    for extra, rows in packages.items():
        if not rows:
            continue
        title = f"`zegment[{extra}]` adds" if extra else "The base installation"
        lines += ["", f"## {title}", "", "| package | licence | |", "|---|---|---|"]
        lines += [f"| {p.name} | {p.licence} | {_remark(p)} |" for p in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Check the environment that runs this; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", type=Path, help="Markdown file to write the list to.")
    arguments = parser.parse_args()
    packages = listing()
    problems = [
        found
        for extra, rows in packages.items()
        for row in rows
        if (found := problem(row, for_tests=extra == "test"))
    ]
    sys.stdout.writelines(f"{line}\n" for line in problems)
    absent = [extra for extra, rows in packages.items() if not rows]
    if absent:
        sys.stdout.write(f"not installed here, so not looked at: {', '.join(absent)}\n")
    count = sum(len(rows) for rows in packages.values())
    sys.stdout.write(f"{count} packages, {len(problems)} problems\n")
    if arguments.write:
        arguments.write.write_text(page(packages), encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
