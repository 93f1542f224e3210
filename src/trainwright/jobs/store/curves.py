"""Curves with as many points as a screen shows, read from the stretches that `series` gathers, not from all points."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.jobs.store import schema

SIZE, FACTOR = 32, 8  # points in a stretch of level 1, and stretches in one of the level above
EVER = 2**63 - 1
_FEW = 8  # stretches whose points are asked for one by one
Point = tuple[int, float]  # step, and a value that may be nan


@dataclass(frozen=True)
class Part:
    """What of a series belongs to a curve: steps from `first` to `last`.

    Attributes:
        full: how many stretches of level 1 the series has.
        tail: its points after these.
    """

    job: str
    name: str
    attempt: int
    first: int
    last: int
    full: int
    tail: list[tuple[int, float | None]]


def curve(
    connection: Connection, job: str, name: str, most: int, first: int = -EVER, last: int = EVER,
    attempt: int | None = None,
) -> list[Point]:  # fmt: skip
    """Return at most about `most` points (step, value) of a metric between two steps; a value that is none is nan.

    No spike is lost: of every stretch the least and the greatest value are there, and the first that is none. Where
    there are at most `most` points they are all there. What is read does not grow with the points: some
    `4 * FACTOR * most` rows.

    Args:
        connection: to the database.
        job: its name.
        name: of the metric.
        most: points.
        first: step that is looked at.
        last: step that is looked at.
        attempt: what this one alone told, also where later ones stand for it.
    """
    parts = _parts(connection, job, name, first, last, attempt)
    level = _level(connection, parts, most)
    points: dict[int, float | None] = {}
    for part in parts:
        whole, single = _pieces(connection, part, level)
        for row in whole:
            points |= _ends(row)
        points |= single
    found = [(step, math.nan if value is None else value) for step, value in sorted(points.items())]
    return downsampled(found, most)


def extent(connection: Connection, job: str, name: str) -> tuple[int, float | None, float | None]:
    """Return of a whole curve how many points it has, and its least and greatest value; None where none is a number."""
    count, values = 0, []
    for part in _parts(connection, job, name, -EVER, EVER, None):
        whole, points = _pieces(connection, part, max(_top(part.full), 1))
        count += len(points) + sum(SIZE * FACTOR ** (row["level"] - 1) for row in whole)
        values += [value for row in (points, *map(_ends, whole)) for value in row.values() if value is not None]
    return count, min(values, default=None), max(values, default=None)


def told(
    connection: Connection, job: str, name: str, attempt: int, first: int, last: int
) -> Iterator[tuple[int, float | None]]:
    """Return (step, value) of what an attempt told of a metric between two steps; of one step the newest comes last."""
    table = schema.points
    where = (table.c.job == job, table.c.name == name, table.c.attempt == attempt, table.c.step.between(first, last))
    query = sql.select(table.c.step, table.c.value).where(*where).order_by(table.c.step, table.c.id)
    return ((step, value) for step, value in connection.execute(query))


def before(connection: Connection, job: str) -> dict[str, list[int]]:
    """Return the attempts of a job that told what a later one stands for, by the metric's name."""
    table = schema.series
    query = sql.select(table.c.name, table.c.attempt, table.c.low, table.c.high).where(table.c.job == job)
    found: dict[str, list[int]] = {}
    cut: dict[str, int] = {}
    for name, attempt, low, high in connection.execute(query.order_by(table.c.name, table.c.attempt.desc())):
        if high >= cut.get(name, EVER):
            found.setdefault(name, []).insert(0, attempt)
        cut[name] = min(low, cut.get(name, EVER))
    return found


def _parts(connection: Connection, job: str, name: str, first: int, last: int, attempt: int | None) -> list[Part]:
    """Return what a curve is made of: of every attempt the steps before the first one of those after it."""
    table = schema.series
    query = sql.select(table).where(table.c.job == job, table.c.name == name)
    if attempt is not None:
        query = query.where(table.c.attempt == attempt)
    found, cut = [], EVER
    for row in connection.execute(query.order_by(table.c.attempt.desc())).mappings():
        until = min(last, cut if cut == EVER else cut - 1)
        if row["low"] <= until and row["high"] >= first:
            tail = [(step, value) for step, value in json.loads(row["tail"])]
            full = (row["count"] - len(tail)) // SIZE
            found.append(Part(job, name, row["attempt"], first, until, full, tail))
        cut = min(cut, row["low"])
    return found


