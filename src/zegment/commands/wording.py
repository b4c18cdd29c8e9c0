"""What a user says of classes, and what is said to a user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Console
from rich.markup import escape

from zegment.errors import ConfigError
from zegment.wording import printable

if TYPE_CHECKING:
    from zegment.query import Query
    from zegment.vocabulary import Vocabulary

errors = Console(stderr=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the options say of the classes."""

    classes: str | None
    templates: str | None
    synonyms: Literal["mean", "max"] | None
    plurals: bool

    def check(self) -> None:
        """Refuse what no model could make sense of, before one is loaded."""
        self.vocabulary(("{}",))

    def vocabulary(self, usual: tuple[str, ...]) -> Vocabulary | None:
        """Return the classes, in ``usual`` sentences unless others are asked for."""
        from zegment.vocabulary import Vocabulary
        from zegment.vocabulary.files import template_set

        if self.classes is None:
            if self.templates or self.synonyms or self.plurals:
                raise ConfigError(
                    "--templates, --synonyms and --plurals are about the classes you name; give "
                    "--classes too"
                )
            return None
        vocabulary = Vocabulary.of(self.classes, templates=usual)
        if self.plurals:
            vocabulary = vocabulary.with_plurals()
        if self.templates:
            vocabulary = replace(vocabulary, templates=template_set(self.templates))
        return replace(vocabulary, combine=self.synonyms or vocabulary.combine)


def announce(model: str, query: Query) -> str:
    """Return in one line what a run is about to look for."""
    names = [
        f"{name} ({', '.join(others)})" if others else name
        for name, *others in query.vocabulary.names
    ]
    listed = ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "")
    policy = query.background.describe()
    # Also what a misspelt file or class set looks like.
    alone = len(query.asked.class_names) == 1 and policy == "none"
    hint = " (one class alone gets every pixel; see --background)" if alone else ""
    return f"model {model}, classes: {listed}; background: {policy}{hint}"


@contextmanager
def interruptible(*, overwrite: bool) -> Iterator[None]:
    """Say how to go on, and exit with status 130, if what runs inside is interrupted."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        again = "the same command without --overwrite" if overwrite else "the same command"
        errors.print(f"interrupted; {again} goes on where this one stopped", soft_wrap=True)
        raise typer.Exit(130) from interrupt


def shown(text: object) -> str:
    """Return text in one line that a terminal can show: what it might obey is escaped.

    Names of files may hold line ends, and what follows one could pass for a line of ours.
    """
    return escape(printable(str(text), most=len(str(text))))
