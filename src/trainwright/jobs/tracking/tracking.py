"""The job that this process is: its journal, its heartbeat, and the wish of others that it stops."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trainwright.errors import STOP_SIGNALS, is_foreign, leave_by_exception
from trainwright.jobs import clock, commands, outcomes, paths, processes, values
from trainwright.jobs.journal.journal import Direct, Journal, last_steps, steps_before
from trainwright.jobs.journal.timesheet import Timesheet
from trainwright.jobs.outcomes import JobStopped, Outcome, conclusion, outcome
from trainwright.jobs.status import COMPLETE, FAILED, STOPPED
from trainwright.jobs.tracking import console, keeper

_PREDECESSOR_SECONDS = 10.0  # that a job which goes on waits for its process before, which has said how it ended
_LAST_SECONDS = 3.0  # that an ending job waits for the database
_HURRIED = 0.5  # that one waits which begins anew at once, and goes on telling


class Tracking:
    """A running job.

    Attributes:
        id: its name.
        folder: of its journal and log.
        params: its parameters.
        defaults: what parameters are that are not given.
        stop_requested: whether it is asked to stop.
        acted: whether something stopped because of that.
        reason: why the process will leave with an exit code, where something knows it.
        timesheet: where the time of this process goes, once it trains.
        is_guest: a parent process is this job, and this one only adds to it: a rank of a training on several.
        failed: how a function of the job failed, whatever the script did about it.
        described: set when the journal tells what the job runs.
        alerting: set when the end waits for an alert that is being sent.

    Args:
        job: its name.
        params: its parameters.
        name: shown in lists.
        experiment: a group of jobs.
        defaults: what parameters are that are not given.
        as_child: tell the job of a parent process, one record at a time, and be nothing else.
    """

    def __init__(
        self, job: str, params: dict[str, Any], name: str, experiment: str | None = None,
        defaults: dict[str, Any] | None = None, as_child: bool = False,
    ) -> None:  # fmt: skip
        self.id = job
        self.folder = paths.job_folder(job)
        self.params = values.plain(params)
        self.defaults = values.plain(defaults)
        self.stop_requested = False
        self.acted = False
        self.reason: str | None = None
        self.failed: Outcome | None = _failures.get(self.folder)
        self._steps: dict[str, int] = {}
        self._earlier: dict[str, int] | None = None
        self.remarked: str | None = None
        self.ended = False
        self.timesheet: Timesheet | None = None
        self._made = time.perf_counter()
        attempt = os.environ.get(paths.ATTEMPT)
        self.attempt = int(attempt) if attempt else None
        self.is_guest = _is_guest(job)
        self._held = ExitStack()
        self._over = threading.Event()
        self.described = threading.Event()
        self.alerting = threading.Event()
        if as_child:
            self.become_child()
            return
        if not self.is_guest:
            wait = _PREDECESSOR_SECONDS if (self.attempt or 1) > 1 else 0.0
            self._held.enter_context(processes.holding(self.folder / paths.LOCK, f"The job {job} runs", wait))
        self.journal: Journal | Direct = Journal(self.folder / paths.JOURNAL)
        if not self.is_guest:
            self._begin(values.text(name, values.NAME_LENGTH), values.text(experiment or "default", values.NAME_LENGTH))
        self._keeper = threading.Thread(
            target=keeper.keep, args=(self, self._over), name="trainwright-job", daemon=True
        )
        self._keeper.start()

    def _begin(self, name: str, experiment: str) -> None:
        clock.begin()
        pid = os.getpid()
        paths.database_url()  # a relative one is of this folder
        os.environ[paths.OWNER] = f"{self.id}:{pid}"
        self.journal.add(
            "start", name=name, experiment=experiment, params=self.params, defaults=self.defaults, pid=pid,
            attempt=self.attempt, pid_created=processes.created(pid), boot=processes.boot(),
            host=processes.hostname(), cwd=str(Path.cwd()), command=commands.of_this_process(),
            worker=os.environ.get(paths.WORKER),
        )  # fmt: skip
        assert isinstance(self.journal, Journal)
        try:
            self.journal.flush()
        except OSError:
            self.journal.abandon()
            self._held.close()
            os.environ.pop(paths.OWNER, None)
            raise
        outcomes.leave(self.folder, (COMPLETE, None, None))  # of an attempt before

    def become_child(self) -> None:
        """Only add to the job of a parent process: this one was forked or spawned, and has none of its threads."""
        self.is_guest, self._over, self._keeper = True, threading.Event(), threading.Thread()
        self._held.close()
        self._held = ExitStack()
        self.journal = Direct(self.folder / paths.JOURNAL)

    def describe(self, params: dict[str, Any], defaults: dict[str, Any]) -> None:
        """Note what the parameters are, now that it is known."""
        self.params, self.defaults = values.plain(params), values.plain(defaults)
        self.journal.add("params", params=self.params, defaults=self.defaults)

    def metric(self, name: str, value: float, step: int | None = None) -> int | None:
        """Note a metric's value; return its step, which by default is the one after this metric's last."""
        try:
            name, value, step = values.point(name, value, self._next(name) if step is None else step)
        except ValueError as error:
            left_out(str(error))
            return None
        self._steps[name] = step or 0
        self.journal.add("metric", name=name, value=value, step=step)
        return step

    def _next(self, name: str) -> int:
        """Return the step after a metric's last one, which may be of an attempt before."""
        name = values.text(name, values.NAME_LENGTH)
        if name not in self._steps and self._earlier is None:
            self._earlier = last_steps(self.journal.path)
        return self._steps.get(name, (self._earlier or {}).get(name, 0)) + 1

    def progress(self, percent: float, step: int | None = None, total_steps: int | None = None) -> None:
        """Note how far the job is, from 0 to 100; only the newest word between two writes of the journal is kept."""
        try:
            known: dict[str, Any] = {"progress": min(max(values.finite(percent), 0.0), 100.0)}
        except ValueError as error:
            left_out(f"A progress was left out: {error}.")
            return
        if step is not None:
            known |= {"step": step, "total_steps": total_steps}
        self.journal.replace("progress", **known)

    def data(self, name: str, value: Any) -> None:
        """Keep something with the job: what JSON can hold of it."""
        try:
            name, value = values.kept(name, value)
        except ValueError as error:
            left_out(str(error))
            return
        self.journal.add("data", name=name, value=value)

    def keep(self, name: str, value: Any) -> None:
        """Keep something with the job that is not its script's: where its run's files are."""
        self.journal.add("kept", name=name, value=values.plain(value))

    def event(self, kind: str, text: str) -> None:
        """Note that something happened."""
        self.journal.add("event", kind=values.text(kind, values.KIND_LENGTH), text=values.text(text))

    def artifact(self, kind: str, path: str, step: int | None = None) -> None:
        """Note a file or folder that the job made."""
        self.journal.add("artifact", kind=values.text(kind, values.KIND_LENGTH), path=values.text(path), step=step)

    def open_timesheet(self) -> Timesheet:
        """Return where the time goes: of the whole process, but of a notebook and of later jobs since the job began."""
        if self.timesheet is None:
            whole = not _had_job and commands.of_this_process()
            passed = processes.age(os.getpid()) if whole else time.perf_counter() - self._made
            self.timesheet = Timesheet(passed, steps_before(self.journal.path))
            self.tell_time()
        return self.timesheet

    def tell_time(self) -> None:
        """Note where the time went until now."""
        if self.timesheet is not None:
            self.journal.add("time", **self.timesheet.told())

    def remark(self, text: str | None) -> None:
        """Say something that the job's end will say too, though it is a good one."""
        if text is not None:
            self.remarked = text
            print(f"Note: {text}", file=sys.stderr, flush=True)

    def stopped(self) -> None:
        """Leave, because the job was asked to.

        Raises:
            JobStopped: always.
        """
        self.acted = True
        raise JobStopped(f"The job {self.id} was asked to stop.")

    def end(self, status: str, message: str | None = None, text: str | None = None) -> None:
        """Note how the job ended, and wait a little for the database."""
        if self.ended:
            return
        self.ended = True
        self.tell_time()
        hurries = status == FAILED and _begins_anew()
        if self._keeper.is_alive() and not hurries:
            self.described.wait(_LAST_SECONDS)
        if not self.is_guest:
            said = {"message": message and values.text(message), "traceback": text and values.text(text)}
            self.journal.add("status", status=status, attempt=self.attempt, **said)
        self.journal.close()
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join(_HURRIED if hurries else _LAST_SECONDS)
        if self.alerting.is_set():
            self._keeper.join()  # it waits for so long and no longer
        self._held.close()
        if not self.is_guest:
            os.environ.pop(paths.OWNER, None)


