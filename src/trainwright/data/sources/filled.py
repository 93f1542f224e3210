"""Arguments of tool calls and schemas of tools as they were before Arrow gave each the keys of all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FREE = ("arguments", "parameters")
"""Mappings whose keys differ from call to call, and from tool to tool."""


def without_filled(rows: Any) -> Any:
    """Return rows whose tool calls and tools hold no key of another row's, which a table has as null.

    Rows of JSON files have the keys that were written, so what is null there is meant.

    Args:
        rows: a `datasets.Dataset`, or a stream of one.
    """
    from datasets import Features

    if rows.features is None or rows.info.builder_name == "json":
        return rows
    free = Features({name: _freed(feature) for name, feature in rows.features.items()})
    names = [name for name in free if free[name] != rows.features[name]]
    if not names:
        return rows
    return rows.map(_kept, fn_kwargs={"names": names}, features=free)


def _freed(feature: Any, name: str = "") -> Any:
    """Return a feature in which what stands under `arguments` and `parameters` is JSON, of any keys."""
    import datasets

    if isinstance(feature, Mapping):
        return datasets.Json() if name in _FREE else {key: _freed(one, key) for key, one in feature.items()}
    if isinstance(feature, datasets.List):
        return datasets.List(_freed(feature.feature))
    return feature


def _kept(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: _without_nulls(row[name]) for name in names}


def _without_nulls(value: Any, within: bool = False) -> Any:
    """Return a value whose mappings below `arguments` and `parameters` hold nothing that is null."""
    if isinstance(value, Mapping):
        return {
            key: _without_nulls(one, within or key in _FREE)
            for key, one in value.items()
            if not (within and one is None)
        }
    return [_without_nulls(one, within) for one in value] if isinstance(value, list) else value
