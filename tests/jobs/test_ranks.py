"""How the processes of a job on several are told: real ones, that live, are suspended and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import Namespace

import psutil
import pytest

from trainwright.cli.jobs import actions
from trainwright.jobs import processes
from trainwright.jobs.journal import rank_file
from trainwright.jobs.journal.journal import append
from trainwright.jobs.tracking import tracking
from trainwright.jobs.worker import ranks


@pytest.fixture
def job(home, tmp_path):
    """A job of two processes of this machine and one of another, and the first two."""
    begun = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
    of = [
        {"rank": rank, "host": processes.hostname(), "pid": one.pid, "began": psutil.Process(one.pid).create_time(),
         "output": str(tmp_path / str(rank) / "stderr.log")}
        for rank, one in enumerate(begun)
    ]  # fmt: skip
    of.append({**of[0], "rank": 2, "host": "elsewhere", "output": None})
    for one in of[:2]:
        (tmp_path / str(one["rank"])).mkdir()
        (tmp_path / str(one["rank"]) / "stderr.log").write_text("said")
    yield {"kept": {"ranks": of, "output_dir": str(tmp_path)}, "data": {}, "cwd": None, "status": "RUNNING"}, begun
    for one in begun:
        one.kill()
        one.wait()


def told(job, tmp_path, rank):
    return rank_file.RankFile(tmp_path, ["job", "run"], job["kept"]["ranks"][rank], 3, 0.0)


def seen(job):
    return [(one["state"], one["how"], one["step"]) for one in ranks.states(job)]


def test_what_a_process_tells_and_what_is_told_of_one_that_is_gone(job, tmp_path):
    job, begun = job
    files = [told(job, tmp_path, rank) for rank in range(3)]
    assert seen(job) == [("training", "", 3)] * 3
    files[0].log(7, 40, 8.0)
    files[0].write({1: "is at a.py:3 in f in step 8"})
    first, second, _ = ranks.states(job)
    assert (first["step"], first["rows_per_second"]) == (7, 5.0)
    assert (second["state"], second["how"]) == ("stuck", "is at a.py:3 in f in step 8")
    files[0].write({})
    os.kill(begun[1].pid, signal.SIGSTOP)
    os.waitpid(begun[1].pid, os.WUNTRACED)
    assert seen(job)[1][0] == "suspended"
    assert ranks.gone(job) == [1]
    begun[1].kill()
    begun[1].wait()
    assert seen(job)[1] == ("killed", rank_file.GONE, 3)
    files[0].end(9, ("FAILED", "RankError: it is gone", None))
    assert seen(job)[0] == ("FAILED", "RankError: it is gone", 9)
    assert [state for state, _, _ in seen({**job, "status": "FAILED"})] == ["FAILED", "killed", "unknown"]
    assert [state for state, _, _ in seen({**job, "status": "COMPLETE"})] == ["FAILED", "COMPLETE", "unknown"]


def test_one_that_comes_after_tells_how_the_one_before_it_ended(job, tmp_path):
    job, _ = job
    killed, failed = told(job, tmp_path, 0), told(job, tmp_path, 1)
    killed.log(5, 1, 1.0)
    killed.write({})
    failed.end(6, ("FAILED", "RankError: it is gone", None))
    for one in job["kept"]["ranks"]:
        one["pid"] += 1
    for rank in range(2):
        told(job, tmp_path, rank)
    pids = [one["pid"] - 1 for one in job["kept"]["ranks"]]
    assert [one["before"] for one in ranks.states(job)][:2] == [
        f"process {pids[0]} was killed, or ended without a word; its last log was of step 5",
        f"process {pids[1]}, failed after step 6: RankError: it is gone",
    ]
    rank_file.RankFile(tmp_path, ["another", "run of another"], {**job["kept"]["ranks"][0], "pid": 1}, 0, 0.0)
    assert "was killed" not in (tmp_path / "ranks" / "0.json").read_text()


def test_no_other_file_is_a_log(job, tmp_path):
    job, _ = job
    assert ranks.log(job, 0, "stderr.log") == tmp_path / "0" / "stderr.log"
    assert ranks.log(job, 0, "../1/stderr.log") is None
    (tmp_path / "secret").write_text("a key")
    (tmp_path / "0" / "stdout.log").symlink_to(tmp_path / "secret")
    assert ranks.log(job, 0, "stdout.log") is None
    job["kept"]["ranks"][1]["output"] = str(tmp_path / "secret")
    assert ranks.log(job, 1, "secret") is None


def test_a_job_is_shown_with_its_processes(job, home, tmp_path, capsys):
    job, _ = job
    told(job, tmp_path, 0).log(7, 40, 8.0)
    start = {"name": "several", "params": {}, "pid": os.getpid(), "host": processes.hostname(), "cwd": str(tmp_path)}
    append(home / "jobs" / "one" / "job.jsonl", "start", **start)
    for name, value in job["kept"].items():
        append(home / "jobs" / "one" / "job.jsonl", "kept", name=name, value=value)
    actions.show(Namespace(job="one", json=False, all=False))
    printed = capsys.readouterr().out
    assert "rank  machine" in printed
    assert f"{tmp_path}/1/stderr.log" in printed


def test_all_beginnings_of_one_launch_are_one_job(home, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "1")
    names = []
    for had in (False, False, True):
        monkeypatch.setattr(tracking, "_had_job", had)
        with tracking.tracked("training") as job:
            names.append(job.id)
    assert names[0] == names[1] != names[2]
