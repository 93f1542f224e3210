"""A JSON schema of a run's file for editors, made from the dataclasses and the table of `uses`: it marks what the
loader or `check` refuse, and nothing else.

`python -m trainwright.config.keys.json_schema` prints the one that is shipped as recipes/run.schema.json. YAML is
1.2 to an editor, so `yes` is a text there.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from trainwright.args import aliases
from trainwright.config import methods
from trainwright.config.keys import fates
from trainwright.config.keys.lines import Fate, Line
from trainwright.config.options import RENAMED
from trainwright.config.params import ARGUMENTS
from trainwright.config.reading.convert import hints
from trainwright.config.reading.writing import plain
from trainwright.config.schema import TrainingConfig

Schema = dict[str, Any]
_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}
_SCALARS: dict[Any, Schema] = {
    str: {"type": ["string", "number", "boolean"]},  # 7 and no are texts where a text is asked for
    int: {"anyOf": [{"type": "integer"}, _REFERENCE]},
    float: {"anyOf": [{"type": "number"}, _REFERENCE]},
    bool: {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": r"^([yY]es|YES|[nN]o|NO|[oO]n|ON|[oO]ff|OFF)$"},
                     _REFERENCE]},
    types.NoneType: {"type": "null"},
    dict: {"type": "object"},
}  # fmt: skip


def schema() -> Schema:
    """Return the schema of a whole file."""
    made = _section(TrainingConfig)
    made["type"] = "object"
    training = made["properties"]["training"]["properties"]
    arguments = {name: {"$ref": f"#/properties/training/properties/{name}"} for name in ARGUMENTS}
    old = {name: new for name, new in aliases.RENAMED.items() if name not in training}
    replaced = {name: use for name, (use, _) in aliases.REPLACED.items() if name not in training}
    training |= _renamed(old, training) | _renamed(replaced, {})
    kinds = {_settings_of(kind): {**arguments, **_section(kind)["properties"]} for kind in methods.all_options()}
    settings = {
        name: {"additionalProperties": False, "properties": {**some, **_past({**replaced, **old, **RENAMED}, some)}}
        for name, some in {**kinds, "either": _either(list(kinds.values()))}.items()
    }
    training["trainer_type"] = {"anyOf": [_names(methods.known()), {"type": "null"}]}
    training["trainer_kwargs"] = {"type": "object"}
    everyone = {one.name: one for one in methods.everyone()}
    undecided = {name or "null": able for name, able in methods.BY_DATA.items()}
    common = [line for key in fates.every_key() for line in _shared(key, everyone)]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Trainwright run",
        **made,
        "allOf": [
            _of_trainers(everyone, (*everyone, *undecided)),
            *(
                _with_settings(_of_trainers((name,), (name,), common), _settings_of(one.options))
                for name, one in everyone.items()
            ),
            *(_with_settings(_of_trainers(some, (name,), common), "either") for name, some in undecided.items()),
        ],
        "definitions": settings,
    }


def _section(kind: Any) -> Schema:
    helps = {f.name: f.metadata.get("help") for f in fields(kind)}
    properties = {}
    for name, hint in hints(kind).items():
        properties[name] = _value(hint)
        if helps[name]:
            properties[name] = {**properties[name], "description": helps[name]}
    return {"type": ["object", "null"], "additionalProperties": False, "properties": properties}


def _value(hint: Any) -> Schema:
    if is_dataclass(hint):
        return _section(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {"anyOf": [_value(option) for option in typing.get_args(hint)]}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _value(typing.get_args(hint)[0])}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _names([*(one.name for one in hint), *(str(one.value) for one in hint)])
    return _SCALARS.get(typing.get_origin(hint) or hint, {})


def _names(given: Collection[str]) -> Schema:
    names = list(dict.fromkeys(given))
    numbers = [int(name) for name in names if name.isdigit()]
    return {"anyOf": [{"enum": [*names, *numbers]}, _any_case(names), _REFERENCE]}


def _any_case(names: Collection[str]) -> Schema:
    letters = ("".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in name) for name in names)
    return {"type": "string", "pattern": f"^({'|'.join(letters)})$"}


def _renamed(names: dict[str, Any], known: Schema) -> Schema:
    """Return old names, which the loader takes with a warning."""
    return {
        old: {
            **known.get(new, {}),
            "deprecated": True,
            "description": f"An old name; use {new}." if new else "No effect.",
        }
        for old, new in names.items()
    }


def _past(names: dict[str, Any], known: Schema) -> Schema:
    """Return old names, without those that a method has today."""
    return _renamed({old: new for old, new in names.items() if old not in known}, known)


def _either(kinds: list[Schema]) -> Schema:
    """Return what is one of several kinds of settings; anything where they differ."""
    found: Schema = {}
    for one in reversed(kinds):
        found |= {name: {} if found.get(name, value) != value else value for name, value in one.items()}
    return found


def _of_trainers(trainers: Collection[str], written: Collection[str], told: Collection[Line] = ()) -> Schema:
    """Return what holds for the files of some trainers: what all of them refuse, and the names under trainer_kwargs.

    Args:
        written: as `training.trainer_type`; `null` stands for a file without it.
        told: lines that another part of the schema has already.
    """
    then: Schema = {"properties": {}}
    for key, default in fates.every_key().items():
        line = next((one for one in _shared(key, trainers) if one not in told), None)
        if line is not None:
            allowed = _only(default, line.fine)
            _put(then, key.split("."), {**allowed, "description": f"Refused: {line.why}."})
    asked = {"anyOf": [_any_case([name for name in written if name != "null"]), {"type": "null"}]}
    training: Schema = {"type": ["object", "null"], "properties": {"trainer_type": asked}}
    if "null" in written:
        return {"if": {"properties": {"training": training}}, "then": then}
    training |= {"type": "object", "required": ["trainer_type"], "properties": {"trainer_type": asked["anyOf"][0]}}
    return {"if": {"properties": {"training": training}, "required": ["training"]}, "then": then}


def _with_settings(made: Schema, name: str) -> Schema:
    """Return what holds for some trainers, with the definition of what stands under trainer_kwargs."""
    training = made["then"]["properties"].setdefault("training", {}).setdefault("properties", {})
    training["trainer_kwargs"] = {**training.get("trainer_kwargs", {}), "allOf": [{"$ref": f"#/definitions/{name}"}]}
    return made


def _shared(key: str, trainers: Collection[str]) -> list[Line]:
    """Return the lines by which all of some trainers refuse a key."""
    lines = [line for line in fates.lines_of(key, next(iter(trainers))) if _marks(line)]
    return [line for line in lines if all(line in fates.lines_of(key, other) for other in trainers)]


def _settings_of(kind: type) -> str:
    return kind.__name__.removesuffix("Options").lower()


def _marks(line: Line) -> bool:
    return line.fate is Fate.REFUSED and line.used_if is None and not line.is_told


def _only(default: Any, fine: tuple[Any, ...]) -> Schema:
    """Return the schema of what is no other value than the default, or one of some more."""
    if is_dataclass(default) and not isinstance(default, type):
        inner = {f.name: _only(getattr(default, f.name), ()) for f in fields(default)}
        return {"properties": inner}
    return {"anyOf": [{"enum": [plain(one) for one in (default, *fine)]}, _REFERENCE]}


def _put(made: Schema, way: list[str], value: Schema) -> None:
    """Put the schema of a key at its way, whose `*` are the items of a list."""
    for part in way[:-1]:
        made = made.setdefault("items", {}) if part == "*" else made.setdefault("properties", {}).setdefault(part, {})
    made.setdefault("properties", {})[way[-1]] = value


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
