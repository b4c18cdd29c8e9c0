"""Properties of settings: what is written down is read back as it was.

Configurations are drawn from the annotations of their fields: a packaged preset is changed option
by option, and a change that the checks refuse is left out.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from hypothesis import strategies as st
from soaks.property_running import holds

from zegment.background import (
    Background,
    HelperClasses,
    NoBackground,
    Threshold,
    background_to_dict,
    parse_background,
    read_background,
)
from zegment.calibration import Calibration, read_calibration
from zegment.config import Config
from zegment.config.fields import Filled, Range, Section, field_hints
from zegment.config.loading import (
    config_from_dict,
    config_to_dict,
    config_to_toml,
    load_config,
    preset_names,
)
from zegment.data.benchmarks import benchmark_names
from zegment.errors import ConfigError, VocabularyError
from zegment.prediction.record import RunRecord
from zegment.results import legend
from zegment.vocabulary import TEMPLATES, Vocabulary

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TEXTS = TEXT | st.sampled_from(["none", '"', "'''", "\\", "\x7f", "a\r\nb", "#", "é", "true", "=["])


def values(hint: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401, PLR0911 - one kind of annotation a line
    """Return what the values of an option are drawn from."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated and isinstance(arguments[1], Filled):
        return TEXTS.filter(lambda text: text in arguments[1])
    if origin is Annotated:
        return _numbers(arguments[0], arguments[1])
    if origin in (Union, UnionType):
        return st.none() | values(next(a for a in arguments if a is not NoneType))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and Ellipsis in arguments:
        return st.lists(values(arguments[0]), max_size=4).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if issubclass(hint, Section):
        return st.fixed_dictionaries({k: values(v) for k, v in field_hints(hint).items()})
    if hint is str:
        return TEXTS
    return st.booleans() if hint is bool else _numbers(hint, Range())


def _numbers(kind: type, limits: Range) -> st.SearchStrategy[Any]:
    low, high = max(limits.at_least, limits.above), min(limits.at_most, limits.below)
    if kind is int:
        return st.integers(
            None if math.isinf(low) else int(low), 2**64 if math.isinf(high) else int(high)
        )
    return st.floats(
        None if math.isinf(low) else low,
        None if math.isinf(high) else high,
        exclude_min=limits.above == low and not math.isinf(low),
        exclude_max=limits.below == high and not math.isinf(high),
        allow_nan=False,
        allow_infinity=False,
    )


def leaves(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield the path and the values of every option of a section."""
    special = {
        ("data", "benchmark"): st.none() | st.sampled_from(benchmark_names()),
        # Whole and absolute, so that reading it from a file changes nothing.
        ("data", "root"): st.text("abé \"'\\.", min_size=1).map(lambda text: f"/nowhere/x{text}x"),
    }
    for name, hint in field_hints(section).items():
        own = (*path, name)
        if isinstance(hint, type) and issubclass(hint, Section):
            yield from leaves(hint, own)
        else:
            yield own, special[own] if own in special else values(hint)


OPTIONS = dict(leaves(Config))
PRESETS = {name: config_to_dict(load_config(preset=name)) for name in preset_names()}
CHANGES = st.sampled_from(sorted(OPTIONS)).flatmap(
    lambda path: OPTIONS[path].map(lambda value: (path, value))
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Draw a configuration that the checks accept."""
    plain = PRESETS[draw(st.sampled_from(sorted(PRESETS)))]
    config = config_from_dict(plain)
    for (*tables, name), value in draw(st.lists(CHANGES, max_size=10)):
        changed = json.loads(json.dumps(config_to_dict(config)))
        table = changed
        for inner in tables:
            table = table[inner]
        table[name] = value
        try:
            config = config_from_dict(changed)
        except ConfigError:
            continue
    return config


@holds(short=40, published=600, config=configs())
def a_configuration_is_the_same_after_toml_and_json(config: Config) -> None:
    """As a dictionary, as a file that the command line reads, and again from that."""
    plain = config_to_dict(config)
    assert config_from_dict(json.loads(json.dumps(plain))) == config
    text = config_to_toml(config)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(text, encoding="utf-8")
        loaded = load_config(file=path)
    if config.data.root.startswith("/"):
        assert loaded == config
        assert config_to_toml(loaded) == text
    # Elsewhere the folder is meant relative to the file, which the original had none of.
    assert replace(loaded, data=replace(loaded.data, root=config.data.root)) == config


def _possible(text: str) -> bool:
    try:
        Vocabulary(class_names=(text,))
    except VocabularyError:
        return False
    return True


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=9
).filter(_possible) | st.sampled_from(["unknown", "background", "none", "a:b", "-", "[a]", "{}"])


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    """Draw classes with synonyms, colours and templates."""
    names = draw(
        st.lists(
            NAMES, min_size=1, max_size=9, unique_by=lambda name: unicodedata.normalize("NFC", name)
        )
    )
    count = draw(st.integers(1, len(names)))
    synonyms = tuple(tuple(names[count + k :: count]) for k in range(count))
    byte = st.integers(0, 255)
    colours = draw(
        st.lists(st.none() | st.tuples(byte, byte, byte), min_size=count, max_size=count)
    )
    own = st.lists(NAMES.map(lambda name: f"{name.replace('{}', '')} {{}}."), min_size=1)
    return Vocabulary(
        class_names=tuple(names[:count]),
        synonyms=synonyms if any(synonyms) else (),
        colours=tuple(colours) if any(colours) else (),
        templates=tuple(draw(st.sampled_from(sorted(TEMPLATES.values())) | own)),
        combine=draw(st.sampled_from(["mean", "max"])),
    )


