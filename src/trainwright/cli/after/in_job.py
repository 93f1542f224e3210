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


def _job_of(store: Store, run: Path) -> Job | None:
    """Return the newest job that a run's folder is of."""
    from trainwright.jobs.store import outputs

    for job in store.jobs():
        folder = outputs.run_folder(job)
        if folder is not None and folder.resolve() == run.resolve() and paths.job_folder(job["id"]).is_dir():
            return job
    return None
