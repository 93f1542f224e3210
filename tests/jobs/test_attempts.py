"""A job that was begun several times: one value for a step, one status whatever began it, one time that adds up."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import runpy
import sys
from contextlib import suppress

import pytest

from trainwright.cli.jobs import tables
from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store import schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import tracking
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.jobs.tracking.tracking import JobStopped, tracked
from trainwright.jobs.worker import launch
from trainwright.jobs.worker.health import sweep
from trainwright.trackers import table
from trainwright.trackers.callback import TrackerCallback
from trainwright.trackers.job import JobTracker
from trainwright.trackers.tracker import Tracker


def told(attempts, job="j"):
    """Be a job several times; every attempt tells its (name, step, value), and no step is None."""
    for number, points in enumerate(attempts):
        with tracked("a", job=job) as now:
            for name, step, value in points:
                now.metric(name, value, step)
        assert number or now.id == job


def curve(store, name, attempt=None, job="j"):
    return [(step, value) for step, value, _ in store.metric(job, name, attempt)]


def test_a_curve_has_one_value_for_a_step_and_the_earlier_attempt_stays(store, home, tmp_path, capsys):
    told([
        [("loss", step, step) for step in range(16)] + [("eval", 10, 1.0), ("eval", 14, 2.0)],
        [("loss", step, 100 + step) for step in range(10, 14)],  # killed again, before it has come as far
        [("loss", step, 200 + step) for step in range(12, 20)] + [("eval", 14, 3.0), ("eval", 14, 4.0)],
    ])  # fmt: skip
    sweep(store)
    expected = [*((step, step) for step in range(10)), (10, 110), (11, 111), *((s, 200 + s) for s in range(12, 20))]
    assert curve(store, "loss") == expected
    assert curve(store, "eval") == [(10, 1.0), (14, 4.0)]
    assert curve(store, "loss", 1) == [(step, step) for step in range(16)]
    assert curve(store, "loss", 2) == [(step, 100 + step) for step in range(10, 14)]
    assert store.metric_names("j")["loss"] == 20
    assert store.last_metrics("j") == {"loss": (19, 219.0), "eval": (14, 4.0)}
    assert store.attempts_before("j") == {"loss": [1, 2], "eval": [1]}
    assert main(["jobs", "export", "j", "-o", "out.csv"]) == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows if row["metric"] == "loss"] == [*range(20)]
    assert main(["jobs", "metrics", "j", "loss", "--attempt", "2", "--json"]) == 0
    assert [row[0] for row in json.loads(capsys.readouterr().out)] == [10, 11, 12, 13]
    assert main(["jobs", "metrics", "j", "loss", "--attempt", "7"]) == 2
    assert "no value of 'loss' by its attempt 7" in capsys.readouterr().err


def test_a_new_database_and_another_home_tell_the_same(home, tmp_path, monkeypatch):
    told([[("loss", 1, 1.0), ("loss", 2, 2.0), ("loss", 3, 3.0)], [("loss", 2, 20.0)]])
    first, second = Store(f"sqlite:///{tmp_path / 'new.db'}"), Store(f"sqlite:///{tmp_path / 'late.db'}")
    sweep(first)
    assert curve(first, "loss") == [(1, 1.0), (2, 20.0)]
    journal = paths.job_folder("j") / paths.JOURNAL
    lines = journal.read_text().splitlines(keepends=True)
    late = [line for line in lines if '"metric"' in line][2]  # moved after the next attempt's first word
    journal.write_text("".join(line for line in lines if line != late) + late)
    sweep(second)
    assert curve(second, "loss") == [(1, 1.0), (2, 20.0)]


def test_steps_that_nobody_gave_count_for_every_metric_and_go_on(store, home):
    told([
        [("loss", None, 1.0), ("accuracy", None, 2.0), ("loss", None, 3.0), ("other", 7, 0.0), ("other", None, 0.0)],
        [("accuracy", None, 4.0), ("loss", None, 5.0)],
    ])  # fmt: skip
    sweep(store)
    assert curve(store, "loss") == [(1, 1.0), (2, 3.0), (3, 5.0)]
    assert curve(store, "accuracy") == [(1, 2.0), (2, 4.0)]
    assert curve(store, "other") == [(7, 0.0), (8, 0.0)]


def test_the_time_of_all_attempts_adds_up(store, home):
    folder = paths.job_folder("j")
    folder.mkdir(parents=True)
    lines = []
    for began, ended, status, progress in ((1000, 1400, "INTERRUPTED", 40), (5000, 5100, None, 50)):
        start = {"name": "a", "experiment": "e", "params": {}, "pid": 1, "host": "elsewhere"}
        lines += [{"k": "start", "t": began, **start}, {"k": "progress", "t": began + 1, "progress": progress}]
        lines += [{"k": "status", "t": ended, "status": status}] if status else []
    (folder / paths.JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    store.move("j", folder)
    found = {**store.find("j"), "ended": 5100.0}
    assert tables.age(found) == "8:20"
    assert tables.left({**found, "status": "RUNNING"}) == "8:20"  # half of it took as long
    store.update("j", ["RUNNING"], status="STOPPED", ended=5100.0)
    assert store.requeue("j", 1)
    assert (store.find("j")["ran"], tables.age(store.find("j"))) == (500.0, "8:20")
    assert store.claim("j", "w", "h", 1) == []
    append(folder / paths.JOURNAL, "start", **start)
    store.move("j", folder)
    assert store.find("j")["ran"] == 500.0


FAILS = """
from trainwright.jobs import tlab_trainer
@tlab_trainer.job_wrapper()
def first():
    tlab_trainer.log_metric("a", 1, 1)
    {how}
