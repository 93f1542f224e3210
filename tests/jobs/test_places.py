"""A run owns its folder and a job its home, whatever else is begun at the same instant or moves to another folder."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainwright import ConfigError
from trainwright.checkpoint.lock import owned
from trainwright.cli import folders
from trainwright.cli.after import in_job
from trainwright.cli.main import main
from trainwright.config import TrainingConfig, load
from trainwright.config.reading.writing import write_whole
from trainwright.errors import JobError
from trainwright.jobs import paths
from trainwright.jobs.journal.journal import append
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker import queue
from trainwright.jobs.worker.health import sweep


def chosen(file="r.yaml", resume=False, new=False, output_dir=None):
    config = TrainingConfig()
    config.training.output_dir = output_dir
    folders.choose(config, Path(file), resume, new)
    return config.training.output_dir


def test_runs_that_begin_at_the_same_instant_have_a_folder_each(home, tmp_path):
    got, start = [], threading.Barrier(8)

    def begin():
        start.wait()
        got.append(chosen())

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [f"runs/r-{number}" for number in range(1, 9)]
    assert all(Path(one).is_dir() for one in got)
    with pytest.raises(ConfigError, match=r"There is no run 'runs/r-<n>' of 'r.yaml' to go on with"):
        chosen(resume=True)  # none of them has begun
    Path("other").mkdir()
    for number, file in ((5, "other/r.yaml"), (3, "r.yaml"), (2, "r.yaml")):
        Path(f"runs/r-{number}/run.json").write_text(json.dumps([{"file": str(Path(file).resolve())}]))
    assert chosen(resume=True) == "runs/r-3"
    assert chosen("other/r.yaml", resume=True) == "runs/r-5"
    Path("runs/r-5/run.json").write_text('[{"fil')  # half of one
    with pytest.raises(ConfigError, match=r"no run 'runs/r-<n>' of 'other/r.yaml' to go on with. --resume FOLDER"):
        chosen("other/r.yaml", resume=True)
    (tmp_path / "out" / "checkpoint-1").mkdir(parents=True)
    assert [chosen(new=True, output_dir="out") for _ in range(2)] == ["out-2", "out-3"]


def test_a_run_that_never_began_gives_its_folder_back(home, tmp_path, monkeypatch):
    for keeps in (False, True):
        folder = chosen()
        with pytest.raises(ValueError, match="no data"), owned(Path(folder)):
            if keeps:
                Path(folder, "a").touch()
            raise ValueError("no data")
        assert Path(folder).exists() == keeps
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "x.yaml").write_text(
        "data: {train: {datasets: [{dataset_name: rows.jsonl}]}}\nmodel: {model_name: llama}\n"
    )

    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(folders, "announce", interrupted)  # libraries are loaded
    assert main(["train", "x.yaml"]) == 130
    assert not Path("runs/x-1").exists()
    (tmp_path / "runs" / "x-1").mkdir()
    (tmp_path / "runs" / "x-1").rmdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"The run's folder 'file/out-2' cannot be made: Not a directory"):
        folders._reserved(Path("file/out"), 2)


def test_what_describes_a_run_is_there_whole_or_as_it_was(tmp_path):
    """A limit of the size of files ends a write in its middle, as a full disk does."""
    file, usual = tmp_path / "run.yaml", resource.getrlimit(resource.RLIMIT_FSIZE)
    file.write_text("as it was")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, usual[1]))
    try:
        with pytest.raises(ConfigError, match=r"run.yaml' cannot be written: File too large"):
            write_whole(file, "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]
    assert file.read_text() == "as it was"
    write_whole(file, "x" * 100)
    assert file.read_text() == "x" * 100


def test_a_token_stands_in_no_file_of_a_run(tmp_path):
    config = TrainingConfig()
    config.training.output_dir, config.training.hub_token = str(tmp_path), "secret"
    words = ["r.yaml", "training.hub_token=secret", "--training.hub_token", "secret", "--training.seed", "3"]
    folders.describe(config, Path("r.yaml"), words, goes_on=False)
    assert not [path.name for path in tmp_path.iterdir() if "secret" in path.read_text()]
    assert "--training.seed 3" in json.loads((tmp_path / "run.json").read_text())[0]["command"]
    assert load(tmp_path / "run.yaml").config.training.hub_token is None


def test_a_job_goes_on_in_its_own_folder_whatever_others_have_begun(home, tmp_path, monkeypatch):
    """As a worker begins it: the job is this process. What this process begins is a run of its own."""
    (tmp_path / "r.yaml").write_text("training:\n  # output_dir: runs/mine\n  max_steps: 1\n")
    job = queue.submit(Store(), tmp_path / "r.yaml", {}, ["--training.seed", "3"])
    found = Store().find(job)
    assert (found["command"][-2:], found["params"]) == (["--training.seed", "3"], {"training.seed": "3"})
    assert chosen() == "runs/r-1"
    monkeypatch.setenv(paths.JOB_ID, job)
    with tracked("r", job=job):
        for resume in (False, True):
            assert chosen(resume=resume) == str(paths.job_folder(job) / "output")
        with monkeypatch.context() as begun:  # put back before the job ends and takes it away
            begun.setenv(paths.OWNER, f"{job}:1")
            assert chosen() == "runs/r-2"


def test_a_queued_file_is_as_it_was_when_it_was_submitted(home, tmp_path):
    """Whatever becomes of it later: another attempt, and another job of the same, have its first content too."""
    file = tmp_path / "r.yaml"
    file.write_text("training: {max_steps: 1}\n")
    store = Store()
    first = queue.submit(store, file, {}, ["training.seed=3"])
    file.write_text("training: {max_steps: 2}\n")
    second = queue.submit(store, file, {})
    file.unlink()
    again = queue.again(store, store.find(first), {"training.seed": 4})
    assert main(["jobs", "stop", first]) == 0
    assert main(["jobs", "rm", first]) == 0
    for job, steps in ((second, 2), (again, 1)):
        command = store.find(job)["command"]
        (own,) = (word for word in command if word.endswith("r.yaml"))
        assert Path(own).parent == paths.job_folder(job)
        assert load(Path(own)).config.training.max_steps == steps
    assert "training.seed=4" in store.find(again)["command"]


def test_a_run_by_hand_that_was_killed_before_it_told_of_files_goes_on_in_its_folder(home):
    store = Store()
    journal = paths.job_folder("j") / paths.JOURNAL
    append(journal, "start", name="r", params={"training.output_dir": "runs/r-1"}, pid=1, host="elsewhere",
           command=[sys.executable, "-m", "trainwright", "train", "r.yaml"])  # fmt: skip
    sweep(store)
    store.update("j", status="LOST")
    queue.resume(store, store.find("j"))
    assert store.find("j")["command"][-2:] == ["r.yaml", "training.output_dir=runs/r-1"]


MOVES = """
import os, sys, time
from trainwright.jobs import tlab_trainer
@tlab_trainer.job_wrapper()
def train():
    tlab_trainer.log_metric("a", 1, 1)
    tlab_trainer.job.journal.flush()
    os.mkdir("work")
    os.chdir("work")
    tlab_trainer.log_metric("a", 2, 2)
    tlab_trainer.job._over.wait(2)  # so that the thread opens its database after that
