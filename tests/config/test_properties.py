"""Files and overrides of any content, against plain Python and PyYAML."""

from __future__ import annotations

import contextlib
import re
import tempfile
import types
import typing
from dataclasses import is_dataclass
from functools import reduce
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainwright import ConfigError
from trainwright.config import TrainingConfig
from trainwright.config.reading.convert import convert, hints
from trainwright.config.reading.tree import Diagnostics, apply, get, parse, place_of, plain, read_file, tree_of
from trainwright.config.reading.writing import RUN_CONFIG, _Dumper, keep

# Keys and texts that YAML, or a reader of ours, could take for something else.
KEYS = st.sampled_from(["a", "b", "key", "x_1", "on", "1", "0", "1e5", "null", "<<", "=", "é", "~", "a-b"])
WORDS = st.sampled_from(
    "1e5 -1E-5 .5e3 1_000 0x1F 010 1:30 on No ~ null .inf .NaN 2020-01-01 = << - ? : # ' \" [] {} {a: *a &a !a %a @a "
    "`a |x >x a:b a#b \\ ² é 😀 \x00 \x07 \x7f \x85 \u2028 \ufeff ${ ${a} $".split(" ")
)
TEXTS = st.lists(WORDS | st.sampled_from([" ", "\n", "\t", ": ", " #", "- "]), max_size=4).map("".join)
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([1e-5, 1e22, -0.0, 2**70])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
PLAIN_KEYS = KEYS.filter(lambda key: re.fullmatch(r"\w[\w-]*", key))
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PLAIN_KEYS, inner, max_size=3), max_leaves=8
)


@settings(max_examples=3 * settings().max_examples)
@given(st.dictionaries(KEYS | TEXTS, VALUES, max_size=4))
@example({"a": "\x85", "b": "x\u2028y z", "c": "\u2029"})
def test_what_is_written_into_a_file_is_read_back(values):
    def whole(_):
        return {"training": {}, "values": values}  # all the sections of a run would take long to write

    with tempfile.TemporaryDirectory() as folder, patch("trainwright.config.reading.writing.with_whole_paths", whole):
        keep(TrainingConfig(), Path(folder))
        assert plain(read_file(Path(folder) / RUN_CONFIG)) == whole(None)


def ways(value, way=()):
    """The ways to everything in a tree, and to what could be added to it."""
    yield way
    for step, inner in enumerate(value) if isinstance(value, list) else getattr(value, "items", tuple)():
        yield from ways(inner, (*way, step))
    if isinstance(value, list | dict):
        yield (*way, len(value) if isinstance(value, list) else "new")


def changed(value, way, to):
    """A tree with another value at the end of a way."""
    if not way:
        return to
    if isinstance(value, list):
        inner = value[way[0]] if way[0] < len(value) else None
        return [*value[: way[0]], changed(inner, way[1:], to), *value[way[0] + 1 :]]
    return {**value, way[0]: changed(value.get(way[0]), way[1:], to)}


@given(st.dictionaries(PLAIN_KEYS, TREES, min_size=1, max_size=3), VALUES, st.data())
def test_an_override_sets_its_value_and_nothing_else(before, value, data):
    way = data.draw(st.sampled_from([one for one in ways(before) if one]))
    styles = [f"[{step}]" if isinstance(step, int) and data.draw(st.booleans()) else f".{step}" for step in way]
    key = "".join(styles).removeprefix(".")
    style = data.draw(st.sampled_from([None, '"', "'"])) if isinstance(value, str) else None
    text = yaml.dump(value, Dumper=_Dumper, default_style=style, default_flow_style=True, width=10**9)
    text = text.removesuffix("...\n").rstrip("\n")
    words = data.draw(st.sampled_from([[f"{key}={text}"], [f"--{key}={text}"], [f"--{key}", text]]))
    tree = tree_of(before)
    apply(tree, words)
    assert plain(tree) == changed(before, way, value)
    assert plain(get(tree, ".".join(map(str, way)))) == value
    place = place_of(tree, ".".join(map(str, way)))
    assert place.source == f"command line: {key}={text}" or not place.line


PARTS = ["a", "b", ".", "..", "[0]", "[", "]", "=", "-", "--", "0", "1", "²", "٣", "99999999999999999999", " ", "1e5"]


OVERRIDES = st.tuples(
    st.sampled_from(["", "--"]),
    st.sampled_from(["a", "b", "new", ""]),
    st.lists(st.sampled_from(PARTS), max_size=2).map("".join),
    st.sampled_from(["", "=", "=1"]),
).map("".join)


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(OVERRIDES, max_size=3))
@example(["a.²=1"])
def test_any_words_are_overrides_or_an_error_of_ours(words):
    with contextlib.suppress(ConfigError):
        apply(tree_of({"a": [1, {"b": None}], "b": {"a": [1]}}), words)


PIECES = [
    "a", "b", "c", ":", ": ", " ", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "<<: ", "? ", "|", ">",
    '"', "'", "#", "1", ".", "~", "%", "@", "`", "\t", "é", "\x00", "\x7f", "---", "...", "!!bool ", "!!int ",
    "!!float ",
    "!!timestamp ", "!!null ", "!!set ", "!!binary ", "!!omap ", "!!map ", "!!seq ", "!x ", "2020-99-99",
    "''",
]  # fmt: skip
LINES = st.sampled_from(["a: ", "b: ", "  c: ", "- "])


@given(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
    | st.lists(st.tuples(LINES, st.lists(st.sampled_from(PIECES), max_size=3).map("".join)), max_size=4).map(
        lambda lines: "\n".join(map("".join, lines))
    )
)
@example("a: &a [*a]")
@example("a: !!bool x")
@example("a: !!timestamp x")
@example("a: !!int ''")
@example("a: \x00")
@example("[" * 2000)
def test_any_text_is_a_tree_or_an_error_of_ours(text):
    with contextlib.suppress(ConfigError):
        plain(parse(text, "run.yaml"))


def keys_of(kind, path=()):
    """The dotted ways to all keys of a file, with the types that they declare."""
    for name, hint in hints(kind).items():
        yield (*path, name), hint
        for section in filter(is_dataclass, (hint, *typing.get_args(hint))):
            if typing.get_origin(hint) is not list:
                yield from keys_of(section, (*path, name))


def fits(value, hint):
    """Whether a value is of a type, by Python's own words for types."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    return hint is typing.Any or type(value) is (str if hint is Path else origin or hint)


@pytest.mark.slow
@settings(max_examples=6 * settings().max_examples)
@given(
    st.sampled_from(list(keys_of(TrainingConfig))), VALUES | st.sampled_from(["SFT", "true", "1", "0.5", 1, 1.0, 0.5])
)
def test_a_value_is_of_its_keys_type_or_an_error_with_its_line(key, value):
    path, hint = key
    whole = reduce(lambda inner, name: {name: inner}, reversed(path), value)
    text, problems = yaml.dump(whole, Dumper=_Dumper, allow_unicode=True), Diagnostics()
    config = convert(parse(text, "run.yaml"), TrainingConfig, "", problems)
    assert problems.errors or fits(reduce(getattr, path, config), hint)
    for problem in problems.errors:
        assert len(path) <= problem.place.line <= len(text.splitlines())
        assert str(problem).startswith(f"run.yaml:{problem.place.line}: ")
