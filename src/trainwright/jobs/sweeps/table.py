"""Sweeps: jobs of one experiment that try values of parameters, and the table of what came of them."""

from __future__ import annotations

import math
from typing import Any

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs.store import points, schema
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store

KEPT = "sweep"
"""Under which a job keeps its place in a sweep: name, trial, params, metric, direction, and later pruned."""
MINIMIZE, MAXIMIZE = "minimize", "maximize"
_UPWARD = ("accuracy", "reward", "score", "f1", "success", "exact", "bleu", "rouge", "auc")


def direction(metric: str) -> str:
    """Return which way a metric is better, told by its name: a loss downward, an accuracy upward."""
    return MAXIMIZE if any(word in metric.lower() for word in _UPWARD) else MINIMIZE


def names(store: Store) -> list[str]:
    """Return the names of all sweeps, the newest first."""
    found = store.jobs(None, None, schema.jobs.c.kept.contains(f'"{KEPT}"'))
    return [*dict.fromkeys(job["experiment"] for job in found if KEPT in job["kept"])]


def jobs(store: Store, name: str) -> list[Job]:
    """Return the jobs of a sweep by the number of their trial; of a trial that was begun anew the newest."""
    newest_last = store.jobs(None, name)[::-1]
    found = {job["kept"][KEPT]["trial"]: job for job in newest_last if KEPT in job["kept"]}
    return [found[trial] for trial in sorted(found)]


def table(store: Store, name: str) -> dict[str, Any]:
    """Return what was tried in a sweep: `keys`, and for every trial its job, status, params, and the metric's value.

    The value is the best that the metric had, as the sweep's direction says.

    Raises:
        JobError: there is no such sweep.
    """
    found = jobs(store, name)
    if not found:
        known = names(store)
        raise JobError(f"There is no sweep '{name}'.{did_you_mean(name, known)} Known: {', '.join(known) or 'none'}.")
    about = found[0]["kept"][KEPT]
    keys = [*dict.fromkeys(key for job in found for key in job["kept"][KEPT]["params"])]
    trials = [_trial(store, job, about["metric"], about["direction"]) for job in found]
    return {"name": name, "metric": about["metric"], "direction": about["direction"], "keys": keys, "trials": trials}


def _trial(store: Store, job: Job, metric: str, way: str) -> dict[str, Any]:
    own = job["kept"][KEPT]
    return {"job": job["id"], "trial": own["trial"], "name": job["name"], "status": job["status"],
            "params": own["params"], "value": value(store, job["id"], metric, way),
            "pruned": bool(job["kept"].get("pruned"))}  # fmt: skip


def value(store: Store, job: str, metric: str, way: str) -> float | None:
    """Return the best value that a job has of a metric; None where it has none."""
    row = store.read(points.figures, job).get(metric)
    best = None if row is None else row["greatest" if way == MAXIMIZE else "least"]
    return best if best is not None and math.isfinite(best) else None
