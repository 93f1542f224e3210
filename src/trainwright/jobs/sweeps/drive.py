"""Goes through a sweep: puts its jobs into the queue, runs them, and goes on where another process left it."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from trainwright.jobs import processes
from trainwright.jobs.status import ENDED, INTERRUPTED, LOST
from trainwright.jobs.store.database import is_away
from trainwright.jobs.store.store import Store
from trainwright.jobs.sweeps import plan as plans
from trainwright.jobs.sweeps import table
from trainwright.jobs.sweeps.plan import Described, Plan
from trainwright.jobs.sweeps.study import Study
from trainwright.jobs.worker import health, queue
from trainwright.jobs.worker.worker import Worker, is_to_restart

_LOOK_SECONDS = 0.5


def begin(store: Store, plan: Plan, described: Described) -> int:
    """Put all combinations that have no job yet into the queue; return how many."""
    count = 0
    for trial, params in [*plans.missing(store, plan)]:
        plans.submit(store, plan, trial, params, described)
        count += 1
    return count


def go_on(store: Store, plan: Plan) -> int:
    """Put the jobs of a sweep that were lost or interrupted back into the queue; return how many."""
    health.sweep(store, wait=True)
    gone = [job for job in table.jobs(store, plan.name) if job["status"] in (LOST, INTERRUPTED)]
    for job in gone:
        queue.resume(store, job)
    return len(gone)


def run(store: Store, plan: Plan, described: Described, worker: Worker | None, at_once: int) -> bool:
    """Work until all trials have ended, or a signal; whether they have. Jobs that run go on without this process.

    Args:
        store: the database.
        plan: the sweep.
        described: looks at a YAML file.
        worker: runs the jobs; None where others do.
        at_once: jobs in the queue at a time, where something decides what is tried next.

    Raises:
        JobError: another process goes through this sweep.
    """
    leaving: list[int] = []
    before = {number: signal.signal(number, lambda number, _: leaving.append(number))
              for number in (signal.SIGTERM, signal.SIGINT)}  # fmt: skip
    try:
        with processes.holding(plan.folder / plans.LOCK, f"The sweep '{plan.name}' is gone through"):
            study = Study(store, plan, described, at_once) if plan.is_searched() else None
            if study is None:
                begin(store, plan, described)
            while not leaving:
                if _look(store, plan, study, worker):
                    return True
                time.sleep(_LOOK_SECONDS)
        return False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _look(store: Store, plan: Plan, study: Study | None, worker: Worker | None) -> bool:
    """Take one look at everything; whether all has ended."""
    try:
        if worker is not None:
            worker.look()
        else:
            health.sweep(store, again=True)
        jobs = table.jobs(store, plan.name)
        ended = study.look() if study else all(job["status"] in ENDED and not is_to_restart(job) for job in jobs)
        own = worker.children if worker is not None else {}
        return ended and not any(job["id"] in own for job in jobs)  # whose ends the worker is still to say
    except Exception as error:
        if not is_away(error):
            raise
        print(f"The job database is away ({error}); waiting.", file=sys.stderr, flush=True)
        return False


def best(found: dict[str, Any]) -> dict[str, Any] | None:
    """Return the best trial of a table; None where none has a value."""
    tried = [one for one in found["trials"] if one["value"] is not None]
    is_up = found["direction"] == table.MAXIMIZE
    return min(tried, key=lambda one: -one["value"] if is_up else one["value"], default=None)
