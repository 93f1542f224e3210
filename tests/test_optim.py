"""Optimizers and their settings against transformers'."""

from __future__ import annotations

import pytest
import transformers

from trainwright import TrainingArguments
from trainwright.optim.optimizers import optimizer_class


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop"])
def test_an_optimizer_and_its_settings_are_those_of_transformers(tmp_path, optim):
    given = {"optim": optim, "learning_rate": 0.01, "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
    theirs = transformers.TrainingArguments(str(tmp_path), use_cpu=True, **given)
    wanted = transformers.Trainer.get_optimizer_cls_and_kwargs(theirs)
    assert optimizer_class(TrainingArguments(str(tmp_path), **given)) == wanted
