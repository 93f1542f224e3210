"""Lists of jobs: filtered, sorted, grouped and cut into pages by the database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from trainwright.errors import JobError
from trainwright.jobs import values
from trainwright.jobs.finding import conditions, keys, language
from trainwright.jobs.finding.keys import COLUMNS, Key
from trainwright.jobs.store import schema
from trainwright.jobs.store.rows import loaded

_MOST_GROUPS = 200


@dataclass(frozen=True)
class Query:
    """Which jobs a list shows.

    A key is a column (`status`), `param:NAME`, or of a metric `last:NAME`, `least:NAME` or `greatest:NAME`; `query`,
    `sort`, `group` and `show` take the names that `keys.meant` takes too.

    Attributes:
        text: that name, experiment, id, tags, note, or a given parameter's name or value hold.
        statuses: only these; all where there are none.
        experiment: only this one.
        where: `KEY OPERATOR VALUE` with =, !=, <, <=, >, >= or ~ (holds this text); a job that has no such parameter or
            metric is left out.
        query: as a person writes it, `language.read`.
        sort: a key, with - before it for the greatest first; numbers come before text, what has none comes last.
        group: a key by which jobs stand together, before they are sorted.
        limit: at most so many.
        offset: after so many.
        show: keys whose values are given with every job.
    """

    text: str = ""
    statuses: Sequence[str] = ()
    experiment: str | None = None
    where: Sequence[str] = ()
    sort: str = "-created"
    limit: int | None = 50
    offset: int = 0
    show: Sequence[str] = ()
    query: str = ""
    group: str = ""


def version(connection: Connection) -> int:
    """Return how many changes of jobs there were; where it is the same, every list is."""
    return int(connection.execute(sql.select(schema.changes.c.number)).scalar_one())


def page(connection: Connection, query: Query) -> dict[str, Any]:
    """Return `jobs`, how many there are on all pages as `total`, and of all jobs how many by status as `counts`.

    With a group also `groups`: of every value how many jobs have it.

    Raises:
        JobError: a key or an operator is none.
    """
    chosen = [*_conditions(connection, query)]
    found = _rows(connection, query, chosen)
    for name in dict.fromkeys([*query.show, *([query.group] if query.group else [])]):
        held: dict[str, Any] = {}
        for key in reversed(keys.meant(connection, name)):
            held |= keys.held(connection, key, [row["id"] for row in found])
        for row in found:
            row.setdefault("values", {})[name] = _shown(name, held.get(row["id"]))
    told = {"jobs": found, "total": count(connection, *chosen), "counts": counts(connection)}
    return told | ({"groups": _groups(connection, query.group, chosen)} if query.group else {})


def ids(connection: Connection, query: Query) -> list[str]:
    """Return the names of the jobs of a list, in its order."""
    order = _order(connection, query)
    rows = sql.select(schema.jobs.c.id).where(*_conditions(connection, query)).order_by(*order)
    return [*connection.execute(rows.limit(query.limit).offset(query.offset or None)).scalars()]


def of_ids(connection: Connection, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what a list has of jobs, and their folders, in the order of names, without those that are not there."""
    jobs = schema.jobs
    rows = connection.execute(
        sql.select(*(jobs.c[name] for name in COLUMNS), jobs.c.folder).where(jobs.c.id.in_(_texts(names)))
    ).mappings()
    found = {row["id"]: _listed(row) for row in rows}
    return [found[job] for job in names if job in found]


def known(connection: Connection, names: Iterable[str]) -> list[str]:
    """Return those of some names that are jobs."""
    return [*connection.execute(sql.select(schema.jobs.c.id).where(schema.jobs.c.id.in_([*names]))).scalars()]


def count(connection: Connection, *chosen: Any) -> int:
    """Return how many jobs there are that fulfil conditions."""
    query = sql.select(sql.func.count()).select_from(schema.jobs).where(*chosen)
    return int(connection.execute(query).scalar_one())


def experiments(connection: Connection) -> list[str]:
    """Return the experiments that have jobs."""
    return [*connection.execute(sql.select(schema.jobs.c.experiment).distinct()).scalars()]


