"""The attempts of a job: processes that trained. What they told of their time, and where that of the whole job went."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, func, select

from trainwright.jobs.journal.records import Record
from trainwright.jobs.journal.timesheet import PARTS
from trainwright.jobs.store import schema
from trainwright.jobs.store.rows import Attempt

_STEPS = ("first_step", "reached", "step")


def note(connection: Connection, job: str, records: Iterable[Record]) -> None:
    """Keep what records tell of attempts: the newest word of each, and steps that were done after it."""
    rows: dict[float | None, dict[str, Any]] = {}
    newest = None  # that of the records before these
    for record in records:
        if record["k"] == "time":
            newest = record["began"]
            rows[newest] = {**{name: record[name] for name in _STEPS}, **record["spent"]}
        elif record["k"] == "progress" and record["step"] is not None:
            rows.setdefault(newest, {})["step"] = record["step"]
    table = schema.attempts
    last = select(func.max(table.c.began)).where(table.c.job == job).scalar_subquery()
    for began, row in rows.items():
        change = table.update().where(table.c.job == job, table.c.began == (last if began is None else began))
        if not connection.execute(change.values(**row)).rowcount and began is not None:
            connection.execute(table.insert().values(job=job, began=began, **row))


def account(rows: Iterable[Attempt]) -> dict[str, Any] | None:
    """Return where the time of a job went, from the beginning of its first attempt to the last word of its newest.

    Every attempt has its seconds by part, `between` before it those in which none was alive, and `again`, how many of
    its steps an attempt before had done. All of a job's seconds are `total`. None where no attempt told.
    """
    attempts: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: row["began"]):
        seconds: dict[str, float] = {part: row[part] for part in PARTS}
        before = attempts[-1]["ended"] if attempts else row["began"]
        seconds["between"] = max(row["began"] - before, 0.0)
        again = max(min(row["step"], row["reached"]) - row["first_step"], 0)
        ended = row["began"] + sum(row[part] for part in PARTS)
        attempts.append(
            {"began": row["began"], "ended": ended, "first_step": row["first_step"], "step": row["step"],
             "again": again, "seconds": seconds}
        )  # fmt: skip
    if not attempts:
        return None
    parts = {part: sum(one["seconds"][part] for one in attempts) for part in attempts[0]["seconds"]}
    return {"attempts": attempts, "again": sum(one["again"] for one in attempts), "seconds": parts,
            "total": sum(parts.values())}  # fmt: skip
