"""The queue, its worker and the command line: real processes, stopped, killed and begun again."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs import scripts
from tests.jobs.test_decorator import wait_for
from trainwright.cli.main import main
from trainwright.errors import JobError
from trainwright.jobs import commands, paths, processes
from trainwright.jobs.store import outputs, schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker import queue
from trainwright.jobs.worker.health import sweep
from trainwright.jobs.worker.worker import Worker, failed_again
from trainwright.trackers.callback import TrackerCallback
from trainwright.trackers.job import JobTracker

QUICK = "import sys\nprint('ran', sys.argv[1:])\n"


@pytest.fixture
def worker(home, tmp_path):
    """Commands to start and kill workers; the last is stopped at the end."""
    running = []

    def start(*words, command=("jobs", "worker"), program=("-m", "trainwright.cli.main")):
        process = subprocess.Popen(
            [sys.executable, *program, *command, *words], cwd=tmp_path,
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


def ended(store, job, seconds=300):
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
    worker("--slots", "2", "--once").wait(300)
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
    assert re.search(r"^parameters\n(.+\n)*steps +5$", out, re.MULTILINE)
    assert "\nmetrics\nloss  0.2 (step 4)\n" in out
    assert main(["jobs", "metrics", job, "loss", "--json"]) == 0
    assert [row[:2] for row in json.loads(capsys.readouterr().out)] == [[s, 1 / (s + 1)] for s in range(5)]
    assert main(["jobs", "export", job, "-o", "out.csv"]) == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 6
    assert lines[1].startswith(f"{job},mine,loss,0,1.0,")
    assert main(["jobs", "compare", job, plain]) == 0
    assert "steps" in capsys.readouterr().out
    assert main(["jobs", "rm", plain]) == 0
    assert not paths.job_folder(plain).exists()
    assert main(["jobs", "show", plain]) == 2


def test_a_job_has_the_grace_that_it_is_stopped_with(home):
    """Of two jobs that do not listen, the one whose own grace is over gets SIGTERM; the worker's is an hour."""
    store, children = Store(), []
    own = Worker(store, slots=2, grace=3600.0)
    try:
        for words in (("--grace", "0"), ()):
            job = paths.new_id()
            store.submit(job, name="a job", experiment="default", command=["python", "x.py"], params={})
            assert store.claim(job, own.name, processes.hostname(), 2) == []
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            children.append(child)
            facts = {"pid_created": processes.created(child.pid), "boot": processes.boot()}
            store.update(job, pid=child.pid, **facts)
            assert main(["jobs", "stop", job, *words]) == 0
        for job in store.jobs(["RUNNING"]) * 2:  # a worker hears of the wish at the first look, and counts from there
            own._hurry(job)
        assert len(own.termed) == 1
        assert children[0].wait(300) == -signal.SIGTERM
        assert children[1].poll() is None
    finally:
        for child in children:
            child.kill()
            child.wait()
        store.close()


@pytest.mark.slow
def test_a_yaml_file_as_a_job_and_its_mistakes(home, tmp_path, worker):
    from tests import tiny_language

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
    worker("--once").wait(300)
    found = store.find(good)
    log = (paths.job_folder(good) / paths.LOG).read_text()
    assert found["status"] == "COMPLETE", log
    assert found["step"] == 2
    assert "train/loss" in store.metric_names(good)
    assert (paths.job_folder(good) / "output" / "model.safetensors").is_file()
    assert store.find(bad)["status"] == "FAILED"
    assert "lerning_rate" in store.find(bad)["message"]


