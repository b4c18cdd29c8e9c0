"""What docstrings say of parameters, fields and errors is what the code has."""

import builtins
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import zegment
from zegment import errors

MODULES = [
    found.name
    for found in pkgutil.walk_packages(zegment.__path__, "zegment.")
    if found.name != "zegment.__main__"  # is the command line, not a module
]
SOURCES = "\n".join(
    path.read_text(encoding="utf-8") for path in Path(zegment.__path__[0]).rglob("*.py")
)


def section(documented: object, title: str) -> list[str]:
    """Return the names that a section of a docstring explains, in order; none without it."""
    text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
    found = re.search(rf"^{title}:\n((?: {{4}}.*\n|\n)*)", f"{text}\n", flags=re.MULTILINE)
    lines = found[1].splitlines() if found else []
    heads = [line[4:].partition(":")[0] for line in lines if re.match(r" {4}[^ ].*:", line)]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def signature(called: Callable[..., object]) -> list[str]:
    """Return the names of the parameters that a caller gives."""
    return [name for name in inspect.signature(called).parameters if name not in ("self", "cls")]


def problems(documented: object, module: ModuleType) -> Iterator[str]:
    """Say where the docstring of a function or class departs from its code."""
    where = f"{module.__name__}.{documented.__qualname__}"
    arguments, attributes = section(documented, "Args"), section(documented, "Attributes")
    if dataclasses.is_dataclass(documented):
        names = [field.name for field in dataclasses.fields(documented)]
        public = [name for name in names if not name.startswith("_")]
        own = [name for name in public if name in vars(documented).get("__annotations__", {})]
        # What is inherited may be explained by the base.
        if arguments + attributes and arguments + attributes not in (public, own):
            yield f"{where}: fields are {public}, explained {arguments + attributes}"
    else:
        if arguments and arguments != signature(documented):
            yield f"{where}: parameters are {signature(documented)}, explained {arguments}"
        for name in attributes:
            if not has_attribute(documented, name):
                yield f"{where}: has no {name!r}"
    for name in section(documented, "Raises"):
        if not is_exception(name, module):
            yield f"{where}: raises {name!r}, which is no exception"


def has_attribute(documented: type, name: str) -> bool:
    """Return whether a class has an attribute, or gives one to its objects."""
    return hasattr(documented, name) or any(
        name in vars(base).get("__annotations__", {}) or f"self.{name}" in inspect.getsource(base)
        for base in documented.__mro__
        if base.__module__.startswith("zegment")
    )


def is_exception(name: str, module: ModuleType) -> bool:
    """Return whether a name is that of an exception, of another library if it is dotted."""
    place, _, last = name.rpartition(".")
    homes = [importlib.import_module(place)] if place else [module, errors, builtins]
    found = next((getattr(home, last) for home in homes if hasattr(home, last)), None)
    if found is None:  # of another module, which lets it pass
        return (
            re.search(rf"^class {last}\(.*(Exception|Error|Interrupt)\):", SOURCES, re.M)
            is not None
        )
    return inspect.isclass(found) and issubclass(found, BaseException)


def documented_in(module: ModuleType) -> Iterator[object]:
    """Give the functions and classes of a module, and the methods of these."""
    for found in vars(module).values():
        if getattr(found, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(found):
            yield found
        elif inspect.isclass(found):
            yield found
            for member in vars(found).values():
                plain = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                if inspect.isfunction(plain) and plain.__module__ == module.__name__:
                    yield plain


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_say_what_the_code_has(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if str(error.name).startswith("zegment"):
            raise
        pytest.skip(f"needs {error.name}")
    assert [line for found in documented_in(module) for line in problems(found, module)] == []


def wrong(first: int, second: int) -> None:
    """Do nothing.

    Args:
        second: Comes last.
        first: Comes first,
            on two lines: both are its own.

    Raises:
        ValueError: Never.
        NobodyError: Never either.
    """


@dataclasses.dataclass
class Wrong:
    """Nothing.

    Attributes:
        given: Is there.
        taken: Is not.
    """

    given: int


def test_what_is_wrong_is_found() -> None:
    module = ModuleType("here")
    assert section(wrong, "Args") == ["second", "first"]
    assert len(list(problems(wrong, module))) == 2
    assert len(list(problems(Wrong, module))) == 1
