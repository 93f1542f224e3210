"""The tables of the job database."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from trainwright.jobs.journal.timesheet import PARTS

META = MetaData()


def _of_metric() -> list[Column[str]]:
    return [
        Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        Column("name", String(200), primary_key=True),
    ]


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
    Column("defaults", String(64)),  # of the parameters: which of `default_sets` they are
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
    Column("tags", Text, nullable=False),  # JSON: as people gave them
    Column("note", Text),
    Column("changed", BigInteger, nullable=False),  # the number of its last change among those of all jobs
)  # fmt: skip
BY_CREATED = Index("jobs_by_created", jobs.c.created.desc(), jobs.c.id)

changes = Table("changes", META, Column("number", BigInteger, nullable=False))  # one row: changes of jobs until now

params = Table(  # of jobs, as lists filter and sort by them; secrets as they are shown
    "params", META,
    Column("job", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("text", String(200), nullable=False),  # as JSON, a text as it is
    Column("number", Float),  # none for what is no number
    Index("params_by_number", "name", "number"),
    Index("params_by_text", "name", "text"),
    sqlite_with_rowid=False,
)  # fmt: skip

default_sets = Table(  # what parameters are that are not given; many jobs have the same
    "default_sets", META,
    Column("digest", String(64), primary_key=True),
    Column("whole", Text, nullable=False),  # JSON
)  # fmt: skip

defaults = Table(  # of these sets, each as in `params`
    "defaults", META,
    Column("digest", String(64), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("text", String(200), nullable=False),
    Column("number", Float),
    Index("defaults_by_name", "name"),
    sqlite_with_rowid=False,
)  # fmt: skip

points = Table(  # of metrics
    "points", META,
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

series = Table(  # what one process of a job told of a metric
    "series", META,
    *_of_metric(),
    Column("attempt", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),  # of steps
    Column("low", BigInteger, nullable=False),  # the least step
    Column("high", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),  # that was told last
    Column("value", Float),
    Column("tail", Text, nullable=False),  # JSON: (step, value) of what fills no stretch yet
    sqlite_with_rowid=False,
)  # fmt: skip

stretches = Table(  # of series: `curves.SIZE` points, then `curves.FACTOR` stretches of the level below
    "stretches", META,
    *_of_metric(),
    Column("attempt", Integer, primary_key=True),
    Column("level", Integer, primary_key=True),  # from 1 on
    Column("number", BigInteger, primary_key=True),  # from 0 on
    Column("low", BigInteger, nullable=False),  # the least step, and its value
    Column("first", Float),
    Column("high", BigInteger, nullable=False),
    Column("last", Float),
    Column("least_step", BigInteger),  # none where no value is a number
    Column("least", Float),
    Column("greatest_step", BigInteger),
    Column("greatest", Float),
    Column("none_step", BigInteger),  # the first whose value is no number
    sqlite_with_rowid=False,
)  # fmt: skip

figures = Table(  # of the curve of a metric, all attempts together
    "figures", META,
    *_of_metric(),
    Column("count", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),  # that was told last
    Column("value", Float),
    Column("least", Float),
    Column("greatest", Float),
    Column("changed", BigInteger, nullable=False),  # as in `jobs`
    Index("figures_by_value", "name", "value"),
    Index("figures_by_least", "name", "least"),
    Index("figures_by_greatest", "name", "greatest"),
    sqlite_with_rowid=False,
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

OF_JOBS = (params, points, series, stretches, figures, events, artifacts, attempts)
"""The tables whose rows belong to a job, by their column `job`."""
