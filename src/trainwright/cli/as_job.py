"""Runs of the command line are jobs, with no decorator at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any


@contextmanager
def running(name: str, params: dict[str, Any]) -> Iterator[None]:
    """Be a job while the body runs, unless `TRAINWRIGHT_JOBS=off`; inside one, be that one."""
    from trainwright.jobs.tracking import tracked

    with tracked(name, params):
        yield


def changed(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a configuration that are not the defaults, by dotted name."""
    found: dict[str, Any] = {}
    default = type(config)()
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            found |= changed(value, f"{prefix}{field.name}.")
        elif value != getattr(default, field.name) and (value is None or isinstance(value, str | int | float | bool)):
            found[prefix + field.name] = value
    return found
