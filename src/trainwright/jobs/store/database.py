"""Connections to the job database: an SQLite file, which may be damaged or go away under its users, or a server."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError

from trainwright.errors import JobError, missing_package
from trainwright.jobs import paths
from trainwright.jobs.store import migrations

_DAMAGE = (
    "file is not a database", "malformed", "disk I/O error", "locking protocol", "no such table",
    "unable to open database file", "readonly database", 'relation "jobs" does not exist',
)  # fmt: skip


class Database:
    """A database of jobs.

    Attributes:
        engine: for transactions that write.
        reader: for those that only read.
        file: of an SQLite database.
    """

    def __init__(self, url: str) -> None:
        try:
            made = sql.make_url(url)
        except sql.exc.ArgumentError:
            raise JobError(
                f"TRAINWRIGHT_DB={url!r} is no address such as postgresql+psycopg://user@host/name."
            ) from None
        self.file = Path(made.database or "") if made.get_backend_name() == "sqlite" else None
        self.engine = _server(made) if self.file is None else _sqlite(made, self.file)
        self.reader = self.engine.execution_options(reads=True)
        self._inode: tuple[int, int] | None = None

    def is_replaced(self) -> bool:
        """Whether the SQLite file is another one by now than was opened, or gone."""
        return self.file is not None and _inode(self.file) != self._inode

    @contextmanager
    def opening(self, damaged: bool = False) -> Iterator[bool]:
        """Bring the tables to the newest version and give whether they are new; no other process opens it meanwhile.

        Args:
            damaged: it gave reason to look whether it is sound; if it is not, it is put aside and a new one made.
        """
        with self._alone():
            self.engine.dispose()
            if self.file is not None and (damaged or _is_emptied(self.file)) and _is_damaged(self.file):
                _put_aside(self.file)
            try:
                new = self._migrate()
            except DBAPIError as error:
                if self.file is None or not is_damage(error) or not _is_damaged(self.file):
                    raise
                _put_aside(self.file)
                new = self._migrate()
            yield new

    def _migrate(self) -> bool:
        if self.file is not None:
            paths.make(self.file.parent)
            self.file.touch(mode=0o600)  # connections open what is there, and make none
            self._inode = _inode(self.file)
        with self.engine.begin() as connection:
            if self.file is None:  # SQLite's transactions let one process at a time do this by themselves
                connection.execute(sql.text("SELECT pg_advisory_xact_lock(7351902)"))
            return migrations.migrate(connection)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self.file is None:
            yield
            return
        descriptor = os.open(self.file.with_name(f"{self.file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _server(url: sql.URL) -> sql.Engine:
    try:
        return sql.create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    except ModuleNotFoundError as error:
        raise missing_package(error.name or "psycopg", "postgres", f"TRAINWRIGHT_DB={url.drivername}") from error


def _sqlite(url: sql.URL, path: Path) -> sql.Engine:
    """Return an engine whose transactions take the writer's place when they begin, so that none fails in its middle."""
    paths.make(path.parent)
    slow = paths.on_network(path.resolve())
    if slow and not path.exists():
        _say(f"{path} is on a network file system; for several machines give a PostgreSQL in TRAINWRIGHT_DB.")

    def connect() -> sqlite3.Connection:
        address = f"file:{quote(str(path.absolute()))}?mode=rw"
        return sqlite3.connect(address, uri=True, timeout=30, check_same_thread=False)

    engine = sql.create_engine(url, creator=connect)

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


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _is_emptied(path: Path) -> bool:
    """Whether somebody took a file's content; those that have it open still see what it held."""
    return path.exists() and path.stat().st_size == 0 and path.with_name(f"{path.name}-wal").exists()


def _is_damaged(path: Path) -> bool:
    """Whether SQLite says that a file is no sound database; one that cannot be asked just now is not called so."""
    if not path.exists():
        return False
    if _is_emptied(path):
        return True
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=30)
        ) as connection:
            return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",))
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True


def _put_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for end in ("", "-wal", "-shm"):
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(aside.with_name(aside.name + end))
    _say(f"the job database {path} was damaged; it is kept as {aside.name} and made anew from the jobs' journals.")


def is_damage(error: DBAPIError) -> bool:
    """Whether an error says that the database is damaged or gone, rather than busy or away."""
    return any(part in str(error.orig) for part in _DAMAGE)


def is_away(error: Exception) -> bool:
    """Whether an error says that the database cannot be reached just now."""
    return isinstance(error, OperationalError | JobError) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _say(text: str) -> None:
    print(f"Note: {text}", file=sys.stderr, flush=True)
