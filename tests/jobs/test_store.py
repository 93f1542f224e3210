"""The store on SQLite and PostgreSQL: nothing is lost and nothing is there twice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import get_origin, get_type_hints

import psutil
import pytest
import sqlalchemy as sql

from trainwright.errors import JobError
from trainwright.jobs import paths, processes
from trainwright.jobs.journal.journal import Journal, append, read_journal
from trainwright.jobs.store import curves, masking, migrations, rows, schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import Tracking, tracked
from trainwright.jobs.worker import health

WRITER = """
import sys, time
from trainwright.jobs.tracking.tracking import tracked
with tracked("writer", {"number": int(sys.argv[1])}) as job:
    spent = time.perf_counter()
    for step in range(int(sys.argv[2])):
        job.metric("loss", 1 / (step + 1), step)
    spent = time.perf_counter() - spent
    print(job.id, spent / int(sys.argv[2]) * 1e6, flush=True)
"""


def begun(store, **more):
    """A job in the queue."""
    job = paths.new_id()
    store.submit(job, name="a job", experiment="default", command=["python", "x.py"], params={"a": 1}, **more)
    return job


def test_a_job_tells_its_story(store, home):
    with tracked("a script", {"learning_rate": 1e-3, "note": "<b>"}, experiment="first") as job:
        job.metric("loss", 0.5, 1)
        job.metric("loss", float("nan"), 2)
        job.metric("loss", float("inf"), 3)
        job.progress(40, 4, 10)
        job.data("kept", [1, 2])
        job.event("note", "something")
        job.artifact("checkpoint", "out/checkpoint-4", 4)
    found = store.find(job.id)
    assert (found["status"], found["progress"], found["step"], found["total_steps"]) == ("COMPLETE", 40, 4, 10)
    assert found["params"] == {"learning_rate": 1e-3, "note": "<b>"}
    assert found["data"] == {"kept": [1, 2]}
    assert found["experiment"] == "first"
    assert found["pid"] == os.getpid()
    (_, one, _), (_, none, _), (_, endless, _) = store.metric(job.id, "loss")
    assert one == 0.5
    assert math.isnan(none)
    assert endless == math.inf
    assert store.metric_names(job.id) == {"loss": 3}
    assert store.last_metrics(job.id) == {"loss": (3, math.inf)}
    assert [event["text"] for event in store.of_job(schema.events, job.id)] == ["something"]
    assert [one["path"] for one in store.of_job(schema.artifacts, job.id)] == ["out/checkpoint-4"]
    told = [record["k"] for record in read_journal(job.folder / paths.JOURNAL).records]
    assert [kind for kind in told if kind != "kept"] == [  # which is what it runs, in its own time
        "start", "metric", "metric", "metric", "data", "event", "artifact", "progress", "status"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("what was wrong"), "FAILED", "ValueError: what was wrong"),
        (KeyboardInterrupt(), "INTERRUPTED", "Interrupted by SIGINT."),
        (SystemExit(143), "INTERRUPTED", "Interrupted by SIGTERM."),
        (SystemExit(3), "FAILED", "The script left with exit code 3."),
        (SystemExit("a sentence"), "FAILED", "a sentence"),
        (SystemExit(0), "COMPLETE", None),
    ],
)
def test_how_a_job_ends(store, error, status, message):
    with pytest.raises(type(error)), tracked("a script") as job:
        raise error
    found = store.find(job.id)
    assert (found["status"], found["message"]) == (status, message)
    if isinstance(error, ValueError):
        assert "raise error" in found["traceback"]


def test_a_job_that_is_removed_takes_all_of_its_own_and_nothing_of_others(store, home):
    for job in ("gone", "here"):
        with tracked("a script", job=job) as now:
            now.metric("loss", 0.5, 1)
            now.event("note", "something")
            now.artifact("checkpoint", "out", 1)
            now.open_timesheet().begin("run", 0)
            now.tell_time()
    store.remove("gone")
    with pytest.raises(JobError):
        store.find("gone")
    for table in (schema.events, schema.artifacts, schema.attempts):
        assert (len(store.of_job(table, "gone")), len(store.of_job(table, "here"))) == (0, 1), table.name
    assert (store.metric_names("gone"), store.metric_names("here")) == ({}, {"loss": 1})


def test_a_job_that_goes_on_keeps_the_time_that_it_ran_and_one_that_never_began_has_none(store, home):
    for began, ran in ((1000.0, 0.25), (None, 0.0)):
        job = begun(store)
        store.update(job, status="STOPPED", started=began, ended=1000.25)
        assert store.requeue(job, 1)
        assert store.find(job)["ran"] == ran


def test_the_name_of_a_kind_is_cut_to_what_a_column_holds(home):
    with tracked("a script") as job:
        job.event("e" * 50, "text")
        job.artifact("a" * 50, "path")
    kinds = [r["kind"] for r in read_journal(job.folder / paths.JOURNAL).records if r["k"] in ("event", "artifact")]
    assert kinds == ["e" * 39 + "…", "a" * 39 + "…"]


def test_a_job_gives_a_sign_of_life_in_its_interval_and_not_with_every_record(home, monkeypatch):
    beats, moves = [], []
    beat, move = Store.heartbeat, Store.move
    monkeypatch.setattr(Store, "heartbeat", lambda *given: beats.append(1) or beat(*given))
    monkeypatch.setattr(Store, "move", lambda *given: moves.append(1) or move(*given))
    monkeypatch.setattr("trainwright.jobs.tracking.keeper.HEARTBEAT_SECONDS", 1000.0)
    with tracked("a script") as job:
        for step in range(2):
            job.metric("loss", 1.0, step)
            seen = len(moves)
            while len(moves) == seen:
                time.sleep(0.01)
    assert len(beats) == 1  # the first


def test_a_job_that_was_asked_to_stop_is_stopped_whatever_signal_comes_before_it_hears_of_it(store):
    with pytest.raises(SystemExit), tracked("a script") as job:
        job._over.set()  # its next heartbeat, which would tell it, never comes
        job._keeper.join(300)
        job._over.clear()
        assert store.ask_to_stop(job.id) == "RUNNING"
        raise SystemExit(143)
    health.sweep(store)
    assert store.find(job.id)["status"] == "STOPPED"


@pytest.mark.slow
def test_eight_writers_lose_no_row(store, home):
    count = 10_000
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(n), str(count)], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    out = [process.communicate(timeout=300)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * 8
    health.sweep(store)  # what a writer's last three seconds did not move
    for job, _ in out:
        assert store.find(job)["status"] == "COMPLETE"
        assert [step for step, _, _ in store.metric(job, "loss")] == list(range(count))


@pytest.mark.slow
def test_records_are_moved_exactly_once_by_any_number_of_movers(store, home):
    job = Tracking("once", {}, "a job")
    for step in range(500):
        job.metric("loss", step, step)
    job.journal.flush()
    other = Store(store.url)
    code = "import sys; from trainwright.jobs.store.store import Store; from pathlib import Path\n" \
           "for _ in range(20): Store().move('once', Path(sys.argv[1]))"  # fmt: skip
    running = [subprocess.Popen([sys.executable, "-c", code, str(job.folder)]) for _ in range(3)]
    for _ in range(20):
        other.move("once", job.folder)
    assert [process.wait(300) for process in running] == [0, 0, 0]
    job.end("COMPLETE")
    assert [step for step, _, _ in store.metric("once", "loss")] == list(range(500))
    other.close()


def test_a_home_has_one_name_from_the_start(home, tmp_path):
    """Two threads that ask first, at once: neither is given a name that is still being written."""
    for number in range(50):
        folder = tmp_path / str(number)
        with ThreadPoolExecutor(4) as pool:
            names = set(pool.map(lambda _, folder=folder: paths.home_id(folder), range(4)))
        assert len(names) == 1
        assert len(names.pop()) == 32
        assert [path.name for path in folder.iterdir()] == ["id"]


def test_the_folder_alone_tells_the_story_to_a_new_database(home, tmp_path):
    with tracked("a script", {"a": 1}) as job:
        job.metric("loss", 0.5, 1)
    (home / "jobs.db").unlink()
    for more in home.glob("jobs.db-*"):
        more.unlink()
    fresh = Store()
    health.sweep(fresh)
    found = fresh.find(job.id)
    assert (found["status"], found["name"], found["params"]) == ("COMPLETE", "a script", {"a": 1})
    assert fresh.last_metrics(job.id) == {"loss": (1, 0.5)}


def test_a_job_that_goes_on_in_another_home_loses_no_row(store, home, tmp_path, monkeypatch):
    """Lost on one machine with a home of its own, begun again on another; the first one turns out to live."""
    monkeypatch.setenv("TRAINWRIGHT_DB", store.url)
    monkeypatch.setenv("TRAINWRIGHT_JOB_OWNER", "")  # it is left as it was, whatever a job sets meanwhile
    job = begun(store)
    monkeypatch.setenv("TRAINWRIGHT_JOB_ATTEMPT", "1")
    first = Tracking(job, {}, "a job")
    for step in range(100):
        first.metric("loss", step, step)
    first.journal.flush()
    store.move(job, first.folder)
    store.update(job, status="LOST")
    while not store.requeue(job, 1):  # a heartbeat of the first one came between
        store.update(job, status="LOST")
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("TRAINWRIGHT_JOB_ATTEMPT", "2")
    monkeypatch.delenv("TRAINWRIGHT_JOB_OWNER")
    second = Tracking(job, {}, "a job")
    second.metric("loss", 100, 100)
    second.journal.flush()
    store.move(job, second.folder)
    assert [step for step, _, _ in store.metric(job, "loss")] == list(range(101))
    assert store.heartbeat(job, 1) is True
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(home))
    first.end("STOPPED")
    store.move(job, first.folder)
    assert store.find(job)["status"] == "RUNNING"  # the word of the one that was replaced does not count
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "elsewhere"))
    second.end("COMPLETE")
    store.move(job, second.folder)
    assert store.find(job)["status"] == "COMPLETE"


def test_a_torn_last_line_waits_and_a_broken_one_is_told_apart(tmp_path):
    path = tmp_path / "job.jsonl"
    good = b'{"k": "event", "t": %d, "kind": "a", "text": "b"}\n'
    path.write_bytes(good % 1 + b'broken\n{"k": "ev')
    part = read_journal(path)
    assert [record["t"] for record in part.records] == [1]
    assert (part.damaged, part.first) == (1, f"at byte {len(good % 1)}: it is no JSON")
    assert part.end == path.read_bytes().rindex(b"\n") + 1
    with path.open("ab") as file:
        file.write((good % 2).removeprefix(b'{"k": "ev'))
    assert [record["t"] for record in read_journal(path, part.end).records] == [2]


def test_the_caller_only_appends(tmp_path):
    journal = Journal(tmp_path / "job.jsonl")
    with journal._writing:  # nobody can write; a caller that did, or waited for who does, would stay here for ever
        for number in range(100):
            journal.add("event", kind="number", text=str(number))
            journal.replace("progress", progress=number)
        assert not (tmp_path / "job.jsonl").exists()
    end = time.monotonic() + 300
    while not (tmp_path / "job.jsonl").exists():  # its own thread writes, before anybody asks for it
        assert time.monotonic() < end
        time.sleep(0.01)
    journal.close()
    records = read_journal(tmp_path / "job.jsonl").records
    assert [record["text"] for record in records if record["k"] == "event"] == [str(number) for number in range(100)]
    assert [record["progress"] for record in records if record["k"] == "progress"] == [99]  # the newest word alone


@pytest.mark.slow
def test_a_killed_process_is_lost_at_once_and_loses_a_fifth_of_a_second(store, home):
    code = WRITER.replace('print(job.id, spent / int(sys.argv[2]) * 1e6, flush=True)',
                          'print(job.id, flush=True); time.sleep(1); job.metric("late", 1); time.sleep(1); '
                          'print("now", flush=True); time.sleep(60)')  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, "0", "100"], stdout=subprocess.PIPE, text=True)
    job = process.stdout.readline().split()[0]
    assert process.stdout.readline().strip() == "now"
    process.kill()
    process.wait()
    health.sweep(store)
    found = store.find(job)
    assert (found["status"], found["message"]) == ("LOST", "Its process vanished without a word.")
    assert store.metric_names(job) == {"late": 1, "loss": 100}


def test_a_process_of_another_machine_is_lost_after_a_while(store, monkeypatch):
    job = begun(store)
    assert store.claim(job, "elsewhere:1", "elsewhere", 1) == []
    monkeypatch.setattr(health, "_WATCH_SECONDS", 0.1)
    for _ in range(3):  # its clock or ours was set: the heartbeat is old, and moves
        store.update(job, heartbeat=time.time() - 3600 + time.monotonic() % 1)
        health.sweep(store)
        time.sleep(0.15)
        assert store.find(job)["status"] == "RUNNING"
    health.sweep(store)
    assert store.find(job)["status"] == "LOST"
    assert store.heartbeat(job, 1) is False  # it was only slow
    assert store.find(job)["status"] == "RUNNING"
    assert store.heartbeat(job, 0) is True  # and an earlier attempt is told to stop
    assert store.heartbeat(job, None) is False  # one that was begun by hand is none
    store.update(job, heartbeat=time.time() - 50)
    other = Store(store.url)
    health.sweep(other, wait=True)  # a command that looks once waits a little instead
    assert other.find(job)["status"] == "LOST"
    other.close()


def test_a_number_is_no_process(store):
    assert processes.lives(os.getpid(), processes.created(os.getpid()))
    assert not processes.lives(os.getpid(), 12345.0)  # the same number, another process
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not processes.lives(gone.pid, None)


@pytest.mark.skipif(processes.boot() is None, reason="the system has no name for the time between two starts")
def test_a_number_of_before_the_machine_began_anew_is_another_process(store, monkeypatch):
    """Times count from the machine's start, so after the next one a process may have number and time of an old one."""
    for job, began_in, status in (
        ("now", processes.boot(), "RUNNING"),
        ("old", "another", "LOST"),
        ("0.1.0", None, "RUNNING"),
    ):
        folder = paths.job_folder(job)
        folder.mkdir(parents=True)
        pid, host = os.getpid(), processes.hostname()
        words = {"name": job, "params": {}, "pid": pid, "pid_created": processes.created(pid), "host": host}
        worker = f"{host}:{pid}:{processes.created(pid)}"
        append(folder / paths.JOURNAL, "start", **words, worker=worker, **({"boot": began_in} if began_in else {}))
        health.sweep(store)
        assert store.find(job)["status"] == status


