"""Lists of jobs: filtered, sorted and cut into pages by the database, by what jobs are, parameters and metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import values
from trainwright.jobs.store import schema

COLUMNS = ("id", "name", "experiment", "status", "progress", "step", "total_steps", "created", "started", "ended",
           "ran", "message", "attempt", "stop_requested", "changed")  # fmt: skip
"""Of a job, what a list has of it."""
_MEANS = {"=": sql.ColumnElement.__eq__, "<": sql.ColumnElement.__lt__, "<=": sql.ColumnElement.__le__,
          ">": sql.ColumnElement.__gt__, ">=": sql.ColumnElement.__ge__}  # fmt: skip
_FILTER = re.compile(r"(?P<key>.+?)(?P<operator><=|>=|!=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_AS_JSON = {"true": "true", "false": "false", "null": "null", "none": "null"}
_FIGURES = ("last", "least", "greatest")


@dataclass(frozen=True)
class Query:
    """Which jobs a list shows.

    A key is a column (`status`), `param:NAME`, or of a metric `last:NAME`, `least:NAME` or `greatest:NAME`.

    Attributes:
        text: that name, experiment, id, or a parameter's name or value hold.
        statuses: only these; all where there are none.
        experiment: only this one.
        where: `KEY OPERATOR VALUE` with =, !=, <, <=, >, >= or ~ (holds this text); a job that has no such parameter or
            metric is left out.
        sort: a key, with - before it for the greatest first; numbers come before text, what has none comes last.
        limit: at most so many.
        offset: after so many.
        show: keys whose values are given with every job.
    """

    text: str = ""
    statuses: Sequence[str] = ()
    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str = "-created"
    limit: int = 50
    offset: int = 0
    show: Sequence[str] = ()


def version(connection: Connection) -> int:
    """Return how many changes of jobs there were; where it is the same, every list is."""
    return int(connection.execute(sql.select(schema.changes.c.number)).scalar_one())


def page(connection: Connection, query: Query) -> dict[str, Any]:
    """Return `jobs`, how many there are on all pages as `total`, and of all jobs how many by status as `counts`.

    Raises:
        JobError: a key or an operator is none.
    """
    jobs = schema.jobs
    conditions = [*_conditions(query)]
    chosen = sql.select(*(jobs.c[name] for name in COLUMNS)).where(*conditions)
    rows = connection.execute(chosen.order_by(*_order(query.sort)).limit(query.limit).offset(query.offset)).mappings()
    found = [dict(row) for row in rows]
    for key in query.show:
        own = {row["id"]: row[key] for row in found} if key in COLUMNS else None
        held = _held(connection, key, [row["id"] for row in found]) if own is None else own
        for row in found:
            row.setdefault("values", {})[key] = held.get(row["id"])
    return {"jobs": found, "total": count(connection, *conditions), "counts": counts(connection)}


def of_ids(connection: Connection, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a list has of jobs, and their folders, in the order of names, without those that are not there."""
    jobs = schema.jobs
    rows = connection.execute(
        sql.select(*(jobs.c[name] for name in COLUMNS), jobs.c.folder).where(jobs.c.id.in_(_texts(ids)))
    ).mappings()
    found = {row["id"]: dict(row) for row in rows}
    return [found[job] for job in ids if job in found]


