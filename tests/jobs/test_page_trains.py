"""From the page alone: a form that is checked as it is typed, the job in the queue, and a chat with what came of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.jobs.browsing import entered, needs_chromium, playwright, serving, visit
from tests.jobs.told import write_model_and_rows

pytestmark = [pytest.mark.slow, needs_chromium]
LONG = 90_000  # milliseconds of a process that imports torch, on a busy machine
VALUES = {"model.model_max_length": "64", "training.num_train_epochs": "12", "training.learning_rate": "2e-2",
          "data.train.pack": "false", "training.eval_strategy": "no"}  # fmt: skip


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home.mkdir()
    write_model_and_rows(home)
    return home


def field(page, key):
    return page.locator(f"[id='key-{key}']")


def put(page, key, text):
    if field(page, key).evaluate("one => one.tagName") == "SELECT":
        field(page, key).select_option(text)
    else:
        field(page, key).fill(text)


def test_a_run_is_described_checked_queued_trained_and_talked_with(folder, browser):
    with serving(folder) as link:
        page = entered(browser, link, viewport={"width": 1280, "height": 900})
        visit(page, link, "train")
        verdict = page.get_by_role("heading", name="Nothing is wrong")
        playwright.expect(verdict).to_be_visible(timeout=LONG)
        put(page, "training.learning_rate", "fast")
        playwright.expect(page.get_by_role("heading", name="This is to be mended")).to_be_visible(timeout=LONG)
        playwright.expect(page.get_by_label("Check", exact=True)).to_contain_text("'fast' is a text")
        playwright.expect(page.get_by_role("button", name="Put into the queue")).to_be_disabled()
        for key, text in VALUES.items():
            put(page, key, text)
        page.get_by_label("Another key").fill("training.seed")
        page.get_by_label("Another key").press("Enter")
        put(page, "training.seed", "3")
        playwright.expect(page.get_by_label("Command")).to_contain_text("training.seed=3")
        playwright.expect(verdict).to_be_visible(timeout=LONG)
        page.get_by_role("button", name="Put into the queue").click()
        playwright.expect(page.locator("h1 + .status")).to_have_text("QUEUED")
        subprocess.run([sys.executable, "-m", "trainwright", "jobs", "worker", "--once"], cwd=folder, check=True)
        playwright.expect(page.locator("h1 + .status")).to_have_text("COMPLETE")
        page.get_by_role("link", name="Chat", exact=True).last.click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Temperature").press("Tab")
        page.get_by_label("Message").fill("where is the cat")
        page.get_by_label("Message").press("Enter")
        answers = page.locator(".turn.assistant")
        playwright.expect(answers.first).to_contain_text("on the mat", timeout=LONG)
        playwright.expect(answers).to_have_count(2)
        playwright.expect(page.get_by_role("button", name="Send")).to_be_enabled(timeout=LONG)
        assert "on the mat" not in answers.nth(1).inner_text()  # what it was trained from
        page.get_by_role("button", name="Undo").click()
        playwright.expect(page.locator(".turn")).to_have_count(0)
        page.close()
