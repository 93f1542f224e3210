"""The tables of the job database, and the steps from one version of them to the next."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
)

from trainwright.errors import JobError
from trainwright.jobs.timesheet import PARTS

META = MetaData()
_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER key

versions = Table("schema_version", META, Column("version", Integer, nullable=False))

experiments = Table(
    "experiments", META,
    Column("name", String(200), primary_key=True),
    Column("created", Float, nullable=False),
)  # fmt: skip

jobs = Table(
    "jobs", META,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("experiment", String(200), nullable=False),
    Column("status", String(20), nullable=False, index=True),
    Column("command", Text),  # JSON: a list of arguments; none for a script that was run by hand
    Column("params", Text, nullable=False),  # JSON
    Column("data", Text, nullable=False),  # JSON: what the script keeps
    Column("kept", Text, nullable=False),  # JSON: what a worker and we ourselves keep
    Column("folder", Text, nullable=False),  # of its journal and log
    Column("cwd", Text),
    Column("host", String(200)),
    Column("pid", Integer),
    Column("pid_created", Float),
    Column("boot", String(40)),  # of the machine, when the process began
    Column("progress", Float, nullable=False),
    Column("step", BigInteger),
    Column("total_steps", BigInteger),
    Column("message", Text),
    Column("traceback", Text),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("starts", Integer, nullable=False),  # processes that were this job
    Column("ran", Float, nullable=False),  # seconds, of all of them but the last
    Column("ended", Float),
    Column("heartbeat", Float),
    Column("stop_requested", Float),
    Column("moved", Text, nullable=False),  # JSON: by home, the bytes of its journal that are in the database
    Column("after", String(64)),
    Column("worker", String(200)),
    Column("attempt", Integer, nullable=False),
    Column("restarts", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
)  # fmt: skip

metrics = Table(
    "metrics", META,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("value", Float),  # none for a number that is none
    Column("time", Float, nullable=False),
    Column("attempt", Integer, nullable=False),  # which of the job's processes it is of
    Column("superseded", Boolean, nullable=False),  # a later one has been at this step
    Index("metrics_by_name", "job", "name", "step"),
)  # fmt: skip

events = Table(
    "events", META,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("time", Float, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("text", Text, nullable=False),
)  # fmt: skip

artifacts = Table(
    "artifacts", META,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("time", Float, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("path", Text, nullable=False),
    Column("step", BigInteger),
)  # fmt: skip

attempts = Table(  # processes of a job that trained
    "attempts", META,
    Column("id", _ID, primary_key=True, autoincrement=True),
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("began", Float, nullable=False),
    Column("first_step", BigInteger, nullable=False),  # done when it began
    Column("reached", BigInteger, nullable=False),  # done by attempts before
    Column("step", BigInteger, nullable=False),
    *(Column(part, Float, nullable=False) for part in PARTS),  # seconds
)  # fmt: skip


def _first(connection: Connection) -> None:
    META.create_all(connection)


def _attempts(connection: Connection) -> None:
    META.create_all(connection, [attempts])


def _boot(connection: Connection) -> None:
    _add(connection, "jobs", "boot VARCHAR(40)")


def _superseded(connection: Connection) -> None:
    for column in ("kept TEXT NOT NULL DEFAULT '{}'", "starts INTEGER NOT NULL DEFAULT 1",
                   "ran FLOAT NOT NULL DEFAULT 0"):  # fmt: skip
        _add(connection, "jobs", column)
    for column in ("attempt INTEGER NOT NULL DEFAULT 1", "superseded BOOLEAN NOT NULL DEFAULT FALSE"):
        _add(connection, "metrics", column)


def _add(connection: Connection, table: str, column: str) -> None:
    if column.split()[0] not in [one["name"] for one in inspect(connection).get_columns(table)]:  # step 0 makes all
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column}"))


MIGRATIONS: list[Callable[[Connection], None]] = [_first, _attempts, _boot, _superseded]
"""Step n takes a database of version n to version n + 1."""


def migrate(connection: Connection) -> bool:
    """Bring a database to the newest version, inside a transaction; return whether its tables are new.

    Raises:
        JobError: a newer Trainwright made it.
    """
    tables = inspect(connection).get_table_names()
    there = "schema_version" in tables and "jobs" in tables
    version = (connection.execute(select(versions.c.version)).scalar() or 0) if there else 0
    if version > len(MIGRATIONS):
        raise JobError(
            f"The job database has version {version}, and this Trainwright knows {len(MIGRATIONS)}: a newer one made "
            "it. Update Trainwright, or give another TRAINWRIGHT_HOME."
        )
    for step in MIGRATIONS[version:]:
        step(connection)
    if version < len(MIGRATIONS):
        connection.execute(versions.delete())
        connection.execute(versions.insert().values(version=len(MIGRATIONS)))
    return not there