def test_a_clock_that_is_set_makes_no_process_another_one(monkeypatch):
    """psutil's times of this machine move with the clock: the machine's beginning is now minus how long it runs."""
    before, old = processes.created(os.getpid()), psutil.Process().create_time()  # 0.1.0 noted the latter
    assert processes.lives(os.getpid(), old)
    began = psutil.boot_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: began + 5)
    monkeypatch.setattr(psutil, "boot_time", lambda: began + 5)
    assert processes.lives(os.getpid(), before)


def test_signals_have_names():
    assert [processes.signal_name(number) for number in (15, 40)] == ["SIGTERM", "signal 40"]


def test_a_home_that_cannot_be_written_stops_no_training(tmp_path, monkeypatch, capsys, home):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "file" / "home"))
    with tracked("a script") as job:
        assert job is None
    assert "Note: this run is not tracked: " in capsys.readouterr().err


def test_only_one_takes_a_job(store):
    job = begun(store)
    assert [store.claim(job, "one", "here", 9), store.claim(job, "two", "here", 9)] == [[], None]
    store.update(job, status="FAILED")
    assert [store.requeue(job, 1), store.requeue(job, 1)] == [True, False]
    assert store.find(job)["attempt"] == 2


def test_a_job_runs_once_at_a_time(home):
    job = Tracking("twice", {}, "a job")
    with pytest.raises(JobError, match="The job twice runs already"):
        Tracking("twice", {}, "a job")
    job.end("COMPLETE")
    Tracking("twice", {}, "a job").end("COMPLETE")


