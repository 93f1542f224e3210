"""What each process of a run on several tells of itself, in a file of the run's folder.

A process that is killed tells nothing any more: a file without an end, whose process is gone, is that of a kill.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainwright.jobs.outcomes import Outcome

GONE = "was killed, or ended without a word"
_FOLDER = "ranks"  # in the run's
_WHO = ("host", "pid", "began")
_LONGEST = 300  # letters of how a process ended


class RankFile:
    """What one process of a run tells, whenever it logs, is held up, or ends; written by `write` and at the end alone.

    Args:
        folder: of the run.
        of: names of what it belongs to, the job and the run: of those that came before it in the same, it tells the
            last one's end.
        rank: the process, as `Strategy.ranks` describes it.
        step: that were done when it began.
        seconds: of training that had passed by then.
    """

    def __init__(self, folder: Path, of: list[str], rank: Mapping[str, Any], step: int, seconds: float) -> None:
        self.path = _path(folder, rank)
        before = _before(_read(self.path), of, rank["pid"])
        self._about = {"of": of, **{name: rank[name] for name in _WHO}, "before": before}
        self._told: dict[str, Any] = {"step": step}
        self._rows, self._seconds = 0, seconds
        self._written: dict[str, Any] = {}
        self.write({})

    def log(self, step: int, rows: int, seconds: float) -> None:
        """Note at a log how many steps are done, how many rows this process has had, and seconds of training."""
        passed, new = seconds - self._seconds, rows - self._rows
        self._rows, self._seconds = rows, seconds
        self._told = {"step": step, "rows_per_second": new / passed if passed > 0 else None}

    def write(self, held: Mapping[int, str]) -> None:
        """Write what is new.

        Args:
            held: by rank, where a process is that holds the run up.
        """
        now = {**self._about, **self._told, "held": {str(rank): where for rank, where in held.items()}}
        if now == self._written:
            return
        new = self.path.with_suffix(".new")
        with suppress(OSError):  # a disk that is full holds up no run; it is tried again
            self.path.parent.mkdir(exist_ok=True)
            new.write_text(json.dumps(now), encoding="utf-8")
            os.replace(new, self.path)
            self._written = now

    def end(self, step: int, ended: Outcome) -> None:
        """Tell how the training ended, after how many steps."""
        status, message, _ = ended
        self._told = {**self._told, "step": step, "ended": status, "how": (message or "")[:_LONGEST]}
        self.write({})


def read(folder: Path, rank: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a process has told, as `Strategy.ranks` describes it; nothing where the file is another one's."""
    found = _read(_path(folder, rank))
    return found if all(found.get(name) == rank[name] for name in _WHO) else {}


def _path(folder: Path, rank: Mapping[str, Any]) -> Path:
    return folder / _FOLDER / f"{rank['rank']}.json"


def _before(told: Mapping[str, Any], of: list[str], pid: int) -> str | None:
    """Return how the process ended in whose place another one comes, in words."""
    if told.get("pid") in (None, pid) or not {*told.get("of", [])} & {*of}:
        return None
    if "ended" not in told:
        return f"process {told['pid']} {GONE}; its last log was of step {told['step']}"
    how = f": {told['how']}" if told["how"] else ""
    return f"process {told['pid']}, {told['ended'].lower()} after step {told['step']}{how}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
