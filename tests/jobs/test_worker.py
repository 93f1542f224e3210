"""The queue, its worker and the command line: real processes, stopped, killed and begun again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs import scripts
from tests.jobs.test_decorator import wait_for
from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import places, processes, queue
from trainwright.jobs.health import sweep
from trainwright.jobs.store import Store
from trainwright.jobs.worker import Worker

QUICK = "import sys\nprint('ran', sys.argv[1:])\n"


@pytest.fixture
def worker(home, tmp_path):
    """Commands to start and kill workers; the last is stopped at the end."""
    running = []

    def start(*words, command=("jobs", "worker")):
        process = subprocess.Popen(
            [sys.executable, "-m", "trainwright.cli.main", *command, *words], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        running.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
    for job in Store().jobs(["RUNNING"]):
        if job["pid"]:
            processes.send(job["pid"], signal.SIGKILL)


def submitted(tmp_path, text, params=None, **more):
    path = tmp_path / f"script{len(list(tmp_path.glob('script*.py')))}.py"
    path.write_text(text)
    return queue.submit(Store(), path, params or {}, **more)


def ended(store, job, seconds=40):
    def look():
        sweep(store)
        found = store.find(job)
        return found if found["status"] not in ("QUEUED", "RUNNING") else None

    return wait_for(look, seconds)


@pytest.mark.slow
def test_submit_run_and_look(home, tmp_path, worker, capsys):
    (tmp_path / "script.py").write_text(scripts.SLOW)
    words = ["--param", "steps=5", "--name", "mine", "--experiment", "first", "--json"]
    assert main(["jobs", "submit", "script.py", *words]) == 0
    job = json.loads(capsys.readouterr().out)["id"]
    plain = submitted(tmp_path, QUICK, {"a": "x; rm -rf /", "b": 2})
    after = submitted(tmp_path, QUICK.replace("ran", "later"), after=job)
    worker("--slots", "2", "--once").wait(60)
    store = Store()
    assert [store.find(one)["status"] for one in (job, plain, after)] == ["COMPLETE"] * 3
    assert store.find(after)["started"] >= store.find(job)["ended"]
    assert main(["jobs", "logs", plain]) == 0
    assert capsys.readouterr().out == "ran ['--a=x; rm -rf /', '--b=2']\n"
    assert main(["jobs", "list"]) == 0
    out = capsys.readouterr().out
    assert f"{job}  mine" in out
    assert main(["jobs", "list", "--status", "failed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["jobs", "show", job[:6]]) == 0
    out = capsys.readouterr().out
    assert "COMPLETE" in out
    assert "  steps        5" in out
    assert "  loss         0.2 (step 4)" in out
    assert main(["jobs", "metrics", job, "loss", "--json"]) == 0
    assert [row[:2] for row in json.loads(capsys.readouterr().out)] == [[s, 1 / (s + 1)] for s in range(5)]
    assert main(["jobs", "export", job, "-o", "out.csv"]) == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 6
    assert lines[1].startswith(f"{job},mine,loss,0,1.0,")
    assert main(["jobs", "compare", job, plain]) == 0
    assert "steps" in capsys.readouterr().out
    assert main(["jobs", "rm", plain]) == 0
    assert not places.job_folder(plain).exists()
    assert main(["jobs", "show", plain]) == 2


@pytest.mark.slow
def test_a_yaml_file_as_a_job_and_its_mistakes(home, tmp_path, worker):
    from tests.language import tiny_language

    tiny_language.new_model().save_pretrained(tmp_path / "model")
    tiny_language.new_tokenizer().save_pretrained(tmp_path / "model")
    tiny_language.write_rows(tmp_path / "rows.jsonl", tiny_language.rows_of("text"))
    (tmp_path / "run.yaml").write_text(
        "model: {model_name: model}\n"
        "data: {train: {datasets: [{dataset_name: rows.jsonl}]}}\n"
        "training: {trainer_type: SFT, max_steps: 2, per_device_train_batch_size: 2, enable_tensorboard: false}\n"
    )
    store = Store()
    good = queue.submit(store, tmp_path / "run.yaml", {}, ["training.logging_steps=1"])
    bad = queue.submit(store, tmp_path / "run.yaml", {}, ["training.lerning_rate=1"])
    worker("--once").wait(120)
    found = store.find(good)
    log = (places.job_folder(good) / places.LOG).read_text()
    assert found["status"] == "COMPLETE", log
    assert found["step"] == 2
    assert "train/loss" in store.metric_names(good)
    assert (places.job_folder(good) / "output" / "model.safetensors").is_file()
    assert store.find(bad)["status"] == "FAILED"
    assert "lerning_rate" in store.find(bad)["message"]


@pytest.mark.slow
def test_a_job_that_does_not_listen_is_made_to_end(home, tmp_path, worker):
    deaf = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    job, polite = submitted(tmp_path, deaf), None
    store = Store()
    worker("--grace", "0.5", "--slots", "2")
    wait_for(
        lambda: (
            (places.job_folder(job) / places.LOG).exists() and "up" in (places.job_folder(job) / places.LOG).read_text()
        )
    )
    polite = submitted(tmp_path, "import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    wait_for(
        lambda: (
            (places.job_folder(polite) / places.LOG).exists()
            and "up" in (places.job_folder(polite) / places.LOG).read_text()
        )
    )
    began = time.monotonic()
    assert main(["jobs", "stop", job, polite]) == 0
    assert ended(store, polite)["status"] == "STOPPED"
    assert ended(store, job)["status"] == "STOPPED"
    assert time.monotonic() - began < 25


@pytest.mark.slow
def test_what_comes_after_a_failure_fails_and_a_crash_is_told(home, tmp_path, worker):
    wrong = submitted(tmp_path, "raise ValueError('broken')")
    later = submitted(tmp_path, QUICK, after=wrong)
    crash = submitted(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    leaves = submitted(tmp_path, "import os\nos._exit(3)\n")
    worker("--once").wait(60)
    store = Store()
    assert (store.find(leaves)["status"], store.find(leaves)["message"]) == (
        "FAILED", "Its process left with exit code 3."
    )  # fmt: skip
    assert store.find(wrong)["message"] == "ValueError: broken"
    assert store.find(later)["message"].startswith(f"The job {wrong}, which it was to come after, ended FAILED")
    assert (store.find(crash)["status"], store.find(crash)["message"]) == ("LOST", "Its process was ended by SIGKILL.")


@pytest.mark.slow
def test_a_killed_worker_and_killed_jobs(home, tmp_path, worker):
    """The worker is killed while jobs run; they go on; the next worker knows them, and begins lost ones again."""
    counting = (
        "import os, time\nfrom trainwright.jobs import tlab_trainer\n"
        "@tlab_trainer.job_wrapper()\ndef main():\n"
        "    open(os.environ['TRAINWRIGHT_JOB_ID'], 'a').write(f'{os.getpid()}\\n')\n"
        "    for step in range(60):\n        tlab_trainer.log_metric('loss', step, step)\n        time.sleep(0.1)\n"
        "main()\n"
    )
    store = Store()
    jobs = [submitted(tmp_path, counting, restarts=2) for _ in range(3)]
    first = worker("--slots", "3")
    wait_for(lambda: all(store.metric_names(job) for job in jobs))
    first.kill()
    first.wait()
    victim = store.find(jobs[0])
    assert victim["status"] == "RUNNING"
    time.sleep(0.5)
    processes.send(victim["pid"], signal.SIGKILL)
    second = worker("--slots", "3")
    for job in jobs:
        assert wait_for(lambda job=job: store.find(job)["status"] == "COMPLETE", 60)
    second.kill()
    runs = {job: (tmp_path / job).read_text().split() for job in jobs}
    assert [len(runs[job]) for job in jobs] == [2, 1, 1]  # only the killed one ran again
    assert store.find(jobs[0])["attempt"] == 2
    for job in jobs[1:]:
        assert [step for step, _, _ in store.metric(job, "loss")] == list(range(60))


@pytest.mark.slow
def test_random_kills_of_jobs_and_workers(home, tmp_path, worker):
    """Jobs, workers and the page's server are killed at random (seed 3); every job ends, none is two processes."""
    rng = random.Random(3)
    script = (
        "import fcntl, os, time\n"
        "lock = open(os.environ['TRAINWRIGHT_JOB_ID'] + '.lock', 'w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "time.sleep(2.5)\n"
    )
    jobs = [submitted(tmp_path, script, restarts=20) for _ in range(6)]
    store, process, page = Store(), worker("--slots", "3"), worker(command=["ui", "--port", "0"])
    end = time.monotonic() + 90
    kills = 0
    while any(job["status"] != "COMPLETE" for job in store.jobs()) and time.monotonic() < end:
        time.sleep(rng.uniform(0.2, 0.8))
        if kills < 14:
            kills += 1
            chance = rng.random()
            if chance < 0.2:
                page.kill()
                page = worker(command=["ui", "--port", "0"])
            elif chance < 0.6:
                process.kill()
                process.wait()
                process = worker("--slots", "3")
            else:
                running = [job for job in store.jobs(["RUNNING"]) if job["pid"]]
                if running:
                    processes.send(rng.choice(running)["pid"], signal.SIGKILL)
    assert kills >= 10
    states = {job["id"]: (job["status"], job["message"], job["attempt"]) for job in store.jobs()}
    assert {status for status, _, _ in states.values()} == {"COMPLETE"}, states
    for job in jobs:
        log = (places.job_folder(job) / places.LOG).read_text()
        assert "BlockingIOError" not in log


