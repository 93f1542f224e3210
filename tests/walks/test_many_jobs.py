"""A person with many jobs: a sweep that is killed and goes on, a job that begins again by itself, and which was best.

Every command is a process of its own with default settings, in an empty folder.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forked

pytestmark = pytest.mark.slow

SCRIPT = """
import os
import time
from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--learning_rate", type=float, default=0.1)
tlab_trainer.add_argument("--batch", type=int, default=8)

@tlab_trainer.job_wrapper()
def train():
    params = tlab_trainer.params
    weight = 0.0
    for step in range(1, 6):
        weight -= params.learning_rate * 2 * (weight - 1)
        tlab_trainer.log_metric("loss", (weight - 1) ** 2 + 1 / params.batch, step)
        tlab_trainer.progress_update(20 * step)
        time.sleep(params.get("pause", 0.1))
        if params.get("breaks", False) and not tlab_trainer.resumes and step == 3:
            os.kill(os.getpid(), 9)

train()
"""
WORDS = "script.py learning_rate=0.01,0.4 batch=4,8 --metric loss --name tune"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRAINWRIGHT_JOBS")  # tests have it off; a person has not
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path


def begun(words):
    command = [str(Path(sys.executable).parent / "trainwright"), *words]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ)


def typed(*words, code=0):
    done = forked.run(["-m", "trainwright.cli.main", *words], cwd=os.getcwd())
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def test_a_sweep_is_killed_and_goes_on_and_a_job_begins_again(folder):
    said = typed("jobs", "submit", "script.py", "--param", "learning_rte=1", code=2)
    assert "--param learning_rte: 'script.py' declares no such parameter. Did you mean 'learning_rate'?" in said

    sweep = begun(["sweep", *WORDS.split()])
    for line in sweep.stdout:  # its first job runs
        if " begun" in line:
            break
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    typed("jobs", "submit", "script.py", "--param", "breaks=true", "--name", "fragile", "--restart", "1")
    said = typed("sweep", "--resume", "tune", "--slots", "2")
    assert re.search(r"The best is \w+: loss 0\.125\d* with learning_rate=0\.4, batch=8\.", said)

    deadline = time.monotonic() + 60
    while "fragile" not in (said := typed("jobs", "list", "name = fragile and status = COMPLETE")):
        assert time.monotonic() < deadline, said
        typed("jobs", "worker", "--once")
    jobs = json.loads(typed("jobs", "list", "--json"))
    assert len(jobs) == 5  # of the sweep that was killed none was lost, and none was begun twice
    assert {job["name"]: job["starts"] for job in jobs}["fragile"] == 2
    assert {job["status"] for job in jobs} == {"COMPLETE"}

    said = typed(
        "jobs", "list", "learning_rate > 0.1 and loss < 0.2", "--columns", "batch,least:loss", "--sort", "loss"
    )
    assert [line.split()[1] for line in said.splitlines()[1:]] == ["tune-3"]
    typed("jobs", "tag", "best", "tune-3")
    said = typed("jobs", "compare", "tune-2", "tune-3")
    assert re.search(r"^batch +4 +8$", said, re.MULTILINE)
    typed("jobs", "rm", "--where", "experiment = tune and not tag = best")
    assert "2 of" not in (said := typed("jobs", "list"))
    assert len(said.splitlines()) == 3
