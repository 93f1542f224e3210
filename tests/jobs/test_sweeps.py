"""Sweeps: what is tried, that a kill anywhere loses and repeats nothing, and that what is not worth it is ended."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from types import SimpleNamespace

import pytest

from trainwright.cli.jobs import sweep as command
from trainwright.cli.main import main
from trainwright.errors import ConfigError, JobError
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store.store import Store
from trainwright.jobs.sweeps import drive, plan, spaces, table
from trainwright.jobs.sweeps.plan import Plan
from trainwright.jobs.sweeps.spaces import Choices, Range
from trainwright.jobs.sweeps.study import Study

SCRIPT = "from trainwright.jobs import tlab_trainer\ntlab_trainer.params.lr\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1e-4,3e-4", Choices(("1e-4", "3e-4"))),
        ("choice(a)", Choices(("a",))),
        ("[q,v],[q]", Choices(("[q,v]", "[q]"))),
        ("log(1e-5,1e-3)", Range(1e-5, 1e-3, is_log=True)),
        ("uniform(0,1)", Range(0, 1)),
        ("int(2, 8)", Range(2, 8, is_whole=True)),
        ("100", "100"),
        ("[q,v]", "[q,v]"),
    ],
)
def test_what_is_tried(text, found):
    assert spaces.one("x", text) == found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x=1,1"], "each value is given once"),
        (["x=1,"], "none is empty"),
        (["x=log(0,1)"], "below the second, both above 0"),
        (["x=uniform(2,1)"], "the first is to be below the second"),
        (["x=int(1.5,2)"], "whole numbers are expected"),
        (["x=log(1)"], r"two numbers are expected, log\(LEAST,GREATEST\)"),
        (["x"], "is no NAME=VALUES"),
        (["x=1"], "needs something to try"),
        (["x=1,2", "x=3"], "x is given twice"),
    ],
)
def test_what_is_nothing_to_try(words, said):
    with pytest.raises(JobError, match=said):
        spaces.read(words)


def test_all_combinations_are_tried_in_order():
    space, same = spaces.read(["lr=1,2", "steps=5", "batch=8,16"])
    assert same == ["steps=5"]
    assert [[*one.values()] for one in spaces.grid(space)] == [["1", "8"], ["1", "16"], ["2", "8"], ["2", "16"]]
    assert spaces.grid({"x": Range(0, 1)}) is None


@pytest.mark.parametrize(
    ("word", "whole"),
    [
        ("lr=1,2", "training.learning_rate=1,2"),
        ("batch=8,16", "training.per_device_train_batch_size=8,16"),
        ("lora_r=8", "peft.lora_r=8"),
        ("a.b=1", "a.b=1"),
    ],
)
def test_a_key_may_be_named_by_its_last_part(word, whole):
    assert command._named(word) == whole


def test_a_key_that_is_none_is_told():
    with pytest.raises(ConfigError, match="'learning_rte' is no key. Did you mean 'learning_rate'"):
        command._named("learning_rte=1,2")


def planned(tmp_path, words, **more):
    (tmp_path / "script.py").write_text(SCRIPT)
    return plan.keep(Plan(name="s", file="script.py", words=words, metric="loss", direction="minimize", **more))


def described(file, words):
    raise AssertionError("a script is not looked at")


def told(home, store, job, losses, end="COMPLETE"):
    """Let a job of the queue say what a process of it would."""
    journal = home / "jobs" / job / "job.jsonl"
    if store.find(job)["status"] == "QUEUED":
        append(journal, "start", name="x", params={}, pid=1, host="h", attempt=1)
    for step, loss in losses:
        append(journal, "metric", name="loss", value=loss, step=step)
    if end:
        append(journal, "status", status=end, attempt=1)
    store.move(job, journal.parent)


def test_a_sweep_killed_between_two_jobs_goes_on_with_those_that_are_missing(home, tmp_path, monkeypatch):
    store = Store()
    made = planned(tmp_path, ["lr=1,2", "batch=8,16", "steps=5"])
    submit = plan.submit
    calls = []

    def killed(*given):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(submit(*given))

    monkeypatch.setattr(plan, "submit", killed)
    with pytest.raises(KeyboardInterrupt):
        drive.begin(store, made, described)
    monkeypatch.setattr(plan, "submit", submit)
    assert drive.begin(store, plan.load("s"), described) == 2
    assert drive.begin(store, made, described) == 0
    jobs = store.jobs()[::-1]
    assert [job["params"] for job in jobs] == [
        {"steps": "5", "lr": lr, "batch": batch} for lr in "12" for batch in ("8", "16")
    ]
    assert [job["name"] for job in jobs] == ["s-0", "s-1", "s-2", "s-3"]
    new = Store(f"sqlite:///{home / 'new.db'}")  # made anew from the journals
    assert [job["kept"] for job in table.jobs(new, "s")] == [job["kept"] for job in jobs]
    told(home, store, jobs[1]["id"], [(1, 3.0), (2, 0.5), (3, 0.7)])
    told(home, store, jobs[2]["id"], [(1, 0.9), (2, math.nan)])
    found = table.table(store, "s")
    assert found["keys"] == ["lr", "batch"]
    assert [one["value"] for one in found["trials"]] == [None, 0.5, 0.9, None]
    assert drive.best(found)["params"] == {"lr": 1, "batch": 16}
    with pytest.raises(JobError, match="There is a sweep 's' already; go on with it by --resume s"):
        plan.keep(made)
    with pytest.raises(JobError, match="There is no sweep 'z'. Known: s"):
        table.table(store, "z")


@pytest.mark.slow  # a search for each place of the kill
def test_a_search_killed_anywhere_goes_on_with_the_same_trials(home, tmp_path, monkeypatch):
    """Each trial has one job, whenever the process that goes through the sweep is killed, and is drawn the same."""
    pytest.importorskip("optuna", reason="optuna is in the extra `hpo`")
    drawn = []
    for kill in (False, True):
        where = tmp_path / str(kill)
        monkeypatch.setenv("TRAINWRIGHT_HOME", str(where))
        store = Store()
        (tmp_path / "script.py").write_text(SCRIPT)
        made = plan.keep(Plan("s", "script.py", ["lr=log(1e-5,1e-1)", "n=int(1,9)"], "loss", "minimize", trials=6))
        study = Study(store, made, described, at_once=2)
        submit = plan.submit
        while not study.look():
            for job in store.jobs(["QUEUED"]):
                told(where, store, job["id"], [(1, (math.log10(float(job["params"]["lr"])) + 3) ** 2)])
            if kill:
                monkeypatch.setattr(plan, "submit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                study = Study(store, made, described, at_once=2)  # another process
                with suppress(KeyboardInterrupt):  # between the drawing and the queue
                    study.look()
                monkeypatch.setattr(plan, "submit", submit)
                study = Study(store, made, described, at_once=2)
        drawn.append([one["params"] for one in table.table(store, "s")["trials"]])
        assert len(store.jobs()) == 6
    assert drawn[0] == drawn[1]


def test_a_sweep_ends_when_the_last_of_its_processes_has(home, tmp_path):
    store = Store()
    made = planned(tmp_path, ["lr=1,2"])
    drive.begin(store, made, described)
    job, other = (one["id"] for one in store.jobs())
    for one in (job, other):
        told(home, store, one, [(1, 3.0)])
    worker = SimpleNamespace(look=lambda: None, children={job: "its process", "of another": "process"})
    assert not drive._look(store, made, None, worker)
    del worker.children[job]
    assert drive._look(store, made, None, worker)


def test_what_is_worse_than_the_median_is_ended_and_is_no_failure(home, tmp_path):
    pytest.importorskip("optuna", reason="optuna is in the extra `hpo`")
    store = Store()
    made = planned(tmp_path, ["lr=1,2,3,4,5"], prune=True)
    study = Study(store, made, described, at_once=1)
    for number in range(5):
        assert not study.look()
        (job,) = store.jobs(["QUEUED"])
        assert job["params"] == {"lr": str(number + 1)}
        if number < 4:
            told(home, store, job["id"], [(1, 1.0 + number), (2, 0.5 + number)])
    told(home, store, job["id"], [(1, 9.0)], end=None)
    study.look()
    assert store.find(job["id"])["stop_requested"] is not None
    told(home, store, job["id"], [], end="INTERRUPTED")
    assert study.look()
    found = table.table(store, "s")["trials"]
    assert [(one["status"], one["pruned"]) for one in found] == [("COMPLETE", False)] * 4 + [("STOPPED", True)]
    states = [trial.state.name for trial in study._study.trials]
    assert states == ["COMPLETE"] * 4 + ["PRUNED"]


def test_mistakes_are_told_before_anything_is_queued(home, tmp_path, capsys):
    (tmp_path / "script.py").write_text(SCRIPT)
    for words, said in (
        (["script.py", "lr=1,2"], "say what is to be best: --metric NAME"),
        (["script.py", "lr=log(1,2)", "--metric", "loss"], "say how many are tried: --trials 20"),
        (["none.py", "lr=1,2", "--metric", "loss"], "There is no file 'none.py'"),
        (["--resume", "none"], "There is no sweep 'none'"),
        (["script.py", "lr=1,2", "--metric", "loss", "--name", "a/b"], "is no name of a sweep"),
    ):
        assert main(["sweep", *words]) == 2
        assert said in capsys.readouterr().err
    assert not Store().jobs()
    (tmp_path / "run.yaml").write_text("model: {model_name: here}\ntraining: {trainer_type: SFT, max_steps: 4}\n")
    assert main(["sweep", "run.yaml", "lr=low,high", "--metric", "loss"]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert not Store().jobs()
    assert main(["sweep", "--show"]) == 0
    assert "There are no sweeps yet" in capsys.readouterr().out


def test_a_sweep_for_the_queue_and_its_table(home, tmp_path, capsys):
    (tmp_path / "script.py").write_text(SCRIPT)
    assert main(["sweep", "script.py", "lr=1,2", "--metric", "accuracy", "--queue"]) == 0
    assert "2 jobs are queued" in capsys.readouterr().out
    store = Store()
    assert table.names(store) == ["script-sweep-1"]
    for job, value in zip(store.jobs(["QUEUED"])[::-1], (0.25, 0.75), strict=True):
        journal = home / "jobs" / job["id"] / "job.jsonl"
        append(journal, "metric", name="accuracy", value=value, step=1)
    assert main(["sweep", "--show", "script-sweep-1"]) == 0
    head, first, second, best = capsys.readouterr().out.splitlines()
    assert head.split() == ["trial", "job", "lr", "best", "accuracy", "status"]
    assert (first.split()[2:4], second.split()[2:4]) == (["2", "0.75"], ["1", "0.25"])
    assert best.endswith("accuracy 0.75 with lr=2.")
    assert main(["sweep", "--show", "script-sweep-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["direction"] == "maximize"
