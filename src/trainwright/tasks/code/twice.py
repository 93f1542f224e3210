"""The loss of every step on disk as soon as it is known, so that steps done twice can be compared bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

LOSSES = "losses.jsonl"
_TAIL = 1000  # bytes at the end of the file: some lines


class Losses:
    """Appends the losses of a run's steps to `losses.jsonl` in its folder; each is there when the next step begins."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOSSES).open("a", buffering=1, encoding="utf-8")
        self._file.write("\n")  # ends a line that a kill has torn

    def add(self, step: int, loss: float) -> None:
        """Write a step's loss, all its digits."""
        self._file.write(json.dumps({"step": step, "loss": loss}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(folder: Path) -> Iterator[tuple[int, float]]:
    """Yield (step, loss) in the order of writing; lines that are not whole are left out."""
    path = folder / LOSSES
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        yield one["step"], one["loss"]


def last_step(folder: Path) -> int:
    """Return the step whose loss was written last; 0 where there is none."""
    path = folder / LOSSES
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        steps = re.findall(rb'{"step": (\d+), .*}\n', file.read())
    return int(steps[-1]) if steps else 0


def done_twice(folder: Path) -> dict[int, tuple[float, float]]:
    """Return the first and the last loss of the steps that were done more than once, by step."""
    first: dict[int, float] = {}
    again: dict[int, tuple[float, float]] = {}
    for step, loss in read(folder):
        if step in first:
            again[step] = (first[step], loss)
        first.setdefault(step, loss)
    return again


def verdict(again: dict[int, tuple[float, float]]) -> str:
    """Return in a sentence whether the losses of steps done twice are the same."""
    other = [step for step, (one, two) in again.items() if one != two]
    what = f"Steps {min(again)} to {max(again)} were done twice, before the kill and after it: "
    if other:
        return f"{what}{len(other)} of their {len(again)} losses are NOT the same, the first at step {min(other)}."
    return f"{what}their {len(again)} losses are equal bit for bit."
