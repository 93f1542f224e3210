"""The page's list in a real browser: found by a query, with columns, in order, in groups, and changed together."""

from __future__ import annotations

import datetime
import json
import time

import pytest

from tests.jobs import told
from tests.jobs.browsing import entered, needs_chromium, playwright, serving, visit
from tests.jobs.test_page import picture
from trainwright.jobs import paths
from trainwright.jobs.store.store import Store

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def served(tmp_path_factory, browser):
    home = tmp_path_factory.mktemp("told")
    told.tell(home)
    with serving(home) as link:
        yield link, browser, home


def rows(page):
    return page.locator("tr[data-job]")


def names(page):
    return rows(page).evaluate_all("rows => rows.map((row) => row.dataset.job)")


def test_a_list_is_found_shown_sorted_grouped_and_kept_in_its_address(served):
    link, browser, _ = served
    page = entered(browser, link, viewport={"width": 1200, "height": 560})
    page.get_by_label("Query").fill("train/loss < 100 and learning_rate > 1e-4")
    playwright.expect(rows(page)).to_have_count(4)
    page.get_by_role("button", name="Columns").click()
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.evaluate("location.hash = '#/chat'")  # as the button Back does
    playwright.expect(page.get_by_role("dialog")).to_have_count(0)
    page.go_back()
    page.get_by_role("button", name="Columns").click()
    page.get_by_label("Search columns").fill("learning")
    page.get_by_role("dialog").get_by_label("training.learning_rate", exact=True).check()
    page.get_by_role("button", name="Show", exact=True).click()
    page.get_by_role("button", name="learning_rate").click()  # its head
    page.get_by_label("Group by").select_option("experiment")
    playwright.expect(page.locator("tr.group")).to_contain_text("experiment = lr-sweep")
    order = names(page)
    picture(page, "list")
    page.reload()
    playwright.expect(rows(page)).to_have_count(4)
    assert names(page) == order
    playwright.expect(page.get_by_label("Query")).to_have_value("train/loss < 100 and learning_rate > 1e-4")
    playwright.expect(page.locator("th[aria-sort]")).to_contain_text("learning_rate")
    page.locator("tr.group button").click()
    playwright.expect(rows(page).first).to_be_hidden()
    page.get_by_label("Query").fill("learning_rte > 1")
    playwright.expect(page.get_by_role("alert")).to_contain_text("Did you mean 'learning_rate'?")
    page.get_by_label("Query").fill("")
    playwright.expect(page.get_by_role("alert")).to_be_hidden()
    page.close()


def test_several_are_tagged_and_removed_together(served):
    link, browser, home = served
    page = entered(browser, link)
    visit(page, link, "?q=experiment+%3D+lr-sweep")
    playwright.expect(rows(page)).to_have_count(8)
    page.get_by_label("Choose all that are shown").check()
    page.get_by_role("button", name="Tag", exact=True).click()
    page.get_by_label("Tag", exact=True).fill("tried")
    page.get_by_role("button", name="Add tag").click()
    playwright.expect(page.locator("button.tag")).to_have_count(8)
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    playwright.expect(rows(page)).to_have_count(0)
    store = Store(f"sqlite:///{home / 'jobs.db'}")
    assert not store.jobs(None, "lr-sweep")
    assert store.jobs()
    store.close()
    page.close()


def test_times_are_the_servers_where_the_browsers_clock_is_wrong(served):
    link, browser, _ = served
    page = browser.new_page()
    page.clock.set_fixed_time(datetime.datetime.now() - datetime.timedelta(hours=1))
    page.goto(link)
    playwright.expect(rows(page).first).to_be_visible()
    running = {"status": "RUNNING", "progress": 0, "ended": None, "ran": 0, "started": time.time() - 200}
    passed = page.evaluate("async (job) => (await import('./js/dom.js')).times(job).passed", running)
    assert passed.split(":")[0] in ("3", "4")  # minutes
    page.close()


def test_more_than_a_request_takes_are_removed_and_those_that_ended_are_not_to_be_stopped(served):
    link, browser, home = served
    for place in range(205):
        folder = home / "jobs" / f"many-{place}"
        folder.mkdir()
        start = {"k": "start", "t": 1.0, "name": "m", "experiment": "many", "params": {}, "pid": 1, "host": "h"}
        end = {"k": "status", "t": 2.0, "status": "COMPLETE"}
        (folder / paths.JOURNAL).write_text(f"{json.dumps(start)}\n{json.dumps(end)}\n")
    page = entered(browser, link)
    visit(page, link, "?q=experiment+%3D+many")
    for first in range(1, 205, 50):
        playwright.expect(page.locator("nav[aria-label=Pages]")).to_contain_text(
            f"{first}–{min(first + 49, 205)} of 205"
        )
        page.get_by_label("Choose all that are shown").check()
        if first < 200:
            page.get_by_role("button", name="Older").click()
    playwright.expect(page.get_by_text("205 chosen")).to_be_visible()
    playwright.expect(page.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    playwright.expect(page.get_by_role("dialog")).to_have_count(0)
    playwright.expect(rows(page)).to_have_count(0)
    assert not [*(home / "jobs").glob("many-*")]
    page.close()