def counts(connection: Connection) -> dict[str, int]:
    """Return how many jobs have which status."""
    status = schema.jobs.c.status
    rows = connection.execute(sql.select(status, sql.func.count()).group_by(status).order_by(status))
    return {str(name): int(number) for name, number in rows}


def choices(connection: Connection) -> dict[str, list[str]]:
    """Return what a list can show: `columns`, and the names of all `params` and `metrics`."""
    params = {*keys.names(connection, schema.params), *keys.names(connection, schema.defaults)}
    shown = [name for name in (*COLUMNS, *keys.MORE) if name not in ("changed", "stop_requested")]
    return {"columns": shown, "params": sorted(params), "metrics": [*keys.names(connection, schema.figures)]}


def _rows(connection: Connection, query: Query, chosen: Sequence[Any]) -> list[dict[str, Any]]:
    jobs = schema.jobs
    rows = sql.select(*(jobs.c[name] for name in COLUMNS)).where(*chosen).order_by(*_order(connection, query))
    return [_listed(row) for row in connection.execute(rows.limit(query.limit).offset(query.offset)).mappings()]


def _listed(row: Any) -> dict[str, Any]:
    """Return a row as lists have it: without tags and note where it has none."""
    found = {**row, "tags": loaded(row["tags"], [])}
    return {name: value for name, value in found.items() if value or name not in ("tags", "note")}


def _groups(connection: Connection, group: str, chosen: Sequence[Any]) -> list[dict[str, Any]]:
    """Return of every value of a group's key how many jobs have it, the most first."""
    value = _grouped(connection, group)
    rows = sql.select(value, sql.func.count()).select_from(schema.jobs).where(*chosen).group_by(sql.text("1"))
    found = connection.execute(rows.order_by(sql.text("2 DESC")).limit(_MOST_GROUPS))
    return [{"value": _shown(group, one), "count": number} for one, number in found]


def _shown(name: str, value: Any) -> Any:
    """Return a value of a key as lists show it: tags as words, None where there are none."""
    if keys.exact(name) != Key("column", "tags"):
        return value
    return ", ".join(loaded(value, [])) or None


def _grouped(connection: Connection, group: str) -> Any:
    """Return what jobs that stand together have in common: a column, or a parameter as text."""
    meant = keys.meant(connection, group)
    if any(key.kind in keys.FIGURES for key in meant):
        raise JobError(f"{group!r} is a metric; jobs are grouped by a column, such as experiment, or by a parameter.")
    return _first([keys.expressions(connection, key)[-1] for key in meant])


def _first(found: Sequence[Any]) -> Any:
    return found[0] if len(found) == 1 else sql.func.coalesce(*found)


def _conditions(connection: Connection, query: Query) -> Iterable[Any]:
    jobs, params = schema.jobs, schema.params
    if query.statuses:
        yield jobs.c.status.in_(_texts(query.statuses))
    if query.experiment is not None:
        yield jobs.c.experiment == values.text(query.experiment)
    if query.text:
        text = values.text(query.text)
        named = sql.select(params.c.job).where(
            sql.or_(conditions.holds(params.c.name, text), conditions.holds(params.c.text, text))
        )
        own = [conditions.holds(jobs.c[name], text) for name in ("id", "name", "experiment", "tags", "note")]
        yield sql.or_(*own, jobs.c.id.in_(named))
    for written in query.where:
        yield conditions.of_filter(connection, written)
    if query.query.strip():
        yield conditions.of_query(connection, language.read(query.query))


def _texts(given: Iterable[str]) -> list[str]:
    """Return texts as the database holds them."""
    return [values.text(one) for one in given]


def _order(connection: Connection, query: Query) -> list[Any]:
    name, is_down = query.sort.removeprefix("-"), query.sort.startswith("-")
    meant: list[Key] = keys.meant(connection, name)
    found = [keys.expressions(connection, key) for key in meant]
    columns = [_first([one[place] for one in found]) for place in range(min(map(len, found)))]
    by = [(column.desc() if is_down else column.asc()) for column in columns]
    is_created = name == "created"
    if not is_created:  # of which the index has the order
        by = [one.nulls_last() for one in by]
    together = [_grouped(connection, query.group).asc().nulls_last()] if query.group else []
    return [*together, *by, *([] if is_created else [schema.jobs.c.created.desc()]), schema.jobs.c.id]
