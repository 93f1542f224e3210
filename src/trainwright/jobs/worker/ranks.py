"""The processes of a job on several: how each is, as it told itself, and as its machine shows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from trainwright.jobs import processes
from trainwright.jobs.journal.rank_file import GONE, read
from trainwright.jobs.status import COMPLETE, ENDED
from trainwright.jobs.store import outputs
from trainwright.jobs.store.rows import Job

TRAINING, STUCK, SUSPENDED, KILLED, UNKNOWN = "training", "stuck", "suspended", "killed", "unknown"
_LOGS = ("stdout.log", "stderr.log")  # as torchrun names what each process prints


def states(job: Job) -> list[dict[str, Any]]:
    """Return of every process of a job, where there are several, in the order of their ranks: `rank`, `host`, `pid`;
    `state`, how a job ended or one of those above, and `how`, in words; `step` and `rows_per_second` as it told at its
    last log; `before`, how the one ended that it took the place of; and `logs`, the files of what it prints."""
    ranks, folder = job["kept"].get("ranks", []), outputs.run_folder(job)
    told = [{} if folder is None else read(folder, one) for one in ranks]
    held = {rank: where for one in told for rank, where in one.get("held", {}).items()}
    return [
        {
            **{name: one[name] for name in ("rank", "host", "pid")},
            **dict(zip(("state", "how"), _state(job, one, mine, held.get(str(one["rank"]))), strict=True)),
            **{name: mine.get(name) for name in ("step", "rows_per_second", "before")},
            "logs": [str(path) for path in _logs(one)],
        }
        for one, mine in zip(ranks, told, strict=True)
    ]


def gone(job: Job) -> list[int]:
    """Return the ranks whose processes have left this machine, or are suspended: what changes without a word."""
    return [one["rank"] for one in job["kept"].get("ranks", []) if _here(one) not in (None, TRAINING)]


def log(job: Job, rank: int, name: str) -> Path | None:
    """Return one of the files of what a process prints; None where there is none of that name."""
    ranks = job["kept"].get("ranks", [])
    found = [path for one in ranks if one["rank"] == rank for path in _logs(one) if path.name == name]
    return found[0] if found else None


def _state(job: Job, rank: Mapping[str, Any], told: Mapping[str, Any], held: str | None) -> tuple[str, str]:
    """Return the state of a process and, in words, how it is so.

    Args:
        job: that it is of.
        rank: the process.
        told: by itself.
        held: where it is, if it holds the run up.
    """
    if "ended" in told:
        return told["ended"], told["how"]
    here = _here(rank)
    if here is None:  # a machine of which nobody knows but by words
        here = TRAINING if job["status"] not in ENDED else UNKNOWN
    if here == KILLED and job["status"] == COMPLETE:
        return COMPLETE, ""
    if here == TRAINING and held is not None:
        return STUCK, held
    return here, GONE if here == KILLED else ""


def _here(rank: Mapping[str, Any]) -> str | None:
    """Return whether a process of this machine trains, is suspended or gone; None of another machine's."""
    if rank["host"] != processes.hostname():
        return None
    if not processes.lives(rank["pid"], rank["began"]):
        return KILLED
    with suppress(psutil.Error):
        if psutil.Process(rank["pid"]).status() == psutil.STATUS_STOPPED:
            return SUSPENDED
    return TRAINING


def _logs(rank: Mapping[str, Any]) -> list[Path]:
    """Return the files of torchrun with what a process prints; no others are shown to anybody."""
    output = rank.get("output")
    if not output or Path(output).name not in _LOGS:
        return []
    paths = [Path(output).with_name(name) for name in _LOGS]
    return [path for path in paths if path.resolve().name == path.name and path.is_file()]
