"""Runs from files, resumed in a new process from one checkpoint, are bitwise what they would have been."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import forked, installed
from tests import tiny_language as tiny
from tests.jobs.test_decorator import wait_for
from tests.tasks.language import resumes
from trainwright import TrainerState
from trainwright.checkpoint.lock import owned
from trainwright.cli.main import main
from trainwright.jobs.store.store import Store
from trainwright.jobs.tracking.tracking import tracked
from trainwright.jobs.worker.health import sweep

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every case, run straight through and from its checkpoint: (file, whole run, resumed run) by name."""
    place = tiny.make_place(tmp_path_factory.mktemp("resume"))
    threads, made = torch.get_num_threads(), {}
    torch.set_num_threads(1)  # as the new process has it: other sums are rounded otherwise
    for name in resumes.CASES:
        file = resumes.write(place, name)
        assert main(["train", "-c", str(file)]) == 0
        whole = file.parent / "run"
        resumed = file.parent / "resumed"
        resumed.mkdir()
        for part in (f"checkpoint-{resumes.SAVED}", "run.yaml"):
            copy = shutil.copytree if (whole / part).is_dir() else shutil.copy
            copy(whole / part, resumed / part)
        made[name] = (file, whole, resumed)
    torch.set_num_threads(threads)
    folders = [str(resumed) for _, _, resumed in made.values()]
    done = forked.run(["-m", "tests.tasks.language.resumes", *folders])
    assert done.returncode == 0, done.stderr[-2000:]
    return made


@pytest.mark.parametrize("name", resumes.CASES)
def test_bitwise(runs, name):
    _, whole, resumed = runs[name]
    one, other = (
        [
            {name: value for name, value in entry.items() if "runtime" not in name and "per_second" not in name}
            for entry in TrainerState.load_from_json(
                folder / f"checkpoint-{resumes.STEPS}" / "trainer_state.json"
            ).log_history
        ]
        for folder in (whole, resumed)
    )
    assert one == other
    assert len(one) == resumes.STEPS
    files = [next((folder / f"checkpoint-{resumes.STEPS}").glob("*model.safetensors")) for folder in (whole, resumed)]
    first, second = map(load_file, files)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_replay_shows_the_documents_of_a_packed_row(runs, capsys):
    _, whole, _ = runs["bfd"]
    capsys.readouterr()
    assert main(["replay", str(whole), "--step", "6"]) == 0
    out = capsys.readouterr().out
    assert "Step 6: 4 rows of pass 1" in out
    assert out.count("document") > 4
    assert "<|end|>" in out


