"""From a tree to dataclasses: every value is checked against the type that its field declares."""

from __future__ import annotations

import math
import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from trainwright.config.methods import all_options
from trainwright.config.reading.elsewhere import NAMES
from trainwright.config.reading.tree import Diagnostics, Tree, plain
from trainwright.config.schema import TrainingConfig
from trainwright.errors import did_you_mean

T = TypeVar("T")
_WRONG = object()
_MAY_BE_INFINITE = ("training.max_grad_norm",)  # measured, and never clipped
_NUMBERS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def convert(tree: Tree, kind: type[T], path: str, problems: Diagnostics) -> T:
    """Return a dataclass filled from a tree; what does not fit is noted and left at its default.

    Args:
        tree: a mapping.
        kind: the dataclass.
        path: dotted name of the section, for messages; empty at the top.
        problems: takes unknown keys and wrong types.
    """
    if tree.value is None:
        return kind()
    if not isinstance(tree.value, dict):
        problems.add(tree.place, f"{path} is {plain(tree)!r}, but a section with keys is expected")
        return kind()
    types_of = hints(kind)
    given: dict[str, Any] = {}
    for name, value in tree.value.items():
        dotted = f"{path}.{name}" if path else name
        if name not in types_of:
            section = _section_of(name)
            nearest = f"Did you mean '{section}.{name}'?" if section else did_you_mean(name, types_of).strip()
            nearest = f"write {NAMES[name]}" if not path and name in NAMES else nearest
            hint = nearest or (f"known: {', '.join(types_of)}" if len(types_of) < 30 else "")
            problems.add(value.key or value.place, f"unknown key {dotted}", hint, len(name))
            continue
        found = _convert(value, types_of[name], dotted, problems)
        if found is not _WRONG:
            given[name] = found
    return kind(**given)


def _section_of(name: str) -> str:
    """Return the first section that has a key of this name; empty where none has."""
    known = (one for one, kind in hints(TrainingConfig).items() if name in hints(kind))
    options = "training.trainer_kwargs" if any(name in hints(kind) for kind in all_options()) else ""
    return next(known, options)


def _is_section(kind: Any) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    found = typing.get_type_hints(kind)
    return {f.name: found[f.name] for f in fields(kind) if f.init}


def _convert(tree: Tree, kind: Any, path: str, problems: Diagnostics) -> Any:
    """Return a value of a type, or _WRONG after noting why not."""
    if _is_section(kind):
        return convert(tree, kind, path, problems)
    options = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    section = next((option for option in options if _is_section(option)), None)
    if section is not None and isinstance(tree.value, dict):
        return convert(tree, section, path, problems)
    for exact in (True, False):
        for option in options:
            found = _fit(tree, option, path, problems, exact)
            if found is not _WRONG:
                return found
    if not any(typing.get_origin(option) is list for option in options) or not isinstance(tree.value, list):
        _complain(tree, options, path, problems)
    return _WRONG


def _fit(tree: Tree, kind: Any, path: str, problems: Diagnostics, exact: bool) -> Any:
    """Return the value as one plain type, or _WRONG; `exact` allows no conversion."""
    value = tree.value
    if kind is Any:
        return plain(tree)
    if kind is types.NoneType:
        return None if value is None else _WRONG
    if typing.get_origin(kind) is list:
        return _list(tree, kind, path, problems) if isinstance(value, list) and not exact else _WRONG
    if typing.get_origin(kind) is dict or kind is dict:
        return plain(tree) if isinstance(value, dict) else _WRONG
    if isinstance(value, dict | list) or value is None:
        return _WRONG
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind, tree)
    if kind is Path:
        kind = str
    if isinstance(value, float) and not math.isfinite(value) and path not in _MAY_BE_INFINITE:
        return _WRONG
    if exact:
        return value if type(value) is kind else _WRONG
    return _scalar(tree, kind)


def _scalar(tree: Tree, kind: Any) -> Any:
    value = tree.value
    if tree.is_resolved and isinstance(value, str) and kind is not str:
        return _of_text(value, kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is str:  # `no` and `001` are texts where a text is asked for
        return tree.raw if tree.raw is not None else str(value)
    return _WRONG


def _of_text(text: str, kind: Any) -> Any:
    """Return what a text of the environment is as a number or a boolean, as OmegaConf's typed nodes read it."""
    from omegaconf import BooleanNode, FloatNode, IntegerNode
    from omegaconf.errors import ValidationError

    nodes: dict[Any, Any] = {int: IntegerNode, float: FloatNode, bool: BooleanNode}
    try:
        value = nodes[kind](text)._value() if kind in nodes else _WRONG
    except ValidationError:
        return _WRONG
    return _WRONG if isinstance(value, float) and not math.isfinite(value) else value


def _list(tree: Tree, kind: Any, path: str, problems: Diagnostics) -> Any:
    (inner,) = typing.get_args(kind)
    before = len(problems.errors)
    found = [_convert(one, inner, f"{path}[{number}]", problems) for number, one in enumerate(tree.value)]
    return _WRONG if len(problems.errors) > before and _WRONG in found else found


def _member(kind: type[Enum], tree: Tree) -> Any:
    text = (tree.raw if tree.raw is not None else str(tree.value)).casefold()
    return next((one for one in kind if text in (one.name.casefold(), str(one.value).casefold())), _WRONG)


def _complain(tree: Tree, options: tuple[Any, ...], path: str, problems: Diagnostics) -> None:
    shown = repr(plain(tree))
    enum = next((one for one in options if isinstance(one, type) and issubclass(one, Enum)), None)
    if enum is not None:
        members = [one.name for one in enum]
        near = did_you_mean(str(tree.value).upper(), members).strip()
        problems.add(tree.place, f"{path}: {shown} is not known", f"{near} known: {', '.join(members)}".strip())
        return
    expected = " or ".join(dict.fromkeys(_named(option) for option in options if option is not types.NoneType))
    hint = ""
    if isinstance(tree.value, str) and not tree.is_resolved and (int in options or float in options):
        hint = "write it without quotes" if _is_number(tree.value) else ""
    problems.add(tree.place, f"{path}: {shown} is {_kind(tree.value)}, but {expected} is expected", hint)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _named(kind: Any) -> str:
    if typing.get_origin(kind) is list:
        return "a list"
    if typing.get_origin(kind) is dict or kind is dict:
        return "a mapping"
    return _NUMBERS.get(kind, "a section with keys")


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    names = {dict: "a mapping", list: "a list", type(None): "empty", **_NUMBERS}
    return names.get(type(value), type(value).__name__)
