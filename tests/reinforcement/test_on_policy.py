"""Distillation on what the student writes: the formula in float64 on its own completions, whatever cuts the batch."""

from __future__ import annotations

import pytest
import torch

from tests import tiny_language as tiny
from trainwright import TrainerCallback
from trainwright.config.composition import build_trainer
from trainwright.config.reading.read import load_checked
from trainwright.errors import TrainwrightError
from trainwright.trainer.face import session_of

WRITES = {"lmbda": 1.0, "max_new_tokens": 9, "temperature": 0.8, "beta": 0.3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tiny.make_place(tmp_path_factory.mktemp("on-policy"))
    tiny.write_teacher(place / "teacher")
    return place


def built(place, out, data="completion", kwargs=None, callback=None, **training):
    kwargs = {"teacher_model_name_or_path": str(place / "teacher"), **WRITES, **(kwargs or {})}
    more = {"trainer_type": "DISTILL", "trainer_kwargs": kwargs, "learning_rate": 1e-2, "max_steps": 3, **training}
    content = tiny.settings(place, data, output_dir=str(out), **more)
    content["model"] |= {"torch_dtype_str": "float64"}
    out.mkdir(exist_ok=True)
    trainer = build_trainer(load_checked(tiny.write_yaml(out / "run.yaml", content)).config)
    if callback is not None:
        trainer.add_callback(callback)
    return trainer


def weights(trainer):
    return torch.cat([value.detach().flatten() for value in trainer.model.state_dict().values()])


class Keeps(TrainerCallback):
    """Ends the run after some steps, as a kill would."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.steps


def test_the_first_loss_is_the_divergence_on_what_the_student_wrote(place, tmp_path, monkeypatch):
    trainer = built(place, tmp_path, max_steps=1)
    student, seen = trainer.model.double().eval(), []
    stage = session_of(trainer).stage
    complete = stage.rollouts.complete

    def keeping(prompts, keys, count=1):
        found = complete(prompts, keys, count)
        seen.extend((prompt, one.ids.tolist()) for prompt, (one,) in zip(prompts, found, strict=True))
        return found

    monkeypatch.setattr(stage.rollouts, "complete", keeping)
    teacher, start = stage.session.objective.reference.double(), {n: v.clone() for n, v in student.state_dict().items()}
    trainer.train()
    student.load_state_dict(start)
    student.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for prompt, written in seen:
            ids = torch.tensor([prompt + written])
            p, t = ((one(ids).logits[0, len(prompt) - 1 : -1] / 0.8).softmax(-1) for one in (student, teacher))
            m = 0.7 * p + 0.3 * t
            total += float(0.3 * (t * (t / m).log()).sum() + 0.7 * (p * (p / m).log()).sum())
            count += len(written)
    assert len(seen) == 4
    assert max(len(written) for _, written in seen) == 9
    assert trainer.state.log_history[0]["loss"] == pytest.approx(total / count, rel=1e-6)


@pytest.mark.slow
def test_micro_batches_change_nothing_and_a_run_that_goes_on_is_bitwise_the_same(place, tmp_path):
    whole = built(place, tmp_path / "whole", kwargs={"lmbda": 0.5}, save_strategy="steps", save_steps=1)
    whole.train()
    cut = built(
        place, tmp_path / "cut", kwargs={"lmbda": 0.5}, per_device_train_batch_size=1, gradient_accumulation_steps=4
    )
    cut.train()
    assert float((weights(whole) - weights(cut)).abs().max()) < 1e-9  # float64; sums in another order
    out = tmp_path / "killed"
    built(place, out, kwargs={"lmbda": 0.5}, save_strategy="steps", save_steps=1, callback=Keeps(2)).train()
    again = built(place, out, kwargs={"lmbda": 0.5}, save_strategy="steps", save_steps=1)
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(whole), weights(again))


def test_half_of_the_rows_are_written_by_chance_and_the_others_are_those_of_the_data(place, tmp_path, monkeypatch):
    trainer = built(place, tmp_path, kwargs={"lmbda": 0.5}, max_steps=5)
    stage, batches = session_of(trainer).stage, []
    work = stage.work

    def keeping(run, given):
        made = work(run, given)
        batches.extend(zip(given.batches, made.batches, strict=True))
        assert made.total == sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in made.batches)
        return made

    monkeypatch.setattr(stage, "work", keeping)
    trainer.train()
    same = 0
    for before, after in batches:
        for n in range(4):
            learned = [batch["labels"][n][batch["labels"][n] != -100].tolist() for batch in (before, after)]
            same += learned[0] == learned[1]
            prompts = [
                batch["input_ids"][n][: int((batch["labels"][n] != -100).nonzero()[0])] for batch in (before, after)
            ]
            assert prompts[0].equal(prompts[1])
    assert 4 <= same <= 16  # of 20, half by chance


@pytest.mark.parametrize(
    ("data", "kwargs", "told"),
    [
        ("text", {}, "the student has no prompt to write after"),
        ("completion", {"completion_only_loss": False}, "there is no prompt to write after"),
        ("completion", {"packing": True, "max_length": 64}, "rows that are not packed"),
        ("completion", {"max_new_tokens": 0}, "max_new_tokens 0 is less than 1"),
    ],
)
def test_what_cannot_be_written_is_told(place, tmp_path, data, kwargs, told):
    with pytest.raises(TrainwrightError) as caught:
        built(place, tmp_path, data, kwargs)
    assert told in str(caught.value)
