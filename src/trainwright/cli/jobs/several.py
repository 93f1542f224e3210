"""What `trainwright jobs` does with several jobs: the list, and what is done with those that it holds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from trainwright.cli.jobs.tables import age, left, moment, opened, print_json, short, table
from trainwright.errors import JobError, did_you_mean
from trainwright.jobs.finding import keys
from trainwright.jobs.status import RUNNING, STATUSES, STOPPED
from trainwright.jobs.store import listing, masking, schema
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store
from trainwright.jobs.worker import labels, queue

_PAGE = 50  # jobs
_AT_ONCE = 10_000  # that a database is asked for by name


def list(args: Namespace) -> int:  # noqa: A001
    """Print the newest jobs, or those of another page, query or order; all for machines."""
    wrong = [one for one in args.status or () if one not in STATUSES]
    if wrong:
        raise JobError(
            f"--status {wrong[0]} is no status.{did_you_mean(wrong[0], STATUSES)} They are {', '.join(STATUSES)}."
        )
    store = opened()
    shown = [name.strip() for name in (args.columns or "").split(",") if name.strip()]
    query = listing.Query(
        statuses=args.status or (), experiment=args.experiment, query=args.query or "", sort=args.sort,
        group=args.group or "", show=shown, offset=args.offset, limit=args.limit or (None if args.json else _PAGE),
    )  # fmt: skip
    if args.json:
        print_json([masking.job(job) for job in _of(store, query)])
        return 0
    page = store.read(listing.page, query)
    if not page["jobs"]:
        print(_none(store, args, page["total"]))
        return 0
    head, rows = _cells(page["jobs"], shown, query.group)
    table(head, rows)
    there = args.offset + len(page["jobs"])
    if there < page["total"]:
        print(f"{len(page['jobs'])} of {page['total']:,}; --offset {there} shows those before them.")
    return 0


def _of(store: Store, query: listing.Query) -> Any:
    """Return the jobs of a list, whole and in its order."""
    ids = store.read(listing.ids, query)
    found: dict[str, Job] = {}
    for start in range(0, len(ids), _AT_ONCE):
        part = store.jobs(None, None, schema.jobs.c.id.in_(ids[start : start + _AT_ONCE]))
        found |= {job["id"]: job for job in part}
    return [found[name] for name in ids if name in found]


def _cells(jobs: Any, shown: Any, group: str) -> Any:
    """Return the head and the rows of a list, a line before each group of jobs."""
    tagged = any(job.get("tags") for job in jobs) and "tags" not in shown
    head = ["job", "name", "experiment", "status", "progress", "time", "left", *(["tags"] if tagged else []), *shown]
    rows, before = [], object()
    for job in jobs:
        own = job.get("values", {})
        if group and own[group] != before:
            before = own[group]
            rows.append([f"{group} = {'none' if before is None else short(before)}", *[""] * (len(head) - 1)])
        rows.append(
            [job["id"], job["name"], job["experiment"], job["status"], f"{job['progress']:.0f} %", age(job), left(job),
             *([" ".join(job.get("tags", []))] if tagged else []), *(_cell(name, own[name]) for name in shown)]
        )  # fmt: skip
    return head, rows


def _cell(name: str, value: Any) -> str:
    if name in keys.TIMES and value is not None:
        return moment(value)
    return short(value)


def _none(store: Store, args: Namespace, total: int) -> str:
    """Return why a list has no jobs."""
    experiments = store.read(listing.experiments) if args.experiment else ()
    if experiments and args.experiment not in experiments:
        return f"There is no job of the experiment '{args.experiment}'.{did_you_mean(args.experiment, experiments)}"
    if args.offset and total:
        return f"There are {total} such jobs, and --offset {args.offset} leaves out all of them."
    if args.status or args.experiment or args.query:
        return "There are no such jobs. trainwright jobs list shows all."
    return "There are no jobs yet. trainwright jobs submit script.py puts one into the queue."


def chosen(store: Store, args: Namespace) -> Any:
    """Return the jobs that a command names, by id, name or a query.

    Raises:
        JobError: it names none.
    """
    if bool(args.jobs) == bool(args.where):
        raise JobError(f"Name jobs, or give --where QUERY: trainwright jobs {args.action} --where 'status = FAILED'.")
    if args.jobs:
        return [store.find(name) for name in args.jobs]
    found = _of(store, listing.Query(query=args.where, limit=None))
    if not found:
        print("There are no such jobs.")
    return found


def stop(args: Namespace) -> int:
    """Ask jobs to stop."""
    store = opened()

    def ask(job: Job) -> str:
        if args.grace is not None:
            store.keep(job["id"], "grace", args.grace)
        status = store.ask_to_stop(job["id"])
        said = {RUNNING: "is asked to stop", STOPPED: "is stopped"}
        return f"{job['id']} {said.get(status, f'has ended already: {status}')}."

    return _each(store, args, ask)


def resume(args: Namespace) -> int:
    """Put jobs back into the queue."""
    store = opened()
    return _each(store, args, lambda job: f"{queue.resume(store, job)} is queued again.")


def rm(args: Namespace) -> int:
    """Forget jobs."""
    store = opened()

    def forget(job: Job) -> str:
        labels.remove(store, job)
        return f"{job['id']} is removed."

    return _each(store, args, forget)


def tag(args: Namespace) -> int:
    """Give jobs a tag, or take it away."""
    store = opened()

    def give(job: Job) -> str:
        labels.do(store, job, "untag" if args.away else "tag", args.tag)
        return f"{job['id']} {_tags(store.find(job['id']))}"

    return _each(store, args, give)


def _each(store: Store, args: Namespace, do: Callable[[Job], str]) -> int:
    """Do something with every job that a command names, and print what it says.

    Raises:
        JobError: it cannot be done with some of them; with the others it is done.
    """
    wrong = []
    for job in chosen(store, args):
        try:
            print(do(job))
        except JobError as error:
            wrong.append(str(error))
    if wrong:
        raise JobError("\n".join(wrong))
    return 0


def _tags(job: Job) -> str:
    return f"has the tags {', '.join(job['tags'])}." if job["tags"] else "has no tags."


def note(args: Namespace) -> int:
    """Keep a note with a job."""
    store = opened()
    labels.do(store, store.find(args.job), "note", args.text)
    return 0
