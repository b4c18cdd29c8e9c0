"""TOML files that come with the package: presets, class sets, known data sets."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from zegment.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Packaged:
    """A folder of tables, each known by the name of its file.

    Args:
        package: Where the folder lies.
        folder: Its name.
        kind: What a message calls one of them.
    """

    package: str
    folder: str
    kind: str

    def names(self) -> tuple[str, ...]:
        """Return the names that `read` knows, in alphabetical order."""
        found = (file.name for file in files(self.package).joinpath(self.folder).iterdir())
        return tuple(sorted(name[: -len(".toml")] for name in found if name.endswith(".toml")))

    def read(self, name: str) -> dict[str, Any]:
        """Return a table, for the caller to change.

        Raises:
            ConfigError: If there is none of that name.
        """
        known = self.names()
        if name not in known:
            raise ConfigError(
                f'no {self.kind} is called "{name}"{did_you_mean(name, known)}; '
                f"packaged are {', '.join(known)}"
            )
        file = files(self.package).joinpath(self.folder, f"{name}.toml")
        return tomllib.loads(file.read_text("utf-8"))
