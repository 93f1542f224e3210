"""Looks for what alerts tell of: a worker, the page's server and the job itself; whoever sees it first sends it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.alerts import rules, send
from trainwright.jobs.alerts.rules import Rule
from trainwright.jobs.status import RUNNING
from trainwright.jobs.store import points, schema
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store

_SENT = "alerts"  # the folder of what was sent, in that of all jobs
_LOOK_SECONDS = 2.0
_LATE_SECONDS = 600.0  # after which the end of a job elsewhere is known here
LAST_SECONDS = 20.0  # that a process which ends waits for its alerts


class Watch:
    """One process's look at all jobs, or at its own.

    Args:
        only: the job that is looked at; all where none is given.
    """

    def __init__(self, only: str | None = None) -> None:
        self.only = only
        self._looked = 0.0
        self._known: list[Rule] = []
        self._read = -1.0
        self._seen = 0.0  # until when jobs that ended were looked at
        self._moved: dict[str, tuple[Any, float]] = {}  # by job: how far it was, and since when by the monotonic clock
        self._sending: list[threading.Thread] = []

    def look(self, store: Store, at_once: bool = False) -> None:
        """Send what there is to tell of, at most every two seconds; whatever goes wrong is said and ends nothing."""
        if not at_once and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            self._refresh()
            if self._known:
                self._look(store)
        except Exception as error:  # an alert is no reason for a worker, a page or a run to end
            print(f"Note: the alerts could not be looked at: {error}", file=sys.stderr, flush=True)

    @property
    def is_sending(self) -> bool:
        """Whether an alert is under way."""
        return any(one.is_alive() for one in self._sending)

    def close(self, waiting: threading.Event | None = None) -> None:
        """Wait a little for what is being sent; `waiting` is set where there is something."""
        if waiting is not None and self.is_sending:
            waiting.set()
        end = time.monotonic() + LAST_SECONDS
        for thread in self._sending:
            thread.join(max(end - time.monotonic(), 0.0))
        if self.is_sending:
            print("Note: an alert is not sent yet, and is waited for no longer.", file=sys.stderr, flush=True)

    def _refresh(self) -> None:
        """Read the alerts where their file has changed; a file that is wrong is told of once."""
        path = rules.file()
        when = path.stat().st_mtime if path.exists() else 0.0
        if when == self._read:
            return
        self._read, self._seen = when, 0.0
        self._known = []
        try:
            self._known = rules.read()
        except JobError as error:
            print(f"Note: no alert is sent: {error}", file=sys.stderr, flush=True)

    def _look(self, store: Store) -> None:
        since = max(min(rule.added for rule in self._known), self._seen - _LATE_SECONDS)
        self._seen = time.time()
        where = [schema.jobs.c.id == self.only] if self.only else []
        for job in self._jobs(store, since, where):
            for rule in self._known:
                if rule.jobs.lower() in f"{job['name']} {job['experiment']} {job['id']}".lower():
                    for what, text in self._found(store, rule, job):
                        self._tell(rule, job, what, text)

    def _jobs(self, store: Store, since: float, where: Sequence[Any]) -> list[Job]:
        """Return the jobs that run, and those that ended since."""
        ended = store.jobs(None, None, schema.jobs.c.ended >= since, *where)
        return [*store.jobs([RUNNING], None, *where), *ended]

    def _found(self, store: Store, rule: Rule, job: Job) -> list[tuple[str, str]]:
        """Return what an alert tells of a job: a short word, and a sentence."""
        name = f"{job['name']} {job['id']}"
        found = []
        if job["status"] in rule.on and (job["ended"] or 0.0) >= rule.added:
            found.append((job["status"], f"{name} is {job['status']}: {job['message'] or 'it said nothing.'}"))
        if job["status"] == RUNNING and rule.stuck and self._is_stuck(store, rule, job):
            found.append(("stuck", f"{name} is stuck: nothing has moved for {rule.stuck:g} s, at step {job['step']}."))
        if rule.metric:
            figure = store.read(points.figures, job["id"]).get(rule.metric_name)
            if figure is not None and rule.is_beyond(figure["value"]):
                text = f"{name}: {rule.metric_name} is {figure['value']:g} at step {figure['step']} ({rule.metric})."
                found.append(("metric", text))
        return found

    def _is_stuck(self, store: Store, rule: Rule, job: Job) -> bool:
        counts = sum(one["count"] for one in store.read(points.figures, job["id"]).values())
        now = (job["starts"], job["step"], job["progress"], counts)
        before, since = self._moved.get(job["id"], (None, 0.0))
        if before != now:
            self._moved[job["id"]] = (now, time.monotonic())
            return False
        return time.monotonic() - since >= rule.stuck

    def _tell(self, rule: Rule, job: Job, what: str, text: str) -> None:
        """Send an alert, where no process has yet: a file that can be made once says so."""
        sent = paths.home() / _SENT / f"{job['id']}-{job['starts']}-{rule.key}-{what}"
        try:
            paths.make(sent.parent)
            sent.touch(exist_ok=False)
        except FileExistsError:
            return
        told = {"text": text, "job": job["id"], "name": job["name"], "experiment": job["experiment"],
                "status": job["status"], "what": what, "alert": rule.key}  # fmt: skip
        self._sending = [one for one in self._sending if one.is_alive()]
        self._sending.append(send.begin(rule, told))
