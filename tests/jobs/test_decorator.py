"""Seed 000's scripts as written, with only the import line changed; every way a job is given its parameters."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from tests.jobs import scripts
from trainwright.cli.main import main
from trainwright.errors import DataError, JobError
from trainwright.jobs import paths
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import datasets, params
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.jobs.worker import health
from trainwright.trackers.callback import metric_name


def run(folder, text, *words, check=True, **environment):
    """Run a script in a process of its own; return what it printed."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py", *words], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr[-3000:]
    return done


def only_job():
    store = Store()
    health.sweep(store)
    (job,) = store.jobs()
    return store, job


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return scripts.write_model_and_data(tmp_path_factory.mktemp("parts"))


@pytest.mark.slow
@pytest.mark.parametrize("given", ["command line", "file"])
def test_the_adapted_script(home, tmp_path, parts, given):
    words = [word for name, value in parts.items() for word in (f"--{name}", value)]
    if given == "file":
        (tmp_path / "job.json").write_text(json.dumps({"config": parts}))
        words = ["--input_file", "job.json", "--job_id", "mine", "--experiment_name", "first"]
    done = run(tmp_path, scripts.ADAPTED, *words)
    assert "The column 'text' was turned into tokens" in done.stdout + done.stderr
    store, job = only_job()
    assert (job["status"], job["progress"], job["name"]) == ("COMPLETE", 100, "script")
    assert (job["id"], job["experiment"])[given == "command line" :] == (
        ("mine", "first") if given == "file" else ("default",)
    )
    assert store.last_metrics(job["id"])["train/train_loss"][0] == job["total_steps"] > 0
    output = paths.job_folder(job["id"]) / "output"
    assert job["params"]["output_dir"] == job["kept"]["output_dir"] == str(output)
    assert (output / "model.safetensors").is_file()
    assert (output / "tokenizer_config.json").is_file()


@pytest.mark.slow
def test_the_adapted_script_with_transformers_own_trainer(home, tmp_path, parts):
    words = [f"--{name}={value}" for name, value in parts.items()]
    run(tmp_path, scripts.UPSTREAM, *words)
    store, job = only_job()
    assert (job["status"], job["progress"], job["step"]) == ("COMPLETE", 100, 12)
    assert "train/train_loss" in store.metric_names(job["id"])


@pytest.mark.slow
@pytest.mark.parametrize("text", [scripts.CALLED, scripts.ASYNC], ids=["sync", "async"])
def test_the_manual_loop(home, tmp_path, text):
    run(tmp_path, text)
    store, job = only_job()
    assert (job["status"], job["progress"]) == ("COMPLETE", 100)
    assert store.metric_names(job["id"]) == {"train/loss": 1000, "train/lr": 1000}
    boards = list((paths.job_folder(job["id"]) / "logs").glob("events*"))
    assert len(boards) == 1


@pytest.mark.slow
def test_off_costs_nothing_and_leaves_nothing(home, tmp_path):
    run(tmp_path, scripts.CALLED, TRAINWRIGHT_JOBS="off")
    assert not home.exists()


@pytest.mark.slow
def test_a_failing_script_exits_1_and_is_failed(home, tmp_path):
    text = scripts.MANUAL.replace("total_steps = 1000", "raise ValueError('nothing to train')") + "\ntrain_model()\n"
    done = run(tmp_path, text, check=False)
    assert done.returncode == 1
    _, job = only_job()
    assert (job["status"], job["message"]) == ("FAILED", "ValueError: nothing to train")
    assert "raise ValueError" in job["traceback"]
    done = run(tmp_path, scripts.MANUAL.replace("total_steps = 1000", "return False") + "\ntrain_model()\n")
    newest = Store().jobs()[0]
    assert (newest["status"], newest["message"]) == ("FAILED", "The function returned False.")


def begin(folder, *words, text=scripts.SLOW):
    (folder / "script.py").write_text(text)
    process = subprocess.Popen([sys.executable, "script.py", *words], cwd=folder, stdout=subprocess.PIPE, text=True)
    store = wait_for(lambda: (paths.home() / "jobs.db").exists() and Store())
    job = wait_for(lambda: next((one for one in store.jobs() if one["progress"] > 0), None))
    return process, store, job["id"]


