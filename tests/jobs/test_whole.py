"""A job has the whole of what it is: every parameter, its code, what is installed, and what it takes of the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from trainwright.cli import as_job, folders
from trainwright.cli.main import main
from trainwright.config.reading.read import load
from trainwright.errors import JobError
from trainwright.jobs.store import listing, outputs, typed
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import console, provenance, system, tracking
from trainwright.jobs.tracking.runs import init
from trainwright.jobs.tracking.tracking import Tracking, tracked
from trainwright.jobs.worker import declared, queue

READS = """
from trainwright.jobs import tlab_trainer

tlab_trainer.add_argument("--steps", type=int, default=3)

@tlab_trainer.job_wrapper()
def train():
    assert tlab_trainer.params.get("learning_rate", 1e-4) == 1e-4
    assert tlab_trainer.params.steps == 3

train()
"""


def test_a_parameter_that_nobody_reads_is_told_at_the_end(home, tmp_path):
    (tmp_path / "script.py").write_text(READS)
    command = [sys.executable, "script.py", "--learning_rte", "1", "--learning_rate=1e-4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = "Never read: learning_rte."
    assert done.stderr == f"Note: {said}\n"
    store = Store()
    store.move_all()
    (job,) = store.jobs()
    assert (job["status"], job["message"]) == ("COMPLETE", said)
    assert store.read(typed.defaults, job["defaults"]) == {"steps": 3}

    done = subprocess.run(command[:-1], capture_output=True, text=True, check=True)
    assert done.stderr == f"Note: {said} Did you mean 'learning_rate'?\n"


@pytest.mark.parametrize(
    ("text", "name", "refused"),
    [
        ("p.add_argument('--learning_rate')", "learning_rte", True),
        ("p.add_argument('--learning-rate')", "no-learning_rte", True),
        ("p.add_argument('--learning_rate')", "learning_rate", False),
        ("p.add_argument('--learning_rate')", "learn", False),  # which argparse takes for it
        ("p.add_argument('--learning_rate')", "colour", False),  # which may be of something that the script calls
        ("p.add_argument('--learning_rate')\nparams.learning_rte", "learning_rte", False),
        ("p.add_argument('--learning_rate')\nsys.argv", "learning_rte", False),
        ("params.learning_rate", "learning_rte", False),  # which declares nothing
        ("p.add_argument('--output_dirs')", "output_dir", False),
        ("p.add_argument('--learning_rate'", "learning_rte", False),  # no Python, which it says when it runs
    ],
)
def test_a_slip_of_the_pen_is_refused_before_the_job_waits(tmp_path, text, name, refused):
    (tmp_path / "script.py").write_text(text)
    if not refused:
        declared.check(tmp_path / "script.py", [name])
        return
    with pytest.raises(JobError, match=f"--param {name}: 'script.py' declares no such .*mean 'learning_rate'"):
        declared.check(tmp_path / "script.py", [name])


def test_a_run_has_its_whole_configuration_and_what_differs_from_the_default_is_known(home, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("model: {model_name: here}\ntraining: {max_steps: 4}\n")
    for rate in (1e-3, 5e-5):  # the second is the default
        config = load(file, [f"training.learning_rate={rate}"]).config
        with as_job.running("mine", *as_job.described(config)):
            pass
    store = Store()
    second, first = store.jobs()
    usual = store.read(typed.defaults, first["defaults"])
    assert first["defaults"] == second["defaults"]  # which are kept once
    assert first["params"] == {"model.model_name": "here", "training.max_steps": 4, "training.learning_rate": 1e-3}
    assert (usual["training.learning_rate"], usual["training.lr_scheduler_type"]) == (5e-5, "linear")
    assert typed.changed(first["params"], usual) == [*first["params"]]
    assert queue.differences(store, [first, second])["params"] == {"training.learning_rate": [1e-3, 5e-5]}
    found = listing.Query(where=["param:training.learning_rate<1e-4"], show=["param:training.learning_rate"])
    page = store.read(listing.page, found)
    assert [(job["id"], job["values"]) for job in page["jobs"]] == [
        (second["id"], {"param:training.learning_rate": 5e-5})
    ]
    assert main(["jobs", "show", first["id"]]) == 0
    said = capsys.readouterr().out
    assert "training.learning_rate  0.001" in said
    assert "lr_scheduler_type" not in said
    assert main(["jobs", "show", first["id"], "--all"]) == 0
    assert "training.lr_scheduler_type" in capsys.readouterr().out


def test_a_job_of_the_queue_learns_what_its_file_gives(home, tmp_path):
    with tracked("queued", {"training.max_steps": "4"}), as_job.running("run", {"training.max_steps": 4}, {"a": 1}):
        pass
    (job,) = Store().jobs()
    assert (job["name"], job["params"]) == ("queued", {"training.max_steps": 4})
    assert Store().read(typed.defaults, job["defaults"]) == {"a": 1}


def test_commit_changes_and_versions_are_kept_and_shown_where_jobs_differ(home, tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    assert provenance.of_code(tmp_path) is None
    git("init")
    (tmp_path / "code.py").write_text("one\n")
    git("add", "code.py")
    git("commit", "-m", "first")
    monkeypatch.setattr(provenance, "folder_of_code", lambda: tmp_path)
    clean, changed = Tracking("a", {}, "a"), None
    clean.end("COMPLETE")
    (tmp_path / "code.py").write_text("two\n")
    changed = Tracking("b", {}, "b")
    changed.end("COMPLETE")
    store = Store()
    first, second = (store.find(name) for name in "ab")
    assert first["kept"]["code"]["diff"] is None
    assert first["kept"]["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert first["kept"]["versions"]["pytest"] == pytest.__version__
    assert "code.py" in second["kept"]["code"]["changed"]
    assert "-one\n+two\n" in (changed.folder / provenance.DIFF).read_text()
    found = queue.differences(store, [first, second])
    assert found["code"] == {"uncommitted": [None, second["kept"]["code"]["diff"][:12]]}
    assert found["versions"] == {}


def test_what_a_job_takes_of_the_machine_is_sampled_and_goes_on_over_attempts(home, monkeypatch):
    monkeypatch.setattr(system, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(system, "_nvml", lambda: None)
    monkeypatch.setattr(system, "_smi", lambda: "nvidia-smi")
    said = subprocess.CompletedProcess([], 0, "0, 37, 1000\n1, 0, 2\n")
    monkeypatch.setattr(system.subprocess, "run", lambda *_, **__: said)
    told = []
    sampler = system.Sampler(home.parent, lambda *one: told.append(one))
    sampler.look(lambda: 600.0)
    values = {name.removeprefix("system/"): value for name, value, _ in told}
    assert {step for _, _, step in told} == {600}
    assert 0.001 < values["memory_gb"] < 100
    assert values["cpu_percent"] >= 0
    assert values["disk_free_gb"] > 0
    assert (values["gpu0_percent"], values["gpu0_memory_gb"], values["gpu1_percent"]) == (37, 1000 * 2**20 / 1e9, 0)


def test_a_yaml_file_is_looked_at_when_it_is_submitted_as_check_does(home, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        "model: {model_name: here}\ndata: {train: {datasets: [{dataset_path: none.jsonl}]}}\n"
        "training: {trainer_type: SFT, max_steps: 4}\n"
    )
    code, said = main(["check", "run.yaml"]), capsys.readouterr().err
    assert code == 2
    assert "none.jsonl" in said
    assert main(["jobs", "submit", "run.yaml"]) == 2
    assert capsys.readouterr().err == said
    assert not Store().jobs()
    assert main(["jobs", "submit", "run.yaml", "--json"]) == 2
    capsys.readouterr()
    with tracked("makes the data"):
        pass
    before = Store().jobs()[0]["id"]
    assert main(["jobs", "submit", "run.yaml", "--after", before, "--json"]) == 0  # which may make it
    job = Store().find(json.loads(capsys.readouterr().out)["id"])
    assert job["params"]["training.max_steps"] == 4
    assert Store().read(typed.defaults, job["defaults"])["training.optimizer"] is not None


def test_a_run_that_is_gone_on_with_is_the_job_that_it_was(home, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {model_name: here}\ntraining: {max_steps: 4, output_dir: out}\n")
    (tmp_path / "out").mkdir()
    ids = []
    for _ in range(2):
        config = load(file).config
        known = folders.job_of(config.training)
        with as_job.running("mine", *as_job.described(config), known):
            folders.describe(config, file, [], goes_on=False)
            ids.append(as_job.of_this_run())
    (job,) = Store().jobs()
    assert (ids, job["starts"]) == ([job["id"]] * 2, 2)
    assert main(["jobs", "rm", "mine"]) == 0
    assert folders.job_of(config.training) is None  # it is not known any more


def test_jobs_of_one_folder_are_told_with_each_other(home, tmp_path, capsys):
    for name, folder in (("first", "out"), ("again", "out"), ("other", "outer")):
        with tracked(name) as job:
            job.keep("output_dir", folder)
    store = Store()
    assert [one["name"] for one in outputs.of_same_run(store, store.find("again"))] == ["first"]
    assert outputs.of_same_run(store, store.find("other")) == []
    assert main(["jobs", "show", "first"]) == 0
    assert "again (COMPLETE)" in capsys.readouterr().out


@pytest.mark.parametrize("way", [as_job.running, tracked, init], ids=["command", "decorator", "init"])
def test_what_a_run_by_hand_prints_is_kept_as_a_terminal_shows_it_last(home, capsys, way):
    with way("mine", {}):
        print("first\nprogress 1 %\rprogress 99 %\rprogress 100 %\r")
        print("\x1b[31mred\x1b[0m", file=sys.stderr)
        for number in range(3):  # a live table of two lines
            print(
                f"{'' if not number else chr(13) + 2 * (chr(27) + '[1A' + chr(27) + '[2K')}step {number}\nloss {number}"
            )
        print("half", end="")
        assert sys.stdout.isatty() is False
    (job,) = Store().jobs()
    text = (home / "jobs" / job["id"] / "output.log").read_text()
    assert text == "first\nprogress 100 %\nred\nstep 2\nloss 2\nhalf\n"
    said = capsys.readouterr()
    assert said.out.count("loss") == 3
    assert said.err == "\x1b[31mred\x1b[0m\n"
    assert main(["jobs", "logs", "mine"]) == 0
    assert capsys.readouterr().out == text


def test_lines_that_come_again_wait_until_they_are_the_last(tmp_path):
    log = console._Log(tmp_path / "log")
    log.take("one\nstep 1\n\x1b[1Astep 2\n")
    log.flush()
    assert (tmp_path / "log").read_text() == "one\n"
    log.take("\x1b[1Astep 3\n")
    log.close()
    assert (tmp_path / "log").read_text() == "one\nstep 3\n"


def test_an_attempt_that_begins_anew_does_not_wait_to_tell_what_it_runs(home, monkeypatch):
    """Processes that have lost another one leave at once; the last attempt tells all."""
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setattr(tracking, "_LAST_SECONDS", 30.0)
    asked = []
    for number in (2, 3):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
        job = Tracking(f"attempt-{number}", {}, "a")
        told = job.described.wait
        monkeypatch.setattr(job.described, "wait", lambda seconds, told=told: asked.append(seconds) or told(seconds))
        job.end("FAILED")
    assert asked == [30.0]
