"""The loss scaler of float16, on a CPU: what it is told, what it leaves out, and that nothing of it is lost."""

from __future__ import annotations

import math
import shutil

import pytest
import torch

from tests import tiny
from trainwright import ConfigError, DivergenceError, Trainer, TrainerCallback, TrainingArguments
from trainwright.parallel.precision import Float16, Precision
from trainwright.parallel.strategy import Strategy

CPU = torch.device("cpu")


def scaled(folder, model=None, rows=None, growth=2, **changes):
    """Return a Trainer whose losses are scaled as those of float16 are; it computes in float32, so numbers compare."""
    settings = {"max_steps": 6, "save_strategy": "no", "lr_scheduler_type": "linear", **changes}
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=2, learning_rate=0.05, logging_steps=1, optim="sgd", use_cpu=True,
        disable_tqdm=True, train_sampling_strategy="sequential", **settings,
    )  # fmt: skip
    trainer = Trainer(model or tiny.new_line(), args, train_dataset=rows or tiny.line_rows(12))
    trainer.precision = Float16(CPU)
    trainer.precision.autocast = lambda: torch.autocast("cpu", enabled=False)
    trainer.precision.scaler.set_growth_interval(growth)
    return trainer


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def weight(trainer):
    return trainer.model.layer.weight.detach().clone()


def test_a_scale_changes_no_number(tmp_path):
    trainer = scaled(tmp_path)
    trainer.train()
    plain = scaled(tmp_path)
    plain.precision = Precision(CPU, None)
    plain.train()
    assert torch.equal(weight(trainer), weight(plain))  # powers of 2
    assert logged(trainer, "grad_norm") == logged(plain, "grad_norm")
    assert trainer.precision.scale == 2.0**16 * 2**3  # doubled after every second of six steps


class Steep(tiny.Line):
    """Its gradients overflow with a scale above `most`."""

    most = math.inf

    def forward(self, x, labels=None):
        found = super().forward(x, labels)
        if labels is not None and self.training:
            most = self.most

            class Watched(torch.autograd.Function):
                @staticmethod
                def forward(ctx, loss):
                    return loss.clone()

                @staticmethod
                def backward(ctx, gradient):
                    return gradient * (math.inf if float(gradient) > most else 1)

            found["loss"] = Watched.apply(found["loss"])
        return found


class Stop(TrainerCallback):
    """Ends training after a step."""

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step == 2


def test_steps_that_overflow_halve_the_scale_and_leave_the_schedule(tmp_path, caplog):
    model = Steep()
    model.most = 2.0**14
    trainer = scaled(tmp_path, model, growth=1000, max_skipped_steps=1)
    trainer.train()
    assert trainer.precision.scale == 2.0**14
    rates = logged(trainer, "learning_rate")
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.05 * 5 / 6, 0.05 * 4 / 6, 0.05 * 3 / 6])
    assert "was skipped" not in caplog.text  # finding the scale is no fault


def test_gradients_that_are_never_finite_end_the_run(tmp_path, caplog):
    class Bad(tiny.Line):
        def forward(self, x, labels=None):
            found = super().forward(x, labels)
            found["loss"] = found["loss"] + 0 * torch.sqrt(self.layer.weight * 0).sum()  # its gradient is NaN
            return found

    trainer = scaled(tmp_path, Bad(), max_steps=40, max_skipped_steps=3)
    before = weight(trainer)
    with pytest.raises(DivergenceError, match=r"gradients are not finite in layer.weight.*Skipped in a row: 3"):
        trainer.train()
    assert trainer.state.global_step < 25  # 16 halvings, and three steps that no scale is to blame for
    assert torch.equal(weight(trainer), before)
    assert caplog.text.count("was skipped, nothing was changed") == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_neither_weights_nor_scale(tmp_path, caplog, value):
    class Bad(tiny.Line):
        calls = 0

        def forward(self, x, labels=None):
            found = super().forward(x, labels)
            self.calls += 1
            if self.calls == 3:  # inf added to a loss leaves its gradients finite
                found["loss"] = found["loss"] + value
            return found

    torch.manual_seed(0)
    trainer = scaled(tmp_path, Bad(), growth=1000, max_steps=3)
    trainer.train()
    torch.manual_seed(0)
    shorter = scaled(tmp_path, Bad(), growth=1000, max_steps=3)
    shorter.model.calls = 3  # never bad, and stopped before the step that was
    shorter.add_callback(Stop())
    shorter.train()
    assert torch.equal(weight(trainer), weight(shorter))
    assert trainer.precision.scale == 2.0**16
    assert "Step 3 was skipped, nothing was changed" in caplog.text
    assert logged(trainer, "skipped_steps") == [1]


def test_a_second_run_and_a_resumed_one_have_their_own_scale(tmp_path):
    changes = {"save_strategy": "steps", "save_steps": 3}
    whole = scaled(tmp_path / "whole", **changes)
    whole.train()
    expected, rates = weight(whole), logged(whole, "learning_rate")
    (tmp_path / "again").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "again" / "checkpoint-3")
    for trainer in (whole, scaled(tmp_path / "again", **changes)):
        trainer.train(resume_from_checkpoint=str(tmp_path / "again" / "checkpoint-3"))
        assert torch.equal(weight(trainer), expected)
        assert logged(trainer, "learning_rate") == rates
        assert trainer.precision.scale == 2.0**16 * 2**3
    whole.train()
    assert whole.precision.scale == 2.0**16 * 2**3  # from the beginning, as a new Trainer


def test_weights_of_float16_are_a_sentence_before_the_first_step(tmp_path):
    """torch's own is "Attempting to unscale FP16 gradients", at the end of a step."""
    args = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    trainer = Trainer(tiny.new_line().half(), args, train_dataset=tiny.line_rows())
    trainer.precision = Float16(CPU)
    with pytest.raises(ConfigError, match=r"2 of those that are trained are in float16 \(.*Load the model with"):
        trainer.train()


def test_gradients_that_are_measured_scaled_or_unscaled_twice_are_refused():
    """By torch alone the gradients of the second optimizer are divided by the scale twice."""
    precision, strategy = Float16(CPU), Strategy()
    lines = [tiny.new_line() for _ in range(2)]
    optimizers = [torch.optim.SGD(line.parameters(), lr=0.1) for line in lines]
    loss = sum(line.layer(torch.ones(1, 4)).sum() for line in lines)
    precision.backward(loss)
    norm, _ = strategy.clip_gradients(list(lines[0].parameters()), 1.0)
    with pytest.raises(ConfigError, match="The gradients are those of a loss times 65536, and so is their norm: call"):
        strategy.nonfinite(loss.detach(), norm, precision)
    for optimizer in optimizers:
        precision.unscale(optimizer)
    with pytest.raises(ConfigError, match="The gradients of several optimizers are unscaled by one precision"):
        precision.step(optimizers[0], False)
    for line, optimizer in zip(lines, optimizers, strict=True):  # one after the other is right
        line.zero_grad()
        precision.begin()
        before = line.layer.weight.detach().clone()
        precision.backward(line.layer(torch.ones(1, 4)).sum())
        precision.scaler._per_optimizer_states.clear()
        precision.unscale(optimizer)
        precision.step(optimizer, strategy.nonfinite(loss.detach(), norm, precision))
        assert torch.equal(line.layer.weight, before - 0.1)