def wait_for(found, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("nothing came")


@pytest.mark.slow
def test_a_job_that_is_asked_to_stop_stops(home, tmp_path):
    process, store, job = begin(tmp_path)
    store.ask_to_stop(job)
    assert process.wait(300) == 0
    found = store.find(job)
    assert (found["status"], found["message"]) == ("STOPPED", "Stopped on request.")
    assert "done" not in process.stdout.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_nobody_asked_for(home, tmp_path, number):
    text = scripts.SLOW.replace(
        "import time", "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
    )
    process, store, job = begin(tmp_path, text=text)
    process.send_signal(number)
    process.wait(300)
    found = store.find(job)
    assert (found["status"], found["message"]) == ("INTERRUPTED", f"Interrupted by {number.name}.")


@pytest.mark.slow
def test_a_trainer_saves_and_stops_and_goes_on(home, tmp_path):
    """A plain Trainer, tracked because the environment asks for it."""
    text = """
import torch, time
from trainwright import Trainer, TrainingArguments, TrainerCallback
class Slowly(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        time.sleep(0.01)
class Model(torch.nn.Linear):
    def forward(self, x, labels):
        return {"loss": ((super().forward(x) - labels) ** 2).mean()}
torch.manual_seed(0)  # data that is other data would not be gone on with
rows = [{"x": torch.randn(3), "labels": torch.randn(1)} for _ in range(64)]
args = TrainingArguments(
    "out", max_steps=STEPS, logging_steps=5, save_strategy="no", use_cpu=True, report_to="trainwright"
)
Trainer(Model(3, 1), args, train_dataset=rows, callbacks=[Slowly]).train()
"""
    process, store, job = begin(tmp_path, text=text.replace("STEPS", "400"))
    store.ask_to_stop(job)
    assert process.wait(300) == 0
    found = store.find(job)
    assert found["status"] == "STOPPED"
    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{found['step']}" or found["step"] <= int(checkpoint.name[11:])
    done = run(tmp_path, text.replace("STEPS", "400"), TRAINWRIGHT_JOB_ID=job, TRAINWRIGHT_JOB_RESUME="1")
    assert done.returncode == 0
    found = store.find(job)
    assert (found["status"], found["step"]) == ("COMPLETE", 400)
    steps = [step for step, _, _ in store.metric(job, "train/loss")]
    assert steps == list(range(5, 401, 5))


def test_parameters_and_their_defaults(home, tmp_path, monkeypatch):
    trainer = TrainerJob()
    trainer.add_argument("--steps", type=int, default=7)
    trainer.add_argument("--kind", choices=["a", "b"], default="a")
    seen = {}

    @trainer.job_wrapper()
    def main(extra):
        seen.update(trainer.params)
        seen["fallback"] = getattr(trainer, "no_such", 5)
        assert trainer.steps == trainer.params.steps == trainer.params["steps"]
        assert trainer.params.get("no_such", 3) == 3
        trainer.add_job_data("a", 1)
        return extra

    monkeypatch.setattr(sys, "argv", ["script.py", "--lr", "1e-3", "--flag", "--name=x", "--kind", "b"])
    assert main(4) == 4
    assert {name: seen[name] for name in ("steps", "kind", "lr", "flag", "name", "fallback")} == {
        "steps": 7, "kind": "b", "lr": 1e-3, "flag": True, "name": "x", "fallback": 5
    }  # fmt: skip
    with pytest.raises(AttributeError, match="There is no parameter 'stepz'. Did you mean 'steps'?"):
        trainer.stepz  # noqa: B018
    for words, message in (
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--kind", "c"], "invalid choice: 'c'"),
        (["--input_file", "none.json"], "there is no file 'none.json'"),
    ):
        monkeypatch.setattr(sys, "argv", ["script.py", *words])
        with pytest.raises(JobError) as caught:
            main(4)
        assert message in str(caught.value)
    (tmp_path / "p.yaml").write_text("steps: 12\nkind: z\n")
    monkeypatch.setattr(sys, "argv", ["script.py", "--input_file", "p.yaml"])
    with pytest.raises(JobError, match="The parameter 'kind' is 'z': .*invalid choice"):
        main(4)
    (tmp_path / "p.yaml").write_text("steps: 12\nextra: [1, 2]\n")
    monkeypatch.setattr(sys, "argv", ["script.py", "--input_file", "p.yaml", "--steps", "3"])
    main(4)
    assert (seen["steps"], seen["extra"]) == (3, [1, 2])


@dataclass(frozen=True)
class Budget(Exception):
    """Does not take the traceback that contextlib notes in it."""

    spent: int


@pytest.mark.parametrize("kind", ["job_wrapper", "async_job_wrapper"])
@pytest.mark.parametrize("tracking", ["on", "off"])
def test_an_exception_that_is_a_frozen_dataclass_leaves_a_job_as_it_is(home, tmp_path, monkeypatch, kind, tracking):
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setenv("TRAINWRIGHT_JOBS", tracking)
    trainer = TrainerJob()

    def spend():
        raise Budget(3)

    async def spend_later():
        spend()

    wrapped = getattr(trainer, kind)()(spend if kind == "job_wrapper" else spend_later)
    with pytest.raises(Budget) as caught:
        wrapped() if kind == "job_wrapper" else asyncio.run(wrapped())
    assert caught.value.spent == 3
    if tracking == "on":
        _, job = only_job()
        assert (job["status"], "Budget" in job["message"]) == ("FAILED", True)


def test_files_that_hold_no_parameters(tmp_path):
    for name, content, message in (
        ("a.json", "[1]", "holds list"),
        ("a.json", "{", "is no JSON"),
        ("a.yaml", "[", "no YAML"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(JobError, match=message):
            params.read_file(tmp_path / name)


def test_datasets_of_every_form(tmp_path):
    def rows(found):
        return {split: [row["a"] for row in part] for split, part in found.items()}

    lines = "".join(json.dumps({"a": number}) + "\n" for number in range(10))
    (tmp_path / "one.jsonl").write_text(lines)
    held = datasets.load(str(tmp_path / "one.jsonl"), ["train", "valid"])
    assert rows(held) == {"train": list(range(8)), "valid": [8, 9]}
    for split in ("train", "valid"):  # what one call holds out, no other trains on
        assert rows(datasets.load(str(tmp_path / "one.jsonl"), [split])) == {split: rows(held)[split]}
    (tmp_path / "two.jsonl").write_text(lines)
    assert rows(datasets.load(str(tmp_path / "two.jsonl"), ["train"])) == {"train": list(range(10))}
    for asked in (["valid"], ["train", "dev"]):
        with pytest.raises(DataError, match="all its rows were given as training rows before; ask for both in one"):
            datasets.load(str(tmp_path / "two.jsonl"), asked)
    (tmp_path / "three.jsonl").write_text(lines)
    assert rows(datasets.load(str(tmp_path / "three.jsonl"), ["val"])) == {"val": [8, 9]}
    assert rows(datasets.load(str(tmp_path / "three.jsonl"), ["train"])) == {"train": list(range(8))}
    (tmp_path / "single.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="has 1 row, of which none can be held out"):
        datasets.load(str(tmp_path / "single.jsonl"), ["train", "valid"])
    folder = tmp_path / "several"
    (folder / "test").mkdir(parents=True)
    (folder / "train-1.csv").write_text("a\n1\n")
    (folder / "train-2.csv").write_text("a\n2\n")
    (folder / "test" / "part.csv").write_text("a\n3\n")
    assert rows(datasets.load(str(folder), ["train", "test"])) == {"train": [1, 2], "test": [3]}
    import pandas

    pandas.DataFrame({"a": [4]}).to_parquet(tmp_path / "validation.parquet")
    assert rows(datasets.load(str(tmp_path / "validation.parquet"), ["valid"])) == {"valid": [4]}
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        datasets.load(str(tmp_path / "one.jsonl"), ["test"])
    (folder / "more.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"holds files of json, csv; it must hold files of one kind"):
        datasets.load(str(folder), ["train"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file of a known kind"):
        datasets.load(str(tmp_path / "empty"), ["train"])


@pytest.mark.slow
def test_runs_of_the_command_line_are_jobs_by_themselves(home, tmp_path):
    few = ["data.record.episodes=4", "data.held_out=0.3", "train.max_steps=4", "train.eval_steps=2",
           "train.save_steps=2", "rollout.episodes=2"]  # fmt: skip
    assert main(["demo", "imitation", *few]) == 0
    assert main(["init", "algebra", "none.yaml"]) == 0
    assert main(["algebra", "train", "none.yaml", "data.train_dataset_path=none.txt"]) == 2
    assert main(["algebra", "train", "not_there.yaml"]) == 2  # which begins nothing
    store = Store()
    done, failed = sorted(store.jobs(), key=lambda job: job["name"])
    assert (done["status"], done["name"], done["step"]) == ("COMPLETE", "demo-imitation", 4)
    assert done["params"]["train.max_steps"] == 4
    assert {"eval/success_rate", "eval/loss"} <= store.metric_names(done["id"]).keys()
    assert (failed["status"], failed["name"]) == ("FAILED", "none")
    assert "none.txt" in failed["message"]


def test_metrics_have_the_names_that_boards_know():
    assert [metric_name(name) for name in ("eval_loss", "loss", "train_loss", "learning_rate")] == [
        "eval/loss", "train/loss", "train/train_loss", "train/learning_rate"
    ]  # fmt: skip


def test_max_length_is_refused_with_where_it_belongs():
    from trainwright import ConfigError, TrainingArguments

    with pytest.raises(ConfigError, match="no argument 'max_length' .* It belongs to the tokenizer"):
        TrainingArguments("out", max_length=512)
