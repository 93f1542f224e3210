"""What a job has made: its checkpoints as they lie on the disk, and what else it told of."""

from __future__ import annotations

import json
from pathlib import Path

from trainwright.checkpoint import layout
from trainwright.jobs import processes
from trainwright.jobs.store import schema
from trainwright.jobs.store.rows import Artifact, Job
from trainwright.jobs.store.store import Store


def artifacts(store: Store, job: Job) -> list[Artifact]:
    """Return the files and folders that a job made: kind, path, step, time. Checkpoints are those that are there now.

    Where they lie on a disk of another machine alone, they are those that the job told of.
    """
    told: list[Artifact] = store.of_job(schema.artifacts, job["id"])
    folder = run_folder(job)
    if folder is None:
        return told
    if job["host"] != processes.hostname() and not folder.is_dir():
        return told
    return [one for one in told if one["kind"] != "checkpoint"] + _checkpoints(folder)


def run_folder(job: Job) -> Path | None:
    """Return where a job's run has its files, as it told; None where it has none, or has not told yet."""
    output = job["kept"].get("output_dir") or job["data"].get("output_dir")  # 0.1.0 kept it among the script's own
    if not isinstance(output, str) or not output or "\0" in output:
        return None
    return Path(job["cwd"] or ".") / output


def of_same_run(store: Store, job: Job) -> list[Job]:
    """Return the other jobs whose runs had their files in the same folder, the newest first: what one went on with."""
    folder = run_folder(job)
    if folder is None or not folder.name:
        return []
    likely = store.jobs(None, None, schema.jobs.c.kept.contains(json.dumps(folder.name)[1:-1], autoescape=True))
    return [one for one in likely if one["id"] != job["id"] and run_folder(one) == folder]


def _checkpoints(folder: Path) -> list[Artifact]:
    """Return the checkpoints of a run's folder, in order."""
    found: list[Artifact] = []
    for path in layout.checkpoints(folder):
        try:
            time = path.stat().st_mtime
        except OSError:
            continue  # deleted just now
        found.append({"kind": "checkpoint", "path": str(path), "step": layout.step_of(path), "time": time})
    return found
