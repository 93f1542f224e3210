"""The job database: what is known of every job, on SQLite or PostgreSQL."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import clock, paths, values
from trainwright.jobs.journal.journal import append, read_journal
from trainwright.jobs.journal.journals import Looks
from trainwright.jobs.status import ENDED, LOST, QUEUED, RUNNING, STOPPED
from trainwright.jobs.store import curves, ingest, listing, points, schema, typed
from trainwright.jobs.store.database import Database, is_away, is_damage
from trainwright.jobs.store.rows import Job, job_of, loaded, packed

_MOST_SUGGESTED = 1000  # jobs among which one is looked for that was meant
_Answer = TypeVar("_Answer")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _mending(method: _Method) -> _Method:
    """Give a method a second try where the first one finds the database damaged or gone: it is made anew before."""

    @wraps(method)
    def tried(self: Store, *args: Any, **kwargs: Any) -> Any:
        if self.database.is_replaced():
            self._open()
        try:
            return method(self, *args, **kwargs)
        except DBAPIError as error:
            if not is_damage(error):
                raise
        self._open(damaged=True)
        return method(self, *args, **kwargs)

    return cast(_Method, tried)


class Store:
    """One database of jobs.

    Attributes:
        database: its connections.
        heard: of other machines' jobs, the last heartbeat and when this process saw it first, by its monotonic clock.

    Raises:
        JobError: it cannot be reached, or a newer Trainwright made it.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or paths.database_url()
        self.heard: dict[str, tuple[float | None, float]] = {}
        self._opening = threading.Lock()
        self._looks = Looks()
        self._told: set[str] = set()
        try:
            self.database = Database(self.url)
            self.engine, self.reader = self.database.engine, self.database.reader
            self._open()
        except (DBAPIError, OSError) as error:
            reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
            raise JobError(
                f"The job database {sql.make_url(self.url).render_as_string()} cannot be used: "
                f"{' '.join(reason.split()).rstrip('.')}. Look at TRAINWRIGHT_DB, or leave it out for an SQLite file."
            ) from error

    def _open(self, damaged: bool = False) -> None:
        """Open the database; one that is new is filled from the journals before anyone sees it."""
        with self._opening, self.database.opening(damaged) as new:
            if new:
                self._move_all()

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def _write(self, connection: sql.Connection, job: str, given: dict[str, Any], *where: Any) -> bool:
        """Change a job, where it is as `where` says, and count that; whether it was changed."""
        change = schema.jobs.update().where(schema.jobs.c.id == job, *where)
        if "params" in given:
            typed.keep(connection, job, given["params"])
        number = ingest.next_change(connection)
        return connection.execute(change.values(**packed(given), changed=number)).rowcount == 1

    @contextmanager
    def _locked(self, job: str) -> Iterator[tuple[sql.Connection, Job | None]]:
        """Give a transaction that nobody else can change this job in, and the job."""
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":  # also before the job has a row that could be locked
                connection.execute(sql.text("SELECT pg_advisory_xact_lock(hashtext(:job))"), {"job": job})
            query = sql.select(schema.jobs).where(schema.jobs.c.id == job)
            row = connection.execute(query).mappings().first()
            yield connection, None if row is None else job_of(row)

    @_mending
    def move(self, job: str, folder: Path) -> int:
        """Bring what the job's journal holds and the database does not into it, exactly once; return how many records.

        The place in the journal is changed in the transaction that the records go in with.
        """
        return self._move(job, folder)

    def _move(self, job: str, folder: Path) -> int:
        count = 0
        while (moved := self._move_part(job, folder)) is not None:
            count += moved
        return count

    def _move_part(self, job: str, folder: Path) -> int | None:
        """Move at most 8 MB of a journal; None where nothing is left."""
        path, home = folder / paths.JOURNAL, paths.home_id(folder.parents[1])
        with self._locked(job) as (connection, found):
            moved = found["moved"] if found else {}
            start = moved.get(home, 0)
            part = read_journal(path, start)
            if part.end == start:
                return None
            changes = ingest.apply(connection, job, found, folder, part)
            changes["moved"] = json.dumps({**moved, home: part.end})
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job).values(**changes))
        return len(part.records)

    @_mending
    def move_all(self) -> None:
        """Move all journals of this home; one that cannot be moved is told of, and holds up no other."""
        self._move_all()

    @_mending
    def move_grown(self) -> None:
        """Move the journals that may have grown since this process looked last, as `journals.Looks` tells."""
        if self._looks.is_for_all():
            began = time.monotonic()
            self._move_all()
            self._looks.took(time.monotonic() - began)
            return
        moved = self._moved(schema.jobs.c.status == RUNNING)
        unknown = self._looks.unknown(paths.home() / "jobs", lambda names: self.read(listing.known, names))
        self._move_named({*moved, *unknown}, moved)

    def _move_all(self) -> None:
        folder = paths.home() / "jobs"
        self._move_named(os.listdir(folder) if folder.is_dir() else (), self._moved())

    def _move_named(self, names: Iterable[str], moved: Mapping[str, int]) -> None:
        folder = paths.home() / "jobs"
        for job in sorted(names):
            path = folder / job / paths.JOURNAL
            try:
                if path.stat().st_size > moved.get(job, 0):
                    self._move(job, path.parent)
            except (FileNotFoundError, NotADirectoryError):
                continue  # there is none, or it was removed meanwhile
            except Exception as error:
                if is_away(error) or (isinstance(error, DBAPIError) and is_damage(error)):
                    raise
                if job not in self._told:
                    text = " ".join(f"{type(error).__name__}: {error}".split())
                    print(f"Note: {path} cannot be read: {text[:300]}.", file=sys.stderr, flush=True)
                self._told.add(job)

    def submit(self, job: str, **given: Any) -> None:
        """Put a job into the queue; its journal begins with that, so that it outlives the database."""
        folder = paths.job_folder(job)
        try:
            append(folder / paths.JOURNAL, "submit", **given)
            self.move(job, folder)
        except OSError as error:
            raise JobError(f"The job cannot be put into the queue: {error}.") from error

    @_mending
    def requeue(self, job: str, attempt: int, **kept: Any) -> bool:
        """Put a job that has ended into the queue again, and keep something with it; False where others were first."""
        with self._locked(job) as (connection, found):
            if found is None or found["status"] not in ENDED or found["attempt"] != attempt:
                return False
            last = found["ended"] - found["started"] if found["ended"] and found["started"] else 0.0
            fresh = {"status": QUEUED, "attempt": attempt + 1, "ran": found["ran"] + max(last, 0.0),
                     "kept": {**found["kept"], **kept}}  # fmt: skip
            fresh |= dict.fromkeys(("pid", "boot", "worker", "stop_requested", "started", "ended", "message",
                                    "traceback", "heartbeat"))  # fmt: skip
            return self._write(connection, job, fresh)

    @_mending
    def claim(self, job: str, worker: str, host: str, slots: int, devices: Sequence[int] = ()) -> list[int] | None:
        """Take a queued job for a worker, with the devices that it wants.

        All workers of a machine count the same jobs of the queue, and no two of them at the same time.

        Args:
            job: its name.
            worker: that takes it.
            host: its machine.
            slots: jobs of the queue that may run there.
            devices: that the worker shares out.

        Returns:
            The numbers of its devices; None where another worker has it, or there is no room.
        """
        table = schema.jobs
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":  # SQLite's writers wait for each other anyway
                connection.execute(sql.text("SELECT pg_advisory_xact_lock(hashtext(:host))"), {"host": f"host {host}"})
            query = sql.select(table.c.kept).where(
                table.c.status == RUNNING, table.c.host == host, table.c.worker.is_not(None)
            )
            running = [loaded(kept, {}) for kept in connection.execute(query).scalars()]
            taken = {number for kept in running for number in kept.get("gpus", [])}
            free = [number for number in devices if number not in taken]
            row = connection.execute(
                sql.select(table.c.gpus, table.c.kept).where(table.c.id == job, table.c.status == QUEUED)
            ).first()
            if row is None or len(running) >= slots or row.gpus > len(free):
                return None
            given = free[: row.gpus]
            values = {"status": RUNNING, "worker": worker, "host": host, "heartbeat": time.time(), "message": None,
                      "kept": {**loaded(row.kept, {}), "gpus": given}}  # fmt: skip
            return given if self._write(connection, job, values, table.c.status == QUEUED) else None

    @_mending
    def update(self, job: str, where: Iterable[str] | None = None, **given: Any) -> bool:
        """Change a job, if its status is one of `where`; whether it was."""
        wanted = [] if where is None else [schema.jobs.c.status.in_(list(where))]
        with self.engine.begin() as connection:
            return self._write(connection, job, given, *wanted)

    @_mending
    def keep(self, job: str, name: str, value: Any) -> None:
        """Keep something with a job that its script does not tell."""
        with self._locked(job) as (connection, found):
            if found is not None:
                self._write(connection, job, {"kept": {**found["kept"], name: value}})

    @_mending
    def heartbeat(self, job: str, attempt: int | None) -> bool:
        """Note that the job lives; return whether it is asked to stop, or another process runs it by now.

        Args:
            attempt: of the queue; None for a process that was begun by hand.
        """
        with self._locked(job) as (connection, found):
            if found is None:
                return False
            if attempt not in (None, found["attempt"]):
                return True
            alive: dict[str, Any] = {"heartbeat": clock.now()}
            if found["status"] == LOST:  # it was only slow
                self._write(connection, job, {**alive, "status": RUNNING, "ended": None, "message": None})
            else:  # which no list shows, and so it is no change
                connection.execute(schema.jobs.update().where(schema.jobs.c.id == job).values(**alive))
            return found["stop_requested"] is not None

    @_mending
    def ask_to_stop(self, job: str) -> str:
        """Ask a job to stop; return its status then. One that waits in the queue is stopped at once."""
        with self._locked(job) as (connection, found):
            if found is None:
                raise self._unknown(job)
            if found["status"] in ENDED:
                return str(found["status"])
            values: dict[str, Any] = {"stop_requested": time.time()}
            if found["status"] == QUEUED:
                values |= {"status": STOPPED, "ended": time.time()}
            self._write(connection, job, values)
            return str(values.get("status", RUNNING))

    @_mending
    def remove(self, job: str) -> None:
        """Forget a job and everything of it."""
        with self._locked(job) as (connection, _):
            ingest.next_change(connection)
            for table in schema.OF_JOBS:
                connection.execute(table.delete().where(table.c.job == job))
            connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job))

    @_mending
    def find(self, job: str) -> Job:
        """Return a job by its id, by the beginning of that, or by the name that lists show.

        Raises:
            JobError: there is none, or more than one.
        """
        job = values.text(job)
        with self.reader.connect() as connection:
            row = connection.execute(sql.select(schema.jobs).where(schema.jobs.c.id == job)).mappings().first()
            if row is None:
                like = schema.jobs.c.id.startswith(job, autoescape=True) if job else sql.false()
                rows = connection.execute(sql.select(schema.jobs).where(like)).mappings().all()
                if len(rows) != 1:
                    named = sql.select(schema.jobs).where(schema.jobs.c.name == job)
                    called = connection.execute(named.order_by(schema.jobs.c.created.desc())).mappings().all()
                    if len(called) > 1:
                        which = ", ".join(f"{one['id']} ({one['status']})" for one in called[:5])
                        raise JobError(f"{len(called)} jobs are called '{job}': {which}. Name one by its id.")
                    rows = called or rows
                if len(rows) != 1:
                    raise self._unknown(job, [one["id"] for one in rows])
                row = rows[0]
        return job_of(row)

    def _unknown(self, job: str, several: list[str] | None = None) -> JobError:
        if several:
            return JobError(f"'{job}' begins the names of {len(several)} jobs: {', '.join(sorted(several)[:5])}.")
        with self.reader.connect() as connection:
            newest = sql.select(schema.jobs.c.id).order_by(schema.jobs.c.created.desc()).limit(_MOST_SUGGESTED)
            known = connection.execute(newest).scalars().all()
        return JobError(f"There is no job '{job}'.{did_you_mean(job, known)} trainwright jobs list shows them.")

    @_mending
    def jobs(
        self, statuses: Iterable[str] | None = None, experiment: str | None = None, *where: Any,
        limit: int | None = None, offset: int = 0,
    ) -> list[Job]:  # fmt: skip
        """Return the jobs, the newest first; `where` are conditions of the table's columns."""
        table = schema.jobs
        query = sql.select(table).where(*where).order_by(table.c.created.desc(), table.c.id)
        query = query.limit(limit).offset(offset or None)
        if statuses is not None:
            query = query.where(table.c.status.in_(list(statuses)))
        if experiment is not None:
            query = query.where(table.c.experiment == experiment)
        with self.reader.connect() as connection:
            return [job_of(row) for row in connection.execute(query).mappings()]

    def _moved(self, *where: Any) -> dict[str, int]:
        """Return how many bytes of every job's journal in this home are in the database."""
        home = paths.home_id(paths.home())
        with self.reader.connect() as connection:
            rows = connection.execute(sql.select(schema.jobs.c.id, schema.jobs.c.moved).where(*where)).all()
        return {str(job): int(loaded(done, {}).get(home, 0)) for job, done in rows}

    @_mending
    def read(self, ask: Callable[..., _Answer], *given: Any) -> _Answer:
        """Return what a function of a connection, and of what is given, finds in the database."""
        with self.reader.connect() as connection:
            return ask(connection, *given)

    def metric_names(self, job: str) -> dict[str, int]:
        """Return the names of a job's metrics and at how many steps each has a value."""
        return {name: row["count"] for name, row in self.read(points.figures, job).items()}

    def metric(self, job: str, name: str, attempt: int | None = None) -> list[tuple[int, float, float]]:
        """Return (step, value, time) of one metric, in order and one for a step; a value that is none is nan.

        A later attempt's values stand for those of earlier ones from its first step on.

        Args:
            job: its name.
            name: of the metric.
            attempt: what this one alone told, superseded or not.
        """
        return self.read(points.whole, job, name, attempt)

    def attempts_before(self, job: str) -> dict[str, list[int]]:
        """Return the attempts of a job that have values which a later one superseded, by the metric's name."""
        return self.read(curves.before, job)

    def last_metrics(self, job: str) -> dict[str, tuple[int, float]]:
        """Return (step, value) of the newest value of every metric."""
        return {name: (row["step"], row["value"]) for name, row in self.read(points.figures, job).items()}

    @_mending
    def of_job(self, table: sql.Table, job: str) -> list[Any]:
        """Return a job's events, artifacts or attempts, the oldest first; `jobs.rows` says what each holds."""
        query = sql.select(table).where(table.c.job == job).order_by(table.c.id)
        with self.reader.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]
