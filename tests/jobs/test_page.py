"""The page in a real browser: watch a job move, stop it, resume it, compare, see what failed."""

from __future__ import annotations

import http.client
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.jobs import scripts
from tests.jobs.browsing import SECONDS, needs_chromium, playwright
from tests.jobs.test_decorator import wait_for
from tests.jobs.test_worker import submitted
from trainwright.cli.main import main
from trainwright.jobs import paths, processes
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store.store import Store

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture
def served(home, tmp_path):
    """The address of a server, with a worker of two slots."""
    running = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainwright.cli.main", *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process.stdout.readline()

    address = start("ui", "--port", "0").split()[-1]
    start("jobs", "worker", "--slots", "2")
    yield address
    for process in running:
        process.kill()
        process.wait()
    for job in Store().jobs(["RUNNING"]):
        if job["pid"]:
            processes.send(job["pid"], signal.SIGKILL)


@pytest.fixture
def page(browser, served):
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    made = context.new_page()
    made.set_default_timeout(SECONDS)
    problems = []
    made.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.goto(served)
    yield made
    assert not [text for text in problems if "409" not in text and "404" not in text], problems
    context.close()


def shown(page, job, text):
    playwright.expect(page.locator(f"tr[data-job='{job}'] .status")).to_have_text(text, timeout=SECONDS)


def picture(page, name):
    """Keep a picture for the README where one is asked for: SCREENSHOTS=docs pytest tests/jobs/test_page.py"""
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{os.environ['SCREENSHOTS']}/{name}.png")


def test_a_job_moves_is_stopped_and_goes_on(page, tmp_path):
    playwright.expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    job = submitted(tmp_path, scripts.SLOW, {"steps": 400}, name="behaviour cloning")
    shown(page, job, "RUNNING")
    bar = page.locator(f"tr[data-job='{job}'] progress")
    first = float(bar.evaluate("e => e.value"))
    wait_for(lambda: float(bar.evaluate("e => e.value")) > first + 2)
    page.get_by_role("link", name="behaviour cloning").click()
    playwright.expect(page.get_by_role("heading", name="behaviour cloning")).to_be_visible()
    playwright.expect(page.locator(".chart canvas").first).to_be_visible()
    playwright.expect(page.locator("dl").first).to_contain_text("400")
    time.sleep(1)
    picture(page, "job")
    page.locator(".plot").first.focus()
    page.keyboard.press("ArrowRight")
    playwright.expect(page.locator(".point").first).to_have_text(re.compile(r"step 0\s+1\b"))
    page.get_by_role("button", name="Stop").click()
    playwright.expect(page.locator("h1 + .status")).to_have_text("STOPPED")
    assert Store().find(job)["status"] == "STOPPED"
    page.get_by_role("button", name="Resume").click()
    playwright.expect(page.locator("h1 + .status")).to_have_text("RUNNING")
    assert Store().find(job)["attempt"] == 2


def test_several_are_compared(page, tmp_path):
    jobs = [
        submitted(tmp_path, scripts.SLOW.replace("1 / (step", f"{factor} / (step").replace("0.05", "0"),
                  {"steps": 50, "factor": factor}, name=f"factor {factor}")
        for factor in (1, 3)
    ]  # fmt: skip
    for job in jobs:
        shown(page, job, "COMPLETE")
        page.locator(f"tr[data-job='{job}'] input").check()
    page.get_by_role("button", name="Compare").click()
    playwright.expect(page.get_by_role("heading", name="Compare 2 jobs")).to_be_visible()
    playwright.expect(page.locator("tr.differs").first).to_contain_text("factor")
    playwright.expect(page.locator(".chart canvas")).to_be_visible()
    page.get_by_label("Logarithmic").check()
    page.get_by_label("Smoothing").fill("0.6")
    box = page.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 50)
    playwright.expect(page.locator(".point")).to_contain_text("factor 1")
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + 50)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 50)
    playwright.expect(page.locator(".point")).not_to_contain_text("step 49")  # zoomed
    page.get_by_label("Logarithmic").uncheck()
    page.locator(".plot").dblclick()
    picture(page, "compare")
    assert main(["jobs", "rm", jobs[0]]) == 0
    playwright.expect(page.get_by_role("alert")).to_contain_text(f"There is no job '{jobs[0]}'")


