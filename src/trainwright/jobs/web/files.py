"""What the page shows of a job's files: the end of its log, and what its model wrote; nothing outside its folders."""

from __future__ import annotations

import codecs
import json
import math
from pathlib import Path
from typing import Any

from trainwright.jobs import paths
from trainwright.jobs.status import ENDED
from trainwright.jobs.store import outputs
from trainwright.jobs.store.rows import Job

_LOG_BYTES = 65_536
_SAMPLE_FILES = 20
_SAMPLE_ROWS = 5
_LARGEST = 8_000_000
_MEDIA = "media"  # the folder of a run's pictures, besides those at its top
MEDIA_TYPES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
               ".webp": "image/webp"}  # fmt: skip
"""Endings of pictures that the page shows; none of a kind that could hold a script."""
_MOST_MEDIA = 60
_CLOCKS = 5.0  # seconds that those of a job and of its disk may differ


def log(job: Job, after: int = -1) -> dict[str, Any]:
    """Return the text of a job's log after a byte, or its end, and the byte that it ends with: none of a character."""
    path = inside(Path(job["folder"]), paths.LOG)
    return no_text(no_log(job)) if path is None else text(path, after)


def no_text(why: str) -> dict[str, Any]:
    """Return what stands in the place of a log that is not there."""
    return {"text": "", "end": 0, "there": False, "why": why}


def text(path: Path, after: int) -> dict[str, Any]:
    """Return the text of a file as `log` does."""
    size = path.stat().st_size
    start = after if 0 <= after <= size else max(size - _LOG_BYTES, 0)
    with path.open("rb") as file:
        file.seek(start)
        content = file.read(_LOG_BYTES)
    if start != after:  # somewhere in the middle
        first = next((place for place, byte in enumerate(content[:4]) if byte & 0xC0 != 0x80), 0)
        start, content = start + first, content[first:]
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoded = decoder.decode(content)
    return {"text": decoded, "end": start + len(content) - len(decoder.getstate()[0]), "there": True}


def log_bytes(folder: str) -> int:
    """Return how long the log in a job's folder is; 0 where there is none."""
    try:
        return (Path(folder) / paths.LOG).stat().st_size
    except OSError:
        return 0


def no_log(job: Job) -> str:
    """Return why a job has no log, as a sentence."""
    if job["started"] is None and job["status"] not in ENDED:
        return "It waits for a worker; what it prints will stand here."
    if job["started"] is None and job["attempt"] == 1:
        return "It was never begun, so it has printed nothing."
    return "It has none: it was run by hand and printed nothing that was kept, or by an older Trainwright."


def samples(job: Job) -> list[dict[str, Any]]:
    """Return what the model wrote at the last evaluations by generation: step, and some rows.

    A folder may hold what another job wrote into it before or after: only what is of this one's time and steps counts.
    """
    folder = outputs.run_folder(job)
    if folder is None:
        return []
    found = []
    own = [path for path in (folder / "eval_results").glob("step_*.json") if is_of(job, path, _step(path))]
    for path in sorted(own, key=_step)[-_SAMPLE_FILES:]:
        try:
            safe = inside(folder, str(path.relative_to(folder)))
            rows = json.loads(safe.read_text(encoding="utf-8")) if safe and safe.stat().st_size <= _LARGEST else None
        except (OSError, ValueError, RecursionError):  # removed meanwhile, of someone else, or no rows of ours
            continue
        if isinstance(rows, list):
            found.append({"step": _step(path), "rows": [_row(row) for row in rows[:_SAMPLE_ROWS]]})
    return found


def media(job: Job) -> list[dict[str, Any]]:
    """Return the pictures and films in a job's folders that it has made: `name`, and `time` of the file."""
    found: dict[str, float] = {}
    for folder in _media_folders(job):
        for path in [*folder.glob("*"), *(folder / _MEDIA).glob("*")]:
            if path.suffix.lower() in MEDIA_TYPES and inside(folder, str(path.relative_to(folder))):
                when = path.stat().st_mtime
                if _is_of_time(job, when):
                    found.setdefault(str(path.relative_to(folder)), when)
    newest = sorted(found.items(), key=lambda one: one[1])[-_MOST_MEDIA:]
    return [{"name": name, "time": when} for name, when in newest]


def one_of_media(job: Job, name: str) -> Path | None:
    """Return a picture or a film of a job; None where it is none."""
    if name not in [one["name"] for one in media(job)]:
        return None
    return next((path for folder in _media_folders(job) if (path := inside(folder, name))), None)


def _media_folders(job: Job) -> list[Path]:
    folders = [Path(job["folder"]), outputs.run_folder(job)]
    return [folder for folder in folders if folder is not None and folder.is_dir()]


def inside(folder: Path, name: str) -> Path | None:
    """Return a file of a folder, or None where it is none or lies, by a link too, outside."""
    path = (folder / name).resolve()
    return path if path.is_file() and path.is_relative_to(folder.resolve()) else None


def is_of(job: Job, path: Path, step: int) -> bool:
    """Whether a job wrote a file of a step: it had come that far, and was there when the file was written."""
    try:
        written = path.stat().st_mtime
    except OSError:
        return False  # removed meanwhile
    reached = math.inf if job["step"] is None else job["step"]
    return step <= reached and _is_of_time(job, written)


def _is_of_time(job: Job, written: float) -> bool:
    """Whether a job was there when a file was written."""
    ended = job["ended"] if job["status"] in ENDED and job["ended"] is not None else math.inf
    return bool(job["created"] - _CLOCKS <= written <= ended + _CLOCKS)


def _step(path: Path) -> int:
    number = path.stem.removeprefix("step_")
    return int(number) if number.isdecimal() else -1


def _row(row: Any) -> dict[str, Any]:
    wanted = ("input", "generated", "reference", "correct")
    return {name: row.get(name) for name in wanted} if isinstance(row, dict) else {}
