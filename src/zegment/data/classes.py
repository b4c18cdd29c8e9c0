"""The packaged lists of class names, with the split into seen and unseen that papers report on."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from zegment.config_fields import did_you_mean
from zegment.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassSet:
    """Class names of a data set.

    Attributes:
        names: Every class, in the order of the label values.
        unseen: Those without a mask in training.
        source: Where the order and the split come from.
        colours: RGB of each class, 0 to 255, as the data set paints it; empty if it has none.
    """

    names: tuple[str, ...]
    unseen: tuple[str, ...]
    source: str
    colours: tuple[tuple[int, int, int], ...] = ()

    @property
    def seen(self) -> tuple[str, ...]:
        """Classes with masks in training, in order."""
        return tuple(name for name in self.names if name not in self.unseen)


def class_set_names() -> tuple[str, ...]:
    """Return the names that `class_set` knows, in alphabetical order."""
    packaged = files("zegment.data").joinpath("class_sets").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in packaged if f.name.endswith(".toml")))


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
    known = class_set_names()
    if name not in known:
        raise ConfigError(
            f'no class set is called "{name}"{did_you_mean(name, known)}; '
            f"packaged are {', '.join(known)}"
        )
    text = files("zegment.data").joinpath("class_sets", f"{name}.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return ClassSet(
        names=tuple(table["names"]),
        unseen=tuple(table["unseen"]),
        source=table["source"],
        colours=tuple((red, green, blue) for red, green, blue in table.get("colours", ())),
    )
