"""What filters and queries mean to the database."""

from __future__ import annotations

import datetime
import json
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.errors import JobError
from trainwright.jobs import values
from trainwright.jobs.finding import keys
from trainwright.jobs.finding.keys import Key
from trainwright.jobs.finding.language import Both, Comparison, Condition, Not
from trainwright.jobs.store import schema

_MEANS = {"=": sql.ColumnElement.__eq__, "<": sql.ColumnElement.__lt__, "<=": sql.ColumnElement.__le__,
          ">": sql.ColumnElement.__gt__, ">=": sql.ColumnElement.__ge__}  # fmt: skip
_FILTER = re.compile(r"(?P<key>.+?)(?P<operator><=|>=|!=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_AS_JSON = {"true": "true", "false": "false", "null": "null", "none": "null", "nan": "NaN", "inf": "Infinity",
            "-inf": "-Infinity"}  # fmt: skip
_AGO = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def of_query(connection: Connection, said: Condition) -> Any:
    """Return the condition that a query is.

    Raises:
        JobError: it names what no job has, or compares what cannot be compared.
    """
    if isinstance(said, Not):
        return sql.not_(sql.func.coalesce(of_query(connection, said.part), sql.false()))
    if isinstance(said, Both):
        parts = [of_query(connection, part) for part in said.parts]
        return sql.or_(*parts) if said.any_of else sql.and_(*parts)
    assert isinstance(said, Comparison)
    if said.operator == "!~":
        return of_query(connection, Not(Comparison(said.key, "~", said.value)))
    meant = keys.meant(connection, said.key)
    return sql.or_(*(_of_key(connection, key, said.operator, values.text(said.value)) for key in meant))


def of_filter(connection: Connection, written: str) -> Any:
    """Return the condition that a filter is: a key in full, an operator and a value.

    Raises:
        JobError: it is none.
    """
    found = _FILTER.fullmatch(written)
    if found is None:
        raise JobError(f"{written[:60]!r} is no filter: KEY, an operator (= != < <= > >= ~) and VALUE, param:lr<0.001.")
    key = keys.written(found["key"].strip())
    return _of_key(connection, key, found["operator"], values.text(found["value"].strip()))


def _of_key(connection: Connection, key: Key, operator: str, value: str) -> Any:
    jobs = schema.jobs
    if key.name == "tags" and key.kind == "column" and operator in ("=", "!="):  # one of them
        has = jobs.c.tags.contains(json.dumps(value, ensure_ascii=False), autoescape=True)
        return has if operator == "=" else sql.not_(has)
    if key.kind == "column":
        column = key.column
        texts = [column] if column.type.python_type is str else []
        if key.name in keys.TIMES:
            value = _moment(value)
            if _number(value) is None:
                raise JobError(f"{value[:60]!r} is no time: a day is, 2026-11-28, or so long ago, 3d or 12h.")
        return sql.and_(column.is_not(None), _compared([] if texts else [column], texts, operator, value))
    if key.kind != "param":
        table = schema.figures
        return _has(table, key.name, _of_figure(key.column, operator, value))
    given = schema.params
    is_so = _has(given, key.name, _compared([given.c.number], [given.c.text], operator, value))
    if not keys.is_default(connection, key):
        return is_so
    usual = schema.defaults
    fits = _compared([usual.c.number], [usual.c.text], operator, value)
    sets = sql.select(usual.c.digest).where(usual.c.name == key.name, fits)
    is_given = jobs.c.id.in_(sql.select(given.c.job).where(given.c.name == key.name))
    return sql.or_(is_so, sql.and_(jobs.c.defaults.in_(sets), sql.not_(is_given)))


def _of_figure(column: Any, operator: str, value: str) -> Any:
    """Return a comparison with a metric's figure, which is null where it is nan.

    Raises:
        JobError: the value is no number, or is nan and an order is asked for.
    """
    is_nan = value.lower() == "nan"
    if is_nan and operator not in ("=", "!="):
        raise JobError(f"Nothing is {operator} nan; compare with it by = or !=.")
    if is_nan:
        return column.is_(None) if operator == "=" else column.is_not(None)
    compared = _compared([column], [], operator, value)
    return sql.or_(column.is_(None), compared) if operator == "!=" else compared


def _has(table: Any, name: str, compared: Any) -> Any:
    return schema.jobs.c.id.in_(sql.select(table.c.job).where(table.c.name == name, compared))


def _moment(value: str) -> str:
    """Return a time as seconds since 1970: of a day or a time of this machine, or, `3d`, of so long ago."""
    ago = _AGO.fullmatch(value)
    if ago is not None:
        return repr(time.time() - float(ago["number"]) * _SECONDS[ago["unit"]])
    try:
        return repr(datetime.datetime.fromisoformat(value).timestamp())
    except ValueError:
        return value


def _compared(numbers: Sequence[Any], texts: Sequence[Any], operator: str, value: str) -> Any:
    """Return a comparison of a value with a number's column where it is a number, else with a text's; what is equal
    may be either, for a parameter may be the text "1.0".

    Raises:
        JobError: the value is no number, and there are numbers alone.
    """
    given = _number(value)
    if not texts and operator == "~":
        raise JobError(f"~ looks for a part of a text, such as {value[:60]!r}, and this is a number.")
    if given is None and not texts:
        raise JobError(f"{value[:60]!r} is no number, and this is compared with numbers alone.")
    if operator == "~":
        return sql.or_(sql.false(), *(holds(column, value) for column in texts))
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


def holds(column: Any, text: str) -> Any:
    """Whether a column holds a text, in capitals or not; SQLite does not know those beyond ASCII."""
    spellings = {text} if text.isascii() else {text, text.lower(), text.upper(), text.capitalize()}
    return sql.or_(*(column.icontains(one, autoescape=True) for one in sorted(spellings)))
