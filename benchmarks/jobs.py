"""What a metric costs the thread that logs it, and how fast the rows of several writers arrive in the database.

`python -m benchmarks.jobs`. SQLite in a folder of its own; medians of 5 rounds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

ROWS = 10_000
ROUNDS = 5
WRITERS = 8
WRITER = f"""
from trainwright.jobs.tracking.tracking import tracked
with tracked("writer") as job:
    for step in range({ROWS}):
        job.metric("loss", 1 / (step + 1), step)
"""


def microseconds(call: Callable[[int], None]) -> float:
    """Return what one call costs its thread."""
    began = time.perf_counter()
    for step in range(ROWS):
        call(step)
    return (time.perf_counter() - began) / ROWS * 1e6


def main() -> None:
    """Print the figures."""
    os.environ["TRAINWRIGHT_HOME"] = tempfile.mkdtemp()
    os.environ["TRAINWRIGHT_JOBS"] = ""
    from trainwright.jobs.tracking.decorator import tlab_trainer
    from trainwright.jobs.tracking.tracking import tracked

    spent = []
    for _ in range(ROUNDS):
        with tracked("quick"):
            spent.append(microseconds(lambda step: tlab_trainer.log_metric("loss", 0.5, step)))
    print(f"log_metric: {statistics.median(spent):.1f} µs ({min(spent):.1f} to {max(spent):.1f})")
    spent = []
    for _ in range(ROUNDS):
        with tracked("quick"):
            spent.append(microseconds(lambda step: tlab_trainer.progress_update(50)))
    print(f"progress_update: {statistics.median(spent):.1f} µs ({min(spent):.1f} to {max(spent):.1f})")
    began = time.perf_counter()
    running = [subprocess.Popen([sys.executable, "-c", WRITER]) for _ in range(WRITERS)]
    for process in running:
        process.wait()
    print(f"{WRITERS} processes × {ROWS} metrics, all in the database: {time.perf_counter() - began:.1f} s")
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "trainwright.cli.main", "jobs", "list"], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    print(f"trainwright jobs list: {statistics.median(times):.2f} s")


if __name__ == "__main__":
    main()
