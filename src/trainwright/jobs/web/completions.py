"""What a model wrote in reinforcement learning, for the page: the files that `trainwright rl show` reads."""

from __future__ import annotations

import re
from itertools import groupby, islice
from typing import Any

from trainwright.data.sources import json_lines
from trainwright.jobs.store import outputs
from trainwright.jobs.store.rows import Job
from trainwright.jobs.web.files import inside, is_of

FOLDER = "completions"
_NAME = re.compile(r"(step|held-out)-(\d+)-(\d+)-(\d+)\.jsonl")
_FILES = 200  # of a job, the newest
_GROUPS = 8
_LARGEST = 8_000_000
_WIDEST = 2_000  # characters of a text


def listed(job: Job) -> list[dict[str, Any]]:
    """Return the files of a job's completions: name, step that they were written after, whether the prompts are held
    out; in the order of the steps."""
    folder = outputs.run_folder(job)
    if folder is None:
        return []
    found = []
    for path in (folder / FOLDER).glob("*.jsonl"):
        match = _NAME.fullmatch(path.name)
        if match and is_of(job, path, int(match[2])):
            found.append((*map(int, match.groups()[1:]), match[1] == "held-out", path.name))
    return [{"name": name, "step": step, "held_out": apart} for step, _, _, apart, name in sorted(found)[-_FILES:]]


def groups(job: Job, name: str) -> list[dict[str, Any]]:
    """Return the first groups of a file that `listed` names: the prompt, and its completions, the best first."""
    folder = outputs.run_folder(job)
    path = inside(folder / FOLDER, name) if folder is not None and _NAME.fullmatch(name) else None
    if path is None or path.stat().st_size > _LARGEST:
        return []
    try:
        rows = [*json_lines.read(path)]
        each = islice(groupby(rows, key=lambda row: row["row"]), _GROUPS)
        return [_group(list(some)) for _, some in each]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # removed meanwhile, or no completions of ours
        return []


def _group(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wanted = ("tokens", "finished", "rewards", "reward", "advantage")
    best = sorted(rows, key=lambda row: -float(row["advantage"]))
    return {
        "row": rows[0]["row"],
        "prompt": str(rows[0]["prompt"])[:_WIDEST],
        "completions": [
            {"text": str(row["completion"])[:_WIDEST], **{name: row[name] for name in wanted}} for row in best
        ],
    }
