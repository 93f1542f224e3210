"""What is trained is what requires gradients at each step, as with transformers: callbacks freeze and unfreeze."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers
from torch import nn

from tests import tiny
from tests.session.test_ema import DECAY, ByHand, same
from trainwright import Trainer, TrainerCallback, TrainingArguments

CLOSE = 1e-6


class Two(nn.Module):
    """Two layers, of which the first may be frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x, labels=None):
        found = self.last(self.first(x)).squeeze(-1)
        return {"logits": found} if labels is None else {"loss": ((found - labels) ** 2).mean(), "logits": found}


def trained(place, of, *, arguments, callback, held=None, also=(), resume=None, **changes):
    """Train four steps of SGD; the first layer is unfrozen for the third alone."""
    model = Two()
    model.first.requires_grad_(False)

    class Unfreezing(callback):
        def on_step_begin(self, args, state, control, **_):
            model.first.requires_grad_(state.global_step == 2)

    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "max_grad_norm": 0.1, "logging_steps": 1,
                "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none", "use_cpu": True,
                "disable_tqdm": True, **changes}  # fmt: skip
    optimizer = torch.optim.SGD((model if held is None else held(model)).parameters(), lr=0.1)
    made = of(
        model, arguments(str(place), **settings), train_dataset=tiny.line_rows(16), callbacks=[Unfreezing(), *also],
        optimizers=(optimizer, None),
    )  # fmt: skip
    made.train(resume_from_checkpoint=resume)
    return made


def ours(place, **changes):
    return trained(place, Trainer, arguments=TrainingArguments, callback=TrainerCallback, **changes)


def theirs(place, **changes):
    arguments = transformers.TrainingArguments
    return trained(place, transformers.Trainer, arguments=arguments, callback=transformers.TrainerCallback, **changes)


def norms(made):
    return [entry["grad_norm"] for entry in made.state.log_history if "grad_norm" in entry]


@pytest.mark.parametrize("held", [None, lambda model: model.last], ids=["by the optimizer", "by none"])
def test_what_is_unfrozen_later_is_clipped_as_with_transformers(tmp_path, held):
    made, expected = ours(tmp_path / "ours", held=held), theirs(tmp_path / "theirs", held=held)
    assert norms(made) == pytest.approx(norms(expected), rel=CLOSE)
    for one, other in zip(made.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=CLOSE, rtol=0)


def test_what_the_optimizer_does_not_hold_is_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "trainwright"):
        ours(tmp_path, held=lambda model: model.last)
    assert (
        sum("no group of the optimizer holds them: first.weight, first.bias" in text for text in caplog.messages) == 1
    )


def test_gradients_that_no_optimizer_uses_do_not_add_up(tmp_path):
    found = []
    for of, arguments, place in (
        (Trainer, TrainingArguments, "ours"),
        (transformers.Trainer, transformers.TrainingArguments, "theirs"),
    ):
        model = Two()
        args = arguments(str(tmp_path / place), max_steps=3, per_device_train_batch_size=4, logging_steps=1,
                         report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True)  # fmt: skip
        optimizer = torch.optim.SGD(model.last.parameters(), lr=0.1)
        made = of(model, args, train_dataset=tiny.line_rows(16), optimizers=(optimizer, None))
        made.train()
        found.append(norms(made))
    assert found[0] == pytest.approx(found[1], rel=CLOSE)


def test_what_is_unfrozen_later_is_averaged_and_goes_on_so(tmp_path):
    hand = ByHand()
    straight = ours(tmp_path, also=[hand], ema_decay=DECAY, save_strategy="steps", save_steps=3)
    for name, parameter in straight.model.named_parameters():
        torch.testing.assert_close(parameter.double(), hand.average[name], atol=CLOSE, rtol=0)
    resumed = ours(tmp_path / "again", ema_decay=DECAY, resume=str(tmp_path / "checkpoint-3"))
    assert same(resumed.model, dict(straight.model.named_parameters()))


def test_what_is_unfrozen_later_is_watched(tmp_path, caplog):
    class Spoiling(TrainerCallback):
        def on_step_begin(self, args, state, control, model, **_):
            if state.global_step == 2:
                model.first.weight.register_hook(lambda grad: grad * torch.nan)

    with caplog.at_level(logging.WARNING, "trainwright"):
        ours(tmp_path, also=[Spoiling()])
    assert any("Step 3 was skipped" in text and "not finite in first.weight" in text for text in caplog.messages)


@pytest.mark.parametrize("only_model", [False, True])
def test_a_parameter_of_a_loss_is_saved_and_goes_on(tmp_path, only_model):
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.heat = nn.Parameter(torch.zeros(()))

        def forward(self, outputs, labels, num_items_in_batch=None):
            apart = (outputs["logits"] - labels) ** 2
            return (apart * torch.exp(-self.heat) + self.heat).sum() / num_items_in_batch

    def run(resume=None):
        model, loss = Two(), Tempered()
        optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.05)
        args = TrainingArguments(
            str(tmp_path), max_steps=4, per_device_train_batch_size=4, use_cpu=True, save_steps=2, disable_tqdm=True,
            save_only_model=only_model, lr_scheduler_type="constant",
        )  # fmt: skip
        Trainer(
            model, args, train_dataset=tiny.line_rows(16), compute_loss_func=loss, optimizers=(optimizer, None)
        ).train(resume)
        return loss.heat.item()

    straight = run()
    assert abs(straight) > 0.1
    assert run(str(tmp_path / "checkpoint-2")) == straight