def _begins_anew() -> bool:
    """Whether torchrun begins this process anew where it fails."""
    begun, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return begun.isdigit() and most.isdigit() and int(begun) < int(most)


def _is_guest(job: str) -> bool:
    """Whether a parent of this process is the job."""
    owner, _, pid = os.environ.get(paths.OWNER, "").partition(":")
    return owner == job and pid.isdigit() and int(pid) != os.getpid() and processes.lives(int(pid), None)


_current: Tracking | None = None
_child: Tracking | None = None  # of a process that this job's began
_failures: dict[Path, Outcome] = {}  # of this process's jobs, by folder
_had_job = False  # whether this process was another job before
_said: set[str] = set()


def left_out(text: str) -> None:
    """Say, once in a job for every metric or name, what of a script's values could not be kept; it goes on."""
    if (about := text.partition(" was left out")[0]) in _said:
        return
    _said.add(about)
    print(f"Note: {text}", file=sys.stderr, flush=True)
    if _current is not None:
        _current.event("left out", text)


def current() -> Tracking | None:
    """Return the job that this process is, if it is one."""
    return _current


def reporter() -> Tracking | None:
    """Return the job that this process tells of what it does: the one that it is, or of the process that began it."""
    global _child
    if _current is None and _child is None and paths.OWNER in os.environ and is_tracked():
        job = os.environ[paths.OWNER].partition(":")[0]
        _child = Tracking(job, {}, job, as_child=True) if _is_guest(job) else None
    return _current or _child


