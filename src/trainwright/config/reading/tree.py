"""A YAML file as a tree that knows where everything stands, so that an error can show the line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trainwright.errors import ConfigError

COMMAND_LINE = "command line"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Place:
    """Where something stands: file, line and column from 1, and the line's text."""

    source: str
    line: int = 0
    column: int = 0
    text: str = ""


@dataclass
class Tree:
    """A node of a YAML document.

    Attributes:
        value: a dict of trees, a list of trees, or a scalar as YAML reads it.
        place: where the value stands.
        key: where its key stands.
        raw: the text of a scalar written without quotes.
        is_resolved: it is what a reference stands for, such as a variable of the environment, which has no type.
    """

    value: Any
    place: Place
    key: Place | None = None
    raw: str | None = None
    is_resolved: bool = False


@dataclass
class Problem:
    """One thing that is wrong with a file: where, what, and what to do."""

    place: Place
    message: str
    hint: str = ""
    span: int = 1

    def __str__(self) -> str:
        """Return it as a compiler would: place and message, the line, a caret with the hint."""
        if not self.place.line:
            where = f"{self.place.source}: " if self.place.source else ""
            return f"{where}{self.message}{f' ({self.hint})' if self.hint else ''}"
        number = f"{self.place.line:>5} | "
        under = " " * (len(number) + self.place.column - 1) + "^" * max(1, self.span)
        head = f"{self.place.source}:{self.place.line}: {self.message}"
        return "\n".join([head, number + self.place.text, f"{under} {self.hint}".rstrip()])


@dataclass
class Diagnostics:
    """What was found so far; warnings do not stop a run."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, place: Place, message: str, hint: str = "", span: int = 1) -> None:
        """Note an error."""
        self.errors.append(Problem(place, message, hint, span))

    def warn(self, place: Place, sentence: str) -> None:
        """Note what does not stop a run."""
        where = f"{place.source}:{place.line}" if place.line else place.source
        self.warnings.append(f"{where}: {sentence}" if where else sentence)

    def settle(self) -> None:
        """Print the warnings, and raise one ConfigError with all errors, in the order of the file."""
        for warning in self.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        if self.errors:
            ordered = sorted(self.errors, key=lambda problem: (problem.place.source, problem.place.line))
            raise ConfigError("\n\n".join(map(str, ordered)))


class _Loader(yaml.SafeLoader):
    """YAML's own types, except that 1e-5 is a number too."""


EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789."))


def read_file(path: Path) -> Tree:
    """Return a file as a tree.

    Raises:
        ConfigError: there is no such file, or it is not YAML; with the line.
    """
    if not path.is_file():
        raise ConfigError(f"There is no file '{path}'; give the path of a run's YAML file.")
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from None


def parse(text: str, source: str) -> Tree:
    """Return YAML text as a tree.

    Raises:
        ConfigError: it is not YAML, or not a mapping.
    """
    lines = text.splitlines()
    try:
        tree = _composed(text, _Source(source, lines)) or Tree({}, Place(source))
    except yaml.MarkedYAMLError as error:
        key = error.context == "while scanning a simple key"  # what is missing was missing there
        mark = (error.context_mark if key else None) or error.problem_mark or error.context_mark
        where = _Source(source, lines).at(mark) if mark is not None else Place(source)
        what = " ".join(part for part in (error.context, error.problem) if part)
        what = "a key is followed by a colon and a blank, as in key: value" if key else what
        raise ConfigError(str(Problem(where, f"not valid YAML: {what}"))) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{source}:{line}: not valid YAML: the character U+{error.character:04X} is not allowed."
        ) from None
    except RecursionError:
        raise ConfigError(
            f"{source}: not valid YAML: an anchor (&) holds itself, or it is nested too deeply."
        ) from None
    if not isinstance(tree.value, dict):
        raise ConfigError(f"{source}: a run's file has sections (model:, data:, training:), but this holds a "
                          f"{type(tree.value).__name__}.")  # fmt: skip
    return tree


@dataclass
class _Source:
    name: str
    lines: list[str]

    def at(self, mark: Any) -> Place:
        if self.name == COMMAND_LINE:
            return Place(f"{COMMAND_LINE}: {self.lines[0]}" if self.lines else COMMAND_LINE)
        text = self.lines[mark.line] if mark.line < len(self.lines) else ""
        return Place(self.name, mark.line + 1, mark.column + 1, text)