train()
"""


@pytest.mark.slow
@pytest.mark.parametrize("database", [None, "sqlite:///own.db"])
def test_a_relative_home_stays_where_it_was(home, tmp_path, monkeypatch, database):
    (tmp_path / "s.py").write_text(MOVES)
    environment = {**os.environ, "TRAINWRIGHT_HOME": "mine", **({"TRAINWRIGHT_DB": database} if database else {})}
    subprocess.run([sys.executable, "s.py", "--job_id", "j"], cwd=tmp_path, env=environment, check=True)
    assert sorted(path.name for path in (tmp_path / "mine" / "jobs").iterdir()) == ["j"]
    assert not [*(tmp_path / "work").iterdir()]
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "mine"))
    store = Store(f"sqlite:///{tmp_path / ('own.db' if database else 'mine/jobs.db')}")
    sweep(store)  # what the job's last three seconds did not move
    assert [step for step, _, _ in store.metric("j", "a")] == [1, 2]


def test_without_a_home_folder_a_script_trains_untracked(home, monkeypatch, capsys):
    paths._note.cache_clear()
    monkeypatch.delenv("TRAINWRIGHT_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    for _ in range(2):
        with tracked("a") as job:
            assert job is None
    assert capsys.readouterr().err == (
        "Note: this run is not tracked: This user has no home folder; give one for jobs in TRAINWRIGHT_HOME.\n"
    )


def test_a_trained_model_is_found_by_the_name_of_its_job(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store()
    for job in ("first", "second"):
        store.submit(job, name="mine", experiment="e", command=["python", "x.py"], params={}, cwd=str(tmp_path))
        store.keep(job, "output_dir", f"runs/{job}")
    assert in_job.place_of("first") == str(tmp_path / "runs" / "first")
    assert in_job.place_of("base:second") == f"base:{tmp_path / 'runs' / 'second'}"
    assert in_job.place_of("someone/model") == "someone/model"  # on a hub
    with pytest.raises(JobError, match="2 jobs are called 'mine'"):
        in_job.place_of("mine")
    (tmp_path / "mine").mkdir()
    assert in_job.place_of("mine") == "mine"
