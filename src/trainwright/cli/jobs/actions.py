"""What `trainwright jobs` does; a function for every action."""

from __future__ import annotations

import codecs
import csv
import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from trainwright.cli.files import to_write
from trainwright.cli.jobs.tables import age, exact, moment, opened, pairs, print_json, short, span, table
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.journal.timesheet import PARTS
from trainwright.jobs.status import ENDED
from trainwright.jobs.store import attempts, masking, outputs, schema, typed
from trainwright.jobs.store.store import Store
from trainwright.jobs.web import files
from trainwright.jobs.worker import queue, ranks

_FOLLOW_SECONDS = 0.3
_SYSTEM = "system/"  # metrics of what a job takes
_PARTS = (*PARTS, "between")


def submit(args: Namespace) -> int:
    """Put a script or a YAML file into the queue; the latter is looked at as `trainwright check` does."""
    about = None
    if args.file.suffix in queue.YAML and args.file.is_file() and not args.param:
        about = checked(args.file, args.overrides, whole=args.after is None)
    job = queue.submit(
        Store(), args.file, queue.given(args.param), args.overrides, name=args.name, experiment=args.experiment,
        after=args.after, restarts=args.restart, gpus=args.gpus, described_by=about,
    )  # fmt: skip
    print(json.dumps({"id": job}) if args.json else f"{job} is queued. trainwright jobs worker runs it.")
    return 0


