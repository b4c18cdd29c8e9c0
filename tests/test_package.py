"""What the package brings along, and how its parts lean on one another."""

import ast
import re
from graphlib import TopologicalSorter
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import zegment

SOURCE = Path(zegment.__file__).parent
BANNED = {"mmcv", "mmcv-full", "mmengine", "mmsegmentation", "detectron2", "ultralytics"}


def closure(name: str, found: dict[str, str]) -> dict[str, str]:
    """Add a distribution and everything it requires, with their licences."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return found
    try:
        dist = distribution(name)
    except PackageNotFoundError:  # needed on another platform or Python only
        return found
    metadata = dist.metadata
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License")]
    found[key] = " ".join(
        [metadata.get("License-Expression") or metadata.get("License") or "", *classifiers]
    )
    for requirement in dist.requires or []:
        if "extra ==" not in requirement:
            closure(re.match(r"[\w.-]+", requirement).group(), found)
    return found


def test_dependencies_hold_nothing_that_is_hard_to_install_or_to_license() -> None:
    packages = closure("zegment", {})
    assert {"torch", "open-clip-torch", "accelerate"} <= packages.keys()
    assert not BANNED & packages.keys()
    affero = [name for name, licence in packages.items() if re.search("AGPL|Affero", licence[:200])]
    assert affero == []


def imports() -> dict[str, set[str]]:
    """Return which modules of the package each module imports at its top level."""
    names = {
        ".".join(["zegment", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in SOURCE.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        graph[name] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module in names:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    graph[name].add(inner if inner in names else node.module)
    return graph


def test_imports_form_no_circle() -> None:
    list(TopologicalSorter(imports()).static_order())


def test_the_ground_knows_nothing_above_it() -> None:
    ground = {"losses", "vocabulary", "inference", "results", "metrics", "config", "images"}
    above = {"segmenter", "checkpoint", "training", "evaluation", "objectives", "cli", "demo"}
    for name, needed in imports().items():
        if name.removeprefix("zegment.").split(".")[0] in ground | {"data", "models"}:
            assert not {n.removeprefix("zegment.") for n in needed} & above, name


def test_every_public_name_exists() -> None:
    for name in zegment.__all__:
        assert getattr(zegment, name) is not None


def test_nothing_prints_but_the_command_line() -> None:
    for path in SOURCE.rglob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        ]
        assert not calls, path


def test_every_extra_that_is_named_exists() -> None:
    root = SOURCE.parent.parent
    if not (root / "pyproject.toml").is_file():  # installed, and tested from elsewhere
        root = Path(__file__).parent.parent
    known = set(distribution("zegment").metadata.get_all("Provides-Extra"))
    named = set()
    for path in [*SOURCE.rglob("*.py"), *(root / "docs").glob("*.md"), root / "README.md"]:
        for extras in re.findall(r"zegment\[([a-z,]+)\]", path.read_text(encoding="utf-8")):
            named |= set(extras.split(","))
    assert named
    assert named <= known


def test_assets_stay_small() -> None:
    for folder in (SOURCE / "assets").iterdir():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert size <= 16e6, folder.name