def _read(name: str, text: str) -> Vocabulary:
    """Return the vocabulary of a file that holds a text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        return Vocabulary.of(path)


@holds(short=50, published=1000, words=vocabularies())
def a_vocabulary_is_the_same_after_every_kind_of_file(words: Vocabulary) -> None:
    """The record of a run, TOML, the legend of a run, lines of text, and a list between commas."""
    record = RunRecord(model="m", vocabulary=json.loads(json.dumps(asdict(words))))
    assert _read("run.json", record.to_json()) == words
    entries = [
        f"{{name = {_quoted(name)}, synonyms = [{', '.join(map(_quoted, others))}]"
        + (f", colour = {list(colour)}" if colour else "")
        + "}"
        for (name, *others), colour in zip(
            words.names, words.colours or (None,) * len(words.names), strict=True
        )
    ]
    templates = ", ".join(map(_quoted, words.templates))
    table = f"classes = [{', '.join(entries)}]\ntemplates = [{templates}]\n"
    assert _read("words.toml", f'{table}combine = "{words.combine}"\n') == words
    rows = legend(words.class_names, words.palette(), words.synonyms)
    rows[-1]["background"] = "none"
    found = _read("legend.json", json.dumps(rows))
    assert found.names == words.names
    np.testing.assert_array_equal(found.palette(), words.palette())
    everything = [name for names in words.names for name in names]
    if not any(re.search(r"[,|]|(^|\s)#", name) for name in everything):
        lines = "\n".join("| ".join(names) for names in words.names)
        assert _read("words.txt", lines).names == words.names
        text = " , ".join("|".join(names) for names in words.names)
        if not (text.startswith("[") and text.endswith("]")):
            assert Vocabulary.parse(text).names == words.names


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


POLICIES = st.one_of(
    st.just(NoBackground()),
    st.builds(Threshold, score=st.floats(0, 1), chosen_on=TEXT.map(str.strip)),
    st.builds(
        HelperClasses,
        names=st.lists(
            (NAMES | st.just("wall.json")).filter(lambda name: not re.search("[,|]", name)),
            min_size=1,
            unique_by=lambda name: unicodedata.normalize("NFC", name),
        ).map(tuple),
    ),
)


@holds(
    short=80,
    published=2000,
    policy=POLICIES,
    classes=st.lists(TEXT, max_size=3),
    penalty=st.floats(0, 1),
    origin=TEXT,
)
def a_background_policy_and_a_calibration_are_read_back(
    policy: Background, classes: list[str], penalty: float, origin: str
) -> None:
    """From words, and from the files that fits write."""
    assert parse_background(policy.describe()) == policy
    calibration = Calibration(seen_penalty=penalty, chosen_on=origin)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "fit.json"
        if isinstance(policy, Threshold):
            policy = replace(policy, classes=tuple(classes))
            path.write_text(json.dumps({"background": background_to_dict(policy)}))
            assert read_background(path) == policy
            assert parse_background(str(path)) == policy
        path.write_text(json.dumps({"chosen": calibration.to_dict()}))
        assert read_calibration(path) == calibration


PROPERTIES = (
    a_configuration_is_the_same_after_toml_and_json,
    a_vocabulary_is_the_same_after_every_kind_of_file,
    a_background_policy_and_a_calibration_are_read_back,
)