def checked(file: Path, overrides: Any, whole: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a YAML file gives, and what everything is by default, by dotted name.

    Args:
        file: the file.
        overrides: on top of it.
        whole: look at everything that can be known; else at names and types, for a job that comes after another one
            may read what that one makes.

    Raises:
        ConfigError: what is wrong with it, all of it.
    """
    from trainwright.cli.as_job import described
    from trainwright.config.reading.read import load, load_checked
    from trainwright.tasks.language.checking.first_rows import look

    loaded = load_checked(file, overrides) if whole else load(file, overrides)
    if whole:
        look(loaded)
    return described(loaded.config)


def worker(args: Namespace) -> int:
    """Run queued jobs."""
    from trainwright.jobs.worker.worker import run_worker

    run_worker(args.slots, args.gpus, args.grace, args.once)
    return 0


def show(args: Namespace) -> int:
    """Print what is known of a job."""
    store = opened()
    job = masking.job(store.find(args.job))
    artifacts, events = outputs.artifacts(store, job), store.of_job(schema.events, job["id"])
    spent = attempts.account(store.of_job(schema.attempts, job["id"]))
    if args.json:
        told = {"metrics": store.last_metrics(job["id"]), "artifacts": artifacts, "events": events, "time": spent}
        told |= {"defaults": store.read(typed.defaults, job["defaults"]), "ranks": ranks.states(job)}
        print_json({**job, **told})
        return 0
    lines: Any = [
        ("job", job["id"]),
        ("name", job["name"]),
        ("experiment", job["experiment"]),
        ("status", job["status"]),
        *([("tags", ", ".join(job["tags"]))] if job["tags"] else []),
        *([("note", job["note"])] if job["note"] else []),
    ]
    lines += [(name, moment(at)) for name, at in (("started", job["started"]), ("ended", job["ended"])) if at]
    lines += [("progress", f"{job['progress']:.0f} %"), ("time", age(job)), ("folder", job["folder"])]
    lines += [(name, job[name]) for name in ("host", "pid", "message") if job[name]]
    lines += [("same run", f"{one['id']} {one['name']} ({one['status']})") for one in outputs.of_same_run(store, job)]
    pairs("", lines)
    _ranks(ranks.states(job))
    usual = masking.params(store.read(typed.defaults, job["defaults"]))
    given = typed.changed(job["params"], usual)
    pairs("parameters", [(name, exact(job["params"][name])) for name in given])
    rest = {**usual, **job["params"]}
    if args.all:
        pairs("as by default", [(name, exact(value)) for name, value in rest.items() if name not in given])
    elif len(rest) > len(given):
        print(f"\n{len(rest) - len(given)} more are as by default; --all shows them.")
    newest = store.last_metrics(job["id"]).items()
    of_system = [(name, f"{value:g}") for name, (_, value) in newest if name.startswith(_SYSTEM)]
    pairs(
        "metrics",
        [(name, f"{value:g} (step {step})") for name, (step, value) in newest if not name.startswith(_SYSTEM)],
    )
    pairs("system", of_system)
    pairs("outputs", [(one["kind"], one["path"]) for one in artifacts[-5:]])
    pairs("events", [(one["kind"], one["text"]) for one in events[-5:]])
    if spent is not None:
        _time(spent)
    if job["traceback"]:
        print(job["traceback"])
    return 0


def _ranks(found: list[dict[str, Any]]) -> None:
    """Print how every process of a job is."""
    if not found:
        return

    def row(one: dict[str, Any]) -> list[Any]:
        speed = "" if one["rows_per_second"] is None else f"{one['rows_per_second']:.4g}"
        step = "" if one["step"] is None else one["step"]
        return [one["rank"], one["host"], one["pid"], one["state"].lower(), step, speed]

    print("\nranks")
    table(["rank", "machine", "process", "state", "step", "rows/s"], map(row, found))
    more = [(f"{one['rank']} {title}", text) for one in found for title, text in _more(one) if text]
    pairs("of ranks", more)


def _more(one: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(one["state"].lower(), one["how"]), ("before", one["before"]), *(("log", path) for path in one["logs"])]


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
    table(["attempt", "steps", "steps again", *_PARTS], [*rows, ["share", "", "", *shares]])


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def logs(args: Namespace) -> int:
    """Print what a job wrote to its log."""
    store = opened()
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
    store = opened()
    job = store.find(args.job)["id"]
    if args.name is None:
        found = store.last_metrics(job)
        if args.json:
            print_json(found)
        else:
            table(["metric", "step", "value"], [[name, str(step), f"{v:g}"] for name, (step, v) in found.items()])
        return 0
    rows = store.metric(job, args.name, args.attempt)
    if not rows and args.name in store.metric_names(job):
        raise JobError(f"The job {job} has no value of '{args.name}' by its attempt {args.attempt}.")
    if not rows:
        raise JobError(
            f"The job {job} has no metric '{args.name}'; it has {', '.join(store.metric_names(job)) or 'none'}."
        )
    if args.json:
        print_json(rows)
    else:
        table(["step", args.name], [[str(step), f"{value:g}"] for step, value, _ in rows])
    return 0


def compare(args: Namespace) -> int:
    """Print what differs between jobs, parameters, code and installed versions, and their newest metrics."""
    store = opened()
    found = [store.find(name) for name in args.jobs]
    differing = queue.differences(store, found)
    differing["params"] = {name: masking.each(name, values) for name, values in differing["params"].items()}
    if args.json:
        print_json(differing)
        return 0
    parts = ("params", "code", "versions", "metrics")
    rows = [
        [name, *map(short if part == "metrics" else exact, values)]
        for part in parts
        for name, values in differing[part].items()
    ]
    table(["", *(f"{job['id']} {job['name']}" for job in found)], rows)
    return 0


def export(args: Namespace) -> int:
    """Write all metrics of jobs as CSV."""
    if args.output:
        to_write(args.output)
    store = opened()
    jobs = [store.find(name) for name in args.jobs]  # before a file that is there is emptied
    with args.output.open("w", newline="", encoding="utf-8") if args.output else _stdout() as file:
        writer = csv.writer(file)
        writer.writerow(["job", "name", "metric", "step", "value", "time"])
        for job in jobs:
            for metric in store.metric_names(job["id"]):
                for step, value, when in store.metric(job["id"], metric):
                    writer.writerow([job["id"], job["name"], metric, step, repr(value), f"{when:.3f}"])
    return 0


class _stdout:
    """Standard output, which is not closed."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *_: Any) -> None:
        return
