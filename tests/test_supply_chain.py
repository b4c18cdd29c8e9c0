"""What an installation brings: licences, lower bounds, and what is known of vulnerabilities."""

import json
import re
import sys
import tomllib
from importlib.metadata import PathDistribution
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

packaging = pytest.importorskip("packaging.requirements")

import audit  # noqa: E402 - lies in scripts/
import licences  # noqa: E402
import lower_bounds  # noqa: E402

PROJECT = Path(__file__).parent.parent / "pyproject.toml"


def metadata(tmp_path: Path, *lines: str, files: tuple[str, ...] = ()) -> PathDistribution:
    folder = tmp_path / "thing-1.dist-info"
    folder.mkdir()
    text = "\n".join(["Metadata-Version: 2.4", "Name: thing", "Version: 1", *lines])
    (folder / "METADATA").write_text(text + "\n")
    (folder / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    return PathDistribution(folder)


@pytest.fixture(scope="module")
def packages() -> dict[str, list[licences.Package]]:
    return licences.listing()


def test_every_licence_that_is_installed_is_accepted(packages) -> None:
    assert {"torch", "numpy", "open-clip-torch"} <= {package.name for package in packages[""]}
    problems = [
        found
        for extra, rows in packages.items()
        for row in rows
        if (found := licences.problem(row, for_tests=extra == "test"))
    ]
    assert problems == []


def test_the_base_installation_reaches_no_further_than_its_own_files(packages) -> None:
    for package in packages[""]:
        assert not re.search(r"(?<!L)GPL(?!.* WITH )", package.licence), package
        assert not package.libraries, package


@pytest.mark.parametrize(
    ("lines", "licence"),
    [
        (["License-Expression: MIT AND PSF-2.0"], "MIT AND PSF-2.0"),
        (["License: BSD-3-Clause", "Classifier: License :: OSI Approved :: BSD License"],
         "BSD-3-Clause"),
        (["License: Copyright (c) 2001 Somebody", "Classifier: License :: OSI Approved :: BSD "
          "License"], "BSD"),
        (["Classifier: License :: OSI Approved", "License: MIT"], "MIT"),
        (["License: My own terms"], "My own terms"),
        ([], "not stated"),
    ],
)  # fmt: skip
def test_licences_are_read_from_whatever_metadata_say(tmp_path, lines, licence) -> None:
    assert licences.licence(metadata(tmp_path, *lines)) == licence


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MPL-2.0 AND (Apache-2.0 OR AGPL-3.0-only)", True),
        ("(GPL-3.0-only OR MIT) AND Apache-2.0 WITH LLVM-exception", True),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", True),
        ("Apache-2.0 WITH My-exception", False),
        ("SSPL-1.0", False),
        ("not stated", False),
        ("My own terms", False),
        ("", False),
    ],
)
def test_an_expression_is_accepted_if_allowed_licences_meet_it(expression, accepted) -> None:
    assert licences.accepted(expression, licences.PERMISSIVE | licences.BY_FILE) is accepted


def test_a_strong_licence_is_for_tests_alone_and_cuda_s_for_cuda() -> None:
    strong = licences.Package("thing", "GPL-3.0-only")
    assert "GPL-3.0-only" in licences.problem(strong, for_tests=False)
    assert licences.problem(strong, for_tests=True) is None
    for own in (licences.NVIDIA, licences.PROPRIETARY):
        assert licences.problem(licences.Package("thing", own), for_tests=True)
        assert licences.problem(licences.Package("nvidia-x", own), for_tests=False) is None


def test_a_wheel_with_a_library_under_the_gpl_must_be_accounted_for(tmp_path, monkeypatch) -> None:
    dist = metadata(tmp_path, "License-Expression: MIT", files=("thing.libs/libx264-1.so.165",))
    monkeypatch.setattr(licences, "distribution", lambda _: dist)
    package = licences.package("thing")
    assert "GPL-2.0-or-later" in licences.problem(package, for_tests=False)
    monkeypatch.setitem(licences.BUNDLED, "thing", "known")
    assert licences.problem(package, for_tests=False) is None


def requirements() -> list[packaging.Requirement]:
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [r for line in lines if (r := packaging.Requirement(line)).name != "zegment"]


