"""What the page draws: curves of a job, all points of a metric, and what several jobs differ in."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response

from trainwright.jobs import values
from trainwright.jobs.finding.keys import COLUMNS
from trainwright.jobs.store import curves, masking, points
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.web.answers import number, step
from trainwright.jobs.worker import queue

_MOST_POINTS = 4000


def curves_of(store: Store, job: str, asked: QueryParams) -> dict[str, Any]:
    """Return curves of a job by name, thinned to what a screen shows.

    Args:
        store: the database.
        job: its name.
        asked: `name` (all when not given), `points` at most, the steps `from` and `to`, `attempt` for one whose values
            are to be seen though a later one has superseded them, and `time=1` for points that have the seconds since
            the job's first one besides step and value.
    """
    names = asked.getlist("name") or list(store.metric_names(job))
    most = max(min(number(asked.get("points"), 1000), _MOST_POINTS), 4)
    first, last = step(asked.get("from"), -curves.EVER), step(asked.get("to"), curves.EVER)
    attempt = number(asked["attempt"], 1) if "attempt" in asked else None
    found: dict[str, Any] = {}
    for name in names:
        mine = values.text(name, values.NAME_LENGTH)
        found[name] = store.read(curves.curve, job, mine, most, first, last, attempt)
        if asked.get("time"):
            found[name] = store.read(points.with_seconds, job, mine, found[name], attempt)
    return found


def comparison(store: Store, jobs: Sequence[Job]) -> dict[str, Any]:
    """Return of jobs the parameters that differ, the newest, least and greatest value of every metric, and which have
    curves; what is given for every job is in their order, None where one has it not."""
    figures = [store.read(points.figures, job["id"]) for job in jobs]
    names = sorted(set().union(*figures))

    def each(name: str, key: str) -> list[Any]:
        return [one[name][key] if name in one else None for one in figures]

    found = queue.differences(store, jobs)
    found["params"] = {name: masking.each(name, held) for name, held in found["params"].items()}
    return {
        "jobs": [listed(job) for job in jobs],
        "curves": [name for name in names if any((count or 0) > 1 for count in each(name, "count"))],
        "flat": sorted(set.intersection(*({*flat(one)} | ({*names} - {*one}) for one in figures))) if figures else [],
        "metric_versions": {name: each(name, "changed") for name in names},
        "least": {name: each(name, "least") for name in names},
        "greatest": {name: each(name, "greatest") for name in names},
        **found,
    }


def flat(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the metrics whose curves are one value from beginning to end."""
    return [name for name, one in figures.items() if one["count"] > 1 and one["least"] == one["greatest"]]


def as_csv(store: Store, jobs: Sequence[Job], name: str) -> Response:
    """Return a file with every point of a metric of jobs."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["job", "name", "metric", "step", "value", "time"])
    for job in jobs:
        for at, value, when in store.metric(job["id"], values.text(name, values.NAME_LENGTH)):
            rows.writerow([job["id"], job["name"], name, at, "" if math.isnan(value) else repr(value), f"{when:.3f}"])
    kept = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name) or "metric"
    headers = {"content-disposition": f'attachment; filename="{kept}.csv"'}
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


def listed(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a job what lists have of it."""
    return {name: job[name] for name in COLUMNS}