def test_a_failed_one_says_why_and_text_stays_text(page, tmp_path):
    nasty = "<img src=x onerror=window.taken=1>"
    job = submitted(tmp_path, f"raise ValueError({nasty!r})", {"note": nasty}, name=f"fails {nasty}", experiment=nasty)
    shown(page, job, "FAILED")
    page.locator(f"tr[data-job='{job}'] a").click()
    playwright.expect(page.get_by_role("alert")).to_contain_text(f"ValueError: {nasty}")
    page.get_by_text("Where").click()
    playwright.expect(page.locator("details pre")).to_contain_text("raise ValueError")
    playwright.expect(page.get_by_label("Log", exact=True)).to_contain_text("Traceback")
    refused = {"status": 409, "content_type": "application/json", "body": '{"error": "Someone else was first."}'}
    page.route("**/resume", lambda route: route.fulfill(**refused))
    page.get_by_role("button", name="Resume").click()
    playwright.expect(page.get_by_role("alert").first).to_have_text("Someone else was first.")
    page.wait_for_timeout(2000)  # a look later it can still be read
    playwright.expect(page.get_by_role("alert").first).to_have_text("Someone else was first.")
    assert page.evaluate("window.taken") is None
    assert page.locator("main img").count() == 0


def test_again_with_other_parameters_by_the_keyboard(page, tmp_path):
    job = submitted(tmp_path, scripts.SLOW, {"steps": 3, "hf_token": "hf_q7q"}, name="short")
    shown(page, job, "COMPLETE")
    page.get_by_role("link", name="short").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("dl").first).to_contain_text("hf_token••••••")
    page.get_by_role("button", name="Start again").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_label("hf_token")).to_have_attribute("placeholder", "as it was")
    field = page.get_by_label("steps", exact=True)
    field.fill("5")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("dl").first).to_contain_text("5")
    playwright.expect(page.locator("h1 + .status")).to_have_text("COMPLETE")
    newest = Store().jobs()[0]
    assert newest["id"] != job
    assert newest["params"]["steps"] == 5
    assert newest["params"]["hf_token"] == "hf_q7q"
    assert "q7q" not in page.content()


def test_fifty_thousand_points_stay_fluent(page, tmp_path):
    text = (
        "from trainwright.jobs import tlab_trainer\nimport math, random\n@tlab_trainer.job_wrapper()\ndef main():\n"
        "    for step in range(50_000):\n"
        "        spike = 9 if step == 31_234 else 0\n"
        "        tlab_trainer.log_metric('loss', 2 * math.exp(-step / 9000) + random.random() / 5 + spike, step)\n"
        "main()\n"
    )
    job = submitted(tmp_path, text, name="long")
    shown(page, job, "COMPLETE")
    began = time.monotonic()
    page.get_by_role("link", name="long").click()
    playwright.expect(page.locator(".chart canvas")).to_be_visible()
    assert time.monotonic() - began < 30  # a second or so; the machine may be busy
    found = page.evaluate(f"fetch('api/jobs/{job}/metrics?name=loss&points=1200').then(r => r.json())")["loss"]
    assert len(found) <= 1200
    assert max(value for _, value in found) > 9  # no spike is lost
    assert [found[0][0], found[-1][0]] == [0, 49_999]


def test_of_a_job_that_has_ended_nothing_is_asked_again_and_of_many_a_page_is_shown(page, home):
    for number in range(60):
        words = {"name": f"job {number}", "params": {"number": number}, "pid": 1, "host": "elsewhere"}
        journal = paths.job_folder(f"old-{number}") / paths.JOURNAL
        append(journal, "start", **words)
        for step in range(5):
            append(journal, "metric", name="loss", value=step * number, step=step)
        append(journal, "status", status="FAILED" if number == 7 else "COMPLETE")
    rows = page.locator("tr[data-job]")
    playwright.expect(page.get_by_text("1–50 of 60")).to_be_visible()
    playwright.expect(rows).to_have_count(50)
    page.get_by_role("button", name="Older").click()
    playwright.expect(page.get_by_text("51–60 of 60")).to_be_visible()
    playwright.expect(rows).to_have_count(10)
    page.get_by_label("Search").fill("JOB 3")
    playwright.expect(rows).to_have_count(11)  # 3 and 30 to 39
    page.get_by_label("Search").fill("")
    playwright.expect(rows).to_have_count(50)
    page.get_by_label("Status").select_option("FAILED")
    playwright.expect(rows).to_have_count(1)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="job 7").click()
    playwright.expect(page.locator(".chart canvas")).to_be_visible()
    page.wait_for_timeout(3500)  # two looks of a job that runs
    kinds = [re.sub(r"\?.*", "", url).rpartition("/api/")[2] for url in asked if "/api/" in url]
    assert sorted(kinds) == ["jobs/old-7", "jobs/old-7/log", "jobs/old-7/metrics", "watch"]
    append(paths.job_folder("old-7") / paths.JOURNAL, "metric", name="loss", value=9, step=5)
    Store().move("old-7", paths.job_folder("old-7"))
    wait_for(lambda: page.evaluate("1") and sum("metrics" in url for url in asked) == 2)


