"""What evaluations found, kept beside the run: one file for each, and one with every row."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainwright.config.reading.writing import write_whole

FOLDER = "evaluations"
_ROWS = ".rows.jsonl"


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        model: which model.
        data: on which data.
        rows: how many rows were measured.
        metrics: over all of them.
        settings: with which they were measured.
        time: when, in seconds since 1970.
    """

    model: str
    data: str
    rows: int
    metrics: Mapping[str, float]
    settings: Mapping[str, Any]
    time: float


def keep_result(run: Path, name: str, result: Result, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a result and its rows into a run's folder, in place of an earlier one of this name; return its file."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    file = run / FOLDER / f"{plain}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(file.with_suffix(_ROWS), lines)
    write_whole(file, json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    return file


def kept_results(run: Path) -> list[dict[str, Any]]:
    """Return the results that a run's folder holds, oldest first."""
    files = (run / FOLDER).glob("*.json")
    found: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted((one for one in found if "metrics" in one), key=lambda one: one["time"])  # not how answers were made
