"""Damage of the newest checkpoint is named and passed over, whatever it is and in whichever file."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers

from tests import tiny
from tests.reliability import cases
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.checkpoint import check

KINDS = ("missing", "empty", "half", "zeroed tail", "flipped bit")
FILES = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "trainwright.json",
    "manifest.json",
)  # fmt: skip


def damaged(path, kind):
    content = path.read_bytes()
    half = len(content) // 2
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": content[:half],
                "zeroed tail": content[:half] + bytes(len(content) - half),
                "flipped bit": content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :],
            }[kind]
        )


def made(place):
    torch.manual_seed(0)
    args = TrainingArguments(str(place), max_steps=8, save_steps=4, use_cpu=True, disable_tqdm=True)
    return Trainer(cases.Net(), args, train_dataset=cases.rows())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    made(place).train()
    assert {path.name for path in (place / "checkpoint-8").iterdir()} == set(FILES)
    return place


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_the_newest_is_passed_over(run, tmp_path, caplog, name, kind):
    shutil.copytree(run, tmp_path / "run")
    damaged(tmp_path / "run" / "checkpoint-8" / name, kind)
    made(tmp_path / "run").train(resume_from_checkpoint=True)
    assert "Passed over checkpoint-8: " in caplog.text
    assert name in caplog.text
    assert "Resuming from" in caplog.text
    assert "checkpoint-4' at step 4" in caplog.text


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    place = tmp_path_factory.mktemp("theirs")
    args = transformers.TrainingArguments(str(place), max_steps=4, save_steps=4, use_cpu=True, disable_tqdm=True)
    transformers.Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16)).train()
    return place


@pytest.mark.parametrize("kind", ["missing", "empty", "half"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_folder_without_manifest_is_looked_at_file_by_file(theirs, tmp_path, name, kind):
    shutil.copytree(theirs, tmp_path / "run")
    assert check.damage(tmp_path / "run" / "checkpoint-4") is None
    damaged(tmp_path / "run" / "checkpoint-4" / name, kind)
    args = TrainingArguments(str(tmp_path / "run"), max_steps=8, use_cpu=True, disable_tqdm=True)
    with pytest.raises(CheckpointError, match=name):
        Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16)).train(resume_from_checkpoint=True)


def test_nothing_in_a_checkpoint_is_unpickled_that_could_run_code(run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code was run",))

    shutil.copytree(run, tmp_path / "run")
    place = tmp_path / "run" / "checkpoint-8"
    torch.save({"state": Evil(), "param_groups": []}, place / "optimizer.pt")
    (place / "manifest.json").unlink()
    (place / "trainwright.json").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        made(tmp_path / "run").train(resume_from_checkpoint=str(place))
