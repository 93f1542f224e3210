"""The steps from one version of the job database's tables to the next."""

from __future__ import annotations

import json
from collections.abc import Callable

from sqlalchemy import Connection, func, inspect, select, text

from trainwright.errors import JobError
from trainwright.jobs.store import schema, series, typed


def _first(connection: Connection) -> None:
    schema.META.create_all(connection)


def _attempts(connection: Connection) -> None:
    schema.META.create_all(connection, [schema.attempts])


def _boot(connection: Connection) -> None:
    _add(connection, "jobs", "boot VARCHAR(40)")


def _superseded(connection: Connection) -> None:
    for column in ("kept TEXT NOT NULL DEFAULT '{}'", "starts INTEGER NOT NULL DEFAULT 1",
                   "ran FLOAT NOT NULL DEFAULT 0"):  # fmt: skip
        _add(connection, "jobs", column)
    for column in ("attempt INTEGER NOT NULL DEFAULT 1", "superseded BOOLEAN NOT NULL DEFAULT FALSE"):
        _add(connection, "metrics", column)


def _counted(connection: Connection) -> None:
    """Number the changes, and keep what lists filter by and curves are drawn from.

    The table of points is renamed, so that a process of the version before, which still runs, finds it gone: its
    journal waits for one of this version, and no point is without its curve.
    """
    if inspect(connection).has_table("metrics"):
        connection.execute(text("ALTER TABLE metrics RENAME TO points"))
    _add(connection, "jobs", "changed BIGINT NOT NULL DEFAULT 0")
    schema.META.create_all(connection)
    schema.BY_CREATED.create(connection, checkfirst=True)
    if connection.execute(select(schema.changes.c.number)).first() is None:
        connection.execute(schema.changes.insert().values(number=0))
    for job, params in connection.execute(select(schema.jobs.c.id, schema.jobs.c.params)).all():
        typed.keep(connection, job, _mapping(params))
    points = schema.points
    keys = select(*(points.c[name] for name in ("job", "name", "attempt"))).distinct()
    for job, name, attempt in connection.execute(keys).all():
        where = (points.c.job == job, points.c.name == name, points.c.attempt == attempt)
        told: series.Told = {}
        for step, value in connection.execute(
            select(points.c.step, points.c.value).where(*where).order_by(points.c.id)
        ):
            series.tell(told, step, value)
        series.extend(connection, job, {(name, attempt): told}, {}, {})
    for job, name in connection.execute(select(schema.series.c.job, schema.series.c.name).distinct()).all():
        series.keep_figures(connection, job, series.figures(connection, job, [name]), 0)


def _waits(connection: Connection) -> None:
    for part in ("data", "exchanging"):
        _add(connection, "attempts", f"{part} FLOAT NOT NULL DEFAULT 0")


def _whole(connection: Connection) -> None:
    for column in ("defaults VARCHAR(64)", "tags TEXT NOT NULL DEFAULT '[]'", "note TEXT"):
        _add(connection, "jobs", column)
    schema.META.create_all(connection, [schema.default_sets, schema.defaults])


def _nones(connection: Connection) -> None:
    """Keep in stretches where a value is no number, also in those that are there."""
    _add(connection, "stretches", "none_step BIGINT")
    points = schema.points
    for row in connection.execute(select(schema.series)).mappings().all():
        where = (points.c[name] == row[name] for name in ("job", "name", "attempt"))
        asked = select(points.c.step).where(*where, points.c.value.is_(None)).distinct().order_by(points.c.step)
        steps = [*connection.execute(asked).scalars()]
        if steps:
            series.remake(connection, dict(row), steps)


def _mapping(written: str) -> dict[str, object]:
    try:
        found = json.loads(written)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _add(connection: Connection, table: str, column: str) -> None:
    if not inspect(connection).has_table(table):  # it is new, and has another name by now
        return
    if column.split()[0] not in [one["name"] for one in inspect(connection).get_columns(table)]:  # step 0 makes all
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column}"))


MIGRATIONS: list[Callable[[Connection], None]] = [
    _first, _attempts, _boot, _superseded, _counted, _waits, _whole, _nones,
]  # fmt: skip
"""Step n takes a database of version n to version n + 1."""


def migrate(connection: Connection) -> bool:
    """Bring a database to the newest version, inside a transaction; return whether its tables are new.

    Raises:
        JobError: a newer Trainwright made it.
    """
    tables = inspect(connection).get_table_names()
    there = "schema_version" in tables and "jobs" in tables
    versions = schema.versions
    version = (connection.execute(select(func.max(versions.c.version))).scalar() or 0) if there else 0
    if version > len(MIGRATIONS):
        raise JobError(
            f"The job database has version {version}, and this Trainwright knows {len(MIGRATIONS)}: a newer one made "
            "it. Update Trainwright, or give another TRAINWRIGHT_HOME."
        )
    for step in MIGRATIONS[version:]:
        step(connection)
    if version < len(MIGRATIONS):
        connection.execute(versions.delete())
        connection.execute(versions.insert().values(version=len(MIGRATIONS)))
    return not there
