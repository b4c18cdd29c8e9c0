"""Known data sets: how their files lie, what their values mean, how many images they have."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from zegment.data.classes import class_set
from zegment.packaged import Packaged

_SETS = Packaged(package="zegment.data", folder="benchmark_sets", kind="known data set")


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A data set as its publishers, or those who report on it, lay it out.

    Attributes:
        name: What it is called here.
        title: What it is called elsewhere.
        home: Address of its publishers.
        terms: Licence, or the terms it may be used under.
        archives: Names of the files that its publishers offer, which `prepare` takes.
        folder: Its root, in a folder of data sets.
        preparation: Which of `zegment.data.preparing` makes this layout of the downloaded files.
        counts: Published number of images of each split; several where publications differ.
        data: Options of ``[data]``, without the root. In the file, ``label_values`` may be
            ``"class_set"``: those that stand with the names.
    """

    name: str
    title: str
    home: str
    terms: str
    archives: tuple[str, ...]
    folder: str
    preparation: str
    counts: Mapping[str, tuple[int, ...]]
    data: Mapping[str, Any]

    def options(self) -> dict[str, Any]:
        """Return the options of ``[data]``, for the caller to change."""
        return {"benchmark": self.name, **copy.deepcopy(dict(self.data))}


def benchmark_names() -> tuple[str, ...]:
    """Return the names that `benchmark` knows, in alphabetical order."""
    return _SETS.names()


@cache
def benchmark(name: str) -> Benchmark:
    """Return what is known about a data set.

    Args:
        name: Such as ``voc20``; see `benchmark_names`.

    Raises:
        ConfigError: If there is none of that name.
    """
    table = _SETS.read(name)
    counts = {
        split: tuple(count) if isinstance(count, list) else (count,)
        for split, count in table["counts"].items()
    }
    data = table["data"]
    if data.get("label_values") == "class_set":
        data["label_values"] = list(class_set(data["class_set"]).label_values)
    return Benchmark(
        name=name,
        title=table["title"],
        home=table["home"],
        terms=table["terms"],
        archives=tuple(table.get("archives", ())),
        folder=table["folder"],
        preparation=table["preparation"],
        counts=counts,
        data=data,
    )
