"""What lists filter, sort and group by: columns of jobs, parameters and metrics, by their names or a part of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import values
from trainwright.jobs.store import schema

COLUMNS = ("id", "name", "experiment", "status", "progress", "step", "total_steps", "created", "started", "ended",
           "ran", "message", "attempt", "stop_requested", "changed", "tags", "note")  # fmt: skip
"""Of a job, what a list has of it."""
MORE = ("host", "folder", "cwd")
"""What it can show besides."""
TIMES = ("created", "started", "ended", "stop_requested")
FIGURES = {"last": "value", "least": "least", "greatest": "greatest"}
_ALSO = {"tag": "tags", "time": "ran", "started_at": "started", "host_name": "host"}
_SHORT = {"lr": "learning_rate"}
_PARAM, _METRIC = "training.", "train/"  # what a name may be said without


@dataclass(frozen=True)
class Key:
    """A column (`status`), a parameter (`param`), or of a metric the `last`, `least` or `greatest` value."""

    kind: str  # column, param, or one of FIGURES
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == "column" else f"{self.kind}:{self.name}"

    @property
    def column(self) -> Any:
        """The column of a job's own, or of a metric's figures."""
        return schema.jobs.c[self.name] if self.kind == "column" else schema.figures.c[FIGURES[self.kind]]


def exact(text: str) -> Key | None:
    """Return the key that a text is in full: a column, `param:NAME` or `last:NAME`; None where it is none."""
    kind, colon, name = text.partition(":")
    if colon and (kind == "param" or kind in FIGURES):
        return Key(kind, values.text(name, values.NAME_LENGTH))
    own = _ALSO.get(text, text)
    return Key("column", own) if own in (*COLUMNS, *MORE) else None


def written(text: str) -> Key:
    """Return the key that a text is in full.

    Raises:
        JobError: it is none.
    """
    found = exact(text)
    if found is None:
        known = [*COLUMNS, "param:NAME", *(f"{one}:NAME" for one in FIGURES)]
        raise JobError(
            f"{text[:60]!r} is nothing to filter or sort by; {', '.join(known)} are.{did_you_mean(text, known)}"
        )
    return found


def meant(connection: Connection, text: str) -> list[Key]:
    """Return the keys that a person means by a name: of a job, the first that it has.

    In full, or a parameter's name, also without `training.`, or a metric's, also without `train/`, or the last part of
    either where there is one such name; parameters go before metrics.

    Raises:
        JobError: nothing has such a name, or several have.
    """
    found = exact(text)
    if found is not None:
        return [found]
    for kind, start, mark, tables in (
        ("param", _PARAM, ".", (schema.params, schema.defaults)), ("last", _METRIC, "/", (schema.figures,)),
    ):  # fmt: skip
        said = (text, _SHORT.get(text, text))
        wanted = dict.fromkeys([*said, *(start + one for one in said)])
        there = [name for name in wanted if any(_has(connection, table, name) for table in tables)]
        if not there:
            there = _ending(connection, tables, [mark + one for one in said])
            if len(there) > 1:
                raise JobError(f"{text!r} is the end of several names: {', '.join(there[:6])}; write one of them.")
        if there:
            return [Key(kind, name) for name in there]
    known = {
        *COLUMNS,
        *(one for table in (schema.params, schema.defaults, schema.figures) for one in names(connection, table)),
    }
    known |= {name.split(mark)[-1] for name in known for mark in "./"}
    raise JobError(f"No job has a parameter or a metric {text[:60]!r}.{did_you_mean(text, sorted(known))}")


def _has(connection: Connection, table: Any, name: str) -> bool:
    return connection.execute(sql.select(sql.literal(1)).where(table.c.name == name).limit(1)).first() is not None


def _ending(connection: Connection, tables: Iterable[Any], ends: Sequence[str]) -> list[str]:
    every = {name for table in tables for name in names(connection, table)}
    return sorted(name for name in every if name.endswith(tuple(ends)))


def names(connection: Connection, table: Any) -> Iterator[str]:
    """Yield the different names in a table, in order: by its index, however many rows have each."""
    query = sql.text(
        f"WITH RECURSIVE found(name) AS (SELECT MIN(name) FROM {table.name} UNION ALL "
        f"SELECT (SELECT MIN(one.name) FROM {table.name} AS one WHERE one.name > found.name) FROM found "
        "WHERE found.name IS NOT NULL) SELECT name FROM found WHERE name IS NOT NULL"
    )
    yield from connection.execute(query).scalars()


def is_default(connection: Connection, key: Key) -> bool:
    """Whether a parameter has a default in any job, so that jobs have it that do not give it."""
    return key.kind == "param" and _has(connection, schema.defaults, key.name)


def expressions(connection: Connection, key: Key) -> list[Any]:
    """Return what a job has of a key, for an order: of a parameter its number, and its text."""
    jobs = schema.jobs
    if key.kind == "column":
        return [jobs.c[key.name]]
    table = schema.params if key.kind == "param" else schema.figures
    mine = (table.c.job == jobs.c.id, table.c.name == key.name)
    if key.kind != "param":
        return [sql.select(key.column).where(*mine).scalar_subquery()]
    given = [sql.select(table.c[one]).where(*mine).scalar_subquery() for one in ("number", "text")]
    if not is_default(connection, key):
        return given
    usual = schema.defaults
    its = (usual.c.digest == jobs.c.defaults, usual.c.name == key.name)
    rest = [sql.select(usual.c[one]).where(*its).scalar_subquery() for one in ("number", "text")]
    is_given = sql.exists(sql.select(table.c.job).where(*mine))
    return [sql.case((is_given, one), else_=other) for one, other in zip(given, rest, strict=True)]


def held(connection: Connection, key: Key, ids: Sequence[str]) -> dict[str, Any]:
    """Return by job what it has of a key; a number where it is one."""
    jobs = schema.jobs
    if key.kind == "column":
        rows = connection.execute(sql.select(jobs.c.id, jobs.c[key.name]).where(jobs.c.id.in_(ids)))
        return {row[0]: row[1] for row in rows}
    if key.kind != "param":
        table = schema.figures
        figures = sql.select(table.c.job, key.column).where(table.c.name == key.name, table.c.job.in_(ids))
        return {row[0]: row[1] for row in connection.execute(figures)}
    usual, given = schema.defaults, schema.params
    found: dict[str, Any] = {}
    if is_default(connection, key):
        query: Any = sql.select(jobs.c.id, usual.c.number, usual.c.text).join(usual, usual.c.digest == jobs.c.defaults)
        found = _values(connection, query.where(usual.c.name == key.name, jobs.c.id.in_(ids)))
    query = sql.select(given.c.job, given.c.number, given.c.text)
    return found | _values(connection, query.where(given.c.name == key.name, given.c.job.in_(ids)))


def _values(connection: Connection, query: Any) -> dict[str, Any]:
    """Return the numbers, or else the texts, of rows of job, number and text."""
    return {row[0]: row[2] if row[1] is None else row[1] for row in connection.execute(query)}
