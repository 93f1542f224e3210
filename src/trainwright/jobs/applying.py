"""What the records of a journal change in the database."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from trainwright.jobs import schema
from trainwright.jobs.status import ENDED, RUNNING

NEW: dict[str, Any] = {
    "name": "job", "experiment": "default", "status": RUNNING, "params": {}, "data": {}, "progress": 0.0, "moved": {},
    "attempt": 1, "restarts": 0, "gpus": 0, "folder": "",
}  # fmt: skip
_FACTS = ("pid", "pid_created", "host", "cwd")


def apply(
    connection: Connection, job: str, found: dict[str, Any] | None, folder: Path, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Insert metrics, events and artifacts; return what changes in the job's row, which is made if it is missing."""
    if found is None:
        found = _new_row(connection, job, folder, records)
    changes: dict[str, Any] = {}
    rows: dict[str, list[dict[str, Any]]] = {"metric": [], "event": [], "artifact": []}
    data = dict(found["data"])
    for record in records:
        kind = record["k"]
        if kind in rows:
            rows[kind].append(_row(job, record))
        elif kind == "data":
            data[str(record["name"])] = record["value"]
        elif record.get("attempt") in (None, found["attempt"]):  # not of a process that another one has replaced
            changes |= _of_job(record)
            if kind == "start" and found["status"] in ENDED:  # begun again by hand: an old wish to stop is over
                changes["stop_requested"] = None
    for kind, table in (("metric", schema.metrics), ("event", schema.events), ("artifact", schema.artifacts)):
        if rows[kind]:
            connection.execute(table.insert(), rows[kind])
    if data != found["data"]:
        changes["data"] = json.dumps(data)
    return changes


def _row(job: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a metric, an event or an artifact."""
    if record["k"] == "metric":
        value = record["value"]
        good = isinstance(value, int | float) and not math.isnan(value)
        return {"job": job, "name": record["name"], "step": record["step"], "value": value if good else None,
                "time": record["t"]}  # fmt: skip
    if record["k"] == "event":
        return {"job": job, "time": record["t"], "kind": record["kind"], "text": record["text"]}
    return {"job": job, "time": record["t"], "kind": record["kind"], "path": record["path"], "step": record["step"]}


def _of_job(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a record changes in the job's own row."""
    kind = record["k"]
    if kind == "start":
        facts = {name: record[name] for name in _FACTS}
        return {**facts, "status": RUNNING, "started": record["t"], "heartbeat": record["t"], "ended": None,
                "params": json.dumps(record["params"])}  # fmt: skip
    if kind == "progress":
        return {name: record[name] for name in ("progress", "step", "total_steps") if record.get(name) is not None}
    if kind == "status" and record["status"] in ENDED:
        return {"status": record["status"], "ended": record["t"], "message": record["message"],
                "traceback": record["traceback"]}  # fmt: skip
    return {}


def _new_row(connection: Connection, job: str, folder: Path, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the row of a job that the database has not seen yet, as its first record tells."""
    start = next((record for record in records if record["k"] == "start"), {})
    row = {**NEW, "id": job, "folder": str(folder), "created": records[0]["t"] if records else 0.0}
    row |= {name: start[name] for name in ("name", "experiment", "command", "restarts") if start.get(name) is not None}
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
