"""Scripts shaped as plugins of Transformer Lab run to their end, as they are begun there; only imports are ours."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs import scripts
from trainwright.jobs import paths
from trainwright.jobs.store import schema
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking import datasets
from trainwright.jobs.tracking.decorator import TrainerJob
from trainwright.jobs.tracking.transformerlab import Lab
from trainwright.jobs.worker import health, ranks

PLUGINS = Path(__file__).parent / "plugins"
OF_RANKS = ("accelerated", "ranks")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return scripts.write_model_and_data(tmp_path_factory.mktemp("parts"))


def only_job():
    store = Store()
    health.sweep(store)
    (job,) = store.jobs()
    return store, job


def finished(expected, progress=100):
    """Return the store and the only job, which is complete and is named after its plugin."""
    store, job = only_job()
    assert (job["status"], job["progress"], job["name"]) == ("COMPLETE", progress, expected), job["traceback"]
    return store, job


def begin(name, monkeypatch, *words, progress=100):
    """Run a plugin in this process, as Python would run its file."""
    monkeypatch.setattr(importlib.import_module("trainwright.jobs.tracking.decorator"), "tlab_trainer", TrainerJob())
    monkeypatch.setattr(importlib.import_module("trainwright.jobs.tracking.transformerlab"), "lab", Lab())
    monkeypatch.setattr(datasets, "_divided", {})  # of a process
    monkeypatch.setattr(sys, "argv", [str(PLUGINS / name / "main.py"), *words])
    runpy.run_path(str(PLUGINS / name / "main.py"), run_name="__main__")
    return finished(name, progress)


def words_of(parts):
    return [word for name, value in parts.items() for word in (f"--{name}", value)]


@pytest.mark.slow  # a script that trains, with its imports
def test_an_adapter_is_tuned_and_fused(home, monkeypatch, parts):
    store, job = begin("lora_tuner", monkeypatch, *words_of(parts), "--job_id", "17", "--lora_r", "3")
    assert job["id"] == "17"
    assert Path(job["data"]["adaptor"]).name == "adaptor_17"
    assert "train/loss" in store.metric_names("17")
    made = paths.job_folder("17") / "models" / "model_tuned"
    about = json.loads((made / "info.json").read_text())
    assert (about["architecture"], about["lora_r"], about["parent_model"], about["job"]) == (
        "LlamaForCausalLM", 3, parts["model_name"], "17"
    )  # fmt: skip
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(made).num_parameters() > 0
    import huggingface_hub

    card = huggingface_hub.ModelCard.load(made / "README.md")
    assert (card.data.pipeline_tag, card.data.base_model) == ("text-generation", parts["model_name"])
    kept = {(one["kind"], one["path"]) for one in store.of_job(schema.artifacts, "17")}
    assert ("model", str(made)) in kept


@pytest.mark.slow
def test_transformers_own_trainer_with_everything_in_the_file(home, tmp_path, monkeypatch, parts):
    (tmp_path / "input.json").write_text(json.dumps({"experiment": {}, "config": {**parts, "job_id": "18"}}))
    store, job = begin("upstream_tuner", monkeypatch, "--input_file", str(tmp_path / "input.json"))
    assert job["id"] == "18"
    assert {"train/loss", "eval/loss"} <= store.metric_names("18").keys()
    assert "job_id" not in job["params"]


def test_a_loop_of_its_own(home, monkeypatch):
    store, job = begin("own_loop", monkeypatch, "--steps", "12")
    assert store.metric_names(job["id"]) == {"train/loss": 12}


def test_a_classifier(home, monkeypatch, parts):
    store, job = begin("classifier", monkeypatch, *words_of(parts), progress=90)
    assert {"train/loss", "eval/accuracy"} <= store.metric_names(job["id"]).keys()
    assert "eval_accuracy" in job["data"]["evaluation"]


def test_rows_from_an_async_function(home, monkeypatch):
    _, job = begin("async_generator", monkeypatch, "--count", "3")
    assert len((Path(job["params"]["output_dir"]) / "rows.jsonl").read_text().splitlines()) == 3


def test_an_evaluation_with_a_parser_of_its_own(home, monkeypatch, parts):
    store, job = begin("evaluator", monkeypatch, *words_of(parts), "--limit", "4")
    assert store.metric_names(job["id"]) == {"eval/loss": 4}


def test_an_export(home, tmp_path, monkeypatch, parts):
    begin("exporter", monkeypatch, *words_of(parts), "--output_model_path", str(tmp_path / "out"))
    made = tmp_path / "out" / "model-copy"
    assert (made / "model.safetensors").is_file()
    assert json.loads((made / "info.json").read_text())["parent_model"] == "org/parent"


def test_the_newer_sdk_with_a_trainer(home, tmp_path, monkeypatch, parts):
    words = [*words_of(parts), "--output", str(tmp_path / "run"), "--job_id", "19"]
    store, job = begin("lab_tuner", monkeypatch, *words)
    assert (job["id"], job["params"]["learning_rate"], job["total_steps"]) == ("19", 1e-3, 2)
    assert job["data"]["score"].keys() == {"train_loss"}
    made = paths.job_folder("19") / "models" / "tuned"
    assert (made / "model.safetensors").is_file()
    assert json.loads((made / "info.json").read_text())["architecture"] == "LlamaForCausalLM"
    assert "train/loss" in store.metric_names("19")


def test_the_newer_sdk_with_a_loop(home, monkeypatch):
    store, job = begin("lab_loop", monkeypatch, "--steps", "3")
    assert (job["experiment"], job["data"]["note"], job["data"]["score"]) == ("first", "all well", {"loss": 1 / 3})
    assert [step for step, _, _ in store.metric(job["id"], "train/loss")] == [1, 2, 3]
    assert {one["kind"] for one in store.of_job(schema.artifacts, job["id"])} == {"checkpoint", "artifact", "evals"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_RANKS)
def test_two_ranks_are_one_job(home, tmp_path, name):
    launcher = [] if name == "accelerated" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = ["--job_id", "20"] if name == "accelerated" else []
    done = subprocess.run(
        [sys.executable, *launcher, str(PLUGINS / name / "main.py"), *given], cwd=tmp_path, text=True,
        capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    store, job = finished(name)
    assert job["id"] == "20" or name == "ranks"
    assert job["data"] == {"world_size": 2}
    assert [step for step, _, _ in store.metric(job["id"], "train/loss")] == [1, 2, 3]
    output = paths.job_folder(job["id"]) / "output"
    assert done.stdout.count(f"in {output}\n") == 2  # both ranks know the same folder
    assert (output / "checkpoint-3").is_dir()
    assert [(one["state"], one["step"]) for one in ranks.states(job)] == [("COMPLETE", 3)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_a_plugin_that_does_not_look_how_its_training_ended(home, tmp_path, fails):
    words = [sys.executable, str(PLUGINS / "relaunched" / "main.py"), f"--fails={fails}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    store, job = only_job()
    told = {name: count for name, count in store.metric_names(job["id"]).items() if not name.startswith("system/")}
    assert (job["name"], told) == ("relaunched", {"train/loss": 1})
    if not fails:
        assert job["status"] == "COMPLETE"
        return
    assert (job["status"], job["message"]) == ("FAILED", "ValueError: the data is empty")
    assert 'raise ValueError("the data is empty")' in job["traceback"]
