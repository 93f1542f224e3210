"""Real processes that are started, killed and asked to stop, here and by a Slurm of scripts; each run goes on."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.jobs.listed import listed
from trainwright.checkpoint import check, layout
from trainwright.compat import gives_grace
from trainwright.jobs.worker import ranks

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
ROOT, BIN = Path(__file__).parents[2], Path(__file__).parent / "slurm"
LAUNCH = [sys.executable, "-m", "trainwright.cli.main", "launch", str(Path(__file__).parent / "script.py")]


def environment(place):
    home = {"TRAINWRIGHT_HOME": str(place / "home"), "TRAINWRIGHT_JOBS": ""}
    return {**os.environ, **home, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def launched(place, *words):
    place.mkdir(exist_ok=True)
    with (place / "log").open("a") as log:
        return subprocess.Popen([*LAUNCH, *words], cwd=place, env=environment(place), stdout=log, stderr=log)


def lines(place, rank=0):
    log = place / "run" / f"steps{rank}"
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for(what, seconds=120):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come in time"
        time.sleep(0.05)


def states(place, monkeypatch):
    """What is known of every process of the newest job."""
    jobs = listed(place / "home", monkeypatch)
    monkeypatch.chdir(place)
    return ranks.states(jobs[-1]) if jobs else []


def test_killed_ranks_and_a_killed_launcher_cost_at_most_an_interval(tmp_path, monkeypatch):
    one = launched(tmp_path, "--processes", "2", "run", "1000000", "0.05")
    wait_for(lambda: any(one["rows_per_second"] for one in states(tmp_path, monkeypatch)) or one.poll() is not None)
    before = states(tmp_path, monkeypatch)
    assert [(one["rank"], one["pid"], one["state"], one["before"]) for one in before] == [
        (rank, lines(tmp_path, rank)[-1][1], "training", None) for rank in range(2)
    ]
    os.kill(before[1]["pid"], signal.SIGSTOP)
    wait_for(lambda: states(tmp_path, monkeypatch)[1]["state"] == "suspended")
    os.kill(before[1]["pid"], signal.SIGKILL)
    killed = len(lines(tmp_path))
    began = time.monotonic()
    wait_for(lambda: len(lines(tmp_path)) > killed + 6 or one.poll() is not None)
    print(f"killed worker to six steps more: {time.monotonic() - began:.1f} s")
    wait_for(lambda: states(tmp_path, monkeypatch)[1]["before"])
    first, second = states(tmp_path, monkeypatch)
    assert (
        f"Rank 1 (process {before[1]['pid']} on {second['host']}) was killed or has left, after step" in first["before"]
    )
    assert second["before"].startswith(f"process {before[1]['pid']} was killed, or ended without a word; its last log")
    wait_for(lambda: {one["state"] for one in states(tmp_path, monkeypatch)} == {"training"})  # one may be slow
    assert all("/attempt_1/1/" in path for path in second["logs"])
    lost = max(step for step, _ in lines(tmp_path)[:killed]) - lines(tmp_path)[killed][0] + 1
    assert 0 <= lost <= 2 * 4  # steps between saves, and those while one was written
    said = (tmp_path / "log").read_text()
    assert "was killed or has left" in said  # its note; the error itself, where the agent did not end it before
    workers = {lines(tmp_path, rank)[-1][1] for rank in range(2)}
    one.kill()
    wait_for(lambda: not any(map(psutil.pid_exists, workers)), 30)
    assert layout.step_of(check.newest_valid(tmp_path / "run")[0]) == lines(tmp_path)[-1][0]  # they saved and left

    again = launched(tmp_path, "--processes", "2", "run", "1000000", "0.05")
    steps = len(lines(tmp_path))
    wait_for(lambda: len(lines(tmp_path)) > steps + 2 or again.poll() is not None)
    assert lines(tmp_path)[steps][0] == lines(tmp_path)[steps - 1][0] + 1
    again.send_signal(signal.SIGUSR1)
    assert again.wait(timeout=60) == 128 + signal.SIGUSR1, (tmp_path / "log").read_text()[-3000:]
    assert [(one["state"], one["step"]) for one in states(tmp_path, monkeypatch)] == [
        ("INTERRUPTED", lines(tmp_path)[-1][0])
    ] * 2
    assert layout.step_of(check.newest_valid(tmp_path / "run")[0]) == lines(tmp_path)[-1][0]
    jobs = listed(tmp_path / "home", monkeypatch)
    assert [job["status"] for job in jobs] == ["LOST", "INTERRUPTED"]
    ranks = jobs[-1]["kept"]["ranks"]
    assert [one["pid"] for one in ranks] == [lines(tmp_path, rank)[-1][1] for rank in range(2)]
    assert len({one["output"] for one in ranks}) == 2  # each has a file of its own


def test_slurm_saves_requeues_and_goes_on_without_a_lost_step(tmp_path):
    known = {**environment(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [
        *LAUNCH,
        "--on",
        "slurm",
        "--nodes",
        "2",
        "--processes",
        "1",
        "--slurm",
        "time=10:00",
        "run",
        "25",
        "0.1",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=known, capture_output=True, text=True)
    assert done.stdout.startswith("Slurm's job 4711 runs "), done.stderr
    wait_for(lambda: len(lines(tmp_path)) > 5)
    os.kill(int((tmp_path / "shell").read_text()), signal.SIGUSR1)  # what --signal=B:USR1@600 sends to the script
    wait_for(lambda: (tmp_path / "ended").exists())
    said = (tmp_path / "logs" / "script" / "slurm-4711.log").read_text()
    assert (tmp_path / "ended").read_text() == "turns: 2, exit code: 0", said[-5000:]
    assert [step for step, _ in lines(tmp_path)] == list(range(1, 26))
    assert len({pid for _, pid in lines(tmp_path)}) == 2
    assert "The time is nearly over: the run saves, and goes on in a new turn." in said
    assert "Resuming from" in said


def test_a_rank_that_is_stuck_raises_or_is_killed_in_an_evaluation_is_named_and_the_run_begins_anew(
    tmp_path, monkeypatch
):
    (tmp_path / "run").mkdir()
    for name in ("stuck", "raises", "killed"):
        (tmp_path / "run" / name).touch()
    grace = ("--grace", "3") if gives_grace() else ()
    one = launched(tmp_path, "--processes", "2", *grace, "run", "12", "0.05")
    wait_for(lambda: [found["state"] for found in states(tmp_path, monkeypatch)] == ["training", "stuck"])
    assert re.search(r"is at .*script.py:\d+ in on_step_end in step 6$", states(tmp_path, monkeypatch)[1]["how"])
    assert one.wait(timeout=240) == 0, (tmp_path / "log").read_text()[-3000:]
    said = (tmp_path / "log").read_text()
    assert (
        len(re.findall(r"Rank 1 \(process \d+ on .*\) is at .*script.py:\d+ in on_step_end: step 6 has taken", said))
        >= 2
    )
    assert re.search(
        r"RankError: The run failed after step 9 \(Rank 1 .* failed: ValueError: what the user wrote\)", said
    )
    assert re.search(r"Rank 1 \(.*\) was killed or has left, so they cannot save together", said)
    first, second = states(tmp_path, monkeypatch)
    assert [(one["state"], one["step"]) for one in (first, second)] == [("COMPLETE", 12)] * 2
    assert re.search(r"failed after step 10: RankError: Rank 1 \(.*\) was killed or has left", first["before"])
    done = [step for step, _ in lines(tmp_path)]
    assert (done[0], done[-1], len({pid for _, pid in lines(tmp_path)})) == (1, 12, 4)
    assert all(step - then <= 1 and then - step < 2 * 4 for then, step in itertools.pairwise(done))
