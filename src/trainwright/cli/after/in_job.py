"""What is measured of a model goes into the job that trained it, where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainwright.checkpoint import layout
from trainwright.jobs import paths

if TYPE_CHECKING:
    from trainwright.jobs.store.rows import Job
    from trainwright.jobs.store.store import Store
    from trainwright.trained.measuring.evaluating import Evaluation


def tell(evaluation: Evaluation, data: str) -> str | None:
    """Add the metrics to the newest job whose run the model is of, at the step of its checkpoint; return its name."""
    from trainwright.jobs.journal.journal import append
    from trainwright.jobs.store.store import Store

    if paths.is_off() or not paths.has_home():
        return None
    store = Store()
    try:
        store.move_grown()
        job = _job_of(store, evaluation.trained.run)
        if job is None:
            return None
        folder = paths.job_folder(job["id"])
        step = layout.step_of(evaluation.trained.folder)
        step = step if step >= 0 else job["step"] or 0
        for name, value in evaluation.metrics.items():
            append(folder / paths.JOURNAL, "metric", name=f"eval/{data}/{name}", value=value, step=step)
        store.move(job["id"], folder)
        return job["id"]
    finally:
        store.close()


def place_of(word: str) -> str:
    """Return the run's folder of the job that a word is the id or the name of; the word where a folder is called so.

    `base:JOB` becomes `base:FOLDER`.

    Raises:
        JobError: several jobs are called so.
    """
    import sqlalchemy as sql

    from trainwright.jobs.store import outputs, schema
    from trainwright.jobs.store.store import Store
    from trainwright.trained.folders import FROM

    if word.startswith(FROM):
        return FROM + place_of(word.removeprefix(FROM))
    if Path(word).expanduser().is_dir() or paths.is_off() or not paths.has_home():
        return word
    store = Store()
    try:
        store.move_grown()
        called = store.jobs(None, None, sql.or_(schema.jobs.c.id == word, schema.jobs.c.name == word))
        folder = outputs.run_folder(store.find(word)) if called else None
        return word if folder is None else str(folder)
    finally:
        store.close()


def _job_of(store: Store, run: Path) -> Job | None:
    """Return the newest job that a run's folder is of."""
    from trainwright.jobs.store import outputs

    for job in store.jobs():
        folder = outputs.run_folder(job)
        if folder is not None and folder.resolve() == run.resolve() and paths.job_folder(job["id"]).is_dir():
            return job
    return None