def _composed(text: str, source: _Source) -> Tree | None:
    """Return YAML text as a tree; None where it holds nothing."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _tree(loader, node, source)
    finally:
        loader.dispose()


def _tree(loader: _Loader, node: yaml.Node, source: _Source) -> Tree:
    place = source.at(node.start_mark)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Tree] = {}
        for key, (key_node, value_node) in _merged(loader, node).items():
            found[key] = _tree(loader, value_node, source)
            found[key].key = source.at(key_node.start_mark)
        return Tree(found, place)
    if isinstance(node, yaml.SequenceNode):
        return Tree([_tree(loader, one, source) for one in node.value], place)
    plain = node.value if node.style is None else None
    try:
        value = loader.construct_object(node, deep=True)
    except ValueError as error:
        raise yaml.MarkedYAMLError(None, None, str(error), node.start_mark) from None
    except (AttributeError, LookupError):  # PyYAML's own, where a text has a tag that it does not fit
        what = f"{node.value!r} is no {node.tag.rpartition(':')[2]}"
        raise yaml.MarkedYAMLError(None, None, what, node.start_mark) from None
    return Tree(value, place, raw=plain)


def _merged(loader: _Loader, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Return a mapping's keys and values by key; its own go before those that `<<` merges into it.

    Raises:
        MarkedYAMLError: a key is given twice by the mapping itself.
    """
    own: set[str] = set()
    for key, _ in node.value:
        if key.tag != _MERGE and str(key.value) in own:
            raise yaml.MarkedYAMLError(None, None, f"the key '{key.value}' is given twice", key.start_mark)
        own |= {str(key.value)} if key.tag != _MERGE else set()
    loader.flatten_mapping(node)
    found = {str(key.value): (key, value) for key, value in node.value}
    node.value = [*found.values()]  # an anchor's mapping is seen again wherever it is named
    return found


def apply(tree: Tree, overrides: Sequence[str]) -> None:
    """Put overrides of the command line into a tree: `a.b=1`, `--a.b=1` and `--a.b 1`.

    Raises:
        ConfigError: one of them is none, or leads through something that has no keys.
    """
    for key, text in _pairs(overrides):
        source = _Source(COMMAND_LINE, [f"{key}={text}"])
        try:
            value = _composed(text, source) or Tree(None, source.at(None))
            if value.raw is not None and value.raw != text.strip():  # `exp #3` is no text with a comment here
                value = Tree(text, value.place)
        except (yaml.YAMLError, RecursionError):  # a text with a colon or a brace in it
            value = Tree(text, source.at(None))
        value.key = value.place
        put(tree, key, value)


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    waiting: str | None = None
    for word in overrides:
        if waiting is not None and re.match(r"--\w+\.", word):
            break  # it is the next key
        if waiting is not None:
            yield waiting, word
            waiting = None
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if equals and re.fullmatch(r"[\w.\[\]-]+", key):
            yield key, value
        elif word.startswith("--"):
            waiting = key
        else:
            raise ConfigError(
                f"'{word}' is no override; write key=value, such as training.max_steps=100, or --training.max_steps 9."
            )
    if waiting is not None:
        raise ConfigError(f"--{waiting} has no value; write --{waiting} VALUE or {waiting}=VALUE.")


def put(tree: Tree, path: str, value: Tree) -> None:
    """Put a value at a dotted path, making the sections on the way.

    Raises:
        ConfigError: the path leads through a scalar, or to an item that a list does not have.
    """
    parts = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if tree.value is None:
            tree.value = {}
        if isinstance(tree.value, list):
            if not part.isdecimal() or int(part) > len(tree.value):
                raise ConfigError(f"'{path}': the list has {len(tree.value)} items, so there is no item '{part}'.")
            if int(part) == len(tree.value):
                tree.value.append(Tree({}, value.place, value.key))
            if last:
                tree.value[int(part)] = value
            tree = tree.value[int(part)]
        elif isinstance(tree.value, dict):
            if last:
                tree.value[part] = value
            tree = tree.value.setdefault(part, Tree({}, value.place, value.key))
        else:
            raise ConfigError(f"'{path}': '{'.'.join(parts[:depth])}' is {tree.value!r}, which has no keys.")


def _way(tree: Tree, path: str) -> Iterator[Tree | None]:
    """Yield what stands at every part of a dotted path, and None where it ends early."""
    for part in path.split("."):
        if isinstance(tree.value, dict) and part in tree.value:
            tree = tree.value[part]
        elif isinstance(tree.value, list) and part.isdecimal() and int(part) < len(tree.value):
            tree = tree.value[int(part)]
        else:
            yield None
            return
        yield tree


def get(tree: Tree, path: str) -> Tree | None:
    """Return what stands at a dotted path, or None."""
    return list(_way(tree, path))[-1]


def place_of(tree: Tree, path: str) -> Place:
    """Return where a dotted name stands in a tree; the nearest section above it where it is not given."""
    found = [one.key or one.place for one in _way(tree, path) if one is not None]
    return found[-1] if found else Place(tree.place.source)


def plain(tree: Tree) -> Any:
    """Return a tree as plain dicts, lists and scalars; dates stay the text they were written as."""
    if isinstance(tree.value, dict):
        return {key: plain(one) for key, one in tree.value.items()}
    if isinstance(tree.value, list):
        return [plain(one) for one in tree.value]
    if isinstance(tree.value, str | int | float | bool | None):
        return tree.value
    return tree.raw if tree.raw is not None else str(tree.value)


def tree_of(value: Any) -> Tree:
    """Return plain dicts, lists and scalars as a tree that stands nowhere."""
    if isinstance(value, dict):
        return Tree({str(key): tree_of(one) for key, one in value.items()}, Place(""))
    return Tree([tree_of(one) for one in value] if isinstance(value, list) else value, Place(""))


def leaves(tree: Tree) -> Iterator[Tree]:
    """Yield every scalar of a tree."""
    parts = tree.value.values() if isinstance(tree.value, dict) else tree.value if isinstance(tree.value, list) else ()
    if isinstance(tree.value, dict | list):
        for part in parts:
            yield from leaves(part)
    else:
        yield tree