@pytest.mark.slow
def test_a_job_that_does_not_listen_is_made_to_end(home, tmp_path, worker):
    deaf = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)\n"
    )
    job, polite = submitted(tmp_path, deaf), None
    store = Store()
    impatient = (
        "from trainwright.cli.main import main\nfrom trainwright.jobs.worker import worker\n"
        "worker._KILL_SECONDS = 5.0\n"
        "raise SystemExit(main())"
    )
    worker("--grace", "0.5", "--slots", "2", program=("-c", impatient))
    wait_for(
        lambda: (paths.job_folder(job) / paths.LOG).exists() and "up" in (paths.job_folder(job) / paths.LOG).read_text()
    )
    polite = submitted(tmp_path, "import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    wait_for(
        lambda: (
            (paths.job_folder(polite) / paths.LOG).exists()
            and "up" in (paths.job_folder(polite) / paths.LOG).read_text()
        )
    )
    began = time.monotonic()
    assert main(["jobs", "stop", job, polite]) == 0
    assert ended(store, polite)["status"] == "STOPPED"
    assert ended(store, job)["status"] == "STOPPED"
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_what_comes_after_a_failure_fails_and_a_crash_is_told(home, tmp_path, worker):
    wrong = submitted(tmp_path, "raise ValueError('broken')")
    later = submitted(tmp_path, QUICK, after=wrong)
    crash = submitted(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    leaves = submitted(tmp_path, "import os\nos._exit(3)\n")
    worker("--once").wait(300)
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
        assert wait_for(lambda job=job: store.find(job)["status"] == "COMPLETE", 300)
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
        "while not os.path.exists('enough'):\n    time.sleep(0.1)\n"
    )
    jobs = [submitted(tmp_path, script, restarts=20) for _ in range(6)]
    store, process, page = Store(), worker("--slots", "3"), worker(command=["ui", "--port", "0"])
    end = time.monotonic() + 300
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
        else:
            (tmp_path / "enough").touch()
    assert kills == 14
    states = {job["id"]: (job["status"], job["message"], job["attempt"]) for job in store.jobs()}
    assert {status for status, _, _ in states.values()} == {"COMPLETE"}, states
    for job in jobs:
        log = (paths.job_folder(job) / paths.LOG).read_text()
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


@pytest.mark.slow
def test_every_command_goes_on_and_begins_again_as_it_was_begun(home, tmp_path, worker):
    """`python -u`, `-X dev`, `-m package`, `-c code`, a script that has left its folder: interrupted, then resumed."""
    text = (
        "import os, sys\nfrom trainwright.jobs import tlab_trainer\n"
        "if sys.argv[1] == 'away':\n    os.chdir('/')\n"
        "@tlab_trainer.job_wrapper()\ndef main():\n"
        "    if not tlab_trainer.resumes:\n        raise SystemExit(143)\n"
        "    print(sys.argv[1:], sys.flags.dev_mode, sys.stdout.write_through, tlab_trainer.params.lr)\n"
        "main()\n"
    )
    (tmp_path / "script.py").write_text(text)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(text)
    (tmp_path / "random.py").write_text("raise RuntimeError('a module of the folder that the script is not in')")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "plain.py").write_text(text + "import random\n")
    ways = {
        "-u": ["-u", "script.py", "x"], "-X": ["-Xdev", "-W", "ignore", "script.py", "x"],
        "-m": ["-um", "package", "x"],
        "-c": ["-c", text, "x"], "away": ["script.py", "away"], "plain": ["scripts/plain.py", "x"],
    }  # fmt: skip
    environment = dict(os.environ)
    for name, words in ways.items():
        if name == "-m":
            (tmp_path / "random.py").unlink()  # with -m and -c the folder is the first to be looked in
        done = subprocess.run(
            [sys.executable, *words, "--lr=1"], cwd=tmp_path, env={**environment, "TRAINWRIGHT_JOB_ID": f"j{name}"}
        )
        assert done.returncode == 143
    store = Store()
    sweep(store)
    jobs = {name: store.find(f"j{name}") for name in ways}
    again = queue.again(store, jobs["-m"], {"lr": 2})
    assert store.find(again)["command"][-5:] == ["-u", "-m", "package", "x", "--lr=2"]
    for job in jobs.values():
        queue.resume(store, job)
    worker("--slots", "2", "--once").wait(300)
    logs = {name: (paths.job_folder(f"j{name}") / paths.LOG).read_text() for name in ways}
    assert {name: store.find(f"j{name}")["status"] for name in ways} == dict.fromkeys(ways, "COMPLETE"), logs
    for name, log in logs.items():
        word = "away" if name == "away" else "x"
        assert log == f"['{word}', '--lr=1'] {name == '-X'} True 1\n"