def _top(full: int) -> int:
    """Return the highest level that so many stretches of level 1 make; 0 for none."""
    level = 0
    while full:
        level, full = level + 1, full // FACTOR
    return level


def _level(connection: Connection, parts: Sequence[Part], most: int) -> int:
    """Return the highest level with enough stretches for so many points; 0 for the points themselves."""
    table = schema.stretches
    level = max((_top(part.full) for part in parts), default=0)
    while level:
        count = 0
        for part in parts:
            query = sql.select(sql.func.count()).where(*_overlaps(part), table.c.level == level)
            count += connection.execute(query).scalar_one()
        if count >= most / 2:
            return level
        level -= 1
    return level


def _pieces(connection: Connection, part: Part, level: int) -> tuple[list[Any], dict[int, float | None]]:
    """Return what a part consists of: whole stretches of a level, at its ends smaller ones, and single points."""
    table = schema.stretches
    whole: list[Any] = []
    cut: list[Any] = []  # at the ends of the part; those below them are looked at
    for at in range(level, 0, -1):
        above = part.full // FACTOR**at * FACTOR if at < level else 0  # those from there on are in none above
        numbers = [row["number"] for row in cut]
        within = sql.or_(table.c.number >= above, (table.c.number // FACTOR).in_(numbers))
        lowest = min([above, *(number * FACTOR for number in numbers)])
        query = sql.select(table).where(*_overlaps(part), table.c.level == at, table.c.number >= lowest, within)
        rows = connection.execute(query).mappings().all()
        cut = [row for row in rows if row["low"] < part.first or row["high"] > part.last]
        whole += [row for row in rows if part.first <= row["low"] and row["high"] <= part.last]
    ranges = [(max(part.first, row["low"]), min(part.last, row["high"])) for row in cut]
    mixed = any(row["low"] <= last and row["high"] >= first for first, last in ranges for row in whole)
    if not level or mixed or len(cut) > _FEW:  # steps that were told in no order
        whole, ranges = [], [(part.first, part.last)]
    points: dict[int, float | None] = {}
    for first, last in ranges:
        points |= told(connection, part.job, part.name, part.attempt, first, last)
    return whole, points | {step: value for step, value in part.tail if part.first <= step <= part.last}


def _overlaps(part: Part) -> list[Any]:
    table = schema.stretches
    return [table.c.job == part.job, table.c.name == part.name, table.c.attempt == part.attempt,
            table.c.high >= part.first, table.c.low <= part.last]  # fmt: skip


def _ends(row: Any) -> dict[int, float | None]:
    """Return the points that a stretch is drawn with."""
    found = {row["low"]: row["first"], row["high"]: row["last"]}
    if row["none_step"] is not None:
        found[row["none_step"]] = None
    if row["least"] is not None:
        found |= {row["least_step"]: row["least"], row["greatest_step"]: row["greatest"]}
    return found


def downsampled(points: Sequence[Point], most: int) -> list[Point]:
    """Return at most about `most` points (step, value) of a curve: of every stretch the least and the greatest.

    So no spike is lost. The first and the last point stay, and of every stretch the first that is nan, inf or -inf.
    """
    if len(points) <= most:
        return list(points)
    inner = points[1:-1]
    kinds = {str(value) for _, value in inner if not math.isfinite(value)}
    stretches = max((most - 2) // (2 + len(kinds)), 1)
    kept = [points[0]]
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        if not part:
            continue
        good = [point for point in part if math.isfinite(point[1])]
        odd = {str(value): (step, value) for step, value in reversed(part) if not math.isfinite(value)}
        ends = {min(good, key=_value), max(good, key=_value)} if good else set()
        kept += sorted([*ends, *odd.values()], key=_step)
    return [*kept, points[-1]]


def _value(point: Point) -> float:
    return point[1]


def _step(point: Point) -> int:
    return point[0]
