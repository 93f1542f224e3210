"""How cost grows: CPU seconds at sizes in factors, and the exponent that fits them, against transformers and TRL.

`python -m benchmarks.growth [WORD...]`: all lines, or those whose names hold one of the words. One thread; at every
size the engines take turns, and medians of the rounds are shown. An exponent of 1 is linear in the size, 0 does not
grow; it is that of the larger half of the sizes, where what does not grow weighs least. A line is a `Line` in the list
`LINES` of one of `PARTS`, modules beside this one.
"""

from __future__ import annotations

import gc
import importlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("growth_data", "growth_page", "growth_saves")
ROUNDS = 3
Measure = Callable[[int, Path], float]
"""Takes a size and an empty folder; returns CPU seconds, or another cost that the line names."""


@dataclass(frozen=True)
class Line:
    """One line of the page.

    Attributes:
        name: what is done.
        size: what grows, in words.
        sizes: in factors, rising.
        engines: by name what measures it, ours first.
        unit: of the cost.
        rounds: of which the median is shown.
    """

    name: str
    size: str
    sizes: Sequence[int]
    engines: Mapping[str, Measure]
    unit: str = "s"
    rounds: int = ROUNDS


class Clock:
    """CPU seconds of this process and of those that it waited for; `seconds` is read after the block."""

    seconds = 0.0

    def __init__(self) -> None:
        self.begun = _cpu()


def _cpu() -> float:
    found = os.times()
    return time.process_time() + found.children_user + found.children_system


@contextmanager
def timed() -> Iterator[Clock]:
    """Measure the CPU seconds of a block."""
    gc.collect()
    clock = Clock()
    yield clock
    clock.seconds = _cpu() - clock.begun


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of the logarithm of cost over that of size, by least squares over the larger half of sizes."""
    points = [(math.log(size), math.log(max(cost, 1e-9))) for size, cost in zip(sizes, costs, strict=True)]
    points = points[-max(2, (len(points) + 1) // 2) :]
    means = [statistics.fmean(values) for values in zip(*points, strict=True)]
    spread = sum((x - means[0]) ** 2 for x, _ in points)
    return sum((x - means[0]) * (y - means[1]) for x, y in points) / spread


def measure(line: Line) -> dict[str, list[float]]:
    """Return the median costs of every engine at every size."""
    found: dict[str, list[float]] = {engine: [] for engine in line.engines}
    for size in line.sizes:
        rounds: dict[str, list[float]] = {engine: [] for engine in line.engines}
        for _ in range(line.rounds):
            for engine, run in line.engines.items():
                with tempfile.TemporaryDirectory() as folder:
                    rounds[engine].append(run(size, Path(folder)))
        for engine, costs in rounds.items():
            found[engine].append(statistics.median(costs))
    return found


def rows_of(line: Line, found: Mapping[str, Sequence[float]]) -> str:
    """Return the rows of the table for a line."""
    made, sizes = [], " / ".join(f"{size:,}" for size in line.sizes)
    for engine, costs in found.items():
        first = f"{line.name} | {line.size}: {sizes}" if not made else " | "
        shown = " / ".join(f"{cost:.3g}" for cost in costs)
        made.append(f"| {first} | {engine} | {shown} {line.unit} | {exponent(line.sizes, costs):.2f} |")
    return "\n".join(made)


def lines() -> list[Line]:
    """Return the lines of all parts."""
    return [line for part in PARTS for line in importlib.import_module(f"benchmarks.{part}").LINES]


def main(*words: Any) -> None:
    """Print the page."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import datasets
    import torch

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    print("| what | sizes | engine | cost | exponent |\n|---|---|---|---|---|", flush=True)
    for line in lines():
        if not words or any(str(word) in line.name for word in words):
            print(rows_of(line, measure(line)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