def known(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Return those of some names that are jobs."""
    return [*connection.execute(sql.select(schema.jobs.c.id).where(schema.jobs.c.id.in_([*ids]))).scalars()]


def count(connection: Connection, *conditions: Any) -> int:
    """Return how many jobs there are that fulfil conditions."""
    query = sql.select(sql.func.count()).select_from(schema.jobs).where(*conditions)
    return int(connection.execute(query).scalar_one())


def matching(connection: Connection, query: Query) -> int:
    """Return how many jobs a list has on all its pages."""
    return count(connection, *_conditions(query))


def experiments(connection: Connection) -> list[str]:
    """Return the experiments that have jobs."""
    return [*connection.execute(sql.select(schema.jobs.c.experiment).distinct()).scalars()]


def counts(connection: Connection) -> dict[str, int]:
    """Return how many jobs have which status."""
    status = schema.jobs.c.status
    rows = connection.execute(sql.select(status, sql.func.count()).group_by(status).order_by(status))
    return {str(name): int(number) for name, number in rows}


def _conditions(query: Query) -> Iterable[Any]:
    jobs, params = schema.jobs, schema.params
    if query.statuses:
        yield jobs.c.status.in_(_texts(query.statuses))
    if query.experiment is not None:
        yield jobs.c.experiment == values.text(query.experiment)
    if query.text:
        text = values.text(query.text)
        named = sql.select(params.c.job).where(sql.or_(_holds(params.c.name, text), _holds(params.c.text, text)))
        own = [_holds(jobs.c[name], text) for name in ("id", "name", "experiment")]
        yield sql.or_(*own, jobs.c.id.in_(named))
    for written in query.where:
        yield _condition(written)


def _texts(given: Iterable[str]) -> list[str]:
    """Return texts as the database holds them."""
    return [values.text(one) for one in given]


def _condition(written: str) -> Any:
    """Return the condition that a filter is."""
    found = _FILTER.fullmatch(written)
    if found is None:
        raise JobError(f"{written[:60]!r} is no filter: KEY, an operator (= != < <= > >= ~) and VALUE, param:lr<0.001.")
    key, operator, value = found["key"].strip(), found["operator"], values.text(found["value"].strip())
    table, kind, name = _split(key)
    if table is None:
        column = schema.jobs.c[kind]
        held = [column] if column.type.python_type is str else []
        numbers = [] if held else [column]
        return sql.and_(column.is_not(None), _compared(numbers, held, operator, value))
    numbers = [table.c.number if kind == "param" else table.c[_column(kind)]]
    held = [table.c.text] if kind == "param" else []
    return schema.jobs.c.id.in_(
        sql.select(table.c.job).where(table.c.name == name, _compared(numbers, held, operator, value))
    )


def _compared(numbers: Sequence[Any], texts: Sequence[Any], operator: str, value: str) -> Any:
    """Return a comparison of a value with a number's column where it is a number, else with a text's; what is equal
    may be either, for a parameter may be the text "1.0".

    Raises:
        JobError: the value is no number, and there are numbers alone.
    """
    given = _number(value)
    if given is None and not texts:
        raise JobError(f"{value[:60]!r} is no number, and this is compared with numbers alone.")
    if operator == "~":
        return sql.or_(sql.false(), *(_holds(column, value) for column in texts))
    if operator == "!=":
        return sql.and_(sql.or_(*(column.is_not(None) for column in [*numbers, *texts])),
                        sql.not_(sql.func.coalesce(_compared(numbers, texts, "=", value), sql.false())))  # fmt: skip
    by_number = [_MEANS[operator](column, given) for column in numbers if given is not None]
    if operator == "=":
        same = {value, _AS_JSON.get(value.lower(), value)}
        return sql.or_(sql.false(), *by_number, *(column.in_(same) for column in texts))
    words = [*(column.is_(None) for column in numbers)]  # the text of a number is not one to sort it by
    return sql.or_(sql.false(), *(by_number or (sql.and_(*words, _MEANS[operator](column, value)) for column in texts)))


def _number(value: str) -> float | None:
    """Return the number that a filter's value is, in any way that Python writes one."""
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _holds(column: Any, text: str) -> Any:
    """Whether a column holds a text, in capitals or not; SQLite does not know those beyond ASCII."""
    spellings = {text} if text.isascii() else {text, text.lower(), text.upper(), text.capitalize()}
    return sql.or_(*(column.icontains(one, autoescape=True) for one in sorted(spellings)))


def _order(sort: str) -> list[Any]:
    key, is_down = sort.removeprefix("-"), sort.startswith("-")
    table, kind, name = _split(key)
    if table is None:
        columns: list[Any] = [schema.jobs.c[kind]]
    else:
        names = ("number", "text") if kind == "param" else (_column(kind),)
        mine = (table.c.job == schema.jobs.c.id, table.c.name == name)
        columns = [sql.select(table.c[one]).where(*mine).scalar_subquery() for one in names]
    by = [(column.desc() if is_down else column.asc()) for column in columns]
    if kind != "created":  # of which the index has the order
        by = [one.nulls_last() for one in by]
    return [*by, *([schema.jobs.c.created.desc()] if kind != "created" else []), schema.jobs.c.id]


def _split(key: str) -> tuple[Any, str, str]:
    """Return the table, the kind and the name of a key; of a job's own column no table."""
    kind, colon, name = key.partition(":")
    if colon and kind == "param":
        return schema.params, kind, values.text(name, values.NAME_LENGTH)
    if colon and kind in _FIGURES:
        return schema.figures, kind, values.text(name, values.NAME_LENGTH)
    if key not in COLUMNS:
        known = [*COLUMNS, "param:NAME", *(f"{one}:NAME" for one in _FIGURES)]
        raise JobError(
            f"{key[:60]!r} is nothing to filter or sort by; {', '.join(known)} are.{did_you_mean(key, known)}"
        )
    return None, key, ""


def _column(kind: str) -> str:
    return "value" if kind == "last" else kind


def _held(connection: Connection, key: str, ids: Sequence[str]) -> Mapping[str, Any]:
    """Return by job what it has of a parameter or metric; a number where it is one."""
    table, kind, name = _split(key)
    column = table.c.number if kind == "param" else table.c[_column(kind)]
    text = table.c.text if kind == "param" else sql.null()
    query = sql.select(table.c.job, column, text).where(table.c.name == name, table.c.job.in_(ids))
    return {job: words if value is None else value for job, value, words in connection.execute(query)}
