"""A JSON schema of a run's file for editors, made from the dataclasses.

`python -m trainwright.config.json_schema` prints the one that is shipped as recipes/run.schema.json.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from trainwright.config.convert import hints
from trainwright.config.options import DPOOptions, SFTOptions
from trainwright.config.schema import TrainingConfig

_PLAIN = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null", dict: "object"}


def schema() -> dict[str, Any]:
    """Return the schema of a whole file."""
    made = _section(TrainingConfig)
    kwargs = {**_section(DPOOptions)["properties"], **_section(SFTOptions)["properties"]}
    kwargs["loss_type"] = {}  # texts in one, a text or a list in the other
    made["properties"]["training"]["properties"]["trainer_kwargs"] = {"type": "object", "properties": kwargs}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Trainwright run", **made}


def _section(kind: Any) -> dict[str, Any]:
    helps = {f.name: f.metadata.get("help") for f in fields(kind)}
    properties = {}
    for name, hint in hints(kind).items():
        properties[name] = _value(hint)
        if helps[name]:
            properties[name]["description"] = helps[name]
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(hint: Any) -> dict[str, Any]:
    if is_dataclass(hint):
        return _section(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return {"anyOf": [_value(option) for option in typing.get_args(hint)]}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _value(typing.get_args(hint)[0])}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [one.name for one in hint] + [one.name.lower() for one in hint]}
    origin = typing.get_origin(hint) or hint
    return {"type": _PLAIN[origin]} if origin in _PLAIN else {}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
