"""A run that is killed anywhere goes on bitwise, and no reward of a written generation is asked for again."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time

import pytest
import torch
import yaml

from tests.reinforcement import completions
from tests.reinforcement import tiny_prompts as tiny
from trainwright import TrainerCallback
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.errors import CheckpointError
from trainwright.generation.sampler import Sampler
from trainwright.reinforcement import generation

STEPS = 5
MICRO_BATCHES = 2 * STEPS
KWARGS = {"num_iterations": 2, "steps_per_generation": 3, "beta": 0.1, "reward_processes": 0,
          "sync_ref_model": True, "ref_model_sync_steps": 2}  # fmt: skip


class Dies(TrainerCallback):
    """Ends the process at a micro-batch, as a kill does: nothing is closed, and nothing in flight is finished."""

    def __init__(self, at):
        self.left = at

    def _count(self):
        self.left -= 1
        if self.left == 0:
            os._exit(9)

    def on_substep_end(self, *args, **kwargs):
        self._count()

    def on_step_end(self, *args, **kwargs):
        self._count()


class Stops(TrainerCallback):
    """Ends training after the step before the last."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == STEPS - 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tiny.make_place(tmp_path_factory.mktemp("rl"))


def trained(place, out, callback=None, resume=None, **changes):
    """Train, and return losses by step and the weights."""
    kwargs = {**KWARGS, **changes.pop("trainer_kwargs", {})}
    told = tiny.settings(place, trainer_kwargs=kwargs, **{
        "gradient_accumulation_steps": 2, "max_steps": STEPS, "save_strategy": "steps", "save_steps": 1,
        "output_dir": str(out), "per_device_train_batch_size": 4, "save_total_limit": 2, **changes,
    })  # fmt: skip
    file = place / f"{out.name}.yaml"
    file.write_text(yaml.safe_dump(told))
    trainer = build_trainer(load_checked(file).config)
    if callback is not None:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    losses = {one["step"]: one["loss"] for one in trainer.state.log_history if "loss" in one}
    return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def forget_calls(place):
    (place / "calls.txt").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole(place):
    forget_calls(place)
    return *trained(place, place / "whole"), tiny.calls(place)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, MICRO_BATCHES + 1))
def test_killed_at_any_micro_batch_it_goes_on_bitwise(place, whole, at):
    losses, weights, calls = whole
    forget_calls(place)
    out = place / f"killed-{at}"
    child = os.fork()
    if child == 0:
        try:
            trained(place, out, Dies(at))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    saved = sorted(out.glob("checkpoint-*"))
    found, after = trained(place, out, resume=True if saved else None)
    assert found.items() <= losses.items()
    assert max(found) == STEPS
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert tiny.calls(place) == calls
    shutil.rmtree(out)


def test_generations_go_when_no_checkpoint_needs_them(place, whole, tmp_path):
    trained(place, tmp_path / "out", max_steps=7)
    there = {(epoch, number) for epoch, number, _ in generation.written(tmp_path / "out")}
    assert there == {(0, 1), (0, 2)}  # when the third was written, checkpoint-5 needed the second
    assert not list((tmp_path / "out" / generation.FOLDER).glob(".*"))


@pytest.mark.parametrize("lost", ["gone", "damaged", "all but a second place"])
def test_a_checkpoint_in_the_middle_of_a_generation_keeps_it(place, whole, tmp_path, lost, caplog):
    """As bits, without a reward that is asked for again: beside what is left of the run's folder, and alone."""
    losses, weights, _ = whole
    out, changes = tmp_path / "out", {}
    if lost == "all but a second place":
        changes = {"checkpoint_mirror": str(tmp_path / "mirror")}
        trained(place, tmp_path / "first", Stops(), **changes)
        assert not list((tmp_path / "mirror").rglob(generation.FOLDER))
    else:
        shutil.copytree(place / "whole", out)
        shutil.rmtree(out / "checkpoint-5")
        path = generation.file_of(out, 0, 1)
        path.write_bytes(path.read_bytes()[:-100])
        if lost == "gone":
            shutil.rmtree(out / generation.FOLDER)
    forget_calls(place)
    found, after = trained(place, out, resume=True, **changes)
    assert found.items() <= losses.items()
    assert max(found) == STEPS
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert not tiny.calls(place)
    assert (
        "random generators" not in caplog.text
    )  # those that the following reference's callback can see are the engine's


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_generations": 2}, "4 of a prompt"),
        ({"temperature": 0.5}, "temperature"),
        ({"steps_per_generation": 6}, "12 completions"),
        ({"reward_weights": [1.0, 2.0]}, r"judged with others: reward_weights None -> \[1.0, 2.0\]"),
        ({"shuffle_dataset": False}, "order of the prompts is not the checkpoint's: random -> sequential"),
    ],
)
def test_other_generations_than_the_checkpoints_are_refused(place, whole, tmp_path, changes, told):
    shutil.copytree(place / "whole", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "checkpoint-5")
    with pytest.raises(CheckpointError, match=told):
        trained(place, tmp_path / "out", resume=True, trainer_kwargs=changes)


@pytest.mark.parametrize("change", [{"learning_rate": 0.0}, {"trainer_kwargs": {"beta": 0.5}}])
def test_what_was_written_after_other_steps_is_written_anew(place, tmp_path, change):
    out = tmp_path / "out"
    trained(place, out, save_total_limit=9)
    path = generation.file_of(out, 0, 1)  # begun at step 3
    _, before = generation.read(path)
    for step in range(3, STEPS + 1):
        shutil.rmtree(out / f"checkpoint-{step}")
    trained(place, out, resume=True, **change)
    _, after = generation.read(path)
    assert after["run"] == before["run"]
    assert after["weights"] != before["weights"]


def test_a_generation_is_what_was_written(tmp_path):
    made = completions.generation()
    generation.write(made, tmp_path / "generations" / "x.safetensors", {"run": "a"})
    read, about = generation.read(tmp_path / "generations" / "x.safetensors")
    assert about == {"run": "a"}
    for name in (
        "prompts",
        "completions",
        "finished",
        "sampler",
        "rewards",
        "totals",
        "advantages",
        "old",
        "reference",
    ):
        torch.testing.assert_close(getattr(read, name), getattr(made, name), atol=0, rtol=0)
    assert (read.epoch, read.number, read.step, read.functions, read.rows) == (0, 0, 0, ["one", "two"], [0, 1])


class Interrupts(TrainerCallback):
    """Sends SIGTERM while the second generation is written."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_sigterm_while_completions_are_written_loses_nothing(place, whole, tmp_path, monkeypatch):
    losses, weights, calls = whole
    forget_calls(place)
    call = Sampler.call

    def slowly(self, **inputs):
        time.sleep(0.02)
        return call(self, **inputs)

    monkeypatch.setattr(Sampler, "call", slowly)
    with pytest.raises(SystemExit) as stopped:
        trained(place, tmp_path / "out", Interrupts())
    assert stopped.value.code == 128 + signal.SIGTERM
    assert len(tiny.calls(place)) == len(calls) // 2  # the second generation was not judged
    found, after = trained(place, tmp_path / "out", resume=True)
    assert found == losses
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert tiny.calls(place) == calls
