"""Runs a Python command as a job, in this process, so that it finds what it would find if a person had begun it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from trainwright.errors import JobError
from trainwright.jobs import commands, paths
from trainwright.jobs.store.database import Database
from trainwright.jobs.store.store import Store as _loaded  # noqa: F401  by the thread that tracks, in good time
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker.program import run

_STARTER = str(Path(__file__).parent / "start" / "job.py")


def command(job: str, name: str, begun: Sequence[str]) -> list[str]:
    """Return the command that runs another one as a job, with the same options of Python."""
    options, program = commands.split(begun)
    return [*options, _STARTER, job, name, *program]


def without_us(begun: Sequence[str], argv: Sequence[str]) -> list[str]:
    """Return the command of a process that `command` gave as it would be without that."""
    return [*begun[: len(begun) - len(argv)], *argv[3:]]


def main(argv: Sequence[str], started: Collection[str] = ()) -> int:
    """Run a Python command in this process, as a job; an error in it is an error of this process.

    Args:
        argv: job, name, and the command's words after Python and its options.
        started: the modules that every Python has loaded when it begins.
    """
    job, name, *program = argv
    written = paths.job_folder(job) / paths.PARAMS
    params = json.loads(written.read_text(encoding="utf-8")) if written.is_file() else {}
    with suppress(JobError):  # what the thread that tracks needs is loaded before the script's folder is looked in
        Database(paths.database_url())
    with tracked(name, params, job=job):
        run(program, started)
    return 0