def test_names_and_beginnings(store):
    job = begun(store)
    assert store.find(job[:5])["id"] == job
    with pytest.raises(JobError, match="There is no job 'nothing'"):
        store.find("nothing")
    for wrong in ("../escape", "", "a/b", "x" * 70):
        with pytest.raises(JobError, match="is no name of a job"):
            paths.job_folder(wrong)


def test_a_database_of_a_newer_version_is_refused(store):
    with store.engine.begin() as connection:
        connection.execute(schema.versions.update().values(version=99))
    with pytest.raises(JobError, match="has version 99, and this Trainwright knows 8: a newer one made it"):
        Store(store.url)


def test_an_empty_database_of_version_none_is_brought_up(store, monkeypatch):
    def second(connection):
        connection.execute(sql.text("CREATE TABLE more (id INTEGER)"))

    job = begun(store)
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, second])
    newer = Store(store.url)
    assert newer.find(job)["params"] == {"a": 1}
    with newer.engine.begin() as connection:
        assert sql.inspect(connection).has_table("more")
        assert connection.execute(sql.select(schema.versions.c.version)).scalars().all() == [9]
    newer.close()


def downgraded(store):
    """Make a store's database one of version 4, as the version before wrote it."""
    with store.engine.begin() as connection:
        for table in (schema.params, schema.series, schema.stretches, schema.figures, schema.changes):
            table.drop(connection)
        for statement in ("DROP INDEX jobs_by_created", "ALTER TABLE jobs DROP COLUMN changed",
                          "ALTER TABLE points RENAME TO metrics", "UPDATE schema_version SET version = 4"):  # fmt: skip
            connection.execute(sql.text(statement))