def test_on_a_phone_and_in_the_dark(browser, served, tmp_path):
    job = submitted(tmp_path, scripts.SLOW, {"steps": 200}, name="small screen")
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(served)
    shown(page, job, "RUNNING")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="small screen").click()
    playwright.expect(page.locator(".chart canvas")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 27)"
    picture(page, "phone")
    context.close()


def test_the_link_and_its_file_open_the_page(browser, served, home):
    address, _, token = served.partition("?token=")
    port = address.split(":")[2].strip("/")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    playwright.expect(page.get_by_text("open the link that `trainwright ui` printed")).to_be_visible()
    page.goto((home / f"ui-{port}.html").as_uri())
    playwright.expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    assert page.url == address
    cookie = context.cookies()[0]
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (f"trainwright_{port}", True, "Strict")
    assert token not in cookie["value"]
    page.reload()
    playwright.expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    page.goto(f"{address}#/job/%")
    playwright.expect(page.get_by_text("'%' is no name of a job.")).to_be_visible()
    context.close()


def test_a_server_that_goes_away_is_told_and_one_with_another_token(browser, home):
    def start(port):
        words = [sys.executable, "-m", "trainwright.cli.main", "ui", "--port", port]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline().split()[-1]

    process, address = start("0")
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    page.goto(address)
    playwright.expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    process.kill()
    process.wait()
    playwright.expect(page.get_by_text("The server does not answer; trying again.")).to_be_visible()
    process, _ = start(address.split(":")[2].split("/")[0])
    playwright.expect(page.get_by_text("open the link that `trainwright ui` printed last")).to_be_visible()
    process.kill()
    process.wait()
    page.close()


@pytest.fixture
def old_home(home):
    """A home that 0.1.0 wrote."""
    shutil.copytree(Path(__file__).parents[1] / "fixtures" / "0.1.0" / "home", home)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Takes `/lab/jobs` away and asks the page's server, by the name that it is asked by itself."""

    port = 0
    protocol_version = "HTTP/1.0"  # an answer ends with its connection, however long its stream

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self.path.startswith("/lab/jobs/"):
            self.send_error(404)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path.removeprefix("/lab/jobs"), body, headers)
        answer = upstream.getresponse()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            while part := answer.read1(65_536):
                self.wfile.write(part)

    do_POST = do_GET

    def log_message(self, *_):
        """Say nothing."""


