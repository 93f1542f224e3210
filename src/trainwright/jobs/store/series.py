"""Metrics as they come in: what one process told, gathered in stretches, and the figures of every metric.

A stretch has the ends and the extremes of `SIZE` points, one of the level above those of `FACTOR` stretches, and so on;
whoever draws a curve reads as many as a screen shows, and not the points. A stretch is made once, when it is full, in
the transaction that its points go in with; a step that is told again later makes those anew that it lies in.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from trainwright.jobs.store import curves, schema
from trainwright.jobs.store.curves import FACTOR, SIZE

Told = dict[int, float | None]
Key = tuple[str, int]  # a metric's name and the attempt
Row = dict[str, Any]
_MOST_ASKED = 500  # steps in one query


def note(connection: Connection, job: str, rows: Sequence[Row]) -> list[Row]:
    """Insert points and gather them; return the figures of their metrics, for `keep_figures`.

    What is made anew from points is made of these too: so they go in first.
    """
    told: dict[Key, Told] = {}
    for row in rows:
        tell(told.setdefault((row["name"], row["attempt"]), {}), row["step"], row["value"])
    names = {name for name, _ in told}
    old, known = _known(connection, job, names), _series(connection, job, names)
    again = {key: _there(connection, known[key], told[key]) for key in told if key in known}
    connection.execute(schema.points.insert(), [*rows])
    anew = extend(connection, job, told, known, again)
    return _figures_after(connection, job, told, old, anew)


def tell(told: Told, step: int, value: float | None) -> None:
    """Put a value at a step at the end of what was told, in the place of an earlier one."""
    told.pop(step, None)
    told[step] = value


def extend(
    connection: Connection, job: str, told: Mapping[Key, Told], known: Mapping[Key, Row],
    again: Mapping[Key, Collection[int]],
) -> set[str]:  # fmt: skip
    """Add what was told of metrics, whose points are there, to their series.

    Args:
        connection: a transaction that nobody else changes this job in.
        job: its name.
        told: by name and attempt, values by step, in the order they were told.
        known: the rows of `schema.series` of these metrics.
        again: by name and attempt the steps that were told before too.

    Returns:
        The metrics whose curve is not what it was with points at its end: their figures are to be asked for anew.
    """
    anew, rows = set(), []
    for key, values in told.items():
        if not _is_only_longer(key, known, told):
            anew.add(key[0])
        row = dict(known.get(key, ())) or {
            "job": job, "name": key[0], "attempt": key[1], "count": 0, "low": min(values), "high": None, "tail": "[]",
        }  # fmt: skip
        row["step"], row["value"] = _last(values)
        rows.append(_extended(connection, row, values, again.get(key, ())))
    _replace(connection, schema.series, rows)
    return anew


def _last(told: Told) -> tuple[int, float | None]:
    return next(reversed(told.items()))


def _is_only_longer(key: Key, known: Mapping[Key, Row], told: Mapping[Key, Told]) -> bool:
    """Whether a curve is what it was, with points at its end."""
    others = [other for other in {*known, *told} if other[0] == key[0] and other != key]
    if key not in known:
        return not others
    return min(told[key]) > known[key]["high"] and all(other[1] < key[1] and other not in told for other in others)


def _extended(connection: Connection, row: Row, told: Told, again: Collection[int]) -> Row:
    """Return the row of a series with what was told of it; its full stretches are written."""
    tail: Told = dict(json.loads(row["tail"]))
    full, before = (row["count"] - len(tail)) // SIZE, len(tail)
    tail |= {step: value for step, value in told.items() if step in tail or step not in again}
    row["count"] += len(tail) - before
    row["low"] = min(row["low"], *told)
    row["high"] = max(told) if row["high"] is None else max(row["high"], *told)
    waiting = sorted(tail.items())
    whole = len(waiting) // SIZE
    made = [_stretch_of(waiting[place * SIZE : (place + 1) * SIZE]) for place in range(whole)]
    _write(connection, row, 1, {full + place: one for place, one in enumerate(made)})
    if again:
        _mend(connection, row, sorted(again), full)
    row["tail"] = json.dumps(waiting[whole * SIZE :])
    return row


def _there(connection: Connection, row: Row, told: Told) -> set[int]:
    """Return the steps of what was told that the series has a point at; the database is asked of few, mostly none."""
    late = {step for step in told if step <= row["high"]}
    found = late & {step for step, _ in json.loads(row["tail"])}
    table, asked = schema.points, sorted(late - found)
    for start in range(0, len(asked), _MOST_ASKED):
        query = select(table.c.step).where(*_of(table, row), table.c.step.in_(asked[start : start + _MOST_ASKED]))
        found |= set(connection.execute(query.distinct()).scalars())
    return found


def remake(connection: Connection, row: Row, steps: Sequence[int]) -> None:
    """Make those stretches of a series anew that hold some steps, which are in order."""
    _mend(connection, row, steps, (row["count"] - len(json.loads(row["tail"]))) // SIZE)


def _mend(connection: Connection, row: Row, again: Sequence[int], full: int) -> None:
    """Make those of the first `full` stretches anew that hold a step, of those in order, which is told again.

    Steps that were told in no order make stretches that lie over each other: their points are read once.
    """
    table = schema.stretches
    query = select(table.c.number, table.c.low, table.c.high).where(
        *_of(table, row),
        table.c.level == 1,
        table.c.number < full,
        table.c.low <= again[-1],
        table.c.high >= again[0],
    )
    found = connection.execute(query.order_by(table.c.low)).all()
    held = [(number, low, high) for number, low, high in found if bisect_left(again, low) < bisect_right(again, high)]
    points: Told = {}
    until = -curves.EVER
    for _, low, high in held:
        if high >= until:
            points |= curves.told(connection, row["job"], row["name"], row["attempt"], max(low, until), high)
            until = high + 1
    steps = sorted(points)
    made = {}
    for number, low, high in held:
        within = steps[bisect_left(steps, low) : bisect_right(steps, high)]
        made[number] = _stretch_of([(step, points[step]) for step in within])
    _write(connection, row, 1, made)


def _write(connection: Connection, row: Row, level: int, made: Mapping[int, Row]) -> None:
    """Write stretches of a level, in the place of those of their numbers, and those above that are full with them."""
    if not made:
        return
    table = schema.stretches
    key = {name: row[name] for name in ("job", "name", "attempt")}
    rows = [{**key, "level": level, "number": number, **one} for number, one in made.items()]
    _replace(connection, table, rows)
    parents = sorted({number // FACTOR for number in made})
    first, last = parents[0] * FACTOR, parents[-1] * FACTOR + FACTOR - 1
    query = select(table).where(*_of(table, row), table.c.level == level, table.c.number.between(first, last))
    children: dict[int, list[Row]] = {}
    for child in connection.execute(query.order_by(table.c.number)).mappings():
        children.setdefault(child["number"] // FACTOR, []).append(dict(child))
    full = {one: _stretch_over(children[one]) for one in parents if len(children.get(one, ())) == FACTOR}
    _write(connection, row, level + 1, full)


def _stretch_of(points: Sequence[tuple[int, float | None]]) -> Row:
    """Return the stretch of points that lie in order."""
    good = [point for point in points if point[1] is not None]
    least = min(good, key=_value, default=(None, None))
    greatest = max(good, key=_value, default=(None, None))
    none_step = next((step for step, value in points if value is None), None)
    return {"low": points[0][0], "first": points[0][1], "high": points[-1][0], "last": points[-1][1],
            "least_step": least[0], "least": least[1],
            "greatest_step": greatest[0], "greatest": greatest[1], "none_step": none_step}  # fmt: skip


def _stretch_over(rows: Sequence[Row]) -> Row:
    """Return the stretch of several below it."""
    first, last = min(rows, key=lambda row: row["low"]), max(rows, key=lambda row: row["high"])
    good = [row for row in rows if row["least"] is not None]
    least = min(good, key=lambda row: row["least"], default=first)
    greatest = max(good, key=lambda row: row["greatest"], default=first)
    none_steps = [row["none_step"] for row in rows if row["none_step"] is not None]
    return {**{name: first[name] for name in ("low", "first")}, **{name: last[name] for name in ("high", "last")},
            **{name: least[name] for name in ("least_step", "least")},
            **{name: greatest[name] for name in ("greatest_step", "greatest")},
            "none_step": min(none_steps, default=None)}  # fmt: skip


def _value(point: tuple[int, float | None]) -> float:
    return math.nan if point[1] is None else point[1]


def figures(connection: Connection, job: str, names: Iterable[str]) -> list[Row]:
    """Return the figures of metrics as their series have them."""
    table, found = schema.series, []
    for name in names:
        newest = select(table).where(table.c.job == job, table.c.name == name).order_by(table.c.attempt.desc()).limit(1)
        row = connection.execute(newest).mappings().one()
        count, least, greatest = curves.extent(connection, job, name)
        found.append({"name": name, "count": count, "step": row["step"], "value": row["value"], "least": least,
                      "greatest": greatest})  # fmt: skip
    return found


def _series(connection: Connection, job: str, names: Collection[str]) -> dict[Key, Row]:
    table = schema.series
    query = select(table).where(table.c.job == job, table.c.name.in_(names))
    return {(row["name"], row["attempt"]): dict(row) for row in connection.execute(query).mappings()}


def _known(connection: Connection, job: str, names: Collection[str]) -> dict[str, Row]:
    table = schema.figures
    query = select(table).where(table.c.job == job, table.c.name.in_(names))
    return {row["name"]: dict(row) for row in connection.execute(query).mappings()}


def _figures_after(
    connection: Connection, job: str, told: Mapping[Key, Told], old: Mapping[str, Row], anew: set[str]
) -> list[Row]:
    """Return the figures of metrics that were told of; those that are to be asked for anew are read from series."""
    found = []
    for (name, _), values in told.items():
        if name in anew:
            continue
        before = old.get(name, {"count": 0, "least": None, "greatest": None})
        good = [value for value in values.values() if value is not None]
        step, value = _last(values)
        found.append({"name": name, "count": before["count"] + len(values), "step": step, "value": value,
                      "least": min([*good, *_given(before["least"])], default=None),
                      "greatest": max([*good, *_given(before["greatest"])], default=None)})  # fmt: skip
    return [*found, *figures(connection, job, sorted(anew))]


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]


def keep_figures(connection: Connection, job: str, rows: Sequence[Row], changed: int) -> None:
    """Keep figures of a job's metrics in the place of those that were."""
    _replace(connection, schema.figures, [{"job": job, **row, "changed": changed} for row in rows])


def _replace(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows, in the place of those of the same key."""
    if not rows:
        return
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    connection.execute(insert.on_conflict_do_update(index_elements=[*table.primary_key], set_=others), [*rows])


def _of(table: Table, row: Row) -> list[Any]:
    return [table.c[name] == row[name] for name in ("job", "name", "attempt")]
