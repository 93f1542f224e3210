"""What `trainwright jobs` does; a function for every action."""

from __future__ import annotations

import codecs
import csv
import json
import math
import shutil
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from trainwright.cli.files import to_write
from trainwright.errors import JobError, did_you_mean
from trainwright.jobs import paths
from trainwright.jobs.journal.timesheet import PARTS
from trainwright.jobs.status import ENDED, QUEUED, RUNNING, STATUSES, STOPPED
from trainwright.jobs.store import attempts, listing, masking, outputs, schema
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import files
from trainwright.jobs.worker import health, queue

_FOLLOW_SECONDS = 0.3
_PAGE = 50  # jobs
_PARTS = (*PARTS, "between")


def submit(args: Namespace) -> int:
    """Put a script or a YAML file into the queue; names and types of the latter are looked at before."""
    if args.file.suffix in queue.YAML and args.file.is_file() and not args.param:
        from trainwright.config.reading.read import load

        load(args.file, args.overrides)
    job = queue.submit(
        Store(), args.file, queue.given(args.param), args.overrides, name=args.name, experiment=args.experiment,
        after=args.after, restarts=args.restart, gpus=args.gpus,
    )  # fmt: skip
    print(json.dumps({"id": job}) if args.json else f"{job} is queued. trainwright jobs worker runs it.")
    return 0


def worker(args: Namespace) -> int:
    """Run queued jobs."""
    from trainwright.jobs.worker.worker import run_worker

    run_worker(args.slots, args.gpus, args.grace, args.once)
    return 0


def list(args: Namespace) -> int:  # noqa: A001
    """Print the newest jobs, or those of another page; all for machines."""
    wrong = [one for one in args.status or () if one not in STATUSES]
    if wrong:
        raise JobError(
            f"--status {wrong[0]} is no status.{did_you_mean(wrong[0], STATUSES)} They are {', '.join(STATUSES)}."
        )
    store = _store()
    limit = args.limit or (None if args.json else _PAGE)
    found = store.jobs(args.status, args.experiment, limit=limit, offset=args.offset)
    if args.json:
        _print_json([masking.job(job) for job in found])
        return 0
    experiments = store.read(listing.experiments) if args.experiment and not found else ()
    if experiments and args.experiment not in experiments:
        print(f"There is no job of the experiment '{args.experiment}'.{did_you_mean(args.experiment, experiments)}")
        return 0
    query = listing.Query(statuses=args.status or (), experiment=args.experiment)
    total = store.read(listing.matching, query)
    if not found and args.offset and total:
        print(f"There are {total} such jobs, and --offset {args.offset} leaves out all of them.")
        return 0
    if not found and (args.status or args.experiment):
        print("There are no such jobs. trainwright jobs list shows all.")
        return 0
    if not found:
        print("There are no jobs yet. trainwright jobs submit script.py puts one into the queue.")
        return 0
    rows = [
        [job["id"], job["name"], job["experiment"], job["status"], f"{job['progress']:.0f} %", age(job), left(job)]
        for job in found
    ]
    _table(["job", "name", "experiment", "status", "progress", "time", "left"], rows)
    if args.offset + len(found) < total:
        print(f"{len(found)} of {total:,}; --offset {args.offset + len(found)} shows those before them.")
    return 0


def show(args: Namespace) -> int:
    """Print what is known of a job."""
    store = _store()
    job = masking.job(store.find(args.job))
    artifacts, events = outputs.artifacts(store, job), store.of_job(schema.events, job["id"])
    spent = attempts.account(store.of_job(schema.attempts, job["id"]))
    if args.json:
        told = {"metrics": store.last_metrics(job["id"]), "artifacts": artifacts, "events": events, "time": spent}
        _print_json({**job, **told})
        return 0
    lines: Any = [
        ("job", job["id"]),
        ("name", job["name"]),
        ("experiment", job["experiment"]),
        ("status", job["status"]),
    ]
    lines += [("progress", f"{job['progress']:.0f} %"), ("time", age(job)), ("folder", job["folder"])]
    lines += [(name, job[name]) for name in ("host", "pid", "message") if job[name]]
    _pairs("", lines)
    _pairs("parameters", [(name, _short(value)) for name, value in job["params"].items()])
    newest = store.last_metrics(job["id"]).items()
    _pairs("metrics", [(name, f"{value:g} (step {step})") for name, (step, value) in newest])
    _pairs("outputs", [(one["kind"], one["path"]) for one in artifacts[-5:]])
    _pairs("events", [(one["kind"], one["text"]) for one in events[-5:]])
    if spent is not None:
        _time(spent)
    if job["traceback"]:
        print(job["traceback"])
    return 0


def _pairs(title: str, pairs: Any) -> None:
    """Print names and values in two columns, below a title where there is one; nothing where there are none."""
    if title and pairs:
        print(f"\n{title}")
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        print(f"{name:<{width}}  {value}")


