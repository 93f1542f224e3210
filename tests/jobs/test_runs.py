"""A script as a job without a decorator, and parameters that a script sets itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.jobs.test_decorator import wait_for
from trainwright import jobs
from trainwright.cli.jobs import tables
from trainwright.errors import JobError
from trainwright.jobs import commands, paths
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import keeper, models, params, tracking
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.jobs.worker import health

PLAIN = """
import sys, time
import trainwright

run = trainwright.jobs.init("mine", {"learning_rate": 1e-3})
for step in range(1, 4):
    run.log({"train/loss": 1 / step, "lr": 1e-3}, step)
    run.progress(100 * step / 3)
"""


@pytest.fixture
def script(home, tmp_path):
    """Run a script in a process of its own: (exit code, its job, what it printed)."""

    def run(text, code=0):
        (tmp_path / "script.py").write_text(PLAIN + text)
        done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
        assert done.returncode == code, done.stderr
        return newest(), done.stderr

    return run


def newest():
    store = Store()
    health.sweep(store)
    return store.jobs()[0]


def test_a_run_with_neither_decorator_nor_context(script):
    job, _ = script("run.finish()\n")
    assert (job["status"], job["progress"], job["name"]) == ("COMPLETE", 100, "mine")
    assert job["params"] == {"learning_rate": 1e-3}
    store = Store()
    assert [step for step, _, _ in store.metric(job["id"], "train/loss")] == [1, 2, 3]
    assert store.metric_names(job["id"]) == {"train/loss": 3, "lr": 3}


def test_what_a_run_is_told_after_its_end_is_said_to_be_lost(home, capfd):
    run = jobs.init("over")
    run.log({"loss": 1.0})
    run.finish()
    for _ in range(2):
        run.log({"loss": 2.0, "lr": 0.1})
        run.progress(50)
    said = capfd.readouterr().err
    assert said.count("log('loss', 'lr') came after the run 'over' had ended, and is not kept") == 1
    assert "progress()" not in said
    assert [value for _, value, _ in Store().metric(run.id, "loss")] == [1.0]


@pytest.mark.slow
def test_how_a_script_leaves_is_how_its_run_ends(script):
    job, said = script("raise ValueError('nothing left')\n", 1)
    assert (job["status"], job["message"]) == ("FAILED", "ValueError: nothing left")
    assert "line 9" in job["traceback"]
    assert "Traceback" in said  # as without us
    for text, code, message in (
        ("sys.exit(3)\n", 3, "The script left with exit code 3."),
        ("exit('no data')\n", 1, "no data"),
    ):
        job, _ = script(text, code)
        assert (job["status"], job["message"]) == ("FAILED", message)
    for text in ("", "sys.exit()\n", "sys.exit(0)\n"):
        job, _ = script(text)
        assert (job["status"], job["message"], job["progress"]) == ("COMPLETE", None, 100)
    job, _ = script("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)\n", 143)
    assert (job["status"], job["message"]) == ("INTERRUPTED", "Interrupted by SIGTERM.")
    job, _ = script("import os, signal\ntime.sleep(1)\nos.kill(os.getpid(), signal.SIGKILL)\n", -9)
    assert job["status"] == "LOST"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "context"])
def test_a_run_that_is_asked_to_stop_stops(home, tmp_path, form):
    loop = "for step in range(2000):\n    run.log({'loss': 1.0})\n    time.sleep(0.02)\n"
    if form == "context":
        loop = "run.finish()\nwith trainwright.jobs.init('second') as run:\n" + "".join(
            f"    {line}\n" for line in loop.splitlines()
        )
    (tmp_path / "script.py").write_text(PLAIN + loop + "\nprint('went on')\n")
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    name = {"plain": "mine", "context": "second"}[form]
    end = time.monotonic() + 100
    found = None
    while found is None and time.monotonic() < end:
        time.sleep(0.1)
        running = Store().jobs() if (paths.home() / "jobs.db").exists() else []
        found = next((one for one in running if one["name"] == name and one["status"] == "RUNNING"), None)
    Store().ask_to_stop(found["id"])
    assert process.wait(100) == 0
    assert ("went on" in process.stdout.read()) == (form == "context")
    assert Store().find(found["id"])["status"] == "STOPPED"


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_no_duration_and_no_order(home, monkeypatch):
    before = time.time
    monkeypatch.setattr(keeper, "HEARTBEAT_SECONDS", 0.05)
    with jobs.init("back") as run:
        wait_for(lambda: newest()["heartbeat"] > newest()["started"])
        monkeypatch.setattr(time, "time", lambda: before() - 3600)
        heartbeat = newest()["heartbeat"]
        later = wait_for(lambda: next((one for one in [newest()] if one["heartbeat"] > heartbeat), None))
        assert tables._seconds(later) >= later["heartbeat"] - later["started"]  # as lists show it
        run.log({"loss": 1.0})
    job = newest()
    ((_, _, told),) = Store().metric(job["id"], "loss")
    assert later["heartbeat"] < told < job["ended"] < job["started"] + 100


def test_a_context_ends_with_its_body(home):
    with jobs.init("first") as run:
        run.log({"loss": 1.0})
        run.log({"loss": 0.5, "text": "no number"})
        run.log({"accuracy": 1.0})
    job = newest()
    assert (job["status"], job["progress"]) == ("COMPLETE", 100)
    store = Store()
    assert [step for step, _, _ in store.metric(job["id"], "loss")] == [1, 2]
    assert [step for step, _, _ in store.metric(job["id"], "accuracy")] == [3]  # of one log, one step
    with pytest.raises(ZeroDivisionError), jobs.init("second"):
        _ = 1 / 0
    assert (newest()["status"], newest()["message"]) == ("FAILED", "ZeroDivisionError: division by zero")
    with pytest.raises(SystemExit), jobs.init("third"):
        sys.exit("no data")
    assert (newest()["status"], newest()["message"]) == ("FAILED", "no data")
    assert sys.excepthook is sys.__excepthook__ or "Run" not in repr(sys.excepthook)


def test_one_run_at_a_time_and_steps_go_on(home):
    run = jobs.init("one", job_id="j")
    with pytest.raises(JobError, match="The run 'one' of this process is not finished. Call its finish"):
        jobs.init("two")
    run.log({"loss": 1.0})
    run.finish()
    run.finish()
    with jobs.init("one", job_id="j") as again:
        again.log({"loss": 1.0})
    store = Store()
    assert [step for step, _, _ in store.metric("j", "loss")] == [1, 2]


def test_inside_a_job_a_run_is_that_one(home):
    with tracking.tracked("outer", job="j"):
        with jobs.init("inner") as run:
            run.log({"loss": 1.0})
        assert run.id == "j"
        assert tracking.current() is not None
    job = newest()
    assert (job["name"], job["status"]) == ("outer", "COMPLETE")
    assert Store().metric_names("j") == {"loss": 1}


@pytest.mark.slow
def test_the_job_around_a_run_ends_as_that_run_does(home):
    """As the queue begins a script: what it is by hand it is there."""
    with tracking.tracked("queued", job="left"):
        left = jobs.init("inner")
        left.log({"loss": 1.0})
    left._left()  # as at the end of the process
    assert (newest()["status"], newest()["message"]) == ("COMPLETE", None)
    assert "partial" not in repr(sys.exit)
    with tracking.tracked("queued", job="failed"):
        jobs.init("inner").fail("no data")
    assert (newest()["status"], newest()["message"]) == ("FAILED", "no data")
    with pytest.raises(SystemExit), tracking.tracked("queued", job="exit"):
        left = jobs.init("inner")
        sys.exit(3)
    left._left()
    assert (newest()["status"], newest()["message"]) == ("FAILED", "The script left with exit code 3.")
    with tracking.tracked("queued", job="done"):
        jobs.init("inner").finish()
    assert (newest()["status"], newest()["progress"]) == ("COMPLETE", 100)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_rank_alone_writes_to_trackers(home, tmp_path, monkeypatch, first):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setenv("RANK", "0" if first else "1")
    trainer = TrainerJob()
    trainer.job_wrapper(manual_logging=True)(lambda: trainer.log_metric("a", 1.0, 1))()
    assert bool(list(tmp_path.rglob("events.out.tfevents.*"))) == first


def test_off_does_nothing(home, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_JOBS", "off")
    with jobs.init("a") as run:
        run.log({"loss": 1.0})
        run.progress(50)
    assert (run.id, run.folder) == (None, None)
    jobs.lab.init(config={"a": 1})
    assert jobs.lab.save_artifact("some/file") == "some/file"
    jobs.lab.finish()
    assert not home.exists()


def test_lab_says_what_it_expects(home, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--input_file", "none.json"])
    lab = type(jobs.lab)()
    with pytest.raises(JobError, match=r"lab.init\(\) comes first"):
        lab.update_progress(1)
    with pytest.raises(JobError, match="there is no file 'none.json'"):
        lab.init()
    monkeypatch.setattr(sys, "argv", ["script.py", "--lr", "2"])
    lab.init(config={"lr": 1, "steps": 3})
    assert lab.get_config() == {"lr": 2, "steps": 3}  # who begins it has the last word
    with pytest.raises(JobError, match=r"score=0.5\): numbers by name are expected"):
        lab.finish(score=0.5)
    with pytest.raises(JobError, match="'nothing' cannot be kept with the job: No such file"):
        lab.save_artifact("nothing")
    lab.error("it did not learn")
    assert (newest()["status"], newest()["message"]) == ("FAILED", "it did not learn")


def test_what_a_script_sets_is_read_in_every_way(home, tmp_path, monkeypatch, capsys):
    trainer = TrainerJob()
    trainer.params.before = "set before the job"
    (tmp_path / "in.json").write_text('{"config": {"job_id": 7, "lr": 0.5, "nested": {"a-b": 1}}}')
    monkeypatch.setattr(sys, "argv", ["script.py", "--input_file", "in.json", "--shard=0010"])

    @trainer.job_wrapper()
    def main():
        given = trainer.params
        assert (given.job_id, given["job_id"], given.get("job_id"), trainer.job_id) == ("7",) * 4
        assert (given.input_file, given.experiment_name, given.get("experiment_name", "x")) == ("in.json", None, "x")
        assert given._config == {"job_id": 7, "lr": 0.5, "nested": {"a-b": 1}}
        assert given.before == trainer.before == "set before the job"
        given.rate = given.lr / 2
        given["learning-rate"] = 3
        given.shard = 4  # in place of the text that was written
        for name, value in {"rate": 0.25, "learning_rate": 3, "shard": 4}.items():
            ways = given[name], getattr(given, name), given.get(name), getattr(trainer, name), dict(given)[name]
            assert ways == (value,) * 5
        assert given.get("shard", "") == 4
        assert "job_id" not in dict(given)
        assert (given.weight_decay, given.lrr) == (None, None)
        assert given.lrr is None
        assert getattr(trainer, "weight_decay", 0.1) == 0.1
        with pytest.raises(AttributeError, match="There is no parameter 'lrr'. Did you mean 'lr'"):
            trainer.lrr  # noqa: B018
        with pytest.raises(KeyError):
            given["weight_decay"]
        del given["rate"]
        assert "rate" not in given

    main()
    assert newest()["id"] == "7"
    said = capsys.readouterr().err
    assert said.count("there is no parameter 'lrr', so it is None. Did you mean 'lr'?") == 1
    assert "weight_decay" not in said
    given = params.Params({"a": 1})
    assert not hasattr(given, "__deepcopy__")
    assert not hasattr(given, "_repr_html_")


def test_who_begins_a_job_names_it_before_its_file(home, tmp_path, monkeypatch):
    (tmp_path / "in.json").write_text('{"job_id": "of-the-file", "experiment_name": "e"}')
    seen = []
    for words, expected in ((["--job_id", "of-the-line"], "of-the-line"), ([], "of-the-file")):
        trainer = TrainerJob()
        monkeypatch.setattr(sys, "argv", ["script.py", "--input_file", "in.json", *words])
        trainer.job_wrapper()(lambda trainer=trainer: seen.append(trainer.params.job_id))()
        assert (seen[-1], newest()["id"], newest()["experiment"]) == (expected, expected, "e")


@pytest.mark.parametrize("launched", [True, False])
def test_what_a_job_begins_by_a_launcher_is_that_job(home, monkeypatch, launched):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setenv("TRAINWRIGHT_JOB_OWNER", f"outer:{os.getppid()}")
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    trainer = TrainerJob()
    seen = []
    trainer.job_wrapper()(lambda: seen.append((trainer.params.job_id, trainer.job.is_guest)))()
    assert (seen[0][0] == "outer", seen[0][1]) == (launched, launched)


def test_a_job_is_named_after_its_script_or_plugin(home, tmp_path, monkeypatch):
    from pathlib import Path

    names = {"train.py": "train", "my_plugin/main.py": "my_plugin", "package/__main__.py": "package"}
    assert {one: commands.name_of(Path(one)) for one in names} == names
    monkeypatch.chdir(tmp_path)
    assert commands.name_of(Path("main.py")) == tmp_path.name


def test_a_models_folder_and_card(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "README.md").write_text("of the Trainer")
    models.describe(tmp_path / "m", models.Model("m", "A", more={"note": "a|b"}))
    assert (tmp_path / "m" / "README.md").read_text() == "of the Trainer"
    models.describe(tmp_path / "n", models.Model("n", parent="org/p", more={"note": "a|b"}), info=False)
    assert [path.name for path in (tmp_path / "n").iterdir()] == ["README.md"]
    assert "| note | a\\|b |" in (tmp_path / "n" / "README.md").read_text()
    assert models.folder_name("org/name") == "name"
    for wrong in ("", "..", "org/.."):
        with pytest.raises(JobError, match="is no name of a model"):
            models.folder_name(wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot be written: Not a directory"):
        models.describe(tmp_path / "file" / "m", models.Model("m"))


def test_signals_keep_their_names():
    from trainwright.errors import Interrupted, leave_by_exception

    with pytest.raises(SystemExit) as caught:
        leave_by_exception(signal.SIGTERM, None)
    assert caught.value.code == 143
    assert str(Interrupted.newest) == "Interrupted by SIGTERM."
