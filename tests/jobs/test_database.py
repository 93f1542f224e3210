"""A database that is noise, or gone, is made anew from the journals, by whoever sees it and while others use it."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
import sqlalchemy as sql

from tests.jobs.test_decorator import wait_for
from trainwright.cli.main import main
from trainwright.jobs import paths
from trainwright.jobs.store import database as connections
from trainwright.jobs.store import schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import Tracking
from trainwright.jobs.worker import health

FILES = ("jobs.db", "jobs.db-wal", "jobs.db-shm")


def overwrite(home):
    for name in FILES:
        (home / name).write_bytes(os.urandom(50_000))


def delete(home):
    for name in FILES:
        (home / name).unlink(missing_ok=True)


def empty(home):
    (home / "jobs.db").write_bytes(b"")


def damage_pages(home):
    """Leave the first page as it is, and make noise of what comes after."""
    with sqlite3.connect(home / "jobs.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = (home / "jobs.db").stat().st_size
    with (home / "jobs.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


@pytest.mark.slow
@pytest.mark.parametrize("harm", [overwrite, delete, empty, damage_pages])
def test_a_database_that_is_noise_or_gone_is_made_anew_while_it_is_used(home, harm, capfd):
    page = Store()  # that has it open, as a page or a worker has
    waiting = "queued"
    page.submit(waiting, name="waits", experiment="e", command=["python", "x.py"], params={"a": 1}, restarts=2, gpus=1)
    job = Tracking("running", {"b": 2}, "runs")
    for step in range(50):
        job.metric("loss", step, step)
    wait_for(lambda: page.metric_names("running") == {"loss": 50})
    harm(home)
    assert {one["id"] for one in page.jobs()} == {"queued", "running"}
    found = page.find(waiting)
    assert [found[name] for name in ("status", "name", "experiment", "params", "restarts", "gpus", "command")] == [
        "QUEUED", "waits", "e", {"a": 1}, 2, 1, ["python", "x.py"]
    ]  # fmt: skip
    job.metric("loss", 50, 50)
    assert main(["jobs", "list", "--json"]) == 0
    out, err = capfd.readouterr()
    assert len(json.loads(out)) == 2
    if harm is not delete:
        assert "was damaged; it is kept as jobs.db.damaged-" in err
        assert list(home.glob("jobs.db.damaged-*"))
    assert page.ask_to_stop("running") == "RUNNING"
    assert wait_for(lambda: job.stop_requested)
    job.end("STOPPED")
    health.sweep(page)
    assert page.find("running")["status"] == "STOPPED"
    assert [step for step, _, _ in page.metric("running", "loss")] == list(range(51))
    page.close()


def test_a_job_that_was_begun_again_is_found_by_a_new_database(store, home, monkeypatch):
    """Its attempts are told by its journal too, so that the last one's word counts."""
    store.submit("again", name="a", experiment="default", command=["python", "x.py"], params={})
    for attempt, status in (("1", "FAILED"), ("2", "COMPLETE")):
        monkeypatch.setenv("TRAINWRIGHT_JOB_ATTEMPT", attempt)
        job = Tracking("again", {}, "a")
        job.metric("loss", 1, int(attempt))
        job.end(status)
        store.requeue("again", int(attempt))
    with store.engine.begin() as connection:
        schema.META.drop_all(connection)
    found = store.find("again")  # PostgreSQL, too, whose tables someone dropped
    assert (found["status"], found["attempt"]) == ("COMPLETE", 2)
    assert store.metric_names("again") == {"loss": 2}


def test_a_busy_database_is_none_that_is_damaged(home):
    made = Store()
    busy = sqlite3.connect(home / "jobs.db", isolation_level=None)
    busy.execute("BEGIN IMMEDIATE")
    with pytest.raises(sql.exc.OperationalError, match="locked") as caught, made.reader.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 10")
        connection.exec_driver_sql("UPDATE jobs SET name = 'x'")
    assert not connections.is_damage(caught.value)
    assert connections.is_away(caught.value)
    busy.execute("ROLLBACK")
    assert list(home.glob("*damaged*")) == []


def test_a_removed_job_does_not_come_back(home):
    store = Store()
    job = Tracking("gone", {}, "a")
    job.end("COMPLETE")
    wait_for(lambda: store.find("gone")["status"] == "COMPLETE")
    assert main(["jobs", "rm", "gone"]) == 0
    assert not paths.job_folder("gone").exists()
    health.sweep(store)
    assert store.jobs() == []
