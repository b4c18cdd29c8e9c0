"""What a property is, and how it is held against generated examples.

A property is a check with a strategy for each of its arguments. It is run with few examples by the
tests and with many by `soaks.properties.soak`; both start from a seed, so a failure can be met
again. Needs hypothesis, which comes with ``pip install "zegment[test]"``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib.util import find_spec
from itertools import product
from types import MappingProxyType
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as start_from
from hypothesis.strategies import SearchStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """Something that is true of every example.

    Attributes:
        check: Raises if it is not true of an example.
        given: What its arguments are drawn from, by name.
        short: Examples of a test, for each choice.
        published: Examples of the published run, likewise.
        needs: Optional modules without which it cannot be checked.
        each: Arguments that are not drawn but gone through, such as models; one choice each.
    """

    check: Callable[..., None]
    given: dict[str, SearchStrategy[Any]]
    short: int
    published: int
    needs: tuple[str, ...] = ()
    each: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What is true, in words."""
        return self.check.__name__.replace("_", " ")

    @property
    def missing(self) -> list[str]:
        """Those modules that are not installed."""
        return [module for module in self.needs if find_spec(module.partition(".")[0]) is None]

    def hold(self, *, examples: int | None = None, seed: int = 0, shrink: bool = True) -> int:
        """Check some examples and return their number, which may be less than was asked for.

        Args:
            examples: How many for each choice; None takes those of a test.
            seed: Other seeds, other examples; the same seed, the same ones.
            shrink: Whether the smallest example is looked for when one fails, which takes time.

        Raises:
            Exception: What the check raised, with the smallest example found in its notes.
        """
        checked = 0

        @wraps(self.check)
        def counted(**example: Any) -> None:  # noqa: ANN401 - whatever the strategies draw
            nonlocal checked
            self.check(**example)
            checked += 1

        run = settings(
            max_examples=self.short if examples is None else examples,
            database=None,  # else a seed would not decide about the examples
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )(given(**self.given)(counted))
        start_from(zlib.crc32(f"{self.check.__name__} {seed}".encode()))(run)
        for choice in product(*self.each.values()):
            run(**dict(zip(self.each, choice, strict=True)))
        return checked


def holds(
    *,
    short: int,
    published: int,
    needs: tuple[str, ...] = (),
    each: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    **arguments: SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Property]:
    """Return what makes a property of a check; its name says what is true.

    Args:
        short: Examples of a test, for each choice.
        published: Examples of the published run, likewise.
        needs: Optional modules.
        each: Arguments that are gone through.
        arguments: What the check's arguments are drawn from.
    """

    def make(check: Callable[..., None]) -> Property:
        return Property(
            check=check, given=arguments, short=short, published=published, needs=needs, each=each
        )

    return make