def _forked() -> None:
    if _current is not None:
        _current.become_child()


os.register_at_fork(after_in_child=_forked)


def is_tracked() -> bool:
    """Whether this process may be a job: tracking is not off, and it is the first of its ranks."""
    return not paths.is_off() and is_first_rank() and paths.has_home()


def is_first_rank() -> bool:
    """Whether this process speaks for all of its ranks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def tracked(
    name: str,
    params: dict[str, Any] | None = None,
    experiment: str | None = None,
    job: str | None = None,
    defaults: dict[str, Any] | None = None,
) -> Iterator[Tracking | None]:
    """Make this process a job while the body runs; how it ends is how the job ends.

    `defaults` is what parameters are that are not given.

    Inside another job that one is given; with tracking off, or where nothing can be written, None.

    Raises:
        JobError: the job runs already.
    """
    global _current, _had_job
    if not is_tracked() or _current is not None:
        yield _current
        return
    try:
        owner = os.environ.get(paths.OWNER, "").partition(":")[0]
        known = job or os.environ.get(paths.JOB_ID) or owner or (None if _had_job else processes.launch())
        tracking = Tracking(known or paths.new_id(), params or {}, name, experiment, defaults)
    except OSError as error:  # a home that cannot be written is no reason not to train
        print(f"Note: this run is not tracked: {error}.", file=sys.stderr, flush=True)
        yield None
        return
    _current = tracking
    _said.clear()
    ending = _unheard()
    _hear(ending, signal.SIG_DFL, leave_by_exception)  # a training takes these over, and saves
    kept = None if tracking.is_guest else console.Kept(tracking.folder)
    try:
        try:
            yield tracking
        finally:
            if kept is not None:
                kept.end()
    except BaseException as error:
        _hear(ending, leave_by_exception, signal.SIG_IGN)  # none cuts the last word short
        _end(tracking, outcome(error, tracking.stop_requested, tracking.reason))
        if not isinstance(error, JobStopped):
            raise
    else:
        _hear(ending, leave_by_exception, signal.SIG_IGN)
        _end(tracking, (COMPLETE, tracking.remarked, None))
    finally:
        _hear(ending, signal.SIG_IGN, signal.SIG_DFL)
        _current, _had_job = None, True


def _unheard() -> list[int]:
    """Return the signals that would end this process at once."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in STOP_SIGNALS if signal.getsignal(number) == signal.SIG_DFL and not is_foreign(number)]


def _hear(numbers: list[int], before: Any, handler: Any) -> None:
    """Set a handler where the one before is still ours; what the script has set meanwhile stays."""
    for number in numbers:
        if signal.getsignal(number) == before:
            signal.signal(number, handler)


def note_failure(tracking: Tracking, error: BaseException) -> None:
    """Note how a function of a job ended that raised, for the script may go on."""
    ended = outcome(error, tracking.stop_requested, tracking.reason)
    if ended[0] not in (COMPLETE, STOPPED):
        tracking.failed = tracking.failed or ended


def _end(tracking: Tracking, own: Outcome) -> None:
    """End a job whose process ended so; of a rank, note that for the process which is the job."""
    is_rank = tracking.is_guest and isinstance(tracking.journal, Journal)
    failed = tracking.failed or (None if tracking.is_guest else outcomes.left(tracking.folder))
    ended = conclusion(own, failed, tracking.stop_requested or tracking.acted)
    if is_rank:
        outcomes.leave(tracking.folder, ended)
    if ended[0] not in (COMPLETE, STOPPED):
        _failures[tracking.folder] = ended
    tracking.end(*ended)
