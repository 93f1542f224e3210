"""What the database holds of a job's metrics: all points of one, and the figures of each."""

from __future__ import annotations

import math
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.jobs.store import schema


def whole(connection: Connection, job: str, name: str, attempt: int | None) -> list[tuple[int, float, float]]:
    """Return (step, value, time) of all points of a metric, as `Store.metric` says."""
    table = schema.points
    query = sql.select(table.c.step, table.c.value, table.c.time).where(table.c.job == job, table.c.name == name)
    part = table.c.superseded.is_(False) if attempt is None else table.c.attempt == attempt
    rows = connection.execute(query.where(part).order_by(table.c.step, table.c.id)).all()
    return [*{step: (step, math.nan if value is None else value, when) for step, value, when in rows}.values()]


def figures(connection: Connection, job: str) -> dict[str, dict[str, Any]]:
    """Return the rows of `schema.figures` by the metric's name; a newest value that is none is nan."""
    table = schema.figures
    query = sql.select(table).where(table.c.job == job).order_by(table.c.name)
    rows = connection.execute(query).mappings()
    return {row["name"]: {**row, "value": math.nan if row["value"] is None else row["value"]} for row in rows}
