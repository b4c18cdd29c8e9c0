"""Tests Zegment with every direct dependency at the lowest version that pyproject.toml allows.

    python scripts/lower_bounds.py          # some tests of each dependency
    python scripts/lower_bounds.py --all    # all tests

In two fresh environments that are removed afterwards: the base installation, and all extras, which
force some of the base's dependencies up, and with which the documentation is built. A bound that
neither meets promises what nobody tried, and fails. Needs ``packaging`` and ``uv``;
UV_TORCH_BACKEND=cpu takes PyTorch without CUDA.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent.parent

NOT_TRIED = {"fiftyone": "needs a database server", "zegment": "is what is tested"}
"""Dependencies outside both environments, and those that only tests and development need."""

TOOLS = (
    "pytest",
    "pytest-xdist[psutil]",
    "hypothesis",
    "scikit-learn",
    "shapely",
    "packaging",
    "tqdm",
)
"""What tests need, as it is today."""

BASE_TESTS = (
    "package", "clip", "models", "closed_set", "losses", "metrics", "student_training", "model_hub",
    "verification", "vocabulary", "images", "image_outputs", "figures", "folder",
)  # fmt: skip
EXTRA_TESTS = (
    "cli", "clip", "model_hub", "verification", "hub", "coco_json", "benchmarks", "medical_sets",
    "formats", "geojson", "integrations", "video", "two_stage", "export", "serve", "serve_guard",
    "ray_engine",
)  # fmt: skip
"""Names of test files that together call every dependency; none takes long."""


def bounds(project: Path) -> dict[str, dict[str, Version]]:
    """Return the lower bounds of the base installation (``""``) and of each extra."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    parts = {"": table["dependencies"], **table["optional-dependencies"]}
    found: dict[str, dict[str, Version]] = {}
    for extra, lines in parts.items():
        requirements = [Requirement(line) for line in lines]
        found[extra] = {
            canonicalize_name(requirement.name): Version(
                next(part.version for part in requirement.specifier if part.operator == ">=")
            )
            for requirement in requirements
            if canonicalize_name(requirement.name) not in NOT_TRIED
        }
    return found


def unmet(
    wanted: dict[str, dict[str, Version]], environments: list[dict[str, Version]]
) -> list[str]:
    """Return the bounds of what users install that no environment has met.

    Args:
        wanted: Of `bounds`.
        environments: Installed versions by name.
    """
    lines = []
    for extra, versions in wanted.items():
        for name, lowest in versions.items():
            installed = [env[name] for env in environments if name in env]
            if extra not in ("test", "dev") and lowest not in installed:
                where = f"extra {extra}" if extra else "base"
                shown = ", ".join(sorted({str(version) for version in installed})) or "no version"
                lines.append(f"{where}: {name}>={lowest} was tried with {shown}")
    return lines


class Environment:
    """A virtual environment with the lowest versions of one installation.

    Args:
        folder: Where; made.
        requirement: What is installed.
    """

    def __init__(self, folder: Path, requirement: str) -> None:
        self.python = folder / "bin" / "python"
        # The installed package is tested, not the checkout.
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self.environment = {**kept, "VIRTUAL_ENV": str(folder)}
        self.run("uv", "venv", "--quiet", "--python", sys.executable, str(folder))
        install = ("uv", "pip", "install", "--quiet")
        self.run(*install, "--resolution", "lowest-direct", requirement)
        self.run(*install, *TOOLS)

    def run(self, *command: str) -> None:
        """Run a command; raises CalledProcessError if it fails."""
        subprocess.run(command, cwd=HERE, env=self.environment, check=True)  # noqa: S603

    def versions(self) -> dict[str, Version]:
        """Return what is installed."""
        lines = subprocess.run(
            ["uv", "pip", "freeze"],  # noqa: S607 - wherever it is installed
            cwd=HERE, env=self.environment, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        pairs = [line.split("==") for line in lines if "==" in line]
        return {canonicalize_name(name): Version(version) for name, version in pairs}

    def test(self, names: tuple[str, ...]) -> None:
        """Run test files by name, or all if there is none; raises as `run` does."""
        files = [f"tests/test_{name}.py" for name in names]
        self.run(str(self.python), "-m", "pytest", *files)


def main() -> int:
    """Make the environments, and run the tests in each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="All tests instead of some.")
    everything = parser.parse_args().all
    found = []
    with tempfile.TemporaryDirectory() as name:
        for title, requirement, tests in (
            ("base", ".", BASE_TESTS),
            ("all extras", ".[all,docs]", EXTRA_TESTS),
        ):
            sys.stdout.write(f"== {title}\n")
            sys.stdout.flush()
            environment = Environment(Path(name) / title.replace(" ", "-"), requirement)
            found.append(environment.versions())
            environment.test(() if everything else tests)
        sys.stdout.write("== documentation\n")
        sys.stdout.flush()
        site = ("mkdocs", "build", "--quiet", "--strict", "--site-dir", f"{name}/site")
        environment.run(str(environment.python), "-m", *site)
    lines = unmet(bounds(HERE / "pyproject.toml"), found)
    sys.stdout.writelines(f"{line}: raise the bound to what was tried\n" for line in lines)
    sys.stdout.write(f"{len(lines)} bounds were not met\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
