"""What a person does with jobs from a list: tags, a note, the wish that they stop, and that they are forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from trainwright.errors import JobError
from trainwright.jobs import paths, values
from trainwright.jobs.journal.journal import append
from trainwright.jobs.status import QUEUED, RUNNING
from trainwright.jobs.store.rows import Job
from trainwright.jobs.store.store import Store

ACTIONS = ("stop", "remove", "tag", "untag", "note")
_MOST_TAGS = 50


def do(store: Store, job: Job, what: str, text: str = "") -> None:
    """Do one of ACTIONS with a job.

    Args:
        store: the database.
        job: the job.
        what: one of ACTIONS.
        text: the tag or the note.

    Raises:
        JobError: it cannot be done.
    """
    if what == "stop":
        store.ask_to_stop(job["id"])
    elif what == "remove":
        remove(store, job)
    elif what == "note":
        label(store, job, note=text)
    elif what == "tag":
        label(store, job, [*dict.fromkeys([*job["tags"], _tag(text)])])
    elif what == "untag":
        label(store, job, [one for one in job["tags"] if one != _tag(text)])


def label(store: Store, job: Job, tags: Sequence[str] | None = None, note: str | None = None) -> None:
    """Give a job its tags, or a note; the journal tells of it, so that it outlives the database.

    Raises:
        JobError: there are too many tags, or the journal cannot be written.
    """
    if tags is not None and len(tags) > _MOST_TAGS:
        raise JobError(f"The job {job['id']} has {_MOST_TAGS} tags already, which is the most; take one away.")
    folder = paths.job_folder(job["id"])
    try:
        paths.make(folder)
        append(folder / paths.JOURNAL, "label", tags=None if tags is None else [*tags], note=note)
    except OSError as error:
        raise JobError(f"The job {job['id']} cannot be changed: {error.strerror}.") from None
    store.move(job["id"], folder)


def remove(store: Store, job: Job) -> None:
    """Forget a job, and remove its folder; its outputs elsewhere stay.

    Raises:
        JobError: it runs, or waits.
    """
    if job["status"] in (RUNNING, QUEUED):
        raise JobError(f"The job {job['id']} is {job['status']}; stop it first: trainwright jobs stop {job['id']}.")
    folder: Path = paths.job_folder(job["id"])
    if folder.exists():  # before the row, which its journal would make again
        shutil.rmtree(folder)
    store.remove(job["id"])


def _tag(text: str) -> str:
    """Return a tag as it is kept.

    Raises:
        JobError: it is none.
    """
    found = values.text(text.strip(), values.NAME_LENGTH)
    if not found:
        raise JobError("A tag is empty; write a word.")
    return found
