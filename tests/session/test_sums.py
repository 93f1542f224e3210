"""Logged numbers: added without loss, and none of them lost when a callback logs or evaluates."""

from __future__ import annotations

import math

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from tests import installed, tiny
from trainwright import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, devices
from trainwright.session.meters import LossMeter, Records

MANY = 20_000


@pytest.fixture(params=["float64", "pairs of float32"])
def host(request, monkeypatch):
    if request.param != "float64":
        monkeypatch.setattr(devices, "WITHOUT_FLOAT64", ("cpu",))
    return torch.device("cpu")


def mean_of(meter, host):
    return meter.read(lambda value: value, host)[0]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_a_long_window_of_losses_has_their_mean(host, kind):
    meter, restored = LossMeter(), LossMeter()
    losses = [torch.tensor(value).to(kind) for value in (0.1, 3e-5, 100.0)]
    good = torch.tensor(False)  # as on a device
    for number in range(MANY):
        meter.add(losses[number % 3], good if number % 2 else False)
        if number == MANY // 2:
            restored.load_state_dict(meter.state_dict(), host)
            meter = restored
    exact = math.fsum(losses[number % 3].double().item() for number in range(MANY))
    assert mean_of(meter, host) == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("on_device", [False, True])
def test_a_long_window_of_records_has_their_mean(host, on_device):
    close = 1e-12 if devices.widest_float(host) == torch.float64 else 1e-7  # what rounds a single one of them
    records = Records()
    value, good = torch.tensor(0.1), torch.tensor(False) if on_device else False
    for number in range(MANY // 10):
        records.begin_step()
        records.weight = 1 / 3
        records.add("accuracy", value)
        records.add("plain", 0.1)
        records.end_step(good)
        if number == 1000:
            records.load_state_dict(records.state_dict(), host)
        records.weight = 1 / 3
    records.add("plain", 0.1)  # outside of a step
    taken = {name: total / weight for name, (total, weight) in records.take().items()}
    assert taken["accuracy"] == pytest.approx(value.double().item(), rel=close)
    assert taken["plain"] == pytest.approx(0.1, rel=1e-7)  # float32 with the device's own


def test_recording_beside_the_loss_of_a_cpu_makes_no_tensors():
    """Plain numbers add without torch; of a tensor of one number nothing is asked but that."""
    operations = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            operations.append(str(operation))
            return operation(*args, **(kwargs or {}))

    records, loss = Records(), torch.tensor(0.25, requires_grad=True)
    with Counting():
        for _ in range(10):
            records.begin_step()
            records.add("plain", 0.1)
            records.add("part", loss)
            records.end_step(False)
    assert set(operations) == {"aten.detach.default", "aten._local_scalar_dense.default"}
    assert records.take() == {"plain": (pytest.approx(1.0), 10), "part": (2.5, 10)}


def test_a_window_saved_in_float32_goes_on(host):
    meter = LossMeter()
    meter.load_state_dict({"window": torch.tensor(1.5), "logged_at": 2}, host)
    meter.add(torch.tensor(0.25), False)
    assert mean_of(meter, host) == 1.75


def test_micro_batches_in_bfloat16_add_up(tmp_path):
    class Constant(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def forward(self, x, labels=None):
            return {"loss": self.weight * 1.0}

    args = TrainingArguments(
        tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=1000, max_steps=1, logging_steps=1,
        use_cpu=True, disable_tqdm=True, save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = Trainer(Constant(), args, train_dataset=tiny.line_rows(8) * 125)
    trainer.train()
    share = torch.tensor(1 / 1000).bfloat16().item()  # each as the model gives it; added in bfloat16 they come to 0.5
    assert trainer.state.log_history[0]["loss"] == pytest.approx(1000 * share, rel=1e-6)


class Meddles(TrainerCallback):
    """Calls the Trainer itself at the end of every step."""

    def __init__(self, does):
        self.does = does

    def on_step_end(self, args, state, control, **kwargs):
        self.does(self.trainer)


@pytest.mark.parametrize(
    "does",
    [
        lambda trainer: trainer.evaluate(),
        lambda trainer: trainer.log({"mine": 1.0}),
        lambda trainer: trainer.predict(trainer.eval_dataset),
        lambda trainer: trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control),
    ],
    ids=["evaluate", "log", "predict", "on_save"],
)
def test_what_a_callback_does_lowers_no_flag_of_the_loop(tmp_path, does):
    def run(callbacks):
        args = TrainingArguments(
            tmp_path, max_steps=3, logging_steps=1, eval_strategy="steps", eval_steps=1, save_steps=1, use_cpu=True,
            disable_tqdm=True, report_to="none", learning_rate=0.1, metric_for_best_model="loss",
        )  # fmt: skip
        trainer = Trainer(
            tiny.new_line(), args, train_dataset=tiny.line_rows(24), eval_dataset=tiny.line_rows(8), callbacks=callbacks
        )
        for callback in callbacks:
            callback.trainer = trainer
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        return losses, trainer.state.best_metric, sorted(path.name for path in tmp_path.glob("checkpoint-*"))

    alone = run([])
    assert len(alone[0]) == len(alone[2]) == 3
    assert run([Meddles(does)]) == alone


SCORES = (0.9, 0.1, 0.5, 0.4, 0.3)  # before training, and after each pass


@installed.todays_transformers
@pytest.mark.parametrize(("save", "patience"), [
    ("best", None),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in (("epoch", None), ("epoch", 2), ("steps", None))),
])  # fmt: skip
def test_what_is_measured_before_training_decides_nothing(tmp_path, save, patience):
    def run(library, folder, first=SCORES[0], on_start=True):
        scores = iter([first, *SCORES[1:]] if on_start else SCORES[1:])
        args = library.TrainingArguments(
            str(folder), num_train_epochs=4, eval_strategy="epoch" if save != "steps" else "steps", eval_steps=1,
            save_strategy=save, save_steps=1, load_best_model_at_end=True, eval_on_start=on_start, report_to="none",
            metric_for_best_model="score", greater_is_better=True, use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        rows, stops = tiny.line_rows(8), [library.EarlyStoppingCallback(patience)] if patience else []
        trainer = library.Trainer(
            tiny.new_line(), args, train_dataset=rows, eval_dataset=rows, callbacks=stops,
            compute_metrics=lambda prediction: {"score": next(scores)},
        )  # fmt: skip
        trainer.train()
        state = trainer.state
        saved = sorted(path.name for path in folder.glob("checkpoint-*"))
        best = state.best_model_checkpoint
        return state.best_global_step, state.best_metric, best and best.rpartition("/")[2], saved, state.global_step

    import trainwright

    ours = run(trainwright, tmp_path / "ours")
    assert ours == run(transformers, tmp_path / "theirs")
    assert ours[:3] == (2, 0.5, "checkpoint-2")
    assert ours == run(trainwright, tmp_path / "without", on_start=False)
    assert ours == run(trainwright, tmp_path / "nan", first=math.nan)


def test_an_evaluation_before_training_uses_up_no_patience(tmp_path):
    args = TrainingArguments(
        tmp_path, max_steps=3, eval_strategy="steps", eval_steps=1, metric_for_best_model="loss", use_cpu=True,
        save_strategy="no", disable_tqdm=True, report_to="none", learning_rate=0.1,
    )  # fmt: skip
    rows = tiny.line_rows(8)
    stop = EarlyStoppingCallback(1)
    trainer = Trainer(tiny.new_line(), args, train_dataset=rows, eval_dataset=rows, callbacks=[stop])
    for _ in range(3):
        trainer.evaluate()
    assert stop.early_stopping_patience_counter == 0
    assert trainer.train().global_step == 3


def test_a_schedule_is_not_told_of_what_is_measured_before_training(tmp_path):
    scores = iter([9.0, 1.0, 2.0, 3.0, 4.0])  # the first is not the best that the others fall short of
    args = TrainingArguments(
        tmp_path, max_steps=4, eval_strategy="steps", eval_steps=1, eval_on_start=True, metric_for_best_model="score",
        greater_is_better=True, lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0},
        save_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", learning_rate=0.1,
    )  # fmt: skip
    rows = tiny.line_rows(8)
    trainer = Trainer(
        tiny.new_line(), args, train_dataset=rows, eval_dataset=rows,
        compute_metrics=lambda prediction: {"score": next(scores)},
    )  # fmt: skip
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.1
