"""Parameters of jobs as lists filter and sort by them: by name, as text and, where they are numbers, as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection

from trainwright.jobs import values
from trainwright.jobs.store import masking, schema

_LONGEST = 200  # characters of a text, of the database's column


def keep(connection: Connection, job: str, params: Mapping[str, Any]) -> None:
    """Keep a job's parameters in the place of those that it had; secrets as they are shown."""
    connection.execute(schema.params.delete().where(schema.params.c.job == job))
    found = {}
    for name, value in _leaves(masking.params(params)):
        short = values.text(name, values.NAME_LENGTH)
        found[short] = {
            "job": job,
            "name": short,
            "text": values.text(spelled(value), _LONGEST),
            "number": number(value),
        }
    if found:
        connection.execute(schema.params.insert(), [*found.values()])


def spelled(value: Any) -> str:
    """Return a value as the column holds it: a text as it is, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number(value: Any) -> float | None:
    """Return the number that a value is; None for what is none, true and false too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return found if math.isfinite(found) else None


def _leaves(params: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value, of nested ones with a point between the names."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