def seen(store, job):
    """All that is asked of a job's metrics and parameters."""
    with store.reader.connect() as connection:
        typed = connection.execute(sql.select(schema.params).order_by(schema.params.c.name)).all()
        figures = connection.execute(sql.select(schema.figures).order_by(schema.figures.c.name)).all()
    asked = [store.read(curves.curve, job, "loss", 60, *window) for window in ((), (90, 240), (-9, 300, 1))]
    told = (store.metric(job, "loss"), store.metric_names(job), store.last_metrics(job), store.attempts_before(job))
    return [tuple(row)[:-1] for row in figures], typed, asked, told


def test_a_database_of_the_version_before_is_brought_up_without_loss(store, home, monkeypatch):
    """A process of that version, which still runs, finds that it can insert no point; its journal keeps it."""
    for steps in (range(200), range(150, 400)):
        with tracked("twice", {"lr": 1e-3, "model": {"name": "m" * 300, "hf_token": "hf_q7q"}}, job="twice") as job:
            for step in steps:
                job.metric("loss", float("nan") if step % 50 == 7 else 1 / (step + 1), step)
            job.metric("accuracy", len(steps), 0)
            for step in (7, 3, 5, 3, 2, 3):  # the newest is what was told last, wherever it lies
                job.metric("late", step / 2, step)
    store.move("twice", job.folder)
    before = seen(store, "twice")
    assert [row[1:] for row in before[1]] == [
        ("lr", "0.001", 0.001), ("model.hf_token", masking.MASK, None), ("model.name", "m" * 199 + "…", None)
    ]  # fmt: skip
    assert before[3][1:] == ({"accuracy": 1, "late": 4, "loss": 400},
                             {"accuracy": (0, 250), "late": (3, 1.5), "loss": (399, 1 / 400)},
                             {"accuracy": [1], "late": [1], "loss": [1]})  # fmt: skip
    downgraded(store)
    newer = Store(store.url)
    assert seen(newer, "twice") == before
    with newer.engine.begin() as connection:  # as of version 7, which did not keep where a value is no number
        for statement in ("ALTER TABLE stretches DROP COLUMN none_step", "UPDATE schema_version SET version = 7"):
            connection.execute(sql.text(statement))
    newer.close()
    newer = Store(store.url)
    assert seen(newer, "twice") == before
    with pytest.raises(sql.exc.DBAPIError), store.engine.begin() as connection:
        connection.execute(sql.text("INSERT INTO metrics (job) VALUES ('twice')"))
    append(job.folder / paths.JOURNAL, "metric", name="loss", value=0.0, step=400)
    newer.move("twice", job.folder)
    assert newer.read(curves.curve, "twice", "loss", 2)[-1] == (400, 0.0)
    newer.remove("twice")
    with newer.reader.connect() as connection:
        left = [
            connection.execute(sql.select(sql.func.count()).select_from(table)).scalar() for table in schema.OF_JOBS
        ]
    assert left == [0] * len(schema.OF_JOBS)
    newer.close()