@pytest.mark.parametrize("name", ["bfd", "packed stream, buffer, workers"])
def test_a_file_of_data_that_was_changed_meanwhile_is_noticed(tmp_path, capsys, name):
    """One word of one row is another, as long as before; the same words in a file that was copied are no change."""
    place = tiny.make_place(tmp_path)
    file = resumes.write(place, name)
    assert main(["train", "-c", str(file), "training.max_steps=4"]) == 0
    run = str(file.parent / "run")
    folder = file.parent / "parts"
    data = next(folder.iterdir()) if folder.is_dir() else place / "text.jsonl"
    before = data.read_text()
    data.write_text(before)
    assert main(["train", "--resume", run, "training.max_steps=5"]) == 0
    words = before.split(" ")
    number = next(i for i in range(len(words) // 2, len(words)) if words[i] == "cat")
    words[number] = "dog"
    data.write_text(" ".join(words))
    capsys.readouterr()
    assert main(["train", "--resume", run, "training.max_steps=6"]) == 2
    assert "The training data is not what" in capsys.readouterr().err
    assert main(["train", "--resume", run, "training.max_steps=6", "training.allow_data_change=true"]) == 0


def contents(folder):
    """Return the bytes of every file in a folder, but for its lock."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".trainwright.lock"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def write_file(place, data="text", **training):
    """Write run.yaml of 4 steps that saves every second; return the words that train it, and its folder."""
    content = tiny.settings(place, data, **{"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **training})
    (place / "run.yaml").write_text(yaml.safe_dump(content))
    return ["train", str(place / "run.yaml")], place / "out"


def logged(folder, step):
    """Return (step, loss, learning rate) of what a checkpoint has logged."""
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [(one["step"], one["loss"], one["learning_rate"]) for one in state["log_history"] if "loss" in one]


@installed.todays_transformers
@pytest.mark.parametrize("trainer", ["SFT", "HF"])
def test_a_run_that_is_refused_leaves_its_folder_as_it_was(tmp_path, capsys, trainer):
    """Refused for its lock, its checkpoint or its data; the plain command goes on afterwards."""
    train, out = write_file(tiny.make_place(tmp_path), trainer_type=trainer)
    resume, more = ["train", "--resume", str(out)], "training.max_steps=5"
    assert main(train) == 0
    before = contents(out)
    other = f"data.train.datasets.0.dataset_name={tmp_path / 'completion.jsonl'}"
    refused = [[*resume, "training.per_device_train_batch_size=2"], [*resume, other]] if trainer == "SFT" else []
    for words in [*refused, [*resume, "training.resume_from_checkpoint=nowhere"], train]:
        assert main([*words, more]) == 2
        assert contents(out) == before, words
    with owned(out):  # another run
        for words in (
            resume,
            train,
            [*train, "--overwrite"],
            [*train, "training.try_resume_from_last_checkpoint=true"],
        ):
            capsys.readouterr()
            assert main([*words, "training.learning_rate=0.5"]) == 2
            assert "is in use by process" in capsys.readouterr().err
            assert contents(out) == before, words
    assert main([*resume, more]) == 0
    assert not (out / ".trainwright.lock").exists()
    assert main([*train, f"training.output_dir={tmp_path}/new", "model.model_kwargs={rms_norm_eps: much}"]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("trainer", ["HF", "TRL_SFT"])
def test_another_librarys_run_that_begins_anew_is_not_mixed_with_the_old_one(tmp_path, capsys, trainer):
    """What goes on is what that library trains without a break, from the newest checkpoint that is whole."""
    train, out = write_file(tiny.make_place(tmp_path), trainer_type=trainer, lr_scheduler_type="constant")
    assert main([*train, "training.max_steps=6"]) == 0
    new = ["training.learning_rate=0.01", "training.max_steps=2"]
    assert main([*train, *new, "--overwrite"]) == 0
    assert [path.name for path in sorted(out.glob("previous-*/*"))] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]
    for step in (7, 9):  # killed in the middle of a save
        (out / f"checkpoint-{step}").mkdir()
        (out / f"checkpoint-{step}" / "config.json").write_text("{}")
    resume = ["train", "--resume", str(out), "training.max_steps=4"]
    assert main(resume) == 0
    assert len([*out.glob("previous-*/checkpoint-9")]) == 1
    whole = tmp_path / "whole"
    assert main([*train, *new, "training.max_steps=4", f"training.output_dir={whole}"]) == 0
    np.testing.assert_allclose(logged(out, 4), logged(whole, 4), rtol=1e-6)
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)
    capsys.readouterr()
    assert main(resume) == 2
    assert f"No checkpoint to resume from in '{out}': there is none." in capsys.readouterr().err
    (out / "checkpoint-9").mkdir()
    assert main([*train, "training.try_resume_from_last_checkpoint=true"]) == 0
    assert logged(out, 4) != logged(whole, 4)


def test_a_command_that_is_given_again_goes_on_from_its_own_checkpoint(tmp_path):
    """`resume_from_checkpoint` is where it begins, as fairchem and open-instruct have it of requeued jobs."""
    train, first = write_file(tiny.make_place(tmp_path))
    assert main(train) == 0
    out = tmp_path / "job"
    again = [*train, f"training.output_dir={out}", f"training.resume_from_checkpoint={first}/checkpoint-2",
             "training.try_resume_from_last_checkpoint=true"]  # fmt: skip
    assert main([*again, "training.max_steps=6"]) == 0
    assert [step for step, *_ in logged(out, 6)] == [1, 2, 3, 4, 5, 6]
    (first / "checkpoint-2" / "model.safetensors").write_bytes(b"damaged: nobody reads it again")
    assert main([*again, "training.max_steps=8"]) == 0
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
    assert not [*out.glob("previous-*")]
    first.rename(tmp_path / "away")
    assert main(["train", "--resume", str(out), "training.max_steps=9"]) == 0


def test_another_librarys_run_tells_its_job_and_hears_a_wish_to_stop(tmp_path, monkeypatch):
    train, out = write_file(tiny.make_place(tmp_path), trainer_type="HF")
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRAINWRIGHT_JOBS", "")
    with tracked("a", job="whole"):
        assert main(train) == 0
    store = Store()
    with tracked("a", job="stopped") as job:
        store.move("stopped", job.folder)
        store.ask_to_stop("stopped")
        assert wait_for(lambda: job.stop_requested)
        assert main([*train, f"training.output_dir={tmp_path}/stopped"]) == 0
    sweep(store)
    whole, stopped = (store.find(name) for name in ("whole", "stopped"))
    assert (whole["status"], whole["step"], whole["total_steps"], whole["progress"]) == ("COMPLETE", 4, 4, 100.0)
    assert [(step, value) for step, value, _ in store.metric("whole", "train/loss")] == [
        (step, loss) for step, loss, _ in logged(out, 4)
    ]
    assert (stopped["status"], stopped["step"]) == ("STOPPED", 1)
    assert (tmp_path / "stopped" / "checkpoint-1").is_dir()
    store.close()
