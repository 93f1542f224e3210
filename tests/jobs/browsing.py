"""Chromium for tests of the page, and the page's server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed; `make test-setup` installs it where root may"
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SECONDS = 20_000  # milliseconds that anything may take on a busy machine
playwright.expect.set_options(timeout=SECONDS)


@contextmanager
def browsing() -> Iterator[Any]:
    """Give a browser."""
    with playwright.sync_playwright() as library:
        made = library.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@contextmanager
def serving(home: Path) -> Iterator[str]:
    """Give the link of a page of the jobs of a home."""
    environment = {**os.environ, "TRAINWRIGHT_HOME": str(home), "TRAINWRIGHT_JOBS": ""}
    words = [sys.executable, "-m", "trainwright", "ui", "--port", "0", "--no-browser"]
    server = subprocess.Popen(words, env=environment, cwd=home, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1]
    finally:
        server.terminate()
        server.wait()


def entered(browser: Any, link: str, **context: Any) -> Any:
    """Return a page that the link has opened."""
    page = browser.new_page(**context)
    page.set_default_timeout(SECONDS)
    page.goto(link)
    page.locator("#main").wait_for()
    return page


def visit(page: Any, link: str, view: str) -> None:
    """Open a view of the page: `job/NAME`."""
    page.goto(f"{link.partition('?')[0]}#/{view}")
