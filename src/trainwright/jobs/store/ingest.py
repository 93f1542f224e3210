"""What the records of a journal change in the database."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from trainwright.jobs.journal.journal import Part
from trainwright.jobs.journal.records import Record
from trainwright.jobs.status import ENDED, QUEUED, RUNNING, STOPPED
from trainwright.jobs.store import attempts, schema, series, typed
from trainwright.jobs.store.rows import Job, column

NEW: dict[str, Any] = {
    "name": "job", "experiment": "default", "status": RUNNING, "params": {}, "data": {}, "kept": {}, "progress": 0.0,
    "moved": {}, "attempt": 1, "starts": 0, "ran": 0.0, "restarts": 0, "gpus": 0, "folder": "",
    "changed": 0, "tags": [],
}  # fmt: skip
_FACTS = ("pid", "pid_created", "boot", "host", "cwd")
_ONCE = ("name", "experiment", "command", "params", "cwd", "restarts", "after", "gpus", "kept")


def apply(connection: Connection, job: str, known: Job | None, folder: Path, part: Part) -> dict[str, Any]:
    """Insert what belongs to a job; return what changes in its own row, which is made if it is missing."""
    found: dict[str, Any] = {**known} if known is not None else _new_row(connection, job, folder, part.records)
    rows: dict[str, list[dict[str, Any]]] = {"metric": [], "event": [], "artifact": []}
    changes: dict[str, Any] = {}
    now = {**found}
    for record in part.records:
        if record["k"] in rows:
            rows[record["k"]].append(_row(job, record, now))
        else:
            change = _change(now, record)
            if record.get("defaults") is not None:
                change["defaults"] = typed.keep_defaults(connection, record["defaults"])
            now |= change
            changes |= change
    if part.damaged:
        rows["event"].append({"job": job, "time": time.time(), "kind": "journal", "text": part.complaint()})
    figures = series.note(connection, job, rows["metric"]) if rows["metric"] else []
    for kind, table in (("event", schema.events), ("artifact", schema.artifacts)):
        if rows[kind]:
            connection.execute(table.insert(), rows[kind])
    if now["starts"] > 1:
        _supersede(connection, job, rows["metric"], now["starts"])
    attempts.note(connection, job, part.records)
    if known is None or now["params"] != known["params"]:
        typed.keep(connection, job, now["params"])
    changes["changed"] = next_change(connection)
    series.keep_figures(connection, job, figures, changes["changed"])
    return {name: column(name, value) for name, value in changes.items()}


def next_change(connection: Connection) -> int:
    """Count a change of a job and return its number: who waits for others asks for it last, for all wait for it.

    A change with a smaller number is seen no later than one with a greater, for a transaction keeps the row to its end.
    """
    table = schema.changes
    connection.execute(table.update().values(number=table.c.number + 1))
    return int(connection.execute(select(table.c.number)).scalar_one())


def _change(found: dict[str, Any], record: Record) -> dict[str, Any]:
    """Return what a record changes in the row of a job as it is by then."""
    if record["k"] in ("data", "kept"):
        return {record["k"]: {**found[record["k"]], record["name"]: record["value"]}}
    told_by = record.get("attempt") or found["attempt"]
    if told_by < found["attempt"]:
        return {}  # by a process that another one has replaced
    changes = {"attempt": told_by} if told_by > found["attempt"] else {}  # the database is made anew
    return {**changes, **_of_job(record, found)}


def _supersede(connection: Connection, job: str, rows: list[dict[str, Any]], newest: int) -> None:
    """Mark the values of earlier attempts from the first step on that a later one has a value of the same name for."""
    first: dict[str, int] = {}
    for row in rows:
        first[row["name"]] = min(row["step"], first.get(row["name"], row["step"]))
    earlier, later = schema.points, schema.points.alias()
    for name, step in first.items():
        again = select(later.c.id).where(
            later.c.job == job, later.c.name == name, later.c.attempt > earlier.c.attempt,
            later.c.step <= earlier.c.step,
        )  # fmt: skip
        change = earlier.update().where(
            earlier.c.job == job, earlier.c.name == name, earlier.c.step >= step, earlier.c.attempt < newest,
            earlier.c.superseded.is_(False), again.exists(),
        )  # fmt: skip
        connection.execute(change.values(superseded=True))


def _row(job: str, record: Record, found: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a metric, an event or an artifact, given how the job is by then."""
    if record["k"] == "metric":
        value = record["value"]
        good = value is not None and not math.isnan(value)
        is_late = found.get("started") is not None and record["t"] < found["started"]  # of another home's journal
        return {"job": job, "name": record["name"], "step": record["step"], "value": value if good else None,
                "time": record["t"], "attempt": max(found["starts"] - is_late, 1), "superseded": False}  # fmt: skip
    if record["k"] == "event":
        return {"job": job, "time": record["t"], "kind": record["kind"], "text": record["text"]}
    return {"job": job, "time": record["t"], "kind": record["kind"], "path": record["path"], "step": record["step"]}


def _of_job(record: Record, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a record changes in the job's own row."""
    kind = record["k"]
    if kind == "start":
        facts = {name: record[name] for name in _FACTS if record[name] is not None}
        wish = {"stop_requested": None} if found["status"] in ENDED else {}  # by hand: an old one is over
        return {**facts, **wish, "worker": record["worker"], "status": RUNNING, "started": record["t"],
                "heartbeat": record["t"], "ended": None, "message": None, "traceback": None, "params": record["params"],
                "starts": found["starts"] + 1, "ran": found["ran"] + _ran(found)}  # fmt: skip
    if kind == "label":
        return {name: record[name] for name in ("tags", "note") if record[name] is not None}
    if kind == "params":
        return {"params": record["params"]}
    if kind == "progress":
        return {name: record[name] for name in ("progress", "step", "total_steps") if record[name] is not None}
    if kind == "status":
        asked = found.get("stop_requested") is not None  # however it ended then
        ended = max(record["t"], found.get("started") or record["t"])
        return {"status": STOPPED if asked else record["status"], "ended": ended,
                "message": record["message"] or ("Stopped on request." if asked else None),
                "traceback": record["traceback"]}  # fmt: skip
    return {}


def _ran(found: dict[str, Any]) -> float:
    """Return the seconds that the process before was the job; of one that was lost, until its last heartbeat."""
    if found.get("started") is None:  # it was put into the queue since, which has counted them
        return 0.0
    last = found.get("ended") or found.get("heartbeat") or found["started"]
    return max(float(last) - float(found["started"]), 0.0)


def _new_row(connection: Connection, job: str, folder: Path, records: list[Record]) -> dict[str, Any]:
    """Make the row of a job that the database has not seen yet, as its first word tells."""
    first: Record = next((record for record in records if record["k"] in ("submit", "start")), {})
    began = min((record["t"] for record in records), default=time.time())
    row = {**NEW, "id": job, "folder": str(folder), "created": began}
    row |= {name: first[name] for name in _ONCE if first.get(name) is not None}
    if first.get("k") == "submit":
        row["status"] = QUEUED
    ensure_experiment(connection, row["experiment"], row["created"])
    packed = {name: column(name, value) for name, value in row.items()}
    connection.execute(schema.jobs.insert().values(**packed))
    return row


def ensure_experiment(connection: Connection, name: str, now: float) -> None:
    """Make an experiment that is not there yet."""
    known = connection.execute(select(schema.experiments.c.name).where(schema.experiments.c.name == name)).first()
    if known is None:
        try:
            with connection.begin_nested():
                connection.execute(schema.experiments.insert().values(name=name, created=now))
        except IntegrityError:
            return  # another process made it meanwhile
