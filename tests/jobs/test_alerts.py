"""Alerts: each is sent once, whoever sees it first; what cannot be sent is said, and no run ends because of that."""

from __future__ import annotations

import http.server
import json
import threading
import time

import pytest

from tests.jobs.test_decorator import wait_for
from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.alerts import rules, send
from trainwright.jobs.alerts.watch import Watch
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import tracked


@pytest.fixture
def webhook():
    """The address of a webhook, and what it got."""
    got = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()


def told(job, **end):
    """Let a job tell that it began and, where it is given, how it ended."""
    journal = paths.job_folder(job) / paths.JOURNAL
    append(journal, "start", name=f"job {job}", params={}, pid=1, host="elsewhere")
    if end:
        append(journal, "status", **end)
    store = Store()
    store.move(job, paths.job_folder(job))
    return store


def looked(store, *watches):
    for watch in watches:
        watch.look(store, at_once=True)
        watch.close()


def test_a_failure_is_told_of_once_by_whoever_sees_it_first(home, webhook):
    address, got = webhook
    told("before", status="FAILED", message="old")
    assert main(["alerts", "add", "--on", "failed,lost", "--webhook", address]) == 0
    store = told("bad", status="FAILED", message="no such column")
    told("good", status="COMPLETE")
    looked(store, Watch(), Watch(), Watch("bad"))
    assert [one["job"] for one in got] == ["bad"]
    assert got[0]["text"] == "job bad bad is FAILED: no such column"
    assert (got[0]["status"], got[0]["what"]) == ("FAILED", "FAILED")


def test_a_metric_beyond_a_bound_and_one_that_is_no_number(home, webhook):
    address, got = webhook
    rules.add(metric="train/loss > 3", webhook=address, jobs="run")
    for job, value in (("run1", 2.0), ("run2", 4.0), ("run3", float("nan")), ("other", 9.0)):
        store = told(job)
        append(paths.job_folder(job) / paths.JOURNAL, "metric", name="train/loss", value=value, step=7)
        store.move(job, paths.job_folder(job))
    looked(store, Watch())
    assert sorted(one["text"] for one in got) == [
        "job run2 run2: train/loss is 4 at step 7 (train/loss > 3).",
        "job run3 run3: train/loss is nan at step 7 (train/loss > 3).",
    ]


def test_a_job_that_does_not_move_is_stuck(home, webhook):
    address, got = webhook
    rules.add(stuck=0.05, webhook=address)
    store, watch = told("still"), Watch()
    looked(store, watch)
    assert not got
    time.sleep(0.1)
    append(paths.job_folder("still") / paths.JOURNAL, "progress", progress=1.0, step=3)
    store.move("still", paths.job_folder("still"))
    looked(store, watch)
    assert not got  # it has moved
    time.sleep(0.1)
    looked(store, watch)
    looked(store, watch)
    assert [one["what"] for one in got] == ["stuck"]
    assert "at step 3" in got[0]["text"]


def test_a_command_has_the_words_in_its_environment(home, tmp_path):
    rules.add(on="FAILED", command=f'echo "$TRAINWRIGHT_ALERT_TEXT" > {tmp_path}/said')
    looked(told("bad", status="FAILED", message='a "quoted" $(word)'), Watch())
    assert (tmp_path / "said").read_text() == 'job bad bad is FAILED: a "quoted" $(word)\n'


def test_what_cannot_be_sent_is_said_and_ends_nothing(home, monkeypatch, capsys):
    monkeypatch.setattr(send, "_WAITS", (0.0, 0.0))
    rules.add(on="FAILED", webhook="http://127.0.0.1:9/")
    looked(told("bad", status="FAILED", message="x"), Watch())
    said = capsys.readouterr().err
    assert said.count("could not be sent") == 1
    assert "job bad bad is FAILED: x" in said
    rules.file().write_text("- on: [FALED]\n  webhook: https://example.org\n")
    watch = Watch()
    looked(Store(), watch, watch)
    said = capsys.readouterr().err
    assert said.count("no alert is sent") == 1
    assert "Did you mean 'FAILED'?" in said


@pytest.mark.parametrize(("given", "why"), [
    ({"on": "FAILED"}, "a webhook or a command"),
    ({"webhook": "https://a"}, "something to tell of"),
    ({"metric": "loss", "webhook": "https://a"}, "no bound"),
    ({"metric": "loss > much", "webhook": "https://a"}, "no bound"),
    ({"on": "RUNNING", "webhook": "https://a"}, "no status that a job ends with"),
    ({"on": "LOST", "webhook": "ftp://a"}, "no address"),
    ({"on": "LOST", "webhook": "https://a b/"}, "no address"),
    ({"on": "LOST", "webhook": "http://a:99999/"}, "no address"),
    ({"on": 5, "webhook": "https://a"}, "'5' is no status"),
    ({"on": "LOST", "webhook": "https://a", "added": "soon"}, "added: 'soon': seconds since 1970"),
    ({"on": "LOST", "webhok": "https://a"}, "Did you mean 'webhook'"),
])  # fmt: skip
def test_what_is_no_alert_is_refused_with_a_sentence(home, given, why):
    with pytest.raises(JobError, match=why):
        rules.checked(given)


def test_alerts_are_listed_tried_and_forgotten_and_their_file_is_the_users_alone(home, webhook, capsys):
    address, got = webhook
    main(["alerts", "add", "--on", "LOST", "--webhook", address])
    key = rules.read()[0].key
    assert rules.file().stat().st_mode & 0o077 == 0
    assert main(["alerts", "add", "--on", "LOST", "--webhook", address]) == 2
    assert "there already" in capsys.readouterr().err
    assert main(["alerts", "test", key]) == 0
    assert got[0]["what"] == "test"
    main(["alerts", "list"])
    assert key in capsys.readouterr().out
    assert main(["alerts", "rm", key]) == 0
    assert rules.read() == []


@pytest.mark.slow
def test_a_run_that_ends_waits_until_its_alert_was_tried_again(home, webhook, monkeypatch):
    address, got = webhook
    rules.add(on="FAILED", webhook=address)
    once, tries = send.once, []

    def refused_first(*given):
        tries.append(given)
        if len(tries) == 1:
            raise OSError("busy")
        once(*given)

    monkeypatch.setattr(send, "once", refused_first)
    monkeypatch.setattr(send, "_WAITS", (0.0, 3.5))  # longer than an end waits for the database
    with pytest.raises(ValueError, match="no"), tracked("mine"):
        raise ValueError("no")
    assert [one["what"] for one in got] == ["FAILED"]


@pytest.mark.slow
def test_a_run_by_hand_tells_of_its_own_failure(home, tmp_path, webhook):
    """With no worker and no page beside it."""
    import subprocess
    import sys

    address, got = webhook
    rules.add(on="FAILED", webhook=address)
    (tmp_path / "bad.py").write_text(
        "import trainwright\nrun = trainwright.jobs.init('mine')\nraise ValueError('no')\n"
    )
    subprocess.run([sys.executable, "bad.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    wait_for(lambda: got, 10)
    assert "ValueError: no" in got[0]["text"]