@pytest.mark.slow
def test_resume_and_again(home, tmp_path, worker):
    job = submitted(tmp_path, scripts.SLOW, {"steps": 300})
    store = Store()
    worker("--slots", "2")
    wait_for(lambda: store.find(job)["progress"] > 0)
    store.ask_to_stop(job)
    assert ended(store, job)["status"] == "STOPPED"
    assert main(["jobs", "resume", job]) == 0
    wait_for(lambda: store.find(job)["status"] == "RUNNING")
    with pytest.raises(JobError, match="cannot go on: it is RUNNING"):
        queue.resume(store, store.find(job))
    other = queue.again(store, store.find(job), {"steps": 4})
    assert ended(store, other)["status"] == "COMPLETE"
    assert store.find(other)["params"]["steps"] == 4
    assert len(store.metric(other, "loss")) == 4
    with pytest.raises(JobError, match="cannot go on: it is complete"):
        queue.resume(store, store.find(other))


def test_mistakes(home, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.py").write_text("")
    (tmp_path / "a.yaml").write_text("")
    for words, message in (
        (["submit", "none.py"], "There is no file 'none.py'"),
        (["submit", "a.txt"], "is neither a script (.py) nor a YAML file"),
        (["submit", "a.py", "--param", "x"], "has no '='; write NAME=VALUE"),
        (["submit", "a.py", "x=1"], "a script's parameters are given with --param"),
        (["submit", "a.yaml", "--param", "x=1"], "--param is for scripts"),
        (["submit", "a.py", "--after", "none"], "There is no job 'none'"),
        (["worker", "--slots", "0"], "--slots 0: at least one job"),
        (["worker", "--gpus", "a"], "numbers of devices"),
        (["stop", "none"], "There is no job 'none'"),
    ):
        assert main(["jobs", *words]) == 2, words
        assert message in capsys.readouterr().err
    job = submitted(tmp_path, QUICK)
    assert main(["jobs", "rm", job]) == 2
    assert "is QUEUED; stop it first" in capsys.readouterr().err
    assert main(["jobs", "stop", job]) == 0
    assert f"{job} is stopped." in capsys.readouterr().out
    assert main(["jobs", "logs", job]) == 2
    assert main(["jobs", "metrics", job, "loss"]) == 2
    assert "has no metric 'loss'; it has none" in capsys.readouterr().err


def test_devices_are_shared_out(home, tmp_path, monkeypatch):
    begun = []
    store = Store()
    worker = Worker(store, slots=3, gpus=[0, 1])
    monkeypatch.setattr(worker, "begin", lambda job, gpus: begun.append(gpus))
    for count in (1, 2, 1, 0):
        submitted(tmp_path, QUICK, gpus=count)
    worker.look()
    assert begun == [[0], [1], []]


def test_the_list_answers_without_torch(home):
    code = "import sys\nfrom trainwright.cli.main import main\nmain(['jobs', 'list'])\n" \
           "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == "[]"
