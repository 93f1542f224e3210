"""Optimizers and their settings against transformers'."""

from __future__ import annotations

import pytest
import torch
import transformers

from tests import tiny
from trainwright import Trainer, TrainingArguments
from trainwright.optim.optimizers import optimizer_class


@pytest.mark.parametrize(
    ("optim", "settings"),
    [
        *((optim, None) for optim in ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop", "adafactor")),
        ("sgd", "momentum=0.9, nesterov=true"),
        ("rmsprop", "alpha=0.9,centered=True"),
        ("adagrad", "lr_decay=0.1"),
    ],
)
def test_an_optimizer_and_its_settings_are_those_of_transformers(tmp_path, optim, settings):
    given = {"optim": optim, "learning_rate": 0.01, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    given |= {"optim_args": settings} if settings else {}
    theirs = transformers.TrainingArguments(str(tmp_path), use_cpu=True, **given)
    wanted = transformers.Trainer.get_optimizer_cls_and_kwargs(theirs)
    assert optimizer_class(TrainingArguments(str(tmp_path), **given)) == wanted


def test_an_optimizer_that_does_more_where_gradients_are_forgotten_is_asked_to(tmp_path):
    class Counting(torch.optim.SGD):
        forgotten = 0

        def zero_grad(self, set_to_none=True):
            self.forgotten += 1
            super().zero_grad(set_to_none)

    model = tiny.Line()
    optimizer = Counting(model.parameters(), lr=0.1)
    args = TrainingArguments(str(tmp_path), max_steps=3, save_strategy="no", report_to="none")
    Trainer(model, args, train_dataset=tiny.line_rows(), optimizers=(optimizer, None)).train()
    assert optimizer.forgotten == 3
    assert all(parameter.grad is None for parameter in model.parameters())
