"""Where a `Config` comes from and goes to: presets, TOML files, overrides, JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zegment.config import Config
from zegment.config.fields import NONE, FieldError, build, show, to_plain
from zegment.data.benchmarks import benchmark
from zegment.errors import ConfigError
from zegment.packaged import Packaged
from zegment.text_files import parse_toml, read_text
from zegment.wording import printable

_PRESETS = Packaged(package="zegment", folder="presets", kind="preset")

MOST_DEPTH = 8
"""Tables inside each other; those of `Config` are three."""


def load_config(
    *, preset: str | None = None, file: str | Path | None = None, overrides: Sequence[str] = ()
) -> Config:
    """Return the defaults, changed by a preset, then by a file, then by overrides.

    Tables are merged key by key; a list replaces the earlier list. A packaged preset may build on
    another, its ``base``; ``data.benchmark`` brings the options of a known data set with it.
    ``"none"`` takes back a value that an earlier layer gave to an optional key.

    Args:
        preset: Name of a packaged preset; see `preset_names`.
        file: A TOML file. Its ``data.root`` is relative to the file, not to the working directory.
        overrides: Texts such as ``optim.lr=1e-4``. A value is read as TOML; what is no TOML value
            is taken as text.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the preset or the file does not exist or is no TOML.
        ConfigError: If an override is not of the form ``key=value``.
        ConfigError: If a key is unknown, or a value has the wrong type or is out of range.
    """
    layers: list[tuple[str, dict[str, Any]]] = []
    if preset is not None:
        layers.append((f'preset "{preset}"', _read_preset(preset)))
    if file is not None:
        layers.append((str(file), _read_file(Path(file))))
    layers += [(f"--set {printable(o, most=60)}", _read_override(o)) for o in overrides]
    for origin, layer in layers:
        _check_depth(layer, origin)
    layers = [(origin, _on_benchmark(layer, origin)) for origin, layer in layers]

    options: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        _merge(options, layer, origin=origin, origins=origins)
    try:
        return build(Config, options)
    except FieldError as error:
        raise ConfigError(f"{error}{_origin_of(error.key, origins)}") from error


def preset_names() -> tuple[str, ...]:
    """Return the names of the packaged presets, in alphabetical order."""
    return _PRESETS.names()


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return a configuration as nested dicts, lists and scalars, for JSON and TOML alike.

    An option without a value is ``"none"``, because TOML has no null.
    """
    plain: dict[str, Any] = to_plain(config)
    return plain


def config_from_dict(options: Mapping[str, Any]) -> Config:
    """Return the configuration that `config_to_dict` took apart; what is absent is the default.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is out of range.
    """
    return build(Config, options)


def located(config: Config) -> Config:
    """Return a configuration whose files and folders are whole paths, which hold from any folder.

    What is relative is so to the working directory. Shapes lie nowhere, and what is the name of a
    packaged model, or of something on the Hub, stays a name.

    Raises:
        FieldError: If ``data.root`` cannot be a folder.
    """
    data, own = config.data, config.self_training
    if data.source != "shapes":
        root = _whole_path(data.root, Path.cwd(), hub=data.source == "huggingface")
        data = replace(data, root=root)
    return replace(
        config,
        data=data,
        self_training=replace(
            own,
            start=own.start and _whole_if_there(own.start),
            guide_checkpoint=own.guide_checkpoint and _whole_if_there(own.guide_checkpoint),
        ),
    )


def _whole_if_there(name: str) -> str:
    """Return the whole path of a folder that is given by a relative one; else the name."""
    # A bare word may be the name of a model and of a folder that has nothing to do with it.
    is_path = "/" in name and not Path(name).is_absolute()
    try:
        return str(Path(name).resolve()) if is_path and Path(name).is_dir() else name
    except (OSError, ValueError):  # too long, a NUL
        return name


def config_to_toml(config: Config) -> str:
    """Return a configuration as a TOML file that `load_config` reads back to an equal one."""
    return "\n".join(_toml_lines(config_to_dict(config))).strip() + "\n"


def _read_preset(name: str) -> dict[str, Any]:
    own = _PRESETS.read(name)
    base = own.pop("base", None)
    if base is None:
        return own
    options = _read_preset(base)
    _merge_table(options, own)
    return options