def test_every_dependency_has_a_lower_bound_and_always_the_same() -> None:
    bounds: dict[str, set[str]] = {}
    for requirement in requirements():
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        assert len(lowest) == 1, requirement
        bounds.setdefault(requirement.name, set()).update(lowest)
    assert {name: found for name, found in bounds.items() if len(found) > 1} == {}


def test_what_is_installed_is_not_below_the_bounds(packages) -> None:
    names = {package.name for rows in packages.values() for package in rows}
    for requirement in requirements():
        name = licences.canonicalize_name(requirement.name)
        if name in names:
            version = licences.distribution(name).version
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_extras_count_as_direct_dependencies() -> None:
    direct = audit.direct_dependencies(PROJECT)
    assert {"torch", "open-clip-torch", "gradio", "ray", "pytest"} <= direct
    assert "zegment" not in direct


ROWS = [
    {"name": "good", "version": "1", "vulns": []},
    {"name": "bad", "version": "2", "vulns": [
        {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]},
        {"id": "PYSEC-2", "aliases": ["CVE-2"], "fix_versions": []},
    ]},
]  # fmt: skip


SKIPPED = {"name": "pillow", "skip_reason": "not on PyPI: pillow (12.3.0)"}


def skipped(name: str, reason: str) -> str:
    return json.dumps({"dependencies": [ROWS[0], {"name": name, "skip_reason": reason}]})


def test_a_vulnerability_is_accepted_by_any_of_its_names_and_no_other() -> None:
    assert len(audit.problems(ROWS, {})) == 2
    assert audit.problems(ROWS, {"CVE-1": "why"}) == ["bad 2: CVE-2, PYSEC-2; fixed in no release"]
    assert audit.problems(ROWS, {"CVE-1": "why", "PYSEC-2": "why"}) == []


@pytest.mark.parametrize(
    ("stdout", "status", "said"),
    [
        ("", 2, "NOT AUDITED: pip-audit had no answer (ConnectionError: no route)"),
        ("{}", 2, "NOT AUDITED"),
        (json.dumps({"dependencies": ROWS}), 1, "2 problems"),
        (json.dumps({"dependencies": ROWS[:1]}), 0, "1 packages, 0 problems"),
        (skipped("Zegment", "not on PyPI: zegment (0.1)"), 0, "1 packages, 0 problems"),
        (skipped("torch", "not on PyPI: torch (2.10.0+cpu)"), 0, "not looked up: not on PyPI"),
        (skipped("pillow", "not on PyPI: pillow (12.3.0)"), 2, "knows nothing of pillow"),
        (json.dumps({"dependencies": [*ROWS, SKIPPED]}), 1, "2 problems"),
    ],
)
def test_an_audit_tells_safe_from_vulnerable_and_both_from_unknown(
    monkeypatch, capsys, stdout, status, said
) -> None:
    def run(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=stdout, stderr="ConnectionError: no route")

    monkeypatch.setattr(audit, "ACCEPTED", {})
    monkeypatch.setattr(audit.subprocess, "run", run)
    monkeypatch.setattr(audit.time, "sleep", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["audit.py", "somewhere"])
    assert audit.main() == status
    assert said in capsys.readouterr().out


def test_a_bound_that_no_environment_met_is_named() -> None:
    version = lower_bounds.Version
    wanted = {"": {"a": version("1.0")}, "x": {"b": version("2")}, "test": {"c": version("3")}}
    met = {"a": version("1.0.0"), "b": version("2.1")}
    (line,) = lower_bounds.unmet(wanted, [met, {"a": version("1.5")}])
    assert line == "extra x: b>=2 was tried with 2.1"
    assert lower_bounds.unmet(wanted, [met, {"b": version("2")}]) == []
    assert "b>=2 was tried with no version" in lower_bounds.unmet(wanted, [{}])[1]


def test_bounds_are_read_of_the_base_and_of_every_extra() -> None:
    found = lower_bounds.bounds(PROJECT)
    assert {"torch", "pillow"} <= found[""].keys()
    assert {"ray", "pyarrow"} <= found["ray"].keys()
    assert found["all"] == {}
