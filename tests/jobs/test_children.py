"""What a job from the queue sees is what it would see if a person had begun it; what it began ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.jobs.test_decorator import wait_for
from tests.jobs.test_worker import ended, submitted, worker  # noqa: F401
from trainwright.cli.main import main
from trainwright.jobs import paths, processes
from trainwright.jobs.status import RUNNING
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker import leftovers, queue
from trainwright.jobs.worker.worker import Worker

DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + ".tmp", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
time.sleep(600)
"""
BEGETS = """
import os, signal, subprocess, sys, time
names = ["WAY.same", "WAY.alone"]
for name in names:
    subprocess.Popen([sys.executable, "deaf.py", name], start_new_session=name.endswith("alone"))
while not all(map(os.path.exists, names)) or not os.path.exists("go"):
    time.sleep(0.05)
"""


WAYS = {
    "stop": "time.sleep(600)",
    "crash": "raise RuntimeError('x')",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "done": "",
}


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.parametrize("has_worker", [True, False], ids=["with a worker", "without"])
def test_what_a_job_began_ends_with_it(home, tmp_path, worker, has_worker, monkeypatch):  # noqa: F811
    """One child in the job's group and one in a session of its own, both deaf to SIGTERM."""
    store = Store()
    (tmp_path / "deaf.py").write_text(DEAF)
    jobs = {}
    for way, how in WAYS.items():
        (tmp_path / f"{way}.py").write_text(BEGETS.replace("WAY", way) + how)
        jobs[way] = queue.submit(store, tmp_path / f"{way}.py", {})
    process = worker("--slots", "4", "--grace", "0.2")
    wait_for(lambda: all((tmp_path / f"{way}.{name}").exists() for way in WAYS for name in ("same", "alone")))
    pids = {
        f"{way} {name}": int((tmp_path / f"{way}.{name}").read_text()) for way in WAYS for name in ("same", "alone")
    }
    try:
        if not has_worker:
            process.kill()
            process.wait()
            assert not any(gone(pid) for pid in pids.values())  # a job outlives its worker, and so does all of it
            processes.send(store.find(jobs["stop"])["pid"], signal.SIGTERM)  # as a worker would
        else:
            store.ask_to_stop(jobs["stop"])
        (tmp_path / "go").touch()
        assert wait_for(lambda: all(gone(pid) for pid in pids.values())), {n: gone(pid) for n, pid in pids.items()}
        expected = {
            "stop": "STOPPED" if has_worker else "INTERRUPTED",
            "crash": "FAILED",
            "killed": "LOST",
            "done": "COMPLETE",
        }
        found = {way: ended(store, job)["status"] for way, job in jobs.items()}
        assert found == {**expected, "stop": found["stop"]}
        assert found["stop"] in (expected["stop"], "LOST")  # a plain script has no handler: SIGTERM ends it
    finally:
        for pid in pids.values():
            if not gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_those_of_another_attempt_and_of_others_are_left(monkeypatch):
    monkeypatch.setattr(leftovers, "_GRACE_SECONDS", 0.0)
    sleeps = [sys.executable, "-c", "print('up', flush=True); import time; time.sleep(600)"]

    def begin(**environment):
        return subprocess.Popen(
            sleeps, env={**os.environ, **environment}, start_new_session=True, stdout=subprocess.PIPE
        )

    def of(job, attempt):
        return begin(TRAINWRIGHT_JOB_ID=job, TRAINWRIGHT_JOB_ATTEMPT=attempt)

    mine = of("job-x", "1")
    others = [of("job-x", "2"), of("job-y", "1"), begin()]
    try:
        for one in (mine, *others):
            assert one.stdout.readline() == b"up\n"  # before that its environment is still this process's
        leftovers.end_all(2**30, "job-x", "1")
        assert mine.wait(60) < 0
        assert [one.poll() for one in others] == [None] * 3
    finally:
        for one in (mine, *others):
            one.kill()
            one.wait()


SEES = """
import json, os, pickle, random, string, sys, queue, __main__
class Mine: pass
ours = {"PYTHONUNBUFFERED", "LC_CTYPE", *(name for name in os.environ if name.startswith("TRAINWRIGHT_JOB_"))}
print(json.dumps({
    "path": sys.path, "argv": sys.argv, "orig": sys.orig_argv[1:], "cwd": os.getcwd(), "name": __name__,
    "file": globals().get("__file__"), "main": vars(__main__) is globals(), "spec": getattr(__spec__, "name", None),
    "pickles": pickle.loads(pickle.dumps(Mine())).__class__ is Mine, "package": __package__, "doc": __doc__,
    "mine": [getattr(module, "MINE", False) for module in (random, queue, string)],
    "environment": sorted(set(os.environ) - ours), "names": sorted(name for name in globals() if name[:2] == "__"),
}), file=open(os.environ["SEEN"], "w"))
"""


