"""A script as a job without a decorator: `run = init(name, config)`, `run.log({...}, step)`, `run.finish()`."""

from __future__ import annotations

import atexit
import builtins
import sys
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from trainwright.errors import Interrupted, JobError
from trainwright.jobs import commands, paths
from trainwright.jobs.journal.journal import last_steps
from trainwright.jobs.outcomes import JobStopped
from trainwright.jobs.tracking import tracking

_WAYS_OUT: tuple[tuple[Any, str], ...] = ((sys, "exit"), (builtins, "exit"), (builtins, "quit"))


class Run:
    """A job that this process is until `finish`; as a context, until its end.

    A script that ends without `finish` ends it COMPLETE; an exception that nobody catches, and `sys.exit` with another
    code than 0, FAILED; a signal INTERRUPTED. Where nothing is tracked, and on all ranks but the first, it does
    nothing. Inside a job it adds to that one, which goes on after it.

    Attributes:
        name: of the run.
        config: its parameters.
        job: that it is; None where nothing is tracked.
    """

    def __init__(self, name: str, config: Mapping[str, Any], experiment: str | None, job_id: str | None) -> None:
        self.name = name
        self.config = dict(config)
        self._owns = tracking.current() is None
        self._is_context = False
        self._context = tracking.tracked(name, self.config, experiment, job_id)
        self.job = self._context.__enter__()
        self._open, self._told = True, False
        self._step: int | None = None
        self._hook = sys.excepthook
        sys.excepthook = self._heard
        self._code: Any = None
        self._ways = [(place, name, getattr(place, name)) for place, name in _WAYS_OUT if hasattr(place, name)]
        self._own_ways = [partial(self._leave, way) for _, _, way in self._ways]
        for (place, name, _), own in zip(self._ways, self._own_ways, strict=True):
            setattr(place, name, own)
        atexit.register(self._left)

    @property
    def id(self) -> str | None:
        """The job's name, by which commands know it."""
        return None if self.job is None else self.job.id

    @property
    def folder(self) -> Path | None:
        """The job's folder."""
        return None if self.job is None else self.job.folder

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Note numbers by name; leave where the job is asked to stop.

        Args:
            metrics: such as {"train/loss": 0.5}; what is no number is left out, which is said once.
            step: of all of them; by default the one after the last.
        """
        if self.job is None:
            return
        if self._is_over(f"log({', '.join(map(repr, metrics))})"):
            return
        self._step = self._after_last() if step is None else step
        for name, value in metrics.items():
            self.job.metric(name, value, self._step)
        self._leave_if_asked(self.job)

    def _after_last(self) -> int:
        """Return the step after the last one, which may be of an attempt before."""
        if self._step is None:
            assert self.job is not None
            self._step = max(last_steps(self.job.folder / paths.JOURNAL).values(), default=0)
        return self._step + 1

    def progress(self, percent: float) -> None:
        """Note how far the run is, from 0 to 100; leave where the job is asked to stop."""
        if self.job is not None and not self._is_over("progress()"):
            self.job.progress(percent)
            self._leave_if_asked(self.job)

    def finish(self) -> None:
        """End the run, as COMPLETE unless a function of it failed or it was asked to stop; once."""
        if self.job is not None and self._open and not self.job.stop_requested:
            self.job.progress(100)
        self._close(None)

    def fail(self, message: str) -> None:
        """End the run, as FAILED."""
        if not self._owns and self.job is not None and self._open:
            tracking.note_failure(self.job, SystemExit(message))
        self._close(SystemExit(message))

    def _is_over(self, call: str) -> bool:
        """Whether the run has ended, so that nothing more is kept of it; said once."""
        over = self._owns and not self._open
        if over and not self._told:
            self._told = True
            print(
                f"Note: {call} came after the run '{self.name}' had ended, and is not kept; finish() is the last word.",
                file=sys.stderr,
                flush=True,
            )
        return over

    def _leave_if_asked(self, job: tracking.Tracking) -> None:
        """Leave a context by `JobStopped`, which it keeps to itself, and a plain script by exit code 0."""
        if not job.stop_requested:
            return
        if self._is_context or not self._owns:
            job.stopped()
        job.acted = True
        self._close(JobStopped(f"The job {job.id} was asked to stop."))
        raise SystemExit(0)

    def _close(self, error: BaseException | None) -> bool:
        """End the job as an exception, or none, ends it; return whether that is the job's alone."""
        if not self._open:
            return False
        self._open = False
        atexit.unregister(self._left)
        if sys.excepthook == self._heard:
            sys.excepthook = self._hook
        for (place, name, way), own in zip(self._ways, self._own_ways, strict=True):
            if getattr(place, name) is own:
                setattr(place, name, way)
        given = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        try:
            return bool(self._context.__exit__(*given))
        except FrozenInstanceError:  # an exception that takes no traceback stays what it is
            return False

    def _heard(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Hear of an exception that nobody caught."""
        self._close(error)
        if not isinstance(error, JobStopped):
            self._hook(kind, error, trace)

    def _leave(self, way: Callable[[Any], Any], code: Any = None) -> Any:
        """Hear with which exit code the script leaves: Python tells it nobody when it does."""
        self._code = code
        return way(code)

    def _left(self) -> None:
        """Hear that Python leaves; without an exception and with exit code 0 that is the end of the run."""
        if Interrupted.newest is not None or self._code:
            self._close(Interrupted.newest or SystemExit(self._code))
        elif self._owns:
            self.finish()
        else:  # the job around it has ended
            self._close(None)

    def __enter__(self) -> Run:
        self._is_context = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self.finish()
            return False
        return self._close(error)


_newest: Run | None = None


def init(
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    experiment: str | None = None,
    job_id: str | None = None,
) -> Run:
    """Make this process a job, and return what tells it.

    Args:
        name: shown in lists; by default the script's.
        config: its parameters.
        experiment: a group of jobs.
        job_id: to be; by default the one that the queue gave, else a new one.

    Raises:
        JobError: the run before is not finished, or the job runs already in another process.
    """
    global _newest
    if _newest is not None and _newest._open and _newest._owns:
        raise JobError(
            f"The run '{_newest.name}' of this process is not finished. Call its finish() before init(), or use "
            "`with trainwright.jobs.init(...) as run:`."
        )
    _newest = Run(name or commands.name_of(Path(sys.argv[0])) or "run", config or {}, experiment, job_id)
    return _newest
