"""A run that is resumed with other settings goes on with them, or says in one sentence why it cannot."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch.optim import SGD, AdamW, RMSprop, lr_scheduler

from tests.reliability import cases
from trainwright import CheckpointError, Trainer, TrainerCallback, TrainingArguments
from trainwright.checkpoint import folder, layout
from trainwright.checkpoint.output import summed
from trainwright.saving.resume import _left_out


def made(place, own=None, evaluated=None, metrics=None, **changes):
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 8,
        "save_steps": 4,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    torch.manual_seed(0)
    model = cases.Net()
    optimizers = (None, None) if own is None else own(list(model.parameters()))
    args = TrainingArguments(str(place), **{**settings, **changes})
    return Trainer(model, args, None, cases.rows(), evaluated, compute_metrics=metrics, optimizers=optimizers)


def go_on(place, own=None, **changes):
    """Return a trainer that has resumed at step 4 of 8 and done one step."""
    trainer = made(place, own, max_steps=5, **changes)
    trainer.train(resume_from_checkpoint=str(place / "checkpoint-4"))
    return trainer


def settings(trainer, *names):
    return [tuple(group[name] for name in names) for group in trainer.optimizer.param_groups]


@pytest.mark.parametrize("told", [True, False], ids=["told by the checkpoint", "a checkpoint of 0.1.0"])
def test_arguments_reach_the_groups(tmp_path, told):
    made(tmp_path).train()
    if not told:
        forget(tmp_path / "checkpoint-4")
    trainer = go_on(
        tmp_path, weight_decay=0.3, adam_beta1=0.5, adam_epsilon=1e-6, optim="adamw_torch", lr_scheduler_type="constant"
    )
    wanted = {"betas": (0.5, 0.999), "eps": 1e-6, "fused": None, "lr": 1e-2}
    assert settings(trainer, *wanted) == [tuple(wanted.values())] * 2
    assert settings(trainer, "weight_decay") == [(0.3,), (0.0,)]


def forget(place):
    """Take out what a checkpoint tells of the settings that its run began with, as 0.1.0 wrote none."""
    about = json.loads((place / layout.RUN).read_text())
    del about["made_with"]
    (place / layout.RUN).write_text(json.dumps(about))
    manifest = json.loads((place / layout.MANIFEST).read_text())
    manifest.pop("sha256")
    path = place / layout.RUN
    manifest["files"][path.name] = summed(path)
    (place / layout.MANIFEST).write_text(json.dumps({**manifest, "sha256": folder.digest(manifest)}))


def test_the_step_is_that_of_todays_settings(tmp_path):
    """The first step after a change of decay, beta and rate is AdamW's, written out in float64."""
    made(tmp_path, lr_scheduler_type="constant").train()
    before = made(tmp_path / "other", lr_scheduler_type="constant", max_steps=4)
    before.train()
    state = [dict(before.optimizer.state[p]) for p in before.model.parameters()]
    start = [p.detach().double() for p in before.model.parameters()]

    class Keep(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.gradients = [p.grad.detach().double().clone() for p in model.parameters()]
            return loss

    changes = {"learning_rate": 3e-3, "weight_decay": 0.3, "adam_beta1": 0.5, "max_grad_norm": 0.0}
    trainer = made(tmp_path, lr_scheduler_type="constant", max_steps=5, **changes)
    trainer.__class__ = Keep
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for p, old, kept, gradient in zip(trainer.model.parameters(), start, state, trainer.gradients, strict=True):
        mean = 0.5 * kept["exp_avg"].double() + 0.5 * gradient
        square = 0.999 * kept["exp_avg_sq"].double() + 0.001 * gradient**2
        step = (mean / (1 - 0.5**5)) / ((square / (1 - 0.999**5)).sqrt() + 1e-8)
        decay = 0.3 if p.dim() > 1 else 0.0
        torch.testing.assert_close(p.double(), old * (1 - 3e-3 * decay) - 3e-3 * step, rtol=1e-5, atol=1e-7)


def own_sgd(**given):
    return lambda parameters: (SGD(parameters, **{"lr": 1e-2, "momentum": 0.9, **given}), None)


def test_an_own_optimizer_keeps_what_was_moved_and_takes_what_was_changed(tmp_path, caplog):
    class Moves(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer=None, **kwargs):
            optimizer.param_groups[0]["dampening"] = 0.01 * state.global_step

    trainer = made(tmp_path, own_sgd())
    trainer.add_callback(Moves())
    trainer.train()
    with caplog.at_level(logging.WARNING, logger="trainwright"):
        changed = go_on(tmp_path, own_sgd(momentum=0.5, weight_decay=0.1))
    assert settings(changed, "momentum", "weight_decay", "dampening") == [(0.5, 0.1, 0.04)]
    assert "Settings of the optimizer changed since the checkpoint" in caplog.text
    assert "momentum 0.9 -> 0.5" in caplog.text
    assert "weight_decay 0 -> 0.1" in caplog.text
    caplog.clear()
    same = go_on(tmp_path, own_sgd())
    assert settings(same, "momentum", "weight_decay", "dampening") == [(0.9, 0, 0.04)]
    assert "Settings of the optimizer" not in caplog.text


SCHEDULES = {
    "steps": lambda o, peak: lr_scheduler.MultiStepLR(o, [2, 6]),
    "cosine": lambda o, peak: lr_scheduler.CosineAnnealingLR(o, 20),
    "one after another": lambda o, peak: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1, 3), lr_scheduler.CosineAnnealingLR(o, 20)], [3]
    ),
    "one cycle": lambda o, peak: lr_scheduler.OneCycleLR(o, peak, total_steps=20),
    "factors": lambda o, peak: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_another_peak_under_a_schedule_of_ones_own(tmp_path, name):
    def own(peak):
        def both(parameters):
            optimizer = SGD(parameters, lr=peak, momentum=0.9)
            return optimizer, SCHEDULES[name](optimizer, peak)

        return both

    made(tmp_path, own(1e-2)).train()
    straight = made(tmp_path / "straight", own(3e-2))
    straight.train()
    resumed = made(tmp_path, own(3e-2))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert settings(resumed, "lr")[0] == pytest.approx(settings(straight, "lr")[0])
    if name == "one cycle":
        assert settings(resumed, "momentum")[0] == pytest.approx(settings(straight, "momentum")[0])


