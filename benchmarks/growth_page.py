"""How the cost of the page grows: with the jobs that there are, and with the points of a curve."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.growth import Line, timed

_SHOWN = 1200  # points of a curve, as the page asks for them
_IDLE_SECONDS = 5.0


def _store(folder: Path) -> Any:
    from trainwright.jobs.store.store import Store

    os.environ["TRAINWRIGHT_HOME"] = str(folder)
    os.environ.pop("TRAINWRIGHT_DB", None)
    return Store()


def _tell(folder: Path, job: str, words: list[dict[str, Any]]) -> None:
    """Write a job's journal."""
    place = folder / "jobs" / job
    place.mkdir(parents=True)
    start = {"k": "start", "t": 1.0, "name": job, "params": {f"p{n}": n / 7 for n in range(40)}, "pid": 1, "host": "h"}
    end = {"k": "status", "t": 2.0, "status": "COMPLETE"}
    (place / "job.jsonl").write_text("".join(json.dumps(word) + "\n" for word in (start, *words, end)))


@cache
def _with_jobs(count: int) -> tuple[Path, Any]:
    """Return a home of so many jobs that have ended, each with 40 parameters and two metrics, and its store."""
    folder = Path(tempfile.mkdtemp())
    for number in range(count):
        losses = [{"k": "metric", "t": 1.5, "name": name, "step": step, "value": 1 / (number + step + 1)}
                  for name in ("loss", "eval/loss") for step in range(3)]  # fmt: skip
        _tell(folder, f"job-{number}", losses)
    store = _store(folder)
    store.move_all()
    return folder, store


@cache
def _with_points(count: int) -> tuple[Path, Any]:
    """Return a home of one job with a metric of so many points, and its store."""
    folder = Path(tempfile.mkdtemp())
    _tell(folder, "long", [{"k": "metric", "t": 1.5, "name": "loss", "step": step, "value": 1 / (step % 997 + 1)}
                           for step in range(count)])  # fmt: skip
    store = _store(folder)
    store.move_all()
    return folder, store


class _Request:
    """What a page asks for that shows the newest jobs."""

    def __init__(self, words: str = "") -> None:
        from starlette.datastructures import Headers, QueryParams

        self.query_params, self.headers = QueryParams(words), Headers()


def curve(count: int, _: Path) -> float:
    """Measure the points of a curve that a page shows."""
    from trainwright.jobs.store import curves

    store = _with_points(count)[1]
    with timed() as clock:
        json.dumps(store.read(curves.curve, "long", "loss", _SHOWN))
    return clock.seconds


def curve_by_numpy(count: int, _: Path) -> float:
    """Measure the same by hand: all points from the file, and the extremes of every stretch by numpy."""
    import numpy as np

    folder = _with_points(count)[0]
    with timed() as clock:
        with sqlite3.connect(folder / "jobs.db") as connection:
            rows = connection.execute("SELECT step, value FROM points WHERE name = 'loss' ORDER BY step").fetchall()
        steps, values = np.array(rows).T
        found = []
        for part in np.array_split(np.arange(count), _SHOWN // 2):
            ends = sorted({part[values[part].argmin()], part[values[part].argmax()]})
            found += [(int(steps[one]), float(values[one])) for one in ends]
        json.dumps(found)
    return clock.seconds


def first_page(count: int, _: Path) -> float:
    """Measure a first look at the list, as it is sent."""
    from trainwright.jobs.web.server import Api

    api = Api(_with_jobs(count)[1])
    api.sweep()
    with timed() as clock:
        json.dumps(api.jobs(_Request()))
    return clock.seconds


def page_bytes(count: int, _: Path) -> float:
    """Return the kilobytes of a first look at the list."""
    from trainwright.jobs.web.server import Api

    return len(json.dumps(Api(_with_jobs(count)[1]).jobs(_Request()))) / 1000


def searched(count: int, _: Path) -> float:
    """Measure a look at the jobs with a metric below a bound, by a parameter, of which a text is searched."""
    from trainwright.jobs.web.server import Api

    api = Api(_with_jobs(count)[1])
    api.sweep()
    with timed() as clock:
        json.dumps(api.jobs(_Request("text=job-1&where=last:loss<0.01&sort=-param:p3")))
    return clock.seconds


def queried(count: int, _: Path) -> float:
    """Measure a look at the jobs that a query finds, in groups and with columns, by names that are to be found out."""
    from trainwright.jobs.web.server import Api

    api = Api(_with_jobs(count)[1])
    api.sweep()
    words = "q=p3 > 0.1 and loss < 0.01 and not tag = old&sort=-eval/loss&show=p5&show=loss&group=experiment"
    with timed() as clock:
        json.dumps(api.jobs(_Request(words)))
    return clock.seconds


def idle(count: int, _: Path) -> float:
    """Return the percentage of a core that the server takes for one open page while nothing changes."""
    from trainwright.jobs.web import feed
    from trainwright.jobs.web.server import Api

    api = Api(_with_jobs(count)[1])

    async def watched() -> float:
        end = began = time.monotonic()
        cpu = time.process_time()

        async def is_over() -> bool:
            return time.monotonic() > end

        request: Any = _Request()
        end = began + 1.0
        async for _news in feed.changes(is_over, lambda seen: api.look(request, seen)):
            pass
        cpu, began = time.process_time(), time.monotonic()
        end = began + _IDLE_SECONDS
        async for _news in feed.changes(is_over, lambda seen: api.look(request, seen)):
            pass
        return 100 * (time.process_time() - cpu) / (time.monotonic() - began)

    return asyncio.run(watched())


def moved(count: int, folder: Path) -> float:
    """Measure the points of a job on their way from its journal into the database, with what curves are drawn of."""
    _tell(
        folder, "long", [{"k": "metric", "t": 1.5, "name": "loss", "step": step, "value": 0.5} for step in range(count)]
    )
    with timed() as clock:
        store = _store(folder)  # which is new, and so it moves what the journals hold
    store.close()
    return clock.seconds


_JOBS, _POINTS = (100, 1_000, 10_000), (10_000, 100_000, 1_000_000)
LINES = [
    Line("a curve of the page", "points", _POINTS, {"trainwright": curve, "numpy, all points": curve_by_numpy}),
    Line("metrics into the database", "points", (1_000, 10_000, 100_000), {"trainwright": moved}, rounds=1),
    Line("the first page of the list", "jobs", _JOBS, {"trainwright": first_page}),
    Line("its size", "jobs", _JOBS, {"trainwright": page_bytes}, "kB", rounds=1),
    Line("a page of a list that is searched and sorted", "jobs", _JOBS, {"trainwright": searched}),
    Line("a page of a list that a query finds, in groups", "jobs", _JOBS, {"trainwright": queried}),
    Line("an open page while nothing changes", "jobs", _JOBS, {"trainwright": idle}, "% of a core", rounds=1),
]
