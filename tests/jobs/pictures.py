"""The pictures of docs/jobs.md, taken in Chromium of jobs made up for them: python -m tests.jobs.pictures docs [NAME]

The chat is one with a tiny model that is trained for that, in some ten seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.jobs import told
from tests.jobs.browsing import browsing, entered, playwright, serving, visit

WORDS = "training.num_train_epochs=12 training.learning_rate=2e-2 data.train.pack=false training.eval_strategy=no"


def main(folder: Path, names: Sequence[str]) -> None:
    """Take pictures, all where none is named."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # whose path stands in them
        home = Path(place) / "trainwright"
        home.mkdir()
        told.tell(home)
        told.write_model_and_rows(home)
        if "chat" in (names or LOOKS):
            _train(home)
        with serving(home) as link, browsing() as browser:
            page = entered(browser, link, viewport={"width": 1280, "height": 860})
            for name in names or LOOKS:
                LOOKS[name](page, link)
                page.wait_for_timeout(800)
                page.screenshot(path=folder / f"{name}.png")


def _train(home: Path) -> None:
    environment = {**os.environ, "TRAINWRIGHT_HOME": str(home), "TRAINWRIGHT_JOBS": "", "OMP_NUM_THREADS": "1"}
    for words in ("init sft sft.yaml", f"train sft.yaml {WORDS}"):
        subprocess.run([sys.executable, "-m", "trainwright", *words.split()], cwd=home, env=environment, check=True)


def _list(page: Any, link: str) -> None:
    for job in (1, 2, 3):
        page.locator(f"tr[data-job='sweep-{job}'] input").check()
    playwright.expect(page.locator(".chart canvas").first).to_be_visible()


def _job(page: Any, link: str) -> None:
    visit(page, link, "job/algebra")
    playwright.expect(page.locator(".chart canvas").first).to_be_visible()


def _compare(page: Any, link: str) -> None:
    visit(page, link, f"compare/{','.join(f'sweep-{place}' for place in range(8))}")
    playwright.expect(page.locator(".chart canvas").first).to_be_visible()


def _chat(page: Any, link: str) -> None:
    visit(page, link, "chat")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Temperature").press("Tab")
    for said in ("where is the cat", "where is the ball"):
        page.get_by_label("Message").fill(said)
        page.get_by_label("Message").press("Enter")
        page.wait_for_timeout(500)
        playwright.expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=60_000)


def _form(page: Any, link: str) -> None:
    visit(page, link, "train")
    page.locator("[id='key-training.learning_rate']").fill("5e-4")
    playwright.expect(page.get_by_role("heading", name="Nothing is wrong")).to_be_visible(timeout=90_000)


LOOKS = {"jobs": _list, "job": _job, "compare": _compare, "chat": _chat, "form": _form}

if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