def _time(spent: Any) -> None:
    """Print where the time of a job went, for every attempt and for all."""

    def row(name: str, steps: str, one: Any) -> Any:
        return [name, steps, one["again"], *(_brief(one["seconds"][part]) for part in _PARTS)]

    rows = [
        row(str(number), f"{one['first_step']}-{one['step']}", one) for number, one in enumerate(spent["attempts"], 1)
    ]
    if len(rows) > 1:
        rows.append(row("all", "", spent))
    shares = [f"{seconds / (spent['total'] or 1):.1%}" for seconds in spent["seconds"].values()]
    print("\nwhere the time went")
    _table(["attempt", "steps", "steps again", *_PARTS], [*rows, ["share", "", "", *shares]])


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def logs(args: Namespace) -> int:
    """Print what a job wrote to its log."""
    store = _store()
    job = store.find(args.job)
    path = Path(job["folder"]) / paths.LOG
    if not path.exists() and not (args.follow and job["started"] is None and job["status"] not in ENDED):
        raise JobError(f"The job {job['id']} has no log. {files.no_log(job)}")
    place, decoder = 0, codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        ended = store.find(job["id"])["status"] in ENDED
        if path.exists():
            with path.open("rb") as file:
                file.seek(place)
                content = file.read()
            place += len(content)
            sys.stdout.write(decoder.decode(content, final=ended or not args.follow))
            sys.stdout.flush()
        if not args.follow or ended:
            return 0
        time.sleep(_FOLLOW_SECONDS)


def metrics(args: Namespace) -> int:
    """Print the newest value of every metric, or all of one."""
    if args.attempt is not None and args.name is None:
        raise JobError("--attempt is of one metric; name it: trainwright jobs metrics JOB NAME --attempt 1.")
    store = _store()
    job = store.find(args.job)["id"]
    if args.name is None:
        found = store.last_metrics(job)
        if args.json:
            _print_json(found)
        else:
            _table(["metric", "step", "value"], [[name, str(step), f"{v:g}"] for name, (step, v) in found.items()])
        return 0
    rows = store.metric(job, args.name, args.attempt)
    if not rows and args.name in store.metric_names(job):
        raise JobError(f"The job {job} has no value of '{args.name}' by its attempt {args.attempt}.")
    if not rows:
        raise JobError(
            f"The job {job} has no metric '{args.name}'; it has {', '.join(store.metric_names(job)) or 'none'}."
        )
    if args.json:
        _print_json(rows)
    else:
        _table(["step", args.name], [[str(step), f"{value:g}"] for step, value, _ in rows])
    return 0


def compare(args: Namespace) -> int:
    """Print the parameters that differ between jobs, and their newest metrics."""
    store = _store()
    found = [store.find(name) for name in args.jobs]
    table = queue.differences(store, found)
    table["params"] = {name: masking.each(name, values) for name, values in table["params"].items()}
    if args.json:
        _print_json(table)
        return 0
    rows = [[name, *map(_short, values)] for part in ("params", "metrics") for name, values in table[part].items()]
    _table(["", *(f"{job['id']} {job['name']}" for job in found)], rows)
    return 0


def stop(args: Namespace) -> int:
    """Ask jobs to stop."""
    store = _store()
    for name in args.jobs:
        job = store.find(name)
        if args.grace is not None:
            store.keep(job["id"], "grace", args.grace)
        status = store.ask_to_stop(job["id"])
        text = {RUNNING: "is asked to stop", STOPPED: "is stopped"}.get(status, f"has ended already: {status}")
        print(f"{job['id']} {text}.")
    return 0


def resume(args: Namespace) -> int:
    """Put jobs back into the queue."""
    store = _store()
    for name in args.jobs:
        print(f"{queue.resume(store, store.find(name))} is queued again.")
    return 0


def rm(args: Namespace) -> int:
    """Forget jobs."""
    store = _store()
    for name in args.jobs:
        job = store.find(name)
        if job["status"] in (RUNNING, QUEUED):
            raise JobError(f"The job {job['id']} is {job['status']}; stop it first: trainwright jobs stop {job['id']}.")
        folder = paths.job_folder(job["id"])
        if folder.exists():  # before the row, which its journal would make again
            shutil.rmtree(folder)
        store.remove(job["id"])
        print(f"{job['id']} is removed.")
    return 0


def export(args: Namespace) -> int:
    """Write all metrics of jobs as CSV."""
    if args.output:
        to_write(args.output)
    store = _store()
    jobs = [store.find(name) for name in args.jobs]  # before a file that is there is emptied
    with args.output.open("w", newline="", encoding="utf-8") if args.output else _stdout() as file:
        writer = csv.writer(file)
        writer.writerow(["job", "name", "metric", "step", "value", "time"])
        for job in jobs:
            for metric in store.metric_names(job["id"]):
                for step, value, when in store.metric(job["id"], metric):
                    writer.writerow([job["id"], job["name"], metric, step, repr(value), f"{when:.3f}"])
    return 0


def age(job: Job) -> str:
    """Return how long a job has run, all its attempts together, or waits."""
    return span(_seconds(job))


def _seconds(job: Job) -> float:
    until = job["ended"] or time.time()
    if job["started"] is not None:
        return float(job["ran"] + until - job["started"])
    return float(job["ran"] or until - job["created"])


def left(job: Job) -> str:
    """Return how long a running job will still take, if it goes on as until now."""
    if job["status"] != RUNNING or not job["progress"] or job["started"] is None:
        return ""
    return span(_seconds(job) * (100 - job["progress"]) / job["progress"])


def span(seconds: float) -> str:
    """Return a time as a person says it: 42 s, 3:05, 2:14:09."""
    whole = int(max(seconds, 0))
    if whole < 100:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def _store() -> Store:
    store = Store()
    health.sweep(store, wait=True)
    return store


class _stdout:
    """Standard output, which is not closed."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *_: Any) -> None:
        return


def _short(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=1))


def _finite(value: Any) -> Any:
    """Return a value with null for numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, tuple | type([])) else value


def _table(head: Any, rows: Any) -> None:
    """Print rows below a head, in columns as wide as they need."""
    rows = [[_printable(str(cell)) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _printable(text: str) -> str:
    """Return a text without what moves a terminal's cursor or changes its colours."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
