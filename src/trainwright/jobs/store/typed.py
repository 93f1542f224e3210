"""Parameters of jobs as lists filter and sort by them: by name, as text and, where they are numbers, as numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from trainwright.jobs import values
from trainwright.jobs.store import masking, schema

_LONGEST = 200  # characters of a text, of the database's column


def keep(connection: Connection, job: str, params: Mapping[str, Any]) -> None:
    """Keep a job's parameters in the place of those that it had; secrets as they are shown."""
    connection.execute(schema.params.delete().where(schema.params.c.job == job))
    found = [{"job": job, **row} for row in _rows(params)]
    if found:
        connection.execute(schema.params.insert(), found)


def keep_defaults(connection: Connection, given: Mapping[str, Any]) -> str:
    """Keep what parameters are by default, once for all jobs of which it is the same; return what names it."""
    whole = json.dumps(given, sort_keys=True)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    table = schema.default_sets
    if connection.execute(select(table.c.digest).where(table.c.digest == digest)).first() is None:
        try:
            with connection.begin_nested():
                connection.execute(table.insert().values(digest=digest, whole=whole))
                rows = [{"digest": digest, **row} for row in _rows(given)]
                if rows:
                    connection.execute(schema.defaults.insert(), rows)
        except IntegrityError:
            return digest  # another process kept it meanwhile
    return digest


def defaults(connection: Connection, digest: str | None) -> dict[str, Any]:
    """Return what the parameters of a job are by default, by name, where it has told."""
    table = schema.default_sets
    whole = connection.execute(select(table.c.whole).where(table.c.digest == digest)).scalar() if digest else None
    return {} if whole is None else dict(json.loads(whole))


def changed(params: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters that are not as they are by default."""
    return [name for name, value in params.items() if name not in usual or value != usual[name]]


def _rows(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, text and number of each."""
    found = {}
    for name, value in _leaves(masking.params(params)):
        short = values.text(name, values.NAME_LENGTH)
        found[short] = {"name": short, "text": values.text(spelled(value), _LONGEST), "number": number(value)}
    return [*found.values()]


def spelled(value: Any) -> str:
    """Return a value as the column holds it: a text as it is, others as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def number(value: Any) -> float | None:
    """Return the number that a value is; None for what is none: nan, true and false too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return None
    return None if math.isnan(found) else found


def _leaves(params: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and value, of nested ones with a point between the names."""
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
