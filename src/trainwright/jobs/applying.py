"""What the records of a journal change in the database."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from trainwright.jobs import attempts, schema
from trainwright.jobs.journal import Part
from trainwright.jobs.records import Record
from trainwright.jobs.status import ENDED, QUEUED, RUNNING

NEW: dict[str, Any] = {
    "name": "job", "experiment": "default", "status": RUNNING, "params": {}, "data": {}, "progress": 0.0, "moved": {},
    "attempt": 1, "restarts": 0, "gpus": 0, "folder": "",
}  # fmt: skip
_FACTS = ("pid", "pid_created", "boot", "host", "cwd", "worker")
_ONCE = ("name", "experiment", "command", "params", "cwd", "restarts", "after", "gpus")


def apply(connection: Connection, job: str, found: dict[str, Any] | None, folder: Path, part: Part) -> dict[str, Any]:
    """Insert what belongs to a job; return what changes in its own row, which is made if it is missing."""
    if found is None:
        found = _new_row(connection, job, folder, part.records)
    rows: dict[str, list[dict[str, Any]]] = {"metric": [], "event": [], "artifact": []}
    for record in part.records:
        if record["k"] in rows:
            rows[record["k"]].append(_row(job, record))
    if part.damaged:
        rows["event"].append({"job": job, "time": time.time(), "kind": "journal", "text": part.complaint()})
    for kind, table in (("metric", schema.metrics), ("event", schema.events), ("artifact", schema.artifacts)):
        if rows[kind]:
            connection.execute(table.insert(), rows[kind])
    attempts.note(connection, job, part.records)
    return _changes(found, [record for record in part.records if record["k"] not in rows])


def _changes(found: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    data, attempt = dict(found["data"]), found["attempt"]
    for record in records:
        told_by = record.get("attempt") or attempt
        if record["k"] == "data":
            data[record["name"]] = record["value"]
        elif told_by >= attempt:  # not by a process that another one has replaced
            changes |= _of_job(record)
            if record["k"] == "start" and found["status"] in ENDED:  # by hand: an old wish to stop is over
                changes["stop_requested"] = None
            if told_by > attempt:  # the database is made anew
                changes["attempt"] = attempt = told_by
    return {**changes, "data": json.dumps(data)} if data != found["data"] else changes


def _row(job: str, record: Record) -> dict[str, Any]:
    """Return the row of a metric, an event or an artifact."""
    if record["k"] == "metric":
        value = record["value"]
        good = value is not None and not math.isnan(value)
        return {"job": job, "name": record["name"], "step": record["step"], "value": value if good else None,
                "time": record["t"]}  # fmt: skip
    if record["k"] == "event":
        return {"job": job, "time": record["t"], "kind": record["kind"], "text": record["text"]}
    return {"job": job, "time": record["t"], "kind": record["kind"], "path": record["path"], "step": record["step"]}


def _of_job(record: Record) -> dict[str, Any]:
    """Return what a record changes in the job's own row."""
    kind = record["k"]
    if kind == "start":
        facts = {name: record[name] for name in _FACTS if record[name] is not None}
        return {**facts, "status": RUNNING, "started": record["t"], "heartbeat": record["t"], "ended": None,
                "message": None, "traceback": None, "params": json.dumps(record["params"])}  # fmt: skip
    if kind == "progress":
        return {name: record[name] for name in ("progress", "step", "total_steps") if record[name] is not None}
    if kind == "status":
        return {"status": record["status"], "ended": record["t"], "message": record["message"],
                "traceback": record["traceback"]}  # fmt: skip
    return {}


def _new_row(connection: Connection, job: str, folder: Path, records: list[Record]) -> dict[str, Any]:
    """Make the row of a job that the database has not seen yet, as its first word tells."""
    first: Record = next((record for record in records if record["k"] in ("submit", "start")), {})
    began = min((record["t"] for record in records), default=time.time())
    row = {**NEW, "id": job, "folder": str(folder), "created": began}
    row |= {name: first[name] for name in _ONCE if first.get(name) is not None}
    if first.get("k") == "submit":
        row["status"] = QUEUED
    ensure_experiment(connection, row["experiment"], row["created"])
    packed = {
        name: json.dumps(value) if name in ("command", "params", "data", "moved") else value
        for name, value in row.items()
    }
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
