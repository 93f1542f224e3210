"""A training as a job: of the script that is one, or by itself where that is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from trainwright.checkpoint import layout
from trainwright.jobs import commands, outcomes, paths, processes
from trainwright.jobs.journal.rank_file import RankFile as RankFile
from trainwright.jobs.journal.timesheet import Timesheet as Timesheet  # for the engine, which imports no jobs
from trainwright.jobs.status import COMPLETE
from trainwright.trackers.table import JOB


@contextmanager
def of_training(args: Any, handler: Any) -> Iterator[Timesheet]:
    """Tell the job that this process is what the training does; give where its time is noted.

    Without a job, and unless one is asked for, nobody is told.
    `TRAINWRIGHT_JOBS=on` and `report_to="trainwright"` ask for one that lasts as long as the training. A rank of a job
    that another process is tells that one.
    """
    tracking = sys.modules.get("trainwright.jobs.tracking.tracking")
    wanted = paths.is_on() or JOB in (args.report_to or [])
    is_rank_of_job = paths.OWNER in os.environ
    if not (wanted or is_rank_of_job or (tracking is not None and tracking.current() is not None)):
        yield Timesheet()
        return
    from trainwright.jobs.tracking.tracking import tracked
    from trainwright.trackers.callback import TrackerCallback
    from trainwright.trackers.job import JobTracker

    name = args.run_name or commands.name_of(Path(sys.argv[0])) or "training"
    params = {key: value for key, value in vars(args).items() if _is_plain(value)}
    with tracked(name, params, defaults=_defaults(args)) as job:
        added, timesheet = None, Timesheet() if job is None else job.open_timesheet()
        if job is not None and not any(
            isinstance(getattr(one, "tracker", None), JobTracker) for one in handler.callbacks
        ):
            added = TrackerCallback(JobTracker(job))
            handler.add_callback(added)
        try:
            yield timesheet
        finally:
            timesheet.turn("other")
            if added is not None:
                handler.remove_callback(added)


def asked_to_stop(handler: Any) -> bool:
    """Whether this process is a job that was asked to stop, and nothing has acted on that yet, or a tracker asks."""
    tracking = sys.modules.get("trainwright.jobs.tracking.tracking")
    job = tracking.current() if tracking is not None else None
    if job is not None and job.stop_requested and not job.acted:
        return True
    return any(getattr(one, "asks_to_stop", False) for one in handler.callbacks)


def name() -> str | None:
    """Return the job that this process is, if it is one."""
    tracking = sys.modules.get("trainwright.jobs.tracking.tracking")
    job = tracking.current() if tracking is not None else None
    return None if job is None else job.id


@contextmanager
def of_rank(
    job: str | None, ranks: list[dict[str, Any]], folder: Path, run_id: str, state: Any, seconds: float
) -> Iterator[RankFile | None]:
    """Let this process, one of several that train together, tell of itself for as long as the body runs.

    Args:
        job: which job they are, the same on all of them; None for none, and nothing is told.
        ranks: who they are, as `Strategy.ranks` says; the job keeps it.
        folder: where each has a file.
        run_id: of the run.
        state: of the trainer, with the steps that are done.
        seconds: of training that have passed until now.
    """
    if job is None or not ranks:
        yield None
        return
    tracking = sys.modules.get("trainwright.jobs.tracking.tracking")
    current = tracking.current() if tracking is not None else None
    if current is not None:
        current.keep("ranks", ranks)
    mine = next(one for one in ranks if (one["host"], one["pid"]) == (processes.hostname(), os.getpid()))
    told = RankFile(folder, [job, run_id], mine, state.global_step, seconds)
    try:
        yield told
    except BaseException as error:
        told.end(state.global_step, outcomes.outcome(error, False, None))
        raise
    told.end(state.global_step, (COMPLETE, None, None))


def acts() -> None:
    """Note that the training stops because its job was asked to."""
    from trainwright.jobs.tracking.tracking import current

    job = current()
    if job is not None:
        job.acted = True


def resume_by_itself(run_folder: Path) -> bool | None:
    """Return True where a job was begun to go on and there is a checkpoint to go on from."""
    if not paths.resumes():
        return None
    return True if layout.holds_any(run_folder) else None


def _defaults(args: Any) -> dict[str, Any]:
    """Return what arguments are that a script does not give."""
    return {one.name: one.default for one in fields(args) if _is_plain(one.default)} if is_dataclass(args) else {}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
