"""Runs of the command line are jobs, with no decorator at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainwright.config.keys import fates
from trainwright.config.reading.writing import by_name
from trainwright.config.schema import TrainingConfig


@contextmanager
def running(name: str, params: dict[str, Any]) -> Iterator[None]:
    """Be a job while the body runs, unless `TRAINWRIGHT_JOBS=off`; inside one, be that one."""
    from trainwright.jobs.tracking.tracking import tracked

    with tracked(name, params):
        yield


def changed(config: TrainingConfig) -> dict[str, Any]:
    """Return what a configuration gives that is not the default, by dotted name: what two runs differ in."""
    return by_name(fates.given(config))
