"""Pushing to the hub: which folders go where. The hub itself is replaced: no network is touched."""

from __future__ import annotations

import huggingface_hub
import pytest

from tests import tiny
from trainwright import Trainer, TrainingArguments


class Pushed:
    def done(self):
        return True


@pytest.fixture
def uploads(monkeypatch):
    made = []

    class Repository:
        repo_id = "me/model"

    def upload_folder(**given):
        made.append(given)
        return Pushed()

    monkeypatch.setattr(huggingface_hub, "create_repo", lambda *args, **kwargs: Repository())
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    return made


def trained(folder, **changes):
    args = TrainingArguments(
        str(folder), max_steps=4, save_steps=2, use_cpu=True, disable_tqdm=True, push_to_hub=True, **changes
    )
    trainer = Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows())
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("strategy", "places"),
    [
        ("end", []),
        ("every_save", [None, None]),
        ("checkpoint", [None, "last-checkpoint"] * 2),
        ("all_checkpoints", [None, "checkpoint-2", None, "checkpoint-4"]),
    ],
)
def test_strategies(tmp_path, uploads, strategy, places):
    trained(tmp_path, hub_strategy=strategy)
    assert [given["path_in_repo"] for given in uploads] == places
    for given in uploads:
        assert ("optimizer.pt" in given["ignore_patterns"]) == (given["path_in_repo"] is None)


def test_pushing_at_the_end_sends_model_and_card(tmp_path, uploads):
    trainer = trained(tmp_path, hub_strategy="end")
    trainer.push_to_hub(commit_message="done", license="mit")
    assert uploads[-1]["repo_id"] == "me/model"
    assert uploads[-1]["commit_message"] == "done"
    assert "license: mit" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "model.safetensors").exists()


def test_nothing_is_pushed_unless_asked_for(tmp_path, uploads):
    args = TrainingArguments(str(tmp_path), max_steps=2, save_steps=1, use_cpu=True, disable_tqdm=True)
    Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows()).train()
    assert uploads == []
