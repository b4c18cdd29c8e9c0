"""Packages that only some of what Zegment does needs: each is imported where it is needed."""

from importlib import import_module
from typing import Any

from zegment.errors import ConfigError


def optional(module: str, *, extra: str, purpose: str) -> Any:  # noqa: ANN401 - any module
    """Return a module of an optional package.

    Args:
        module: Its full name.
        extra: Zegment's extra that installs the package.
        purpose: What needs it, as the subject of the error message.

    Raises:
        ConfigError: If the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{purpose} needs the package {module.partition('.')[0]}, which cannot be imported "
            f'({error}): pip install "zegment[{extra}]"'
        ) from error
