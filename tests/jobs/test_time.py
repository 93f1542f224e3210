"""Where the time of a job went: its parts add up to the time that it took, also of one that was killed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time

import pytest

from trainwright.cli.main import main
from trainwright.jobs import processes
from trainwright.jobs.journal.journal import read_journal, steps_before
from trainwright.jobs.journal.timesheet import PARTS
from trainwright.jobs.store import attempts, schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import tracking
from trainwright.jobs.tracking.tracking import tracked

KILLED = """
import os, pathlib, time
import torch
from trainwright import Trainer, TrainingArguments, TrainerCallback
journal = pathlib.Path(os.environ["TRAINWRIGHT_HOME"]) / "jobs/killed/job.jsonl"
class Slowly(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        time.sleep(0.01)
        if state.global_step == 27 and "TRAINWRIGHT_JOB_RESUME" not in os.environ:
            while not (pathlib.Path("out/checkpoint-20").exists() and '"step": 26' in journal.read_text()):
                time.sleep(0.01)
            os.kill(os.getpid(), 9)
class Model(torch.nn.Linear):
    def forward(self, x, labels):
        return {"loss": ((super().forward(x) - labels) ** 2).mean(), "logits": x}
def slow(_):
    time.sleep(0.1)
    return {}
torch.manual_seed(0)  # data that is other data would not be gone on with
rows = [{"x": torch.randn(3), "labels": torch.randn(1)} for _ in range(64)]
args = TrainingArguments("out", max_steps=50, save_steps=10, eval_strategy="steps", eval_steps=15, use_cpu=True,
                         logging_steps=10, report_to="trainwright")
Trainer(Model(3, 1), args, train_dataset=rows, eval_dataset=rows[:8], compute_metrics=slow, callbacks=[Slowly]).train()
"""
TICK = 0.02  # seconds: the system counts the beginnings of processes in hundredths


def test_the_time_of_attempts_that_are_told_in_any_order_adds_up():
    first, second = (dict.fromkeys(PARTS, 0.0) for _ in range(2))
    first |= {"began": 100.0, "first_step": 0, "reached": 0, "step": 7, "starting": 2.0, "training": 8.0}
    second |= {"began": 150.0, "first_step": 4, "reached": 7, "step": 9, "starting": 1.0, "again": 3.0, "training": 2.0}
    found = attempts.account([second, first])
    assert [(one["began"], one["ended"], one["again"]) for one in found["attempts"]] == [(100, 110, 0), (150, 156, 3)]
    assert [one["seconds"]["between"] for one in found["attempts"]] == [0, 40]
    assert found["seconds"] | {"between": 40.0, "starting": 3.0, "training": 10.0, "again": 3.0} == found["seconds"]
    assert (found["total"], found["again"]) == (56, 3)


@pytest.mark.slow
def test_a_killed_job_that_went_on_accounts_for_all_of_its_time(home, tmp_path, monkeypatch, capsys):
    (tmp_path / "script.py").write_text(KILLED)
    monkeypatch.setenv("TRAINWRIGHT_JOB_ID", "killed")
    clock = [time.time()]
    killed = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = home / "jobs" / "killed" / "job.jsonl"
    last = [record["step"] for record in read_journal(journal).records if record["k"] == "progress"][-1]
    clock.append(time.time())
    monkeypatch.setenv("TRAINWRIGHT_JOB_RESUME", "1")
    monkeypatch.setattr(tracking, "_had_job", True)  # this process began before the one that was killed
    runpy.run_path("script.py")
    clock.append(time.time())

    store = Store()
    found = attempts.account(store.of_job(schema.attempts, "killed"))
    first, second = found["attempts"]
    assert clock[0] - TICK <= first["began"] < first["ended"] <= clock[1]
    assert clock[1] - TICK <= second["began"] < second["ended"] <= clock[2]
    for one in (first, second):  # to 1e-6: what a float holds of seconds since 1970
        assert sum(one["seconds"].values()) - one["seconds"]["between"] == pytest.approx(
            one["ended"] - one["began"], abs=1e-6
        )
    assert second["seconds"]["between"] == pytest.approx(second["began"] - first["ended"], abs=1e-6)
    assert found["total"] == pytest.approx(second["ended"] - first["began"], abs=1e-6)
    assert (first["first_step"], first["step"], first["again"]) == (0, last, 0)
    redone = second["again"]  # the clock may have told of one step that no progress told of any more
    assert (second["first_step"], second["step"], redone) in ((20, 50, last - 20), (20, 50, last - 19))
    assert second["seconds"]["again"] >= 0.01 * (last - 20)  # what the callback sleeps
    assert second["seconds"]["training"] >= 0.01 * (50 - last)
    assert second["seconds"]["evaluating"] >= 0.1 * 2  # at steps 30 and 45
    assert all(second["seconds"][part] > 0 for part in ("starting", "saving"))

    monkeypatch.delenv("TRAINWRIGHT_JOB_ID")
    capsys.readouterr()
    assert main(["jobs", "show", "killed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["time"] == found
    assert main(["jobs", "show", "killed"]) == 0
    table = capsys.readouterr().out.partition("where the time went\n")[2].splitlines()
    assert [line.split()[:3] for line in table[1:3]] == [["1", f"0-{last}", "0"], ["2", "20-50", str(redone)]]
    store.close()
    for path in home.glob("jobs.db*"):
        path.unlink()
    assert attempts.account(Store().of_job(schema.attempts, "killed")) == found  # the journal alone tells it


def test_a_later_job_of_a_process_and_a_run_that_is_done_again(home):
    with tracked("first", job="first"):
        pass
    before = time.time()
    for _ in range(2):
        with tracked("second", job="second") as job:
            timesheet = job.open_timesheet()
            assert timesheet.began >= before - 1e-3  # not since the process began
            timesheet.begin("run", 0)
            for step in range(1, 4):
                timesheet.begin_step()
                timesheet.step = step
                job.progress(10 * step, step, 10)
            with timesheet.spending("saving"), timesheet.spending("evaluating"):
                pass
            timesheet.turn("other")
            assert job.open_timesheet() is timesheet
    assert steps_before(job.folder / "job.jsonl")["run"] == 3
    found = attempts.account(Store().of_job(schema.attempts, "second"))
    assert [one["again"] for one in found["attempts"]] == [0, 3]
    assert found["attempts"][1]["seconds"]["training"] == 0
    assert attempts.account(Store().of_job(schema.attempts, "first")) is None  # it did not train


def test_a_process_knows_its_age():
    assert processes.age(os.getpid()) <= time.monotonic() + TICK
    assert processes.age(2**22 + 1) == 0
