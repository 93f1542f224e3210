"""A save that is due with an evaluation comes first, so that whatever ends the run in there costs no step; when that is
over it is completed, and no tensor is written twice."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest
import torch

from tests.reliability import kills, victim
from tests.reliability.test_hooks import made
from tests.reliability.test_signals import history, same
from trainwright import TrainerCallback
from trainwright.checkpoint import check, layout
from trainwright.training import run_cards

WAYS = {
    "plain": {},
    "best": {"load_best_model_at_end": True, "save_total_limit": 1},
    "plateau": {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}},
    "average": {"ema_decay": 0.9},
}


class Look(TrainerCallback):
    """Copies the run's folder in an evaluation, as a kill would leave it, and looks at the checkpoint's files then and
    when it is complete.

    Args:
        step: of the evaluation.
        change: called with the model in the evaluation.
    """

    def __init__(self, step, change=None):
        self.step, self.change = step, change
        self.inodes = []
        self.told = []

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            place = self.trainer.run_folder
            self.trainer.run.writer.close()
            shutil.copytree(place, place.parent / "killed")
            self.look(place / f"checkpoint-{self.step}")
            if self.change is not None:
                self.change(model)

    def on_save(self, args, state, control, checkpoint=None, **kwargs):
        self.told.append(state.global_step)
        if state.global_step == self.step:
            self.look(checkpoint)

    def look(self, place):
        self.inodes.append({path.name: path.stat().st_ino for path in place.iterdir()})


def looked_at(place, way, step=9, change=None):
    trainer = made(place, **WAYS[way])
    look = Look(step, change)
    look.trainer = trainer
    trainer.add_callback(look)
    trainer.train()
    return trainer, look


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_in_an_evaluation_goes_on_from_its_step(tmp_path, way):
    straight, look = looked_at(tmp_path / "run", way)
    resumed = made(tmp_path / "killed", seed=99, **WAYS[way])
    resumed.train(resume_from_checkpoint=True)
    assert layout.step_of(check.newest_valid(tmp_path / "killed")[0]) == 12
    assert same(resumed, straight)
    assert history(resumed) == history(straight)
    assert resumed.state.best_global_step == straight.state.best_global_step
    assert look.told == [3, 6, 9, 12]
    assert check.damage(check.newest_valid(tmp_path / "run")[0]) is None


def test_no_tensor_is_written_twice(tmp_path):
    _, look = looked_at(tmp_path / "run", "plain")
    before, after = look.inodes
    assert {name for name in before if before[name] == after.get(name)} == {"model.safetensors", "optimizer.pt"}


@pytest.mark.slow
@pytest.mark.parametrize("write", ["data", "in place", "order"])
def test_weights_that_a_callback_changes_in_the_evaluation_are_written(tmp_path, write):
    def change(model):
        with torch.no_grad():
            parameter = next(model.parameters())
            if write == "order":
                parameter.copy_(parameter.flip(-1))
            else:
                (parameter.data if write == "data" else parameter).neg_()

    straight, look = looked_at(tmp_path / "run", "plain", change=change)
    assert look.inodes[0]["model.safetensors"] != look.inodes[1]["model.safetensors"]
    shutil.rmtree(tmp_path / "run" / "checkpoint-12")
    resumed = made(tmp_path / "run", seed=99)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)


@pytest.mark.slow
def test_where_nothing_can_be_linked_all_is_written_again(tmp_path, monkeypatch):
    def refuse(*given):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    straight, _ = looked_at(tmp_path / "run", "plain")
    assert check.newest_valid(tmp_path / "run")[1] == []
    resumed = made(tmp_path / "killed", seed=99)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)


def test_a_callback_may_decide_in_the_evaluation_that_nothing_is_saved(tmp_path):
    class Refuse(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_save = state.global_step != 6

    trainer = made(tmp_path)
    trainer.add_callback(Refuse())
    trainer.train()
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [3, 9, 12]


def test_a_run_that_saved_nothing_says_so_although_it_began_to(tmp_path):
    said = []

    class Refuse(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            control.should_save = False

        def on_train_end(self, args, state, control, **kwargs):
            said.extend(run_cards._next(trainer.run))

    trainer = made(tmp_path)
    trainer.add_callback(Refuse())
    trainer.train()
    assert layout.checkpoints(tmp_path) == []
    assert said == ["save_model() of the Trainer, for nothing is saved yet"]


def test_a_limit_deletes_after_the_evaluation_has_chosen_the_best(tmp_path):
    trainer = made(tmp_path, load_best_model_at_end=True, save_total_limit=1, greater_is_better=True)
    trainer.compute_metrics = lambda _: {"mean": float(trainer.state.global_step in (6,))}
    trainer.train()
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [6, 12]
    assert trainer.state.best_global_step == 6
    assert json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["best_global_step"] == 6


@pytest.mark.slow
def test_sigkill_in_an_evaluation(tmp_path):
    settings = {"max_steps": 6, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "logging_steps": 1}
    process = kills.start(tmp_path, {"settings": {**settings, "max_steps": 10**6}, "pause": 0.2})
    while not layout.checkpoints(tmp_path) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert kills.steps_done(tmp_path) == 4
    assert "evaluate" in json.loads((tmp_path / "checkpoint-4" / layout.RUN).read_text())["due"]
    resumed, straight = victim.run(tmp_path, settings), victim.run(tmp_path / "straight", settings)
    assert same(resumed, straight)
    assert history(resumed) == history(straight)
