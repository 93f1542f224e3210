"""Damage of the newest checkpoint is named and passed over, whatever it is and in whichever file."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
import transformers

from tests import tiny
from tests.reliability import cases
from trainwright import CheckpointError, Trainer, TrainingArguments
from trainwright.checkpoint import check, folder

KINDS = ("missing", "empty", "half", "zeroed tail", "flipped bit")
FILES = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "trainwright.json",
    "training_args.bin", "manifest.json",
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


@pytest.mark.slow
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


def forged(path, content):
    path.write_text(json.dumps({**content, "sha256": folder.digest(content)}))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def made_folder(path):
    path.unlink()
    path.mkdir()


NO_MANIFEST = {
    "a list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "without files": lambda path: forged(path, {"version": 1, "run": folder.run_of(path.parent)}),
    "files without sizes": lambda path: forged(path, {"version": 1, "files": {"model.safetensors": 5}}),
    "of no file": lambda path: forged(path, {"version": 1, "files": {}}),
    "a pipe": fifo,
    "a folder": made_folder,
}


@pytest.mark.parametrize("kind", NO_MANIFEST)
def test_a_manifest_that_is_none_is_passed_over_by_name(run, tmp_path, caplog, kind):
    shutil.copytree(run, tmp_path / "run")
    NO_MANIFEST[kind](tmp_path / "run" / "checkpoint-8" / "manifest.json")
    made(tmp_path / "run").train(resume_from_checkpoint=True)
    assert "Passed over checkpoint-8: " in caplog.text
    assert "checkpoint-4' at step 4" in caplog.text


@pytest.mark.parametrize("name", ["checkpoint-9999\n", "checkpoint-٩٩٩", "checkpoint-8 (copy)"])
def test_a_folder_whose_name_is_no_checkpoints_is_passed_over_by_name(run, tmp_path, caplog, name):
    shutil.copytree(run, tmp_path / "run")
    shutil.copytree(run / "checkpoint-4", tmp_path / "run" / name)
    made(tmp_path / "run").train(resume_from_checkpoint=True)
    assert f"Passed over {name if name.isprintable() else repr(name)}: its name is not checkpoint-<step>" in caplog.text
    assert "checkpoint-8' at step 8" in caplog.text


def test_a_pipe_in_the_place_of_a_file_is_passed_over(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "run")
    fifo(tmp_path / "run" / "checkpoint-8" / "optimizer.pt")
    made(tmp_path / "run").train(resume_from_checkpoint=True)
    assert "Passed over checkpoint-8: optimizer.pt is not a file" in caplog.text


def test_a_pickle_that_the_reader_refuses_is_passed_over_although_its_checksum_is_right(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "run")
    place = tmp_path / "run" / "checkpoint-8"
    torch.save({"state": check.CorruptCheckpoint(place, ""), "param_groups": []}, place / "optimizer.pt")
    run_id = folder.run_of(place)
    (place / "manifest.json").unlink()
    folder.seal(place, run_id)
    made(tmp_path / "run").train(resume_from_checkpoint=True)
    assert "Passed over checkpoint-8: optimizer.pt cannot be read" in caplog.text


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    place = tmp_path_factory.mktemp("theirs")
    args = transformers.TrainingArguments(str(place), max_steps=4, save_steps=4, use_cpu=True, disable_tqdm=True)
    transformers.Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16)).train()
    return place


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", "empty", "half"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_folder_without_manifest_is_looked_at_file_by_file(theirs, tmp_path, name, kind):
    shutil.copytree(theirs, tmp_path / "run")
    assert check.damage(tmp_path / "run" / "checkpoint-4") is None
    damaged(tmp_path / "run" / "checkpoint-4" / name, kind)
    args = TrainingArguments(str(tmp_path / "run"), max_steps=8, use_cpu=True, disable_tqdm=True)
    with pytest.raises(CheckpointError, match=name):
        Trainer(tiny.llama(), args, train_dataset=tiny.tokens(16)).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("kind", ["a list", "a pipe"])
def test_a_folder_of_transformers_with_something_else_in_it_is_a_sentence(theirs, tmp_path, kind):
    shutil.copytree(theirs, tmp_path / "run")
    place = tmp_path / "run" / "checkpoint-4"
    if kind == "a list":
        (place / "trainer_state.json").write_text("[]")
    else:
        fifo(place / "optimizer.pt")
    assert "is no object of JSON" in str(check.damage(place)) or "is not a file" in str(check.damage(place))


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


def test_a_folder_of_transformers_without_an_optimizer_is_whole_and_one_with_half_a_state_is_not(theirs, tmp_path):
    place = tmp_path / "checkpoint-4"
    shutil.copytree(theirs / "checkpoint-4", place)
    for name in ("optimizer.pt", "scheduler.pt"):
        (place / name).unlink()
    assert check.damage(place) is None  # as `save_only_model` leaves it
    shutil.copy(theirs / "checkpoint-4" / "optimizer.pt", place)
    assert "scheduler.pt is missing" in str(check.damage(place))
