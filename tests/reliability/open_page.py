"""An open page in Chromium beside ten thousand jobs: how soon it is there, and what it costs while nothing happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
         "--disable-component-update"]  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What an open page costs.

    Attributes:
        first: seconds until its jobs are seen.
        sent: bytes of the first list.
        server: percent of a core while nothing happens.
        browser: the same of Chromium.
        curve: seconds until the curve of a million points is seen.
    """

    first: float
    sent: int
    server: float
    browser: float
    curve: float


def tell(home: Path, jobs: int, points: int) -> None:
    """Write the journals of jobs that have ended, and of one that told many points."""
    for number in range(jobs):
        began = 1e9 + number
        told = [{"k": "metric", "t": began, "name": "loss", "step": step, "value": 1 / (step + 1)} for step in range(3)]
        _journal(home, f"job-{number}", began, told)
    told = [{"k": "metric", "t": 2e9, "name": "loss", "step": step, "value": step % 997} for step in range(points)]
    _journal(home, "long", 2e9, told)


def _journal(home: Path, job: str, began: float, told: Iterable[dict[str, object]]) -> None:
    folder = home / "jobs" / job
    folder.mkdir(parents=True)
    params = {f"parameter_{number}": number / 7 for number in range(40)}
    start = {"k": "start", "t": began, "name": job, "params": params, "pid": 1, "host": "elsewhere"}
    words = [start, *told, {"k": "status", "t": began + 60, "status": "COMPLETE"}]
    (folder / "job.jsonl").write_text("".join(json.dumps(word) + "\n" for word in words))


def cost(
    home: Path, jobs: int = 10_000, points: int = 1_000_000, seconds: float = 20.0, picture: str = ""
) -> Cost | None:
    """Measure a page that is open beside so many jobs; None where there is no Chromium to open it in.

    Args:
        home: an empty folder for the jobs.
        jobs: that have ended.
        points: of the curve of one more.
        seconds: that the page is left alone.
        picture: the beginning of the names of screenshots, where some are wanted.
    """
    chromium = shutil.which("chromium")
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        return None
    tell(home, jobs, points)
    environment = {**os.environ, "TRAINWRIGHT_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-m", "trainwright", "jobs", "list"], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    words = [sys.executable, "-m", "trainwright", "ui", "--port", "0"]
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        with sync_api.sync_playwright() as library:
            browser = library.chromium.launch(executable_path=chromium, args=FLAGS)
            return _measured(browser, address, server.pid, seconds, picture)
    finally:
        server.kill()
        server.wait()


def _measured(browser: Any, address: str, server: int, seconds: float, picture: str) -> Cost:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)
    began = time.monotonic()
    page.goto(address)
    page.locator("tr[data-job]").nth(49).wait_for()
    first = time.monotonic() - began
    sent = page.evaluate("fetch('api/jobs').then((answer) => answer.text()).then((text) => text.length)")
    time.sleep(2)
    servers = [psutil.Process(server)]
    browsers = [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name()]
    before, begun = (_seconds(servers), _seconds(browsers)), time.monotonic()
    time.sleep(seconds)
    share = 100 / (time.monotonic() - begun)
    idle = [share * (now - then) for now, then in zip((_seconds(servers), _seconds(browsers)), before, strict=True)]
    _pictured(page, picture and f"{picture}-list")
    began = time.monotonic()
    page.goto(address.partition("?")[0] + "#/job/long")
    page.locator(".chart canvas").wait_for()
    curve = time.monotonic() - began
    _pictured(page, picture and f"{picture}-job")
    return Cost(first, sent, *idle, curve)


def _pictured(page: Any, name: str) -> None:
    for width in (1280, 390) if name else ():
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(700)
        page.screenshot(path=f"{name}-{width}.png")


def _seconds(processes: list[psutil.Process]) -> float:
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes if one.is_running())
