"""What a job has made: its checkpoints as they lie on the disk, and what else it told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainwright.jobs import processes, schema
from trainwright.jobs.store import Job, Store

_PREFIX = "checkpoint-"


def artifacts(store: Store, job: Job) -> list[dict[str, Any]]:
    """Return the files and folders that a job made: kind, path, step, time. Checkpoints are those that are there now.

    Where they lie on a disk of another machine alone, they are those that the job told of.
    """
    told = store.of_job(schema.artifacts, job["id"])
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


def _checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Return the checkpoints of a run's folder, in order."""
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        try:
            if number.isdecimal() and path.is_dir():
                saved = {"kind": "checkpoint", "path": str(path), "step": int(number), "time": path.stat().st_mtime}
                found.append(saved)
        except OSError:
            continue  # deleted just now
    return sorted(found, key=lambda one: one["step"])
