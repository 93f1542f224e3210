"""What a running job's thread does: it brings the journal to the database, gives a heartbeat, and looks around."""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from trainwright.jobs.status import HEARTBEAT_SECONDS
from trainwright.jobs.tracking import provenance, system

_MOVE_SECONDS = 0.5
_AWAY_SECONDS = 2.0  # between attempts while the database is away


class Job(Protocol):
    """What the thread needs of the running job; `Tracking` says more."""

    id: str
    folder: Path
    attempt: int | None
    is_guest: bool
    stop_requested: bool
    described: threading.Event
    alerting: threading.Event

    def tell_time(self) -> None:
        """Note where the time went until now."""

    def keep(self, name: str, value: Any) -> None:
        """Keep something with the job."""

    def metric(self, name: str, value: float, step: int | None = None) -> int | None:
        """Note a metric's value."""


def keep(job: Job, over: threading.Event) -> None:
    """Keep a job until it is over; a database that is away is waited for."""
    store: Any = None
    alerts: Any = None
    beaten, clocked, told = 0.0, time.monotonic(), False
    sampler = None if job.is_guest else system.Sampler(job.folder, job.metric)
    threading.Thread(target=_describe, args=(job,), name="trainwright-code", daemon=True).start()
    while True:
        is_over = over.is_set()
        if not is_over and time.monotonic() - clocked >= HEARTBEAT_SECONDS:
            job.tell_time()
            clocked = time.monotonic()
        try:
            if store is None:
                store, alerts = _open_store(), _watch(job.id)
            store.move(job.id, job.folder)
            alerts.look(store, at_once=is_over)
            if not is_over and time.monotonic() - beaten >= HEARTBEAT_SECONDS:
                job.stop_requested = store.heartbeat(job.id, job.attempt)
                beaten = time.monotonic()
            if not is_over and sampler is not None:
                sampler.look(partial(_ran, store, job.id))
            if is_over:
                alerts.close(job.alerting)
                store.close()
                return
            told = False
        except Exception as error:
            if is_over:
                return  # the journal keeps it; the next command moves it
            if not told:
                what = "is away" if _is_away(error) else "gave an error"
                print(f"Note: the job database {what} ({_line(error)}); the rows wait.", file=sys.stderr, flush=True)
            told = True
            over.wait(_AWAY_SECONDS)
        over.wait(_MOVE_SECONDS)


def _describe(job: Job) -> None:
    """Keep what a job runs, apart from its heartbeat: a large repository takes its time."""
    try:
        if not job.is_guest:
            provenance.tell(job.folder, job.keep)
    except Exception as error:
        print(f"Note: what this job runs could not be kept ({_line(error)}).", file=sys.stderr, flush=True)
    finally:
        job.described.set()


def _ran(store: Any, job: str) -> float:
    """Return for how many seconds a job's attempts before have run."""
    return float(store.find(job)["ran"])


def _open_store() -> Any:
    from trainwright.jobs.store.store import Store

    return Store()


def _watch(job: str) -> Any:
    from trainwright.jobs.alerts.watch import Watch

    return Watch(job)


def _is_away(error: Exception) -> bool:
    try:
        from trainwright.jobs.store.database import is_away
    except ImportError:  # a file of the script's folder has the name of a package
        return False
    return is_away(error)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
