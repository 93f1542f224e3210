"""The part of JSON Schema (draft 7) that our schema uses, as its specification says, and YAML as editors read it."""

from __future__ import annotations

import re
from functools import reduce

import yaml

TYPES = {
    "object": lambda v: isinstance(v, dict), "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool), "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: TYPES["number"](v) and v == int(v) if not isinstance(v, float) or v == v else False,
}  # fmt: skip
KNOWN = {
    "type", "enum", "pattern", "anyOf", "allOf", "properties", "additionalProperties", "items", "required", "if",
    "then", "description", "deprecated", "title", "$schema",
    "$ref", "definitions",
}  # fmt: skip


def same(one, other):
    return (
        type(one) is type(other) and one == other or (TYPES["number"](one) and TYPES["number"](other) and one == other)
    )


def faults(value, schema, path="file", root=None):
    """Yield what a validator marks."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    root = root or schema
    if "$ref" in schema:
        schema = reduce(lambda part, name: part[name], schema["$ref"].split("/")[1:], root)
    yield from _of_the_value(value, schema, path)
    if "anyOf" in schema and not any(not list(faults(value, one, path, root)) for one in schema["anyOf"]):
        yield f"{path}: {value!r} is none of {len(schema['anyOf'])}"
    for one in schema.get("allOf", []):
        yield from faults(value, one, path, root)
    if "if" in schema and not list(faults(value, schema["if"], path, root)):
        yield from faults(value, schema.get("then", {}), path, root)
    if isinstance(value, dict):
        yield from _of_keys(value, schema, path, root)
    if isinstance(value, list) and "items" in schema:
        for number, inner in enumerate(value):
            yield from faults(inner, schema["items"], f"{path}[{number}]", root)


def _of_the_value(value, schema, path):
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(TYPES[kind](value) for kind in kinds):
        yield f"{path}: {value!r} is no {kinds}"
    if "enum" in schema and not any(same(value, one) for one in schema["enum"]):
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} is not {schema['pattern']}"


def _of_keys(value, schema, path, root):
    properties = schema.get("properties", {})
    yield from (f"{path}: lacks {name}" for name in schema.get("required", []) if name not in value)
    for name, inner in value.items():
        if name in properties:
            yield from faults(inner, properties[name], f"{path}.{name}", root)
        elif schema.get("additionalProperties") is False:
            yield f"{path}: has no {name}"


class Core(yaml.SafeLoader):
    """YAML 1.2's core schema: no yes and no, no dates, 1e3 is a number."""


Core.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(inf|Inf|INF)$", "-+."),
):
    Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def read(text):
    """Return YAML as an editor reads it."""
    return yaml.load(text, Core)