@pytest.mark.parametrize(
    ("begun", "changes", "expected"),
    [
        ("python s.py a --lr 1 --x=2 b", {"lr": 5}, "python s.py a --lr=5 --x=2 b"),
        ("python -W error s.py --learning-rate 1 --flag --job_id old", {"learning_rate": 5, "new": True},
         "python -W error s.py --learning-rate=5 --flag --new=True"),
        ("python s.py --on --off x --list 1 --note=a", {"on": False, "off": True, "list": [1, 2]},
         "python s.py --off x --list=[1,2] --note=a"),
        ("python /bin/trainwright train -c r.yaml --training.seed 1 --training.lr=2", {"training.seed": 2},
         "python /bin/trainwright train -c r.yaml training.seed=2 --training.lr=2 training.output_dir=NEW"),
        ("python -m package.part --lr 1", {}, "python -m package.part --lr 1"),
        ("python -m package.py s.py", {"a": 1}, "python -m package.py s.py --a=1"),
        ("python s.py --output_dir out", {"lr": 1}, "python s.py --output_dir=NEW --lr=1"),
        ("python /bin/trainwright train -c r.yaml training.seed=1 --resume", {"training.seed": 2},
         "python /bin/trainwright train -c r.yaml training.seed=2 training.output_dir=NEW"),
        ("python /bin/trainwright train --resume runs/a", {}, "python /bin/trainwright train -c runs/a/run.yaml "
         "training.output_dir=NEW"),
        ("python -m trainwright.cli.main demo imitation", {}, "python -m trainwright.cli.main demo imitation "
         "train.output_dir=NEW"),
        ("python /bin/trainwright algebra train a.yaml train.save_dir=x", {}, "python /bin/trainwright algebra train "
         "a.yaml train.save_dir=NEW"),
        ("python /bin/torchrun --nproc-per-node 2 s.py --lr 1", {"lr": 2}, "python /bin/torchrun --nproc-per-node 2 "
         "s.py --lr=2"),
    ],
)  # fmt: skip
def test_a_job_that_is_begun_again_with_changes(home, begun, changes, expected):
    store = Store()
    store.submit(
        "old",
        name="a",
        experiment="e",
        command=begun.split(),
        params={"k": 1, "on": True, "off": True, queue._output_key(begun.split()): "x"},
    )
    new = queue.again(store, store.find("old"), changes)
    words = expected.replace("NEW", str(paths.job_folder(new) / "output")).split()
    found = store.find(new)
    assert [word.replace(" ", "") for word in found["command"]] == words
    assert found["params"] == {"k": 1, "on": True, "off": True, **changes}


@pytest.mark.slow
def test_a_job_that_fails_at_one_step_is_not_begun_again_for_ever(home, tmp_path, worker):
    """One fails at step 7 each time, one before any step, one further on each time, one is killed at no step."""
    text = (
        "import os, signal, sys\nfrom trainwright.jobs import tlab_trainer\n"
        "@tlab_trainer.job_wrapper()\ndef main():\n"
        "    attempt, way = int(os.environ['TRAINWRIGHT_JOB_ATTEMPT']), tlab_trainer.params.way\n"
        "    if way in ('same', 'further'):\n"
        "        tlab_trainer.job.progress(10, 7 if way == 'same' else attempt, 100)\n"
        "    if way == 'killed' and attempt < 5:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if attempt < 5:\n        raise ValueError('as always')\n"
        "main()\n"
    )
    ways = ("same", "none", "further", "killed")
    jobs = {way: submitted(tmp_path, text, {"way": way}, restarts=9) for way in ways}
    after = submitted(tmp_path, QUICK, after=jobs["further"])
    out = worker("--slots", "2", "--once").communicate(timeout=300)[0]
    store = Store()
    found = {way: store.find(job) for way, job in jobs.items()}
    assert {way: (job["status"], job["attempt"]) for way, job in found.items()} == {
        "same": ("FAILED", 3), "none": ("FAILED", 3), "further": ("COMPLETE", 5), "killed": ("COMPLETE", 5)
    }  # fmt: skip
    assert found["same"]["message"] == (
        "ValueError: as always It ended 3 times at step 7, so it is not begun again by itself."
    )
    assert found["none"]["message"].endswith(
        "It ended 3 times before its first step, so it is not begun again by itself."
    )
    assert f"{jobs['same']}: {found['same']['message']}" in out
    assert store.find(after)["status"] == "COMPLETE"