class Counts:
    """A factor that follows from the calls before."""

    def __init__(self):
        self.now = 1.0

    def __call__(self, step):
        self.now *= 0.9
        return self.now


class Halved(lr_scheduler.LambdaLR):
    def get_lr(self):
        return [0.5 * rate for rate in super().get_lr()]


COMPOUND = {
    "factors": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 1 - 0.01 * step),
    "factors within": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1, 2), lr_scheduler.MultiplicativeLR(o, lambda step: 0.9)], [2]
    ),
    "one on the other": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.MultiplicativeLR(o, lambda step: 0.9), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "an object that counts": lambda o: lr_scheduler.LambdaLR(o, Counts()),
    "a class of the user's": lambda o: Halved(o, lambda step: 0.9**step),
}


@pytest.mark.parametrize("name", COMPOUND)
def test_rates_that_follow_from_those_before_go_on(tmp_path, name):
    def own(parameters):
        optimizer = SGD(parameters, lr=0.1)
        return optimizer, COMPOUND[name](optimizer)

    optimizer, schedule = own([torch.nn.Parameter(torch.zeros(1))])
    rates = []
    for _ in range(8):  # by torch alone
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    made(tmp_path, own).train()
    resumed = made(tmp_path, own, logging_steps=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry] == rates[4:]


def test_settings_of_a_schedule_of_ones_own(tmp_path):
    def own(gamma):
        def both(parameters):
            optimizer = SGD(parameters, lr=1.0)
            return optimizer, lr_scheduler.StepLR(optimizer, 3, gamma)

        return both

    made(tmp_path, own(0.1), save_steps=2).train()
    resumed = made(tmp_path, own(0.5))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # after one factor 0.1 at step 3
    assert settings(resumed, "lr")[0] == pytest.approx((0.1 * 0.5,))


