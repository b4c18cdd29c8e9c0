"""The packaged lists of class names, with the split into seen and unseen that papers report on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias

from zegment.packaged import Packaged

CLASS_SETS = Packaged(package="zegment.data", folder="class_sets", kind="class set")

#: Name of the class that is everything else, where a data set has one.
BACKGROUND = "background"

#: Class names as their data set spells them, or as one would write them: "pottedplant", or
#: "potted plant".
Spelling: TypeAlias = Literal["published", "cleaned"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSet:
    """Class names of a data set.

    Attributes:
        names: Every class, in the order of the label values.
        unseen: Those without a mask in training.
        source: Where the order and the split come from.
        colours: RGB of each class, 0 to 255, as the data set paints it; empty if it has none.
        label_values: Value of each class in the official masks, -1 for one that has none of its
            own; empty if they count from 0 or 1.
        cleaned: Natural spelling of the names that have another.
        splits: Further published splits: the unseen classes by the name of the split.
    """

    names: tuple[str, ...]
    unseen: tuple[str, ...]
    source: str
    colours: tuple[tuple[int, int, int], ...] = ()
    label_values: tuple[int, ...] = ()
    cleaned: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def seen(self) -> tuple[str, ...]:
        """Classes with masks in training, in order."""
        return tuple(name for name in self.names if name not in self.unseen)

    def spelled(self, spelling: Spelling) -> "ClassSet":
        """Return the same classes in a spelling."""
        if spelling == "published":
            return self
        return replace(
            self,
            names=tuple(self.cleaned.get(name, name) for name in self.names),
            unseen=tuple(self.cleaned.get(name, name) for name in self.unseen),
        )


def class_set_names() -> tuple[str, ...]:
    """Return the names that `class_set` knows, in alphabetical order."""
    return CLASS_SETS.names()


@cache
def class_set(name: str) -> ClassSet:
    """Return a packaged list of class names.

    Args:
        name: Such as ``voc``; see `class_set_names`.

    Returns:
        The names in order, and the unseen ones.

    Raises:
        ConfigError: If there is no such list.
    """
    table = CLASS_SETS.read(name)
    return ClassSet(
        names=tuple(table["names"]),
        unseen=tuple(table["unseen"]),
        source=table["source"],
        colours=tuple((red, green, blue) for red, green, blue in table.get("colours", ())),
        label_values=tuple(table.get("label_values", ())),
        cleaned=MappingProxyType(table.get("cleaned", {})),
        splits=MappingProxyType({k: tuple(v) for k, v in table.get("splits", {}).items()}),
    )


@cache
def natural_spellings() -> Mapping[str, str]:
    """Return the natural spelling of every published name that has another, in small letters."""
    known: dict[str, str] = {}
    for name in class_set_names():
        for published, cleaned in class_set(name).cleaned.items():
            known.setdefault(published.casefold(), cleaned.casefold())
    return MappingProxyType(known)


def natural_name(name: str) -> str:
    """Return a class name as one would write it, in small letters.

    Names of different data sets mean one class if this is equal: "tvmonitor" and "TV monitor" do.
    """
    plain = name.strip().casefold()
    return natural_spellings().get(plain, plain)