def test_behind_a_proxy_with_a_path(browser, home, tmp_path):
    words = [sys.executable, "-m", "trainwright", "ui", "--port", "0", "--host-name", "lab.localhost"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[-1]
    handler = type("ToPage", (Proxy,), {"port": int(re.search(r":(\d+)/", address)[1])})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        job = submitted(tmp_path, "print(1)", {"sizes": [1, {"a": 2}]}, name="proxied")
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://lab.localhost:{proxy.server_port}/lab/jobs/?{address.partition('?')[2]}")
        playwright.expect(page.locator("#main")).to_contain_text("proxied")
        assert page.url == f"http://lab.localhost:{proxy.server_port}/lab/jobs/#/" or page.url.endswith("/lab/jobs/")
        page.get_by_role("link", name="proxied").click()
        playwright.expect(page.locator("dl").first).to_contain_text('[1,{"a":2}]')
        log = page.locator("pre[aria-label=Log]")
        playwright.expect(log).to_have_text("It waits for a worker; what it prints will stand here.")
        page.get_by_role("button", name="Stop").click()
        playwright.expect(page.locator("h1 + .status")).to_have_text("STOPPED")
        assert Store().find(job)["status"] == "STOPPED"
        playwright.expect(log).to_have_text("It was never begun, so it has printed nothing.")
        context.close()
    finally:
        process.kill()
        process.wait()
        proxy.shutdown()


def test_an_earlier_attempt_is_seen_and_a_removed_job_is_told_of(page, home):
    """The log grows while one looks, and stands there once; steps below zero are drawn."""
    folder = paths.job_folder("twice")
    journal = folder / paths.JOURNAL
    told = {"name": "twice", "params": {}, "pid": 1, "host": "elsewhere"}
    for first in (-2, 3):
        append(journal, "start", **told)
        for step in range(first, first + 8):
            append(journal, "metric", name="loss", value=step * 10 + first, step=step)
    append(journal, "status", status="COMPLETE")
    (folder / paths.LOG).write_text("")
    playwright.expect(page.get_by_role("link", name="twice")).to_be_visible()
    page.goto(page.url.partition("#")[0] + "#/job/twi")  # the beginning of its name
    playwright.expect(page).to_have_url(re.compile("#/job/twice$"))
    curve = page.locator(".plot")
    playwright.expect(curve.locator("canvas")).to_be_visible()
    point = page.locator(".point")
    for key, text in (("ArrowRight", "step -2 -22"), ("ArrowLeft", "step -2 -22"), ("ArrowRight", "step -1 -12")):
        curve.press(key)
        playwright.expect(point).to_have_text(re.compile(rf"^{text}\s+attempt 1 {text.split()[-1]}\s*$"))
    for _ in range(4):
        curve.press("ArrowRight")
    playwright.expect(point).to_have_text(re.compile(r"^step 3 33\s+attempt 1 28\s*$"))
    log, lines = page.locator("pre[aria-label=Log]"), ""
    for number in range(20):  # several looks at once: the status changes while it is read
        lines += f"line {number}\n"
        (folder / paths.LOG).write_text(lines)
        Store().update("twice", status="FAILED" if number % 2 else "STOPPED", message=f"m{number}")
        page.wait_for_timeout(50)
    playwright.expect(log).to_contain_text("line 19")
    assert log.text_content() == lines
    assert main(["jobs", "rm", "twice"]) == 0
    playwright.expect(page.get_by_role("alert")).to_contain_text("it was removed")


def test_where_the_time_went(old_home, page, home):
    """One job was killed and went on; those of 0.1.0 did not tell."""
    journal = home / "jobs" / "killed" / "job.jsonl"
    told = {"run": "out", "name": "killed", "params": {}, "pid": 1, "host": "elsewhere"}
    append(journal, "start", **told)
    append(journal, "time", **told, began=1000, first_step=0, reached=0, step=47,
           spent={"starting": 5, "training": 60, "evaluating": 3, "saving": 2})  # fmt: skip
    append(journal, "progress", progress=50, step=50)
    append(journal, "start", **told)
    append(journal, "time", **told, began=1080, first_step=40, reached=50, step=100,
           spent={"starting": 5, "again": 10, "training": 100, "saving": 5})  # fmt: skip
    append(journal, "status", status="COMPLETE")
    page.locator("tr[data-job='killed'] a").click()
    card = page.locator(".card", has=page.get_by_role("heading", name="Where the time went"))
    playwright.expect(card).to_contain_text("2 attempts; 10 steps were done again.")
    rows = card.locator("dl").first
    assert rows.locator("dd").all_inner_texts() == [
        "2:40 80 %",
        "10 s 5 %",
        "3.0 s 2 %",
        "7.0 s 4 %",
        "10 s 5 %",
        "10 s 5 %",
    ]
    bars = card.get_by_role("img")
    assert bars.count() == 3
    whole, training = (bars.first.bounding_box(), bars.first.locator(".training").bounding_box())
    assert training["width"] == pytest.approx(0.8 * whole["width"], abs=1)  # a pixel
    assert "attempts" not in page.locator(".card", has=page.get_by_role("heading", name="About")).inner_text()
    picture(page, "time")
    page.get_by_role("link", name="Trainwright").click()
    page.get_by_role("link", name="complete").click()
    playwright.expect(page.get_by_role("heading", name="Parameters")).to_be_visible()
    assert page.get_by_text("Where the time went").count() == 0
