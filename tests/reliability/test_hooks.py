"""Code of the user's that raises, wherever it is called: the last whole step is saved, and the run goes on from there
bitwise as if it had not failed."""

from __future__ import annotations

import pytest
import torch

from tests.reliability import cases
from tests.reliability.test_signals import history, same
from trainwright import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import check, layout
from trainwright.jobs.tracking.tracking import JobStopped

STEPS = 12
CALLBACKS = ("epoch_begin", "step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end", "log",
             "prediction_step", "evaluate", "save", "epoch_end")  # fmt: skip
PARTS = ("loss", "metrics", "logits", "collator", "dataset", "evaluation", "memory")
HOOKS = (*(f"on_{event}" for event in CALLBACKS), *PARTS)


class Failing:
    """Raises once, at the nth call after a number of steps."""

    def __init__(self, hook, after, error):
        self.hook, self.after, self.error = hook, after, error
        self.step = 0

    def at(self, hook):
        if hook == self.hook and self.step >= self.after:
            self.hook = None
            raise self.error


class Hooks(TrainerCallback):
    """Knows the step, and fails in the event that is to fail."""

    def __init__(self, failing):
        self.failing = failing
        for event in CALLBACKS:
            setattr(self, f"on_{event}", lambda *_, event=event, **__: self.heard(event))

    def heard(self, event):
        self.failing.step += event == "step_end"
        self.failing.at(f"on_{event}")


class Norm(cases.Net):
    """With buffers that every forward pass moves."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4, momentum=None)

    def forward(self, x, labels=None):
        return super().forward(self.norm(x.float()), labels)


class Rows(cases.Augmented):
    def __init__(self, failing):
        super().__init__()
        self.failing = failing

    def __getitem__(self, index):
        self.failing.at("dataset")
        return super().__getitem__(index)


class Own(Trainer):
    """Draws random numbers, records a number of its own, and fails where it is to."""

    failing: Failing

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training:
            self.record("noise", torch.rand(()))
            self.failing.at("loss")
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def prediction_step(self, *given, **named):
        self.failing.at("evaluation")
        self.failing.at("memory")
        torch.rand(3)
        return super().prediction_step(*given, **named)


def made(place, hook=None, after=4, error=None, data=None, seed=0, **changes):
    failing = Failing(hook, after, error)

    def metrics(prediction):
        failing.at("metrics")
        return {"mean": float(prediction.predictions.mean())}

    def collate(rows):
        failing.at("collator")
        return torch.utils.data.default_collate(rows)

    def logits(values, labels):
        failing.at("logits")
        return values

    torch.manual_seed(seed)
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": STEPS,
                "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps",
                "save_steps": 3, "metric_for_best_model": "mean", "learning_rate": 1e-2, "use_cpu": True,
                "disable_tqdm": True}  # fmt: skip
    trainer = Own(
        Norm(), TrainingArguments(str(place), **{**settings, **changes}), collate,
        Rows(failing) if data is None else data, cases.rows(12), compute_metrics=metrics,
        preprocess_logits_for_metrics=logits, callbacks=[EarlyStoppingCallback(100), Hooks(failing)],
    )  # fmt: skip
    trainer.failing = failing
    return trainer


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    trainer = made(tmp_path_factory.mktemp("straight"))
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("hook", HOOKS)
def test_the_resumed_run_is_the_one_that_did_not_fail(tmp_path, straight, hook):
    memory = torch.OutOfMemoryError("CUDA out of memory")
    error = memory if hook == "memory" else ValueError("what the user wrote")
    failed = made(tmp_path, hook, after=5, error=error)
    with pytest.raises(type(error), match=str(error)) as caught:
        failed.train()
    saved = check.newest_valid(tmp_path)[0]
    assert layout.step_of(saved) == failed.state.global_step
    assert "train(resume_from_checkpoint=True) goes on from there" in caught.value.__notes__[-1]
    resumed = made(tmp_path, seed=99)
    torch.manual_seed(7)
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)
    assert all(torch.equal(a, b) for a, b in zip(resumed.model.buffers(), straight.model.buffers(), strict=True))
    assert history(resumed) == history(straight)
    stopping = [trainer.callback_handler.callbacks for trainer in (resumed, straight)]
    assert [one.early_stopping_patience_counter for one in stopping[0] if hasattr(one, "early_stopping_patience")] == [
        one.early_stopping_patience_counter for one in stopping[1] if hasattr(one, "early_stopping_patience")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stateful stream", "stream", "stateful loader", "ready loader"])
def test_the_place_in_data_that_is_not_planned_is_that_of_the_last_step(tmp_path, name):
    def trainer(place, hook=None):
        given = cases.CASES[name][0]()
        kind = "train_loader" if isinstance(given, torch.utils.data.DataLoader) else "train_dataset"
        torch.manual_seed(0)
        args = TrainingArguments(str(place), max_steps=STEPS, gradient_accumulation_steps=2, logging_steps=1,
                                 use_cpu=True, disable_tqdm=True, save_strategy="no")  # fmt: skip
        made = Own(
            cases.Net(), args, callbacks=[Hooks(failing := Failing(hook, 2, ValueError("loss")))], **{kind: given}
        )
        made.failing = failing
        return made

    straight = trainer(tmp_path / "straight")
    straight.train()
    with pytest.raises(ValueError, match="loss"):
        trainer(tmp_path / "run", "on_substep_end").train()
    resumed = trainer(tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert same(resumed, straight)
    assert history(resumed) == history(straight)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), JobStopped()])
def test_what_is_no_exception_is_saved_too(tmp_path, error):
    with pytest.raises(type(error)):
        made(tmp_path, "on_step_begin", error=error).train()
    assert layout.step_of(check.newest_valid(tmp_path)[0]) == 4


def test_an_error_within_an_update_saves_nothing_and_says_so(tmp_path):
    trainer = made(tmp_path, save_steps=5)

    class Torn(torch.optim.SGD):
        def step(self, closure=None):
            if trainer.state.global_step == 7:
                raise ValueError("half done")
            super().step(closure)

    trainer.optimizer = Torn(trainer.model.parameters(), lr=1e-2)
    with pytest.raises(ValueError, match="half done") as caught:
        trainer.train()
    assert "in the middle of an update" in caught.value.__notes__[-1]
    assert [layout.step_of(path) for path in layout.checkpoints(tmp_path)] == [5]
