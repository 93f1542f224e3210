"""Answers that are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from trainwright.errors import ConfigError, did_you_mean
from trainwright.verifiers.text import answer_in

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip


def json_schema(completion: str, schema: str | Mapping[str, Any], pattern: str | None = None) -> float:
    """Return 1.0 if the answer is JSON that a schema describes.

    Args:
        completion: what was written.
        schema: in JSON, or as a mapping: `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`,
            `items`, `minItems`, `maxItems`, `minLength`, `maxLength`, `pattern`, `minimum`, `maximum`, `anyOf`,
            `allOf`, `oneOf`, `not` of JSON Schema (json-schema.org); titles, descriptions and examples are passed over.
        pattern: finds the answer in the completion; see `answer_in`.

    Raises:
        ConfigError: the schema has another keyword.
    """
    wanted: Any = json.loads(schema) if isinstance(schema, str) else schema
    try:
        value = json.loads(answer_in(completion, pattern))
    except ValueError:
        return 0.0
    return float(fits(value, wanted))


def fits(value: Any, schema: Any) -> bool:
    """Return whether a schema describes a value.

    Raises:
        ConfigError: it has a keyword that is not known.
    """
    if isinstance(schema, bool):
        return schema
    for name in schema:
        if name not in _RULES and name not in _PASSED_OVER:
            raise ConfigError(f"json_schema does not know the keyword '{name}'.{did_you_mean(name, _RULES)}")
    return all(_RULES[name](value, wanted, schema) for name, wanted in schema.items() if name in _RULES)


def _has_type(value: Any, wanted: Any, schema: Any) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    if isinstance(value, bool):
        return "boolean" in names
    is_whole = isinstance(value, float) and value.is_integer() and "integer" in names
    return is_whole or any(isinstance(value, _TYPES[name]) for name in names)


def _properties(value: Any, wanted: Any, schema: Any) -> bool:
    return not isinstance(value, dict) or all(fits(value[name], one) for name, one in wanted.items() if name in value)


def _others(value: Any, wanted: Any, schema: Any) -> bool:
    known = schema.get("properties", {})
    return not isinstance(value, dict) or all(fits(one, wanted) for name, one in value.items() if name not in known)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other and isinstance(one, bool) == isinstance(other, bool))


def _bound(kind: type | tuple[type, ...], holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any, Any], bool]:
    """Return a rule about values of a kind; others fit."""
    return lambda value, wanted, schema: not isinstance(value, kind) or isinstance(value, bool) or holds(value, wanted)


_NUMBER = (int, float)
_RULES: dict[str, Callable[[Any, Any, Any], bool]] = {
    "type": _has_type,
    "enum": lambda value, wanted, schema: any(_same(value, one) for one in wanted),
    "const": lambda value, wanted, schema: _same(value, wanted),
    "properties": _properties,
    "required": lambda value, wanted, schema: not isinstance(value, dict) or all(name in value for name in wanted),
    "additionalProperties": _others,
    "items": _bound(list, lambda value, wanted: all(fits(one, wanted) for one in value)),
    "minItems": _bound(list, lambda value, wanted: len(value) >= wanted),
    "maxItems": _bound(list, lambda value, wanted: len(value) <= wanted),
    "minLength": _bound(str, lambda value, wanted: len(value) >= wanted),
    "maxLength": _bound(str, lambda value, wanted: len(value) <= wanted),
    "pattern": _bound(str, lambda value, wanted: re.search(wanted, value) is not None),
    "minimum": _bound(_NUMBER, lambda value, wanted: value >= wanted),
    "maximum": _bound(_NUMBER, lambda value, wanted: value <= wanted),
    "anyOf": lambda value, wanted, schema: any(fits(value, one) for one in wanted),
    "allOf": lambda value, wanted, schema: all(fits(value, one) for one in wanted),
    "oneOf": lambda value, wanted, schema: sum(fits(value, one) for one in wanted) == 1,
    "not": lambda value, wanted, schema: not fits(value, wanted),
}
_PASSED_OVER = ("$schema", "$id", "$comment", "title", "description", "default", "examples")
