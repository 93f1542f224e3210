"""The job database: what is known of every job, on SQLite or PostgreSQL."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError

from trainwright.errors import JobError, did_you_mean, missing_package
from trainwright.jobs import applying, places, schema
from trainwright.jobs.journal import read_journal
from trainwright.jobs.status import ENDED, LOST, QUEUED, RUNNING, STOPPED

Job = dict[str, Any]
_JSON = ("command", "params", "data", "moved")


class Store:
    """One database of jobs.

    Raises:
        JobError: it cannot be reached, or a newer Trainwright made it.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = url or places.database_url()
        self.engine = _engine(self.url)
        self.reader = self.engine.execution_options(reads=True)
        try:
            with self.engine.begin() as connection:
                self._lock_schema(connection)
                schema.migrate(connection)
        except DBAPIError as error:
            raise JobError(
                f"The job database {self.engine.url.render_as_string()} cannot be used: "
                f"{' '.join(str(error.orig).split()).rstrip('.')}. Look at "
                "TRAINWRIGHT_DB, or leave it out for an SQLite file."
            ) from error

    def _lock_schema(self, connection: sql.Connection) -> None:
        """Let one process at a time look at the version; SQLite's transactions do that by themselves."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(sql.text("SELECT pg_advisory_xact_lock(7351902)"))

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def _locked(self, job: str) -> Iterator[tuple[sql.Connection, Job | None]]:
        """Give a transaction that nobody else can change this job in, and the job."""
        with self.engine.begin() as connection:
            if self.engine.dialect.name == "postgresql":  # also before the job has a row that could be locked
                connection.execute(sql.text("SELECT pg_advisory_xact_lock(hashtext(:job))"), {"job": job})
            query = sql.select(schema.jobs).where(schema.jobs.c.id == job)
            row = connection.execute(query).mappings().first()
            yield connection, None if row is None else _job(row)

    def move(self, job: str, folder: Path) -> int:
        """Bring what the job's journal holds and the database does not into it, exactly once; return how many records.

        The place in the journal is changed in the transaction that the records go in with.
        """
        path, home = folder / places.JOURNAL, places.home_id(folder.parents[1])
        with self._locked(job) as (connection, found):
            moved = found["moved"] if found else {}
            start = moved.get(home, 0)
            records, end = read_journal(path, start)
            if end == start:
                return 0
            changes = applying.apply(connection, job, found, folder, records)
            changes["moved"] = json.dumps({**moved, home: end})
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job).values(**changes))
        return len(records)

    def submit(self, job: str, **values: Any) -> None:
        """Put a job into the queue."""
        now = time.time()
        with self.engine.begin() as connection:
            applying.ensure_experiment(connection, values["experiment"], now)
            row = {**applying.NEW, "id": job, "status": QUEUED, "created": now, **values}
            connection.execute(schema.jobs.insert().values(**_packed(row)))

    def requeue(self, job: str, attempt: int) -> bool:
        """Put a job that has ended into the queue again; False where someone else was first."""
        table = schema.jobs
        change = table.update().where(table.c.id == job, table.c.status.in_(ENDED), table.c.attempt == attempt)
        fresh = {"status": QUEUED, "attempt": attempt + 1, "pid": None, "worker": None, "stop_requested": None,
                 "ended": None, "message": None, "traceback": None, "heartbeat": None}  # fmt: skip
        with self.engine.begin() as connection:
            return connection.execute(change.values(**fresh)).rowcount == 1

    def claim(self, job: str, worker: str, host: str) -> bool:
        """Take a queued job for a worker; False where another one has it."""
        table = schema.jobs
        change = table.update().where(table.c.id == job, table.c.status == QUEUED)
        values = {"status": RUNNING, "worker": worker, "host": host, "heartbeat": time.time(), "started": time.time()}
        with self.engine.begin() as connection:
            return connection.execute(change.values(**values)).rowcount == 1

    def update(self, job: str, where: Iterable[str] | None = None, **values: Any) -> bool:
        """Change a job, if its status is one of `where`; whether it was."""
        table = schema.jobs
        change = table.update().where(table.c.id == job)
        if where is not None:
            change = change.where(table.c.status.in_(list(where)))
        with self.engine.begin() as connection:
            return connection.execute(change.values(**_packed(values))).rowcount == 1

    def beat(self, job: str, attempt: int | None) -> bool:
        """Note that the job lives; return whether it is asked to stop, or another process runs it by now.

        Args:
            attempt: of the queue; None for a process that was begun by hand.
        """
        with self._locked(job) as (connection, found):
            if found is None:
                return False
            if attempt not in (None, found["attempt"]):
                return True
            alive: dict[str, Any] = {"heartbeat": time.time()}
            if found["status"] == LOST:  # it was only slow
                alive |= {"status": RUNNING, "ended": None, "message": None}
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job).values(**alive))
            return found["stop_requested"] is not None

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
            connection.execute(schema.jobs.update().where(schema.jobs.c.id == job).values(**values))
            return str(values.get("status", RUNNING))

    def remove(self, job: str) -> None:
        """Forget a job and everything of it."""
        with self.engine.begin() as connection:
            for table in (schema.metrics, schema.events, schema.artifacts):
                connection.execute(table.delete().where(table.c.job == job))
            connection.execute(schema.jobs.delete().where(schema.jobs.c.id == job))

    def find(self, job: str) -> Job:
        """Return a job by its name, or by the beginning of it.

        Raises:
            JobError: there is none, or more than one.
        """
        with self.reader.connect() as connection:
            row = connection.execute(sql.select(schema.jobs).where(schema.jobs.c.id == job)).mappings().first()
            if row is None:
                like = schema.jobs.c.id.startswith(job, autoescape=True)
                rows = connection.execute(sql.select(schema.jobs).where(like)).mappings().all()
                if len(rows) != 1:
                    raise self._unknown(job, [one["id"] for one in rows])
                row = rows[0]
        return _job(row)

    def _unknown(self, job: str, several: list[str] | None = None) -> JobError:
        if several:
            return JobError(f"'{job}' begins the names of {len(several)} jobs: {', '.join(sorted(several)[:5])}.")
        with self.reader.connect() as connection:
            known = connection.execute(sql.select(schema.jobs.c.id)).scalars().all()
        return JobError(f"There is no job '{job}'.{did_you_mean(job, known)} trainwright jobs list shows them.")

    def jobs(self, statuses: Iterable[str] | None = None, experiment: str | None = None) -> list[Job]:
        """Return the jobs, the newest first."""
        table = schema.jobs
        query = sql.select(table).order_by(table.c.created.desc(), table.c.id)
        if statuses is not None:
            query = query.where(table.c.status.in_(list(statuses)))
        if experiment is not None:
            query = query.where(table.c.experiment == experiment)
        with self.reader.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def moved(self) -> dict[str, int]:
        """Return how many bytes of every job's journal in this home are in the database."""
        home = places.home_id(places.home())
        with self.reader.connect() as connection:
            rows = connection.execute(sql.select(schema.jobs.c.id, schema.jobs.c.moved)).all()
        return {str(job): int(json.loads(done).get(home, 0)) for job, done in rows}

    def metric_names(self, job: str) -> dict[str, int]:
        """Return the names of a job's metrics and how many values each has."""
        table = schema.metrics
        query = sql.select(table.c.name, sql.func.count()).where(table.c.job == job).group_by(table.c.name)
        with self.reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.name)).all()
        return {str(name): int(count) for name, count in rows}

    def metric(self, job: str, name: str) -> list[tuple[int, float, float]]:
        """Return (step, value, time) of one metric, in order; a value that is none is nan."""
        table = schema.metrics
        query = sql.select(table.c.step, table.c.value, table.c.time).where(table.c.job == job, table.c.name == name)
        with self.reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.step, table.c.id)).all()
        return [(step, math.nan if value is None else value, when) for step, value, when in rows]

    def last_metrics(self, job: str) -> dict[str, tuple[int, float]]:
        """Return (step, value) of the newest value of every metric."""
        table = schema.metrics
        newest = sql.select(sql.func.max(table.c.id)).where(table.c.job == job).group_by(table.c.name)
        query = sql.select(table.c.name, table.c.step, table.c.value).where(table.c.id.in_(newest))
        with self.reader.connect() as connection:
            rows = connection.execute(query.order_by(table.c.name)).all()
        return {name: (step, math.nan if value is None else value) for name, step, value in rows}

    def of_job(self, table: sql.Table, job: str) -> list[dict[str, Any]]:
        """Return a job's events or artifacts, the oldest first."""
        query = sql.select(table).where(table.c.job == job).order_by(table.c.id)
        with self.reader.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def _engine(url: str) -> sql.Engine:
    try:
        made = sql.make_url(url)
    except sql.exc.ArgumentError:
        raise JobError(f"TRAINWRIGHT_DB={url!r} is no address such as postgresql+psycopg://user@host/name.") from None
    if made.get_backend_name() == "sqlite":
        return _sqlite(made)
    try:
        return sql.create_engine(made, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "psycopg", "postgres", f"TRAINWRIGHT_DB={made.drivername}") from error


def _sqlite(url: sql.URL) -> sql.Engine:
    """Return an engine whose transactions take the writer's place when they begin, so that none fails in its middle."""
    path = Path(url.database or "")
    places.make(path.parent)
    slow = places.on_network(path.resolve())
    if slow and not path.exists():
        print(
            f"Note: {path} is on a network file system; for several machines give a PostgreSQL in TRAINWRIGHT_DB.",
            flush=True,
        )
    if path.parent == places.home() and not path.exists():
        with suppress(OSError):  # SQLite says it better
            path.touch(mode=0o600)  # and so is what SQLite writes beside it
    engine = sql.create_engine(url, connect_args={"timeout": 30})

    @sql.event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA journal_mode={'DELETE' if slow else 'WAL'}")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sql.event.listens_for(engine, "begin")
    def begin(connection: sql.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE")

    return engine


def is_away(error: Exception) -> bool:
    """Whether an error says that the database cannot be reached just now."""
    return isinstance(error, OperationalError | JobError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _packed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON and value is not None else value for name, value in values.items()}


def _job(row: Any) -> Job:
    job = dict(row)
    for name in _JSON:
        job[name] = json.loads(job[name]) if job[name] else ([] if name == "command" else {})
    return job