def test_addresses_that_are_none(home):
    with pytest.raises(JobError, match="is no address such as postgresql"):
        Store("nonsense")
    pytest.importorskip("psycopg")
    with pytest.raises(JobError, match="cannot be used: .*Look at TRAINWRIGHT_DB"):
        Store("postgresql+psycopg://nobody@127.0.0.1:1/none")


def test_a_network_file_system_is_known(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/x {tmp_path}/share nfs4 rw 0 0\n")
    monkeypatch.setattr(paths, "Path", lambda path: mounts if str(path) == "/proc/mounts" else path)
    assert paths.on_network(tmp_path / "share" / "jobs.db")
    assert not paths.on_network(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_database_that_goes_away_delays_rows_and_loses_none(home, server, monkeypatch, capfd):
    monkeypatch.setenv("TRAINWRIGHT_DB", server.new_database("away"))
    with tracked("a script") as job:
        job.metric("loss", 1.0, 1)
        time.sleep(1.5)
        server.control("-m", "immediate", "stop")
        began = time.perf_counter()
        for step in range(2, 1000):
            job.metric("loss", 1.0, step)
        assert time.perf_counter() - began < 3  # nobody waits
        time.sleep(3)
        server.control("start")
        time.sleep(4)
    store = Store()
    health.sweep(store)
    assert store.find(job.id)["status"] == "COMPLETE"
    assert [step for step, _, _ in store.metric(job.id, "loss")] == list(range(1, 1000))
    assert "the rows wait" in capfd.readouterr().err
    assert json.loads(json.dumps(store.find(job.id)))["id"] == job.id
    store.close()


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (schema.jobs, rows.Job),
        (schema.events, rows.Event),
        (schema.artifacts, rows.Artifact),
        (schema.attempts, rows.Attempt),
    ],
)
def test_rows_are_typed_as_the_columns_of_their_tables(table, row):
    kinds = get_type_hints(row)
    assert list(kinds) == table.columns.keys()
    in_json = {"command", "params", "data", "kept", "moved", "tags"} if row is rows.Job else set()
    for name, kind in kinds.items():
        column = table.columns[name]
        may_be = column.type.python_type | None if column.nullable else column.type.python_type
        assert (get_origin(kind) in (list, dict)) if name in in_json else (kind == may_be), name