@tlab_trainer.job_wrapper()
def second():
    tlab_trainer.log_metric("b", 2, 2)
    tlab_trainer.add_job_data("k", 1)
try:
    first()
except BaseException as error:
    print("caught", error)
second()
{last}
"""


@pytest.mark.slow
@pytest.mark.parametrize("begun", ["by hand", "queued"])
@pytest.mark.parametrize(
    ("how", "last", "status", "message"),
    [
        ("raise ValueError('out of data')", "", "FAILED", "ValueError: out of data"),
        ("return False", "", "FAILED", "The function returned False."),
        ("raise SystemExit(3)", "", "FAILED", "The script left with exit code 3."),
        ("raise SystemExit('no data')", "", "FAILED", "no data"),
        ("raise SystemExit(True)", "", "FAILED", "The script left with exit code True."),
        ("raise SystemExit(0)", "", "COMPLETE", None),
        ("raise SystemExit(512)", "", "COMPLETE", None),  # as the system sees it
        ("raise SystemExit(143)", "", "INTERRUPTED", "Interrupted by SIGTERM."),
        ("raise KeyboardInterrupt", "", "INTERRUPTED", "Interrupted by SIGINT."),
        ("return 0", "", "COMPLETE", None),
        ("raise ValueError('out of data')", "raise SystemExit(0)", "FAILED", "ValueError: out of data"),
    ],
)  # fmt: skip
def test_a_failure_stays_one_by_hand_and_queued(home, tmp_path, monkeypatch, begun, how, last, status, message):
    (tmp_path / "s.py").write_text(FAILS.format(how=how, last=last))
    monkeypatch.setattr(sys, "argv", ["s.py"])
    monkeypatch.setenv(paths.JOB_ID, "j")
    with suppress(SystemExit):
        if begun == "queued":
            monkeypatch.setattr(sys, "path", [*sys.path])
            monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
            launch.main(["j", "s", str(tmp_path / "s.py")])
        else:
            runpy.run_path(str(tmp_path / "s.py"))
    store = Store()
    sweep(store)
    found = store.find("j")
    assert (found["status"], found["message"], found["data"]) == (status, message, {"k": 1})
    assert store.last_metrics("j") == {"a": (1, 1.0), "b": (2, 2.0)}


@pytest.mark.parametrize("ends", ["returns", "raises", "exits", "stops"])
def test_a_job_that_was_asked_to_stop_is_stopped_however_it_ends(store, home, ends):
    with tracked("a", job="j") as job:
        store.move("j", job.folder)
        store.ask_to_stop("j")
    sweep(store)
    assert (store.find("j")["status"], store.find("j")["message"]) == ("STOPPED", "Stopped on request.")
    errors = {"raises": RuntimeError("cut off"), "exits": SystemExit(3), "stops": JobStopped()}
    try:
        with tracked("a", job="k") as job:
            store.move("k", job.folder)
            store.ask_to_stop("k")
            job.stop_requested = True  # it has heard of it
            if ends != "returns":
                raise errors[ends]
    except (RuntimeError, SystemExit):
        assert ends in ("raises", "exits")
    sweep(store)
    found = store.find("k")
    assert found["status"] == "STOPPED"
    more = {
        "raises": " It ended with: RuntimeError: cut off",
        "exits": " It ended with: The script left with exit code 3.",
    }
    assert found["message"] == f"Stopped on request.{more.get(ends, '')}"
    assert ("cut off" in (found["traceback"] or "")) == (ends == "raises")


def test_a_function_inside_another_gives_back_what_it_took(home, monkeypatch):
    trainer, seen = TrainerJob(), []
    monkeypatch.setattr(sys, "argv", ["s.py"])

    class Board(Tracker):
        def log(self, metrics, step):
            seen.extend((name, step) for name in metrics)

        def finish(self, status):
            seen.append("closed")

    monkeypatch.setattr(table, "wanted", lambda _: ["board"])
    monkeypatch.setattr(table, "new", lambda _: Board())

    @trainer.job_wrapper(90, 100)
    def evaluate():
        trainer.log_metric("accuracy", 1.0)

    @trainer.job_wrapper(0, 90, manual_logging=True)
    def train():
        trainer.log_metric("loss", 1.0)
        evaluate()
        trainer.log_metric("loss", 1.0)
        return trainer._span

    assert train() == (0, 90)
    assert seen == [("loss", 1), ("loss", 2), "closed"]


def _in_child(name, value):
    from trainwright.jobs import tlab_trainer

    tlab_trainer.log_metric(name, value)
    tlab_trainer.add_job_data(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_what_children_log_reaches_the_job(home, way):
    trainer = TrainerJob()
    with tracked("a", job="j") as job:
        job.metric("mine", 1.0)
        for number in range(2):
            child = multiprocessing.get_context(way).Process(target=_in_child, args=(f"child{number}", number))
            child.start()
            child.join(60)
            assert child.exitcode == 0
        job.metric("mine", 2.0)
        assert trainer.job is job
    store = Store()
    sweep(store)
    found = store.find("j")
    assert (found["status"], found["starts"], found["data"]) == ("COMPLETE", 1, {"child0": 0, "child1": 1})
    assert store.last_metrics("j") == {"mine": (2, 2.0), "child0": (1, 0.0), "child1": (1, 1.0)}


@pytest.mark.slow
def test_a_child_that_goes_on_like_its_parent_ends_no_job(home):
    """One that os.fork() made leaves the body as the parent does."""
    with tracked("a", job="j") as job:
        child = os.fork()
        job.metric("child" if child == 0 else "parent", 1.0)
        if child:
            os.waitpid(child, 0)
            assert paths.OWNER in os.environ
    if child == 0:
        os._exit(0)
    store = Store()
    sweep(store)
    assert (store.find("j")["status"], set(store.metric_names("j"))) == ("COMPLETE", {"parent", "child"})
    statuses = [line for line in (job.folder / paths.JOURNAL).read_text().splitlines() if '"k": "status"' in line]
    assert len(statuses) == 1


def test_a_run_that_had_nothing_left_to_do_is_done(store, home):
    class State:
        is_hyper_param_search, global_step, max_steps = False, 8, 8

    with tracked("a", job="j") as job:
        callback = TrackerCallback(JobTracker(job))
        callback.on_train_begin(None, State, None)
        callback.on_train_end(None, State, None)
    sweep(store)
    found = store.find("j")
    assert (found["progress"], found["step"], found["total_steps"]) == (100, 8, 8)
    with pytest.raises(JobError, match="There is no job ''"):
        store.find("")  # which every name begins with


def test_trials_of_a_search_are_series_of_their_own(store, home):
    class State:
        is_hyper_param_search, global_step, max_steps, trial_name = True, 1, 1, None

    with tracked("a", job="j") as job:
        callback = TrackerCallback(JobTracker(job))
        for number, name in enumerate((None, "run-1", None)):  # transformers gives names where it is told how
            State.trial_name, State.trial_params = name, {"learning_rate": number}
            callback.on_train_begin(None, State, None)
            callback.on_log(None, State, None, {"loss": number, "eval_loss": number})
        State.is_hyper_param_search = False
        callback.on_train_begin(None, State, None)
        callback.on_log(None, State, None, {"loss": 9.0})
    sweep(store)
    expected = {f"run-{n}/{name}": (1, float(n)) for n in range(3) for name in ("train/loss", "eval/loss")}
    assert store.last_metrics("j") == {**expected, "train/loss": (1, 9.0)}
    trials = [one["text"] for one in store.of_job(schema.events, "j") if one["kind"] == "trial"]
    assert trials == [f"run-{n}: learning_rate={n}" for n in range(3)]


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_printed_and_nothing_trained(home, monkeypatch, capsys, word):
    trainer = TrainerJob()
    trainer.add_argument("--steps", type=int, default=7, help="how many")
    monkeypatch.setattr(sys, "argv", ["script.py", word])
    with pytest.raises(SystemExit) as left:
        trainer.job_wrapper()(lambda: pytest.fail("it trains"))()
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "--steps STEPS" in out
    assert "how many" in out
    assert "--input_file" in out
    assert tracking.current() is None
    assert not home.exists()
