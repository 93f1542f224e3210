"""The worker: runs queued jobs as processes of their own, which outlive it, and makes those end that are asked to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from trainwright.errors import JobError
from trainwright.jobs import paths, processes
from trainwright.jobs.alerts.watch import Watch
from trainwright.jobs.journal.journal import append
from trainwright.jobs.status import COMPLETE, ENDED, FAILED, LOST, QUEUED, RUNNING, STOPPED
from trainwright.jobs.store import schema
from trainwright.jobs.store.database import is_away
from trainwright.jobs.store.rows import Job, until_now
from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import health, launch

_LOOK_SECONDS = 0.5
_KILL_SECONDS = 300.0  # from SIGTERM to SIGKILL: the last save of a large model takes its time
_FAILURES = 3  # at one step, after which a job is not begun again


class Worker:
    """Runs queued jobs on this machine.

    Args:
        store: the database.
        slots: jobs at a time.
        gpus: numbers of the devices that jobs may have.
        grace: seconds from a wish to stop to SIGTERM.
    """

    def __init__(self, store: Store, slots: int = 1, gpus: list[int] | None = None, grace: float = 60.0) -> None:
        self.store = store
        self.slots = slots
        self.gpus = gpus or []
        self.grace = grace
        self.name = f"{processes.hostname()}:{os.getpid()}:{processes.created(os.getpid())}"
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.asked: dict[str, float] = {}  # to stop: when this worker heard of it, by its monotonic clock
        self.termed: dict[str, float] = {}
        self.told: set[str] = set()  # jobs that want more devices than there are
        self.leaving = False
        self.alerts = Watch()

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Work until a signal or `until` says so; jobs that run go on without this process."""
        while not self.leaving and not until():
            try:
                self.look()
            except Exception as error:
                if not is_away(error):
                    raise
                print(f"The job database is away ({error}); waiting.", file=sys.stderr, flush=True)
                time.sleep(2)
            time.sleep(_LOOK_SECONDS)

    def look(self) -> None:
        """See how the running jobs are, and begin waiting ones where there is room."""
        self._reap()
        health.sweep(self.store, again=True)
        self.alerts.look(self.store)
        running = [job for job in self.store.jobs([RUNNING]) if job["host"] == processes.hostname()]
        for job in running:
            self._hurry(job)
        self.asked = {job["id"]: self.asked[job["id"]] for job in running if job["id"] in self.asked}
        self._restart()
        room = self.slots - sum(job["worker"] is not None for job in running)  # others were begun by hand
        is_saving = False  # devices for a job that waits for enough of them
        for job in reversed(self.store.jobs([QUEUED])):
            if room < 1:
                return
            if job["id"] in self.children:  # its process before has said how it ended, and is about to
                continue
            if job["gpus"] > len(self.gpus):
                self._cannot(job)
                continue
            if (job["gpus"] and is_saving) or not self._may_begin(job):
                continue
            devices = self.store.claim(job["id"], self.name, processes.hostname(), self.slots, self.gpus)
            if devices is None:
                is_saving = is_saving or job["gpus"] > 0
                continue
            room -= 1
            try:
                self.begin(job, devices)
            except (OSError, ValueError, IndexError) as error:  # a command, folder or disk that is none
                self._fail(job, [RUNNING], f"It could not be started: {error}")
                room += 1

    def _cannot(self, job: Job) -> None:
        """Say once that a job wants more devices than there are."""
        if job["id"] not in self.told:
            self.told.add(job["id"])
            text = (f"It wants {job['gpus']} devices, and the worker {self.name.rpartition(':')[0]} shares out "
                    f"{len(self.gpus)}; it waits for one with more: trainwright jobs worker --gpus 0,1")  # fmt: skip
            self.store.update(job["id"], [QUEUED], message=text)
            print(f"{job['id']}: {text}", flush=True)

    def has_work(self) -> bool:
        """Whether jobs of the queue run, are to be begun again, or wait that this worker can begin in time.

        Of those that it cannot begin it tells.
        """
        waiting = {job["id"]: job for job in self.store.jobs([QUEUED])}
        vain = {name for name, job in waiting.items() if job["gpus"] > len(self.gpus)}
        for name in vain:
            self._cannot(waiting[name])
        while more := {name for name, job in waiting.items() if job["after"] in vain} - vain:
            vain |= more
        running = [job for job in self.store.jobs([RUNNING]) if job["worker"] is not None]
        again = [job for job in self._ended_badly() if is_to_restart(job) and job["command"]]
        return bool(running or again or self.children or waiting.keys() - vain)

    def _ended_badly(self) -> list[Job]:
        return self.store.jobs([LOST, FAILED], None, schema.jobs.c.restarts > 0)

    def _may_begin(self, job: Job) -> bool:
        """Whether what the job waits for is complete; a job whose forerunner failed fails too."""
        if not job["after"]:
            return True
        try:
            before = self.store.find(job["after"])
        except JobError:
            self._fail(job, [QUEUED], f"The job {job['after']}, which it was to come after, is not there any more.")
            return False
        if before["status"] in ENDED and before["status"] != COMPLETE and not is_to_restart(before):
            text = f"The job {before['id']}, which it was to come after, ended {before['status']}."
            self._fail(job, [QUEUED], text)
        return before["status"] == COMPLETE

    def _fail(self, job: Job, where: list[str], text: str) -> None:
        self.store.update(job["id"], where, status=FAILED, message=text, ended=time.time())

    def begin(self, job: Job, gpus: list[int]) -> None:
        """Start a job's process, in a session of its own, its output in its log."""
        folder = paths.job_folder(job["id"])
        paths.make(folder)
        (folder / paths.PARAMS).write_text(json.dumps(job["params"]), encoding="utf-8")
        environment = {
            **os.environ,
            paths.JOB_ID: job["id"],
            paths.ATTEMPT: str(job["attempt"]),
            paths.RESUME: "1" if job["attempt"] > 1 else "0",
            paths.WORKER: self.name,
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop(paths.OWNER, None)
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
            append(folder / paths.JOURNAL, "kept", name="gpus", value=gpus)
        with (folder / paths.LOG).open("ab") as log:
            child = subprocess.Popen(
                launch.command(job["id"], job["name"], job["command"]), cwd=job["cwd"] or None, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.children[job["id"]] = child
        again = f" (attempt {job['attempt']})" if job["attempt"] > 1 else ""
        print(f"{job['id']} {job['name']}: begun{again}; its log is {folder / paths.LOG}", flush=True)
        self.store.update(job["id"], [RUNNING], pid=child.pid, pid_created=processes.created(child.pid),
                          boot=processes.boot(), folder=str(folder))  # fmt: skip

    def _reap(self) -> None:
        """Read the last word of children that ended; what they did not say, their exit code says."""
        for job, child in list(self.children.items()):
            code = child.poll()
            if code is None:
                continue
            del self.children[job]
            self.termed.pop(job, None)
            self.store.move(job, paths.job_folder(job))
            row = self.store.find(job)
            if row["status"] == RUNNING and row["pid"] == child.pid:
                self._end_unsaid(row, code)
            self._say_end(job)

    def _say_end(self, name: str) -> None:
        """Print how a job that this worker began ended."""
        job = self.store.find(name)
        took = f" after {job['ended'] - job['started']:.0f} s" if job["ended"] and job["started"] else ""
        why = f": {job['message']}" if job["message"] else ""
        print(f"{job['id']} {job['name']}: {job['status']}{took}{why}", flush=True)

    def _end_unsaid(self, job: Job, code: int) -> None:
        if code < 0:
            health.mark_gone(self.store, job, f"Its process was ended by {processes.signal_name(-code)}.")
            return
        status = STOPPED if job["stop_requested"] else COMPLETE if code == 0 else FAILED
        text = None if status == COMPLETE else f"Its process left with exit code {code}."
        done = {"progress": 100.0} if status == COMPLETE else {}
        self.store.update(job["id"], [RUNNING], status=status, message=text, ended=until_now(job), **done)

    def _hurry(self, job: Job) -> None:
        """Send SIGTERM to a job that is asked to stop and goes on, then SIGKILL."""
        if job["stop_requested"] is None or job["worker"] is None or job["pid"] is None:
            return
        if not processes.lives(job["pid"], job["pid_created"], job["boot"]):
            return
        now, wait = time.monotonic(), job["kept"].get("grace", self.grace)
        asked = self.asked.setdefault(job["id"], now)
        if job["id"] in self.termed:
            if now - self.termed[job["id"]] > _KILL_SECONDS:
                processes.send(job["pid"], signal.SIGKILL)
        elif now - asked > wait:
            self.termed[job["id"]] = now
            processes.send(job["pid"], signal.SIGTERM)

    def _restart(self) -> None:
        """Put lost and failed jobs that are to go on back into the queue, unless they end at one step each time."""
        for job in self._ended_badly():
            if not is_to_restart(job) or not job["command"]:
                continue
            failures = failed_again(job)
            if failures["times"] < _FAILURES:
                self.store.requeue(job["id"], job["attempt"], failures=failures, restarted=_restarted(job) + 1)
                continue
            place = "before its first step" if failures["step"] is None else f"at step {failures['step']}"
            text = f"{job['message']} It ended {_FAILURES} times {place}, so it is not begun again by itself."
            self.store.keep(job["id"], "failures", {**failures, "attempt": job["attempt"]})
            self.store.update(job["id"], [LOST, FAILED], message=text)
            print(f"{job['id']}: {text}", flush=True)


def is_to_restart(job: Job) -> bool:
    """Whether a worker looks at a job that has ended to begin it again; those that a person resumed do not count."""
    given_up = (job["kept"].get("failures") or {}).get("attempt") == job["attempt"]
    return job["status"] in (LOST, FAILED) and _restarted(job) < job["restarts"] and not given_up


def _restarted(job: Job) -> int:
    return int(job["kept"].get("restarted", 0))


def failed_again(job: Job) -> dict[str, Any]:
    """Return the step that a job failed at, and how many times in a row by now.

    One that is lost before any step was ended from without, at whatever place; that counts once each time.
    """
    before = job["kept"].get("failures") or {"times": 0}
    same = before.get("step", -1) == job["step"] and (job["status"] == FAILED or job["step"] is not None)
    return {"step": job["step"], "times": before["times"] + 1 if same else 1}


def run_worker(slots: int, gpus: list[int], grace: float, once: bool = False) -> None:
    """Run a worker until a signal; with `once` until the queue is empty and everything has ended."""
    store = Store()
    worker = Worker(store, slots, gpus, grace)

    def leave(*_: Any) -> None:
        worker.leaving = True

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    print(f"Worker {os.getpid()}: {slots} jobs at a time, {paths.home()}", flush=True)
    try:
        worker.run(lambda: once and not worker.has_work())
        worker.alerts.look(store, at_once=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        worker.alerts.close()