def _on_benchmark(layer: dict[str, Any], origin: str) -> dict[str, Any]:
    """Return a layer that names a known data set on top of what is known about it.

    Raises:
        ConfigError: If no data set has that name.
    """
    data = layer.get("data")
    name = data.get("benchmark") if isinstance(data, dict) else None
    if not isinstance(name, str) or name == NONE:
        return layer
    try:
        options: dict[str, Any] = {"data": benchmark(name).options()}
    except ConfigError as error:
        raise ConfigError(f"data.benchmark: {error} (from {origin})") from error
    _merge_table(options, layer)
    return options


def _read_file(path: Path) -> dict[str, Any]:
    try:
        options = parse_toml(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(
            f"no configuration file {path} (looked in {path.absolute().parent}); write one, or "
            f"use a packaged preset: {', '.join(preset_names())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path} as a text file: {error}; give a TOML file in UTF-8"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct it") from error
    data = options.get("data")
    # A file that names folders means folders beside itself, wherever the command is given.
    if isinstance(data, dict) and data.keys() & {"root", "train", "val", "test"}:
        root = data.get("root", ".")
        if isinstance(root, str):
            hub = data.get("source") == "huggingface"
            try:
                data["root"] = _whole_path(root, path.absolute().parent, hub=hub)
            except FieldError as error:
                raise ConfigError(f"{error} (from {path})") from error
    return options


def _whole_path(root: str, beside: Path, *, hub: bool) -> str:
    """Return the folder that a ``data.root`` beside others means, or the name of a set on the Hub.

    Raises:
        FieldError: If it cannot be a folder.
    """
    try:
        place = (beside / Path(root).expanduser()).resolve()
        # The name of a data set on the Hub is no path, unless a folder has it.
        return root if hub and not place.exists() else str(place)
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a loop of links, a NUL
        raise FieldError(
            "data.root", f"{show(root)} can be no folder: {printable(str(error))}; correct it"
        ) from error


def _check_depth(layer: Mapping[str, Any], origin: str) -> None:
    """Refuse tables inside tables without end, which every later step would walk into.

    Raises:
        ConfigError: If there are too many.
    """
    tables: list[Any] = [layer]
    for _ in range(MOST_DEPTH):
        tables = [value for table in tables for value in table.values() if isinstance(value, dict)]
    if tables:
        raise ConfigError(
            f"{origin}: a key has more than {MOST_DEPTH} parts; options have at most three, such "
            "as model.zegclip.prompt_tokens"
        )


def _read_override(override: str) -> dict[str, Any]:
    """Return ``a.b=value`` as ``{"a": {"b": value}}``."""
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    # Nothing behind the sign is what a variable of the shell leaves that was never set.
    if not equals or not all(names) or not text.strip():
        raise ConfigError(
            f'"{printable(override)}" sets nothing; write key=value, such as optim.lr=1e-4, or '
            'key="" for an empty text'
        )
    options: Any = _read_value(text.strip())
    for name in reversed(names):
        options = {name: options}
    return dict(options)


def _read_value(text: str) -> object:
    """Return a TOML value, or the text itself if it is none or means a date."""
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return text
    value = table.pop("value")
    plain = isinstance(value, str | bool | int | float | list | dict)
    return value if plain and not table else text


def _merge(
    options: dict[str, Any], layer: Mapping[str, Any], *, origin: str, origins: dict[str, str]
) -> None:
    """Lay one layer over the options, and remember which layer each key came from."""
    _merge_table(options, layer)
    for key in _dotted_keys(layer):
        origins[key] = origin


def _merge_table(options: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping):
            if not isinstance(options.get(name), dict):
                options[name] = {}
            _merge_table(options[name], value)
        else:
            options[name] = value


def _dotted_keys(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for name, value in table.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += _dotted_keys(value, f"{prefix}{name}.")
    return keys


def _origin_of(key: str, origins: Mapping[str, str]) -> str:
    """Return ``" (from run.toml)"`` for a key or its table; nothing for a default."""
    for known in (key, key.rpartition(".")[0]):
        if known in origins:
            return f" (from {origins[known]})"
    return ""


def _toml_lines(table: Mapping[str, Any], *, table_name: str = "") -> list[str]:
    """Return the lines of one table: its own values, then the tables in it."""
    own = [
        f"{name} = {_toml_value(value)}"
        for name, value in table.items()
        if not isinstance(value, Mapping)
    ]
    lines = [f"[{table_name}]", *own, ""] if table_name and own else own + [""] * bool(own)
    for name, value in table.items():
        if isinstance(value, Mapping):
            inner = f"{table_name}.{name}" if table_name else name
            lines += _toml_lines(value, table_name=inner)
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # JSON and TOML write scalars alike, except that TOML wants this one control character escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
