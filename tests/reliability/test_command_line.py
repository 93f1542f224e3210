"""Signals to the command line as it is by default, with job tracking on: what is done is saved, and goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from importlib.resources import files

import psutil
import pytest

from tests.cli.test_cli import SMALL
from tests.jobs.listed import listed
from trainwright.checkpoint import check, layout

LONG = [*SMALL, "training.max_steps=100000", "training.save_steps=100000", "training.eval_steps=100000"]
LONG += ["training.logging_steps=1", "training.output_dir=out"]


def _hear_signals():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and tests under nohup this one


class Command:
    """`trainwright train -c FILE` with a home of jobs of its own.

    Attributes:
        wrapper: the process that was started.
        python: the one that trains.
    """

    def __init__(self, place, *before, resume=True, more=(), waits=True):
        """Start it after some words of a shell, such as nohup, with more settings; wait until it trains, or not."""
        environment = {**os.environ, "TRAINWRIGHT_HOME": str(place / "home"), "PYTHONUNBUFFERED": "1"}
        environment.pop("TRAINWRIGHT_JOBS", None)
        recipe = str(files("trainwright") / "recipes" / "demo.yaml")
        command = [sys.executable, "-m", "trainwright.cli.main", "train", "-c", recipe, *["--resume"] * resume, *LONG]
        command += more
        self.place, self.log = place, place / "log"
        with self.log.open("w") as log:
            self.wrapper = subprocess.Popen([*before, *command], cwd=place, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env=environment, preexec_fn=_hear_signals)  # fmt: skip
        if waits:
            self.wait_for_step(self.step() + 2)
        self.python = psutil.Process(self.wrapper.pid)
        while not self.python.name().startswith("python"):  # what stands before it
            self.python = self.python.children()[0]

    def step(self):
        """Return the last step that a journal tells."""
        told = [path.read_text() for path in self.place.glob("home/jobs/*/job.jsonl")]
        return max(
            [int(step) for text in told for step in re.findall(r'"step": (\d+), "total_steps"', text)], default=0
        )

    def wait_for_step(self, step):
        while self.step() < step and self.wrapper.poll() is None:
            time.sleep(0.05)
        assert self.wrapper.poll() is None, self.log.read_text()[-2000:]

    def ended(self):
        """Return (exit code, step at which it was interrupted) when it has ended."""
        self.wrapper.wait(timeout=300)
        said = re.findall(r"Interrupted by \w+ at step (\d+) of 100000; saved in 'out'. (.+)", self.log.read_text())
        assert said, self.log.read_text()[-2000:]
        step, goes_on = said[-1]
        assert goes_on == "trainwright train --resume out goes on from there."
        return self.wrapper.returncode, int(step)


def write_source(place):
    """Write a little source code to learn from."""
    (place / "source").mkdir()
    for number in range(40):
        lines = [f"def function_{number}_{i}(x):\n    return x + {i}\n" for i in range(12)]
        (place / "source" / f"module_{number}.py").write_text("\n".join(lines))


@pytest.fixture
def place(tmp_path):
    write_source(tmp_path)
    return tmp_path


def saved_step(place):
    return layout.step_of(check.newest_valid(place / "out")[0])


@pytest.mark.slow
def test_a_tracked_run_saves_at_signals_however_it_was_started(place, monkeypatch):
    first = Command(place, resume=False)
    for _ in range(2):
        first.python.send_signal(signal.SIGTERM)
    code, step = first.ended()
    assert code == 128 + signal.SIGTERM
    assert saved_step(place) == step >= 2

    second = Command(place, "timeout", "--preserve-status", "-s", "TERM", "600", "nohup")
    assert f"at step {step} of 100000" in second.log.read_text()
    second.python.send_signal(signal.SIGHUP)  # ignored, as nohup has it
    second.wait_for_step(second.step() + 3)
    second.wrapper.send_signal(signal.SIGALRM)  # what timeout itself gets when the time is over
    code, later = second.ended()
    assert code == 128 + signal.SIGTERM
    assert saved_step(place) == later >= step + 5

    third = Command(place)
    for _ in range(2):
        third.python.send_signal(signal.SIGHUP)
    code, last = third.ended()
    assert code == 128 + signal.SIGHUP
    assert saved_step(place) == last > later
    (job,) = listed(place / "home", monkeypatch)  # which is resumed
    assert job["status"] == "INTERRUPTED"
    assert f"at step {last} of 100000" in job["message"]