class Shorter(TrainerCallback):
    """Ends every pass after its third step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step % 3 == 0


@pytest.mark.parametrize("step", [4, 8])
def test_passes_that_end_early_leave_the_schedule_as_it_was(tmp_path, step):
    def trainer(place):
        settings = {"max_steps": -1, "num_train_epochs": 3, "save_steps": 4, "logging_steps": 1}
        made_now = made(place, **settings, learning_rate=0.1)
        made_now.add_callback(Shorter())
        return made_now

    straight = trainer(tmp_path)
    straight.train()
    resumed = trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "loss" in entry]
    whole = 3 * 7  # steps of three whole passes
    assert rates == pytest.approx([0.1 * (1 - done / whole) for done in range(9)])
    assert resumed.state.max_steps == straight.state.max_steps == whole
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def failing(prediction):
    raise ValueError("metrics are broken")


def test_an_evaluation_that_failed_is_not_due_where_todays_arguments_have_none(tmp_path):
    def trainer(strategy, metrics=None):
        rows = cases.rows() if metrics is not None else None
        settings = {"save_steps": 2, "eval_strategy": strategy, "eval_steps": 2, "logging_strategy": "no"}
        return made(tmp_path, None, rows, metrics, **settings)

    with pytest.raises(ValueError, match="metrics are broken"):
        trainer("steps", failing).train()
    assert "evaluate" in json.loads((tmp_path / "checkpoint-2" / layout.RUN).read_text())["due"]
    resumed = trainer("no")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 8
    assert not any("eval_loss" in entry for entry in resumed.state.log_history)


@pytest.mark.parametrize("strategy", ["steps", "no"])
def test_an_evaluation_that_is_due_is_done(tmp_path, strategy):
    class Asks(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = state.global_step == 2  # whatever the arguments say

    class Fails(TrainerCallback):
        def on_prediction_step(self, args, state, control, **kwargs):
            raise ValueError("it fails once")

    def trainer(*callbacks):
        settings = {"save_steps": 2, "eval_strategy": strategy, "eval_steps": 8, "logging_strategy": "no"}
        made_now = made(tmp_path, None, cases.rows(), **settings)
        for callback in (Asks(), *callbacks):
            made_now.add_callback(callback)
        return made_now

    with pytest.raises(ValueError, match="it fails once"):
        trainer(Fails()).train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert 2 in [entry["step"] for entry in resumed.state.log_history if "eval_loss" in entry]


def regrouped(parameters):
    return AdamW([{"params": [parameters[0], parameters[3]]}, {"params": [parameters[2], parameters[1]]}]), None


FOREIGN = {
    "another class": (None, {"optim": "adafactor"}, "it is AdamW, and this run's is Adafactor"),
    "an own one of another class": (own_sgd(), {}, "it is AdamW, and this run's is SGD"),
    "other groups": (lambda ps: (AdamW(ps), None), {}, r"its groups have \[2, 2\] parameters, and this run's \[4\]"),
    "grouped otherwise": (regrouped, {}, "where its group 0 has 'layers.3.weight', this run's has 'layers.3.bias'"),
    "more state": (
        lambda ps: (AdamW([{"params": ps[::2]}, {"params": ps[1::2]}], amsgrad=True), None),
        {},
        "amsgrad=True needs max_exp_avg_sq",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_state_is_refused_before_any_step(tmp_path, name):
    own, changes, sentence = FOREIGN[name]
    made(tmp_path, optim="adamw_torch").train()
    trainer = made(tmp_path, own, **{"optim": "adamw_torch", **changes})
    with pytest.raises(CheckpointError, match=sentence):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert trainer.state.global_step == 4


def test_a_foreign_state_of_a_checkpoint_that_does_not_tell(tmp_path):
    made(tmp_path, optim="adamw_torch").train()
    forget(tmp_path / "checkpoint-4")
    with pytest.raises(CheckpointError, match="and no .*momentum.*which SGD needs"):
        go_on(tmp_path, optim="sgd")
    with pytest.raises(CheckpointError, match="and no .*alpha.*which RMSprop needs"):
        go_on(tmp_path, lambda ps: (RMSprop([{"params": ps[::2]}, {"params": ps[1::2]}]), None))


def test_settings_that_are_no_plain_values_do_not_hinder(tmp_path):
    def own(parameters):
        return AdamW(parameters, lr=torch.tensor(1e-2), betas=(0.9, 0.99), foreach=False), None

    made(tmp_path, own).train()
    assert settings(go_on(tmp_path, own), "foreach") == [(False,)]


@pytest.mark.parametrize("other", ["eval_loss", "acc"])
def test_another_metric_begins_the_search_for_the_best_anew(tmp_path, caplog, other):
    values = iter([0.5, 0.6, 0.7, 0.8])
    chosen = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}

    def run(metric, resume=None, **changes):
        trainer = made(
            tmp_path, evaluated=cases.rows()[:4], metrics=lambda _: {"acc": next(values)}, metric_for_best_model=metric,
            **chosen, **changes,
        )  # fmt: skip
        with caplog.at_level(logging.WARNING, "trainwright"):
            trainer.train(resume_from_checkpoint=resume)
        return trainer.state

    first = run("loss", max_steps=4)
    second = run(other, True)
    anew = "metric_for_best_model was 'loss' and is 'acc'; greater_is_better was False and is True: the search"
    assert any(anew in text for text in caplog.messages) == (other == "acc")
    if other == "acc":
        assert (second.best_metric, second.best_global_step) == (0.8, 8)
    else:
        losses = {one["step"]: one["eval_loss"] for one in second.log_history if "eval_loss" in one}
        assert len(losses) == 4
        assert second.best_global_step == min(losses, key=losses.get)
        assert second.best_metric == min(losses.values()) <= first.best_metric


@pytest.mark.parametrize(
    ("data", "rows"),
    [({"num_rows": 23}, 0), ({"num_rows": 23, "drop_last": True}, 7), ({"num_rows": 24, "drop_last": True}, 0),
     ({"drop_last": True}, "up to 7")],
)  # fmt: skip
def test_the_rows_that_are_left_out_are_those_that_fill_no_step_of_all_ranks(data, rows):
    assert _left_out({"batch_size": 4, "ranks": 2, **data}) == rows
