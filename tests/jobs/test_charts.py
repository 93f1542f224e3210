"""Curves in a real browser: in sections, by time and tokens, of groups of jobs, kept as pictures and tables."""

from __future__ import annotations

import csv
import io

import pytest

from tests.jobs.browsing import entered, needs_chromium, playwright, visit

pytestmark = [pytest.mark.slow, needs_chromium]
SWEEP = [f"sweep-{place}" for place in range(8)]


@pytest.fixture
def page(told):
    link, browser = told
    made = entered(browser, link, viewport={"width": 1280, "height": 900})
    problems = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    yield made
    made.close()
    assert not problems


def titles(page):
    return [one.inner_text() for one in page.locator(".chart h3").all() if one.is_visible()]


def chart(page, name):
    return page.locator(".chart", has=page.get_by_role("heading", name=name, exact=True))


def values_of(page, job, metric):
    asked = f"fetch('api/jobs/{job}/metrics?name={metric}').then((answer) => answer.json())"
    return [value for _, value in page.evaluate(asked)[metric]]


def test_curves_stand_in_sections_and_what_few_want_to_see_is_folded(told, page):
    visit(page, told[0], "job/sweep-1")
    playwright.expect(page.locator(".section > summary")).to_have_text(["train", "eval", "system"])
    playwright.expect(chart(page, "eval/loss").locator("canvas")).to_be_visible()
    assert titles(page) == ["train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"]
    assert page.locator("canvas").count() == 4  # what is folded is not asked for
    page.get_by_text("2 more").click()
    playwright.expect(chart(page, "train/epoch").locator("canvas")).to_be_visible()
    page.locator(".section > summary", has_text="system").click()
    playwright.expect(chart(page, "system/memory_gb").locator("canvas")).to_be_visible()


@pytest.mark.parametrize(
    ("across", "said"), [("time", "0 s 2.8"), ("tokens", "tokens 8192 2.8"), ("epochs", "epoch 0.01 2.8")]
)
def test_a_curve_by_time_tokens_or_epochs(told, page, across, said):
    visit(page, told[0], "job/sweep-1")
    page.get_by_label("Across").select_option(across)
    plot = chart(page, "train/loss").locator(".plot")
    playwright.expect(plot.locator("canvas")).to_be_visible()
    page.wait_for_timeout(500)
    plot.press("ArrowRight")
    playwright.expect(chart(page, "train/loss").locator(".point")).to_contain_text(said)


def test_chosen_jobs_of_the_list_are_drawn_over_one_another_and_groups_of_them_as_a_mean(told, page):
    for job in SWEEP:
        page.locator(f"tr[data-job='{job}'] input").check()
    playwright.expect(page.locator(".legend a")).to_have_count(8)
    losses = chart(page, "train/loss")
    playwright.expect(losses.locator("canvas")).to_be_visible()
    assert page.url.endswith("#/") or "#" not in page.url
    losses.locator(".plot").press("ArrowRight")
    playwright.expect(losses.locator(".point > span")).to_have_count(8)
    page.get_by_label("Mean by").select_option("training.per_device_train_batch_size")
    losses.locator(".plot").press("ArrowRight")
    playwright.expect(losses.locator(".point > span")).to_have_count(2)
    playwright.expect(losses.locator(".point")).to_contain_text("16 (4)")
    first = [values_of(page, f"sweep-{place}", "train/loss")[0] for place in range(4)]
    shown = float(losses.locator(".point > span").first.inner_text().split()[-1])
    assert shown == pytest.approx(sum(first) / 4, abs=1e-4)


def test_of_a_sweep_every_job_is_a_line_and_a_dot(told, page):
    visit(page, told[0], f"compare/{','.join(SWEEP)}")
    card = page.get_by_role("region", name="Parameters and results")
    playwright.expect(card.locator("polyline")).to_have_count(8)
    dots = card.locator("circle")
    playwright.expect(dots).to_have_count(8)
    drawn = "lines => lines.map((one) => getComputedStyle(one).stroke)"
    legend = "swatches => swatches.map((one) => getComputedStyle(one).backgroundColor)"
    assert card.locator("polyline").evaluate_all(drawn) == page.locator(".legend .swatch").evaluate_all(legend)
    lowest = max(range(8), key=lambda place: float(dots.nth(place).get_attribute("cy")))
    best = [min(values_of(page, job, "eval/loss")) for job in SWEEP]
    assert lowest == best.index(min(best))
    card.get_by_label("Parameter", exact=True).select_option("training.per_device_train_batch_size")
    assert len({dot.get_attribute("cx") for dot in dots.all()}) == 2
    dots.nth(lowest).click()
    playwright.expect(page.locator("h1")).to_contain_text(SWEEP[lowest])


def test_what_one_job_alone_has_is_no_axis(told, page):
    visit(page, told[0], "compare/sweep-1,sweep-2,algebra")
    options = page.get_by_label("Parameter", exact=True).locator("option")
    playwright.expect(options).to_have_text(["training.learning_rate"])


def test_a_value_that_is_no_number_is_told(told, page):
    visit(page, told[0], "job/policy")
    losses = chart(page, "train/loss")
    playwright.expect(losses.get_by_text("no finite number at step 500")).to_be_visible()
    for _ in range(26):  # of 51 points, from the last
        losses.locator(".plot").press("ArrowLeft")
    playwright.expect(losses.locator(".point")).to_have_text("step 500 nan")
    playwright.expect(chart(page, "eval/success_rate").get_by_text("no finite number")).to_be_hidden()


def test_a_curve_is_kept_as_a_picture_and_as_a_table_of_all_points(told, page):
    visit(page, told[0], "compare/sweep-0,sweep-1")
    playwright.expect(chart(page, "train/loss").locator("canvas")).to_be_visible()
    with page.expect_download() as kept:
        chart(page, "train/loss").get_by_role("link", name="Table").click()
    rows = list(csv.DictReader(io.StringIO(kept.value.path().read_text())))
    assert [len([row for row in rows if row["job"] == job]) for job in SWEEP[:2]] == [100, 100]
    assert rows[0]["step"] == "1"
    with page.expect_download() as kept:
        chart(page, "train/loss").get_by_role("button", name="Picture").click()
    assert kept.value.suggested_filename == "train_loss.png"
    assert kept.value.path().read_bytes()[:4] == b"\x89PNG"
