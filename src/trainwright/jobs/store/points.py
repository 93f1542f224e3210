"""What the database holds of a job's metrics: all points of one, and the figures of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.jobs.store import schema

_AT_ONCE = 500  # steps of a query


def whole(connection: Connection, job: str, name: str, attempt: int | None) -> list[tuple[int, float, float]]:
    """Return (step, value, time) of all points of a metric, as `Store.metric` says."""
    table = schema.points
    query = sql.select(table.c.step, table.c.value, table.c.time).where(table.c.job == job, table.c.name == name)
    part = table.c.superseded.is_(False) if attempt is None else table.c.attempt == attempt
    rows = connection.execute(query.where(part).order_by(table.c.step, table.c.id)).all()
    return [*{step: (step, math.nan if value is None else value, when) for step, value, when in rows}.values()]


def with_seconds(
    connection: Connection, job: str, name: str, given: Sequence[tuple[int, float]], attempt: int | None
) -> list[tuple[int, float, float]]:
    """Return points (step, value) of a metric as (step, value, seconds since the job's first point of any metric)."""
    table = schema.points
    metric = schema.figures
    begun = (
        sql.select(table.c.time).where(table.c.job == metric.c.job, table.c.name == metric.c.name)
        .order_by(table.c.step).limit(1).scalar_subquery()
    )  # fmt: skip
    first = connection.execute(sql.select(sql.func.min(begun)).where(metric.c.job == job)).scalar()
    of = (table.c.job == job, table.c.name == name)
    part = table.c.superseded.is_(False) if attempt is None else table.c.attempt == attempt
    times: dict[int, float] = {}
    for place in range(0, len(given), _AT_ONCE):
        steps = [step for step, _ in given[place : place + _AT_ONCE]]
        query = sql.select(table.c.step, table.c.time).where(*of, part, table.c.step.in_(steps))
        times |= {row.step: row.time for row in connection.execute(query.order_by(table.c.id))}
    return [(step, value, times[step] - (first or 0.0)) for step, value in given if step in times]


def figures(connection: Connection, job: str) -> dict[str, dict[str, Any]]:
    """Return the rows of `schema.figures` by the metric's name; a newest value that is none is nan."""
    table = schema.figures
    query = sql.select(table).where(table.c.job == job).order_by(table.c.name)
    rows = connection.execute(query).mappings()
    return {row["name"]: {**row, "value": math.nan if row["value"] is None else row["value"]} for row in rows}
