"""How the page looks, measured in a real browser: nothing is clipped, broken into single letters or wider than it."""

from __future__ import annotations

import re

import pytest

from tests.jobs.browsing import entered, needs_chromium, playwright, visit
from tests.jobs.told import LONG_NUMBER

pytestmark = [pytest.mark.slow, needs_chromium]
VIEWS = {
    "list": ("", "tr[data-job]"),
    "groups": ("?group=experiment&columns=param%3Atraining.learning_rate%2Clast%3Atrain%252Floss%2Cfolder", "tr.group"),
    "wrong": ("?q=lr+%3E", ".wrong"),
    "algebra": ("job/algebra", ".chart canvas"),
    "policy": ("job/policy", "figure img"),
    "chat": ("chat", ".empty"),
    "train": ("train", ".field"),
    "failed": ("job/failed", ".error"),
    "compare": ("compare/sweep-1,sweep-2,sweep-3,algebra,failed", ".chart canvas"),
}
GEOMETRY = """() => {
  const found = [];
  const name = (one) => `${one.tagName} ${one.className} '${one.textContent.slice(0, 40)}'`;
  const shown = (one) => one.checkVisibility() && one.getClientRects().length;
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the window');
  for (const one of document.querySelectorAll('main *')) {
    if (!shown(one) || one.closest('.uplot') || one.closest('svg')) continue;
    const own = [...one.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    const box = one.getBoundingClientRect();
    const scrolls = innerWidth > 720 && one.closest('.scroll')?.querySelector('th.chosen'); // a list with more columns
    const isOut = own.length && (box.left < -1 || box.right > innerWidth + 1);
    if (!scrolls && isOut) found.push(`outside of the window: ${name(one)}`);
    const isCut = one.clientWidth && one.scrollWidth > one.clientWidth + 1;
    if (!scrolls && isCut && getComputedStyle(one).overflowX !== 'visible' && !one.matches('input, select, pre'))
      found.push(`clipped: ${name(one)}`);
    for (const node of own) {
      const range = document.createRange();
      range.selectNodeContents(node);
      const tops = [...range.getClientRects()].filter((rect) => rect.width).map((rect) => Math.round(rect.top));
      const lines = new Set(tops).size;
      const letters = node.textContent.trim().length;
      if (lines > 2 && letters / lines < 4) found.push(`${letters} letters in ${lines} lines: ${name(one)}`);
      const isNumber = /^-?[\\d.,]+(e[+-]?\\d+)?( [kMGTPE])?$/.test(node.textContent.trim());
      if (lines > 1 && isNumber) found.push(`a broken number: ${name(one)}`);
    }
  }
  for (const one of document.querySelectorAll('dd, td, .error p'))
    if (shown(one) && one.clientHeight > innerHeight / 3) found.push(`a long text unfolded: ${name(one)}`);
  for (const chart of document.querySelectorAll('.chart')) {
    if (!shown(chart)) continue;
    const plot = chart.querySelector('.u-over')?.getBoundingClientRect();
    const card = chart.getBoundingClientRect();
    const below = plot && (card.bottom - plot.bottom) / card.height;
    if (below > 0.2) found.push(`${Math.round(100 * below)} % of a chart's card is empty below its curve`);
  }
  const places = [...document.querySelectorAll('table.jobs td:nth-child(2)')];
  const names = places.map((one) => one.getBoundingClientRect().left);
  if (new Set(names.map(Math.round)).size > 1) found.push(`the names of the list begin at ${[...new Set(names)]}`);
  return found;
}"""


@pytest.mark.parametrize("width", [1280, 800, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_clipped_broken_or_too_wide(told, width, scheme):
    link, browser = told
    page = entered(browser, link, viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong = {}
    for name, (path, awaited) in VIEWS.items():
        visit(page, link, path)
        page.locator(awaited).first.wait_for()
        page.wait_for_timeout(300)  # the last of several charts
        wrong[name] = page.evaluate(GEOMETRY)
    page.close()
    assert not any(wrong.values()), wrong


def test_what_a_process_printed_is_shown_in_the_place_of_the_jobs_log(told):
    link, browser = told
    page = entered(browser, link)
    visit(page, link, "job/policy")
    page.get_by_role("button", name="errors of rank 1").click()
    playwright.expect(page.get_by_label("Log", exact=True)).to_have_text("what rank 1 said")
    page.get_by_role("button", name="Log of the job").click()
    playwright.expect(page.get_by_label("Log", exact=True)).to_have_text(re.compile("It has none"))
    page.close()


def test_large_numbers_have_units_and_parameters_every_digit(told):
    link, browser = told
    page = entered(browser, link)
    visit(page, link, "job/algebra")
    figures = page.locator(".card", has=page.get_by_role("heading", name="Figures"))
    playwright.expect(figures).to_contain_text("584.8 G")
    playwright.expect(figures.get_by_title(str(LONG_NUMBER))).to_be_visible()
    playwright.expect(figures).to_contain_text("12.58 M")
    page.close()


def test_of_a_shared_folder_a_job_shows_its_own_texts_alone(told):
    link, browser = told
    page = entered(browser, link)
    visit(page, link, "job/algebra")
    playwright.expect(page.get_by_role("heading", name="What the model wrote")).to_be_visible()
    visit(page, link, "job/stopped")
    playwright.expect(page.locator("h1")).to_contain_text("again")
    playwright.expect(page.locator(".chart canvas")).to_be_visible()
    assert page.get_by_text("What the model wrote").count() == 0
    page.close()


def test_films_and_answers_are_seen_over_time_and_no_other_file(told):
    link, browser = told
    page = entered(browser, link)
    visit(page, link, "job/policy")
    image = page.locator("figure img")
    playwright.expect(image).to_be_visible()
    assert image.evaluate("one => one.naturalWidth") == 160
    for name in ("job.jsonl", "../job.jsonl", "media/other.gif"):
        assert page.evaluate(f"fetch('api/jobs/policy/media/{name}').then((answer) => answer.status)") == 404
    visit(page, link, "job/algebra")
    page.get_by_label("Step").select_option("x^2 + 150 x")
    playwright.expect(page.get_by_role("cell", name="step 150")).to_be_visible()
    page.close()