@pytest.mark.slow
def test_a_job_sees_what_it_would_see_if_a_person_had_begun_it(home, tmp_path, monkeypatch):
    """Files named like the standard library's lie in the current folder, and others in the script's own."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "s.py").write_text(SEES)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "s.py").write_text(SEES)
    (tmp_path / "own" / "random.py").write_text("MINE = True\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(SEES)
    for name in ("queue", "random", "string", "secrets", "psutil", "sqlalchemy"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    commands = {
        "scripts": ["scripts/s.py", "--a=1"], "own": ["-W", "ignore", "own/s.py", "x y"], "safe": ["-P", "own/s.py"],
        "module": ["-m", "package", "b"], "text": ["-c", SEES, "c"],
    }  # fmt: skip
    store, by_hand = Store(), {}
    for name, words in commands.items():
        monkeypatch.setenv("SEEN", str(tmp_path / f"{name}.hand"))
        subprocess.run([sys.executable, *words], check=True, cwd=tmp_path, env=dict(os.environ))
        by_hand[name] = json.loads((tmp_path / f"{name}.hand").read_text())
        store.submit(name, name="s", experiment="e", command=[sys.executable, *words], params={}, cwd=str(tmp_path))
        monkeypatch.setenv("SEEN", str(tmp_path / f"{name}.queued"))
        once = Worker(store)
        assert wait_for(lambda once=once, name=name: once.look() or store.find(name)["status"] == "COMPLETE")
        assert json.loads((tmp_path / f"{name}.queued").read_text()) == by_hand[name], name
        assert (paths.job_folder(name) / paths.LOG).read_text() == ""  # and the thread that tracks had no trouble
    mine = {name: seen["mine"] for name, seen in by_hand.items()}
    none, all_three = [False] * 3, [True] * 3
    assert mine == {"scripts": none, "own": [True, False, False], "safe": none, "module": all_three, "text": all_three}


def claims(store, count, slots, devices=(), wanted=0, host="here"):
    """Let several workers try to take several jobs at the same instant; return what each got."""
    jobs = [f"job{n}" for n in range(count)]
    for job in jobs:
        store.submit(job, name=job, experiment="e", command=["python", "x.py"], params={}, gpus=wanted)
    got, start = {}, threading.Barrier(count)

    def take(job):
        start.wait()
        got[job] = store.claim(job, f"worker of {job}", host, slots, devices)

    threads = [threading.Thread(target=take, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [got[job] for job in jobs if got[job] is not None]


def test_slots_hold_for_workers_that_look_at_the_same_instant(store, home):
    with tracked("by hand"):  # is no job of the queue
        assert claims(store, 6, slots=2) == [[], []]
    assert len(store.jobs([RUNNING])) == 2


def test_no_device_is_given_twice(store, home):
    got = claims(store, 4, slots=9, devices=[3, 5, 7], wanted=1)
    assert sorted(got) == [[3], [5], [7]]
    assert sorted(job["kept"]["gpus"] for job in store.jobs([RUNNING])) == [[3], [5], [7]]


def test_a_resume_by_hand_uses_up_no_restart(store, home):
    store.submit("j", name="j", experiment="e", command=["python", "x.py"], params={}, restarts=1)
    looking = Worker(store)
    for kind in ("hand", "hand", "self"):
        store.claim("j", "gone", processes.hostname(), 1)
        store.update("j", status="LOST", ended=time.time())
        if kind == "hand":
            queue.resume(store, store.find("j"))
        else:
            looking._restart()
        assert store.find("j")["status"] == "QUEUED"
    store.update("j", status="LOST", ended=time.time())
    looking._restart()
    assert (store.find("j")["status"], store.find("j")["attempt"]) == ("LOST", 4)


def test_what_a_script_keeps_is_apart_from_what_a_worker_keeps(home, tmp_path):
    store = Store()
    with tracked("a", job="j") as job:
        for name, value in (("gpus", 2), ("grace", "soon"), ("failures", [1]), ("restarted", "x"), ("output_dir", 5)):
            job.data(name, value)
        job.keep("output_dir", "run")
        job.journal.flush()
        store.move("j", job.folder)
        kept = store.find("j")["kept"]
        assert kept["output_dir"] == "run"
        assert set(kept) <= {"output_dir", "versions", "code"}  # the two when its thread has come to it
        store.update("j", worker=f"{processes.hostname()}:1:1")
        store.ask_to_stop("j")
        good = submitted(tmp_path, "print(1)", gpus=1)
        looking = Worker(store, slots=9, gpus=[0, 1])
        looking.look()
        assert store.find(good)["kept"]["gpus"] == [0]
    assert ended(store, good)["status"] == "COMPLETE"
    assert store.find("j")["data"] == {"gpus": 2, "grace": "soon", "failures": [1], "restarted": "x", "output_dir": 5}


def test_a_job_that_wants_too_much_is_told_of_and_a_large_one_does_not_starve(home, tmp_path, monkeypatch, capsys):
    store, begun = Store(), []
    looking = Worker(store, slots=9, gpus=[0, 1])
    monkeypatch.setattr(looking, "begin", lambda job, gpus: begun.append((job["gpus"], gpus)))
    jobs = [submitted(tmp_path, "print(1)", gpus=count) for count in (3, 1, 2, 1, 0)]
    after = submitted(tmp_path, "print(1)", after=jobs[0])
    for _ in range(2):
        looking.look()
    assert begun == [(1, [0]), (0, [])]  # the second small one lets the large one go first
    assert store.find(jobs[0])["message"].startswith("It wants 3 devices, and the worker")
    assert capsys.readouterr().out.count("It wants 3 devices") == 1
    assert looking.has_work()
    for job in jobs[1:]:
        store.update(job, status="COMPLETE")
    assert not looking.has_work()  # not those that wait in vain, nor what comes after them
    assert store.find(after)["status"] == "QUEUED"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert main(["jobs", "worker", "--once"]) == 0
    assert "shares out 0; it waits for one with more" in capsys.readouterr().out
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
