"""Runs of the command line are jobs, with no decorator at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainwright.config.keys import fates
from trainwright.config.reading.writing import by_name
from trainwright.config.schema import TrainingConfig


@contextmanager
def running(
    name: str, params: dict[str, Any], defaults: dict[str, Any] | None = None, job: str | None = None
) -> Iterator[None]:
    """Be a job while the body runs, unless `TRAINWRIGHT_JOBS=off`; inside one, be that one.

    Args:
        name: shown in lists.
        params: what is given.
        defaults: what everything is by default.
        job: that this run goes on with.
    """
    from trainwright.jobs import paths
    from trainwright.jobs.tracking.tracking import current, tracked

    around = current()
    with tracked(name, params, job=None if paths.job_of_this_process() else job, defaults=defaults):
        if around is not None and defaults is not None:  # the queue knew no more than the command
            around.describe(params, defaults)
        yield


def of_this_run() -> str | None:
    """Return the job that this process is, if it is one."""
    from trainwright.jobs.tracking.tracking import current

    own = current()
    return None if own is None else own.id


def changed(config: TrainingConfig) -> dict[str, Any]:
    """Return what a configuration gives that is not the default, by dotted name: what two runs differ in."""
    return by_name(fates.given(config))


def described(config: TrainingConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a configuration gives that is not the default, and what everything is by default, by dotted name."""
    return changed(config), by_name(fates.usual(config))