def test_one_job_that_cannot_be_begun_holds_up_no_other(home, tmp_path):
    store = Store()
    for job, command, more in (
        ("zero", [sys.executable, "a\0b.py"], {}), ("none", [], {}), ("away", [sys.executable, "x.py"], {"cwd": "/no"}),
        ("orphan", [sys.executable, "x.py"], {"after": "nobody"}),
    ):  # fmt: skip
        store.submit(job, name=job, experiment="default", command=command, params={}, **more)
    good = submitted(tmp_path, QUICK)
    worker = Worker(store, slots=2)
    assert wait_for(lambda: worker.look() or store.find(good)["status"] == "COMPLETE")
    assert {store.find(job)["status"] for job in ("zero", "none", "away", "orphan")} == {"FAILED"}
    assert "It could not be started: " in store.find("away")["message"]
    assert "The job nobody, which it was to come after, is not there" in store.find("orphan")["message"]


def test_checkpoints_are_those_on_the_disk(home, tmp_path, capsys):
    class Saved:
        output_dir = str(tmp_path / "run")
        global_step, max_steps = 5, 10

    with tracked("a training") as job:
        told = TrackerCallback(JobTracker(job))
        told.on_train_begin(Saved, Saved, None)
        for step in (2, 4):
            (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
            told.on_save(Saved, Saved, None, checkpoint=tmp_path / "run" / f"checkpoint-{step}")  # two steps later
        job.artifact("model", "run/model", 4)
    (tmp_path / "run" / "checkpoint-2").rmdir()
    (tmp_path / "run" / ".checkpoint-6.tmp").mkdir()
    store = Store()
    sweep(store)
    assert [one["path"] for one in store.of_job(schema.artifacts, job.id)][1] == str(tmp_path / "run" / "checkpoint-4")
    made = outputs.artifacts(store, store.find(job.id))
    assert [(one["kind"], one["step"]) for one in made] == [("model", 4), ("checkpoint", 4)]
    assert main(["jobs", "show", job.id]) == 0
    out = capsys.readouterr().out
    assert "checkpoint-4" in out
    assert "checkpoint-2" not in out
    store.update(job.id, host="elsewhere", cwd="/no")
    made = outputs.artifacts(store, {**store.find(job.id), "kept": {"output_dir": "run"}})
    assert [one["step"] for one in made] == [2, 4, 4]  # what it told of: its disk is not here


def test_mistakes(home, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "a.py").write_text("")
    (tmp_path / "a.yaml").write_text("")
    (tmp_path / "algebra.yaml").write_text("train: {max_steps: 1}\n")
    for words, message in (
        (["submit", "none.py"], "There is no file 'none.py'"),
        (["submit", "a.txt"], "is neither a script (.py) nor a YAML file"),
        (["submit", "a.py", "--param", "=x"], "has no name; write NAME=VALUE"),
        (["submit", "a.py", "--param", "lr=1", "--param", "x-y=1", "--param", "x_y"], "--param x_y is given twice"),
        (["submit", "a.py", "x=1"], "a script's parameters are given with --param"),
        (["submit", "a.yaml", "--param", "x=1"], "--param is for scripts"),
        (["submit", "a.yaml", "--training.max_stepss", "5"], "unknown key training.max_stepss"),
        (["submit", "a.yaml", "training.max_steps=many"], "a whole number"),
        (["submit", "algebra.yaml"], "is a file for another command: trainwright algebra train algebra.yaml"),
        (["submit", "a.py", "--after", "none"], "There is no job 'none'"),
        (["list", "--status", "RUNING"], "--status RUNING is no status. Did you mean 'RUNNING'?"),
        (["metrics", "none", "--attempt", "1"], "--attempt is of one metric; name it"),
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
    capsys.readouterr()
    for follows in ([], ["--follow"]):
        assert main(["jobs", "logs", job, *follows]) == 2
        assert "It was never begun, so it has printed nothing." in capsys.readouterr().err
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
    assert begun == [[0], []]  # the third leaves device 1 to the second, which waits for both


def test_the_list_answers_without_torch(home):
    code = "import sys\nfrom trainwright.cli.main import main\nmain(['jobs', 'list'])\n" \
           "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("options", "program"),
    [
        ("", "s.py --lr 1"), ("-u", "s.py -m"), ("-W error -u", "-m package -c x"), ("-Werror", "-c code -m"),
        ("--check-hash-based-pycs always -X dev", "- s.py"), ("-Bu", "-m package"), ("-v -B", ""),
    ],
)  # fmt: skip
def test_pythons_options_end_where_what_it_runs_begins(options, program):
    assert commands.split(["python", *options.split(), *program.split()]) == (
        ["python", *options.split()],
        program.split(),
    )


@pytest.mark.parametrize(("given", "words"), [("-Bum", ["-Bu", "-m"]), ("-Bmpackage", ["-B", "-m", "package"])])
def test_options_written_together_are_told_apart(given, words):
    assert commands.split(["python", given, "x"]) == (["python", words[0]], [*words[1:], "x"])


def test_every_job_that_is_lost_is_begun_again_though_one_has_failed_too_often(home):
    store = Store()
    used = {"over": 9, "first": 0, "often": 0, "last": 8, "spent": 9}  # of nine restarts
    for job, count in used.items():
        store.submit(job, name=job, experiment="e", command=["python", "x.py"], params={}, restarts=9)
        store.claim(job, "gone", processes.hostname(), 9)
        store.update(job, status="FAILED", step=7, message="as always", ended=time.time())
        store.keep(job, "restarted", count)
    store.keep("often", "failures", {"step": 7, "times": 2})
    Worker(store)._restart()
    assert {job for job in used if store.find(job)["status"] == "QUEUED"} == {"first", "last"}


def test_a_job_that_is_found_lost_ended_when_it_was_last_heard_of(home):
    store = Store()
    store.submit("dead", name="dead", experiment="e", command=["python", "x.py"], params={})
    store.claim("dead", "", processes.hostname(), 9)
    heard = time.time() - 3600
    store.update("dead", started=heard - 60, heartbeat=heard)
    sweep(store)
    found = store.find("dead")
    assert (found["status"], found["ended"]) == ("LOST", heard)


@pytest.mark.parametrize(
    ("status", "step", "times"), [("FAILED", 7, 3), ("FAILED", 8, 1), ("LOST", 7, 3), ("LOST", None, 1)]
)
def test_a_failure_counts_again_only_at_the_step_of_the_one_before(status, step, times):
    job = {"status": status, "step": step, "kept": {"failures": {"step": 7 if step else None, "times": 2}}}
    assert failed_again(job) == {"step": step, "times": times}


@pytest.mark.parametrize(
    ("code", "asked", "status", "message"),
    [
        (0, None, "COMPLETE", None),
        (3, None, "FAILED", "Its process left with exit code 3."),
        (3, 1.0, "STOPPED", "Its process left with exit code 3."),
    ],
)
def test_the_exit_code_speaks_for_a_process_that_said_nothing(home, code, asked, status, message):
    store, before = Store(), time.time()
    store.submit("j", name="j", experiment="e", command=["python", "x.py"], params={})
    store.claim("j", "w", processes.hostname(), 1)
    store.update("j", stop_requested=asked)
    Worker(store)._end_unsaid(store.find("j"), code)
    found = store.find("j")
    assert (found["status"], found["message"]) == (status, message)
    assert (found["progress"] == 100.0) == (status == "COMPLETE")
    assert before <= found["ended"] <= time.time()


def test_what_cannot_be_begun_again_is_known_and_a_rank_is_begun_by_its_launcher(monkeypatch, tmp_path):
    code = "from trainwright.jobs import commands; print(commands.of_this_process())"
    piped = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True)
    assert piped.stdout == "[]\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    launcher = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    words = [sys.executable, "-c", launcher, code]
    rank = subprocess.run(words, capture_output=True, text=True, check=True)
    assert rank.stdout == f"{words}\n"
