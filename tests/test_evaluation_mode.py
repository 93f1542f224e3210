"""A part that the user put into evaluation mode stays there, whatever the engine calls the model for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests import tiny
from trainwright import Trainer, TrainerCallback, TrainingArguments
from trainwright.config.options import DPOOptions
from trainwright.evaluation_mode import evaluation_mode, modes_of
from trainwright.objectives.preference import PreferenceLoss
from trainwright.tasks.code.samples import write_functions


class Frozen(nn.Sequential):
    """Keeps its second part in evaluation mode by itself, as backbones with fixed BatchNorm do; notes its switches."""

    def __init__(self):
        super().__init__(nn.Linear(2, 2), nn.BatchNorm1d(2))
        self.switches = []

    def train(self, mode=True):
        self.switches.append(mode)
        super().train(mode)
        self[1].eval()
        return self


def test_every_part_has_its_own_mode_again():
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.Dropout()), nn.Dropout(), Frozen())
    model.train()
    model[0].eval()
    model[0][1].train()
    before = [training for _, training in modes_of(model)]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(training for _, training in modes_of(model))
        raise ZeroDivisionError
    assert [training for _, training in modes_of(model)] == before
    assert model[2].switches == [True, False, True]  # told of it, as by `model.train()`: it may do more than switch


class Stays(TrainerCallback):
    """Puts a part into evaluation mode when training begins, and watches it."""

    def __init__(self, part):
        self.part = part
        self.seen = []

    def on_train_begin(self, *_, **__):
        self.part.eval()

    def on_step_begin(self, *_, **__):
        self.seen.append(self.part.training)

    def on_step_end(self, *_, **__):
        self.seen.append(self.part.training)


class Evaluating(TrainerCallback):
    trainer: Trainer

    def on_step_end(self, *_, **__):
        self.trainer.evaluate()
        self.trainer.predict(self.trainer.eval_dataset)


@pytest.mark.parametrize("ragged", [False, True])
def test_a_part_of_a_language_model_stays_in_evaluation_mode(tmp_path, ragged):
    model = tiny.llama(dropout=0.0 if ragged else 0.3)
    part = model.model.layers[0]
    stays, evaluating = Stays(part), Evaluating()
    rows = tiny.tokens(16)
    settings = TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2, use_cpu=True,
        disable_tqdm=True, eval_strategy="steps", eval_steps=2, save_steps=2, eval_on_start=True,
    )  # fmt: skip
    trainer = Trainer(
        model, settings, train_dataset=rows, eval_dataset=tiny.tokens(4), callbacks=[stays, evaluating],
        compute_metrics=lambda prediction: {},
    )  # fmt: skip
    evaluating.trainer = trainer
    trainer.train()
    assert stays.seen == [False] * 8
    assert model.model.layers[1].training
    trainer.evaluate()
    assert not model.training  # outside of a run the model stays in evaluation mode, as with transformers


@pytest.mark.parametrize("way", ["eval", "another Trainer"])
def test_a_model_that_a_callback_leaves_in_evaluation_mode_is_trained_as_before(tmp_path, way):
    def losses(leaves):
        class Leaves(TrainerCallback):
            def on_step_end(self, *_, model, **__):
                if leaves and way == "eval":
                    model.eval()
                elif leaves:
                    Trainer(model, settings, eval_dataset=tiny.tokens(4)).evaluate()

        model = tiny.llama(dropout=0.3)
        stays = Stays(model.model.layers[0])
        settings = TrainingArguments(
            str(tmp_path), max_steps=4, logging_steps=1, save_strategy="no", use_cpu=True, disable_tqdm=True
        )
        trainer = Trainer(model, settings, train_dataset=tiny.tokens(16), callbacks=[stays, Leaves()])
        trainer.train()
        assert stays.seen[::2][0] is stays.seen[1] is False
        return [one["loss"] for one in trainer.state.log_history if "loss" in one], stays.seen[1::2]

    assert losses(True) == losses(False)


def test_a_reference_pass_leaves_modes_alone():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.5))
    model.train()
    block = model.base_model.model.model.layers[0]
    block.eval()
    ids = torch.randint(3, tiny.VOCABULARY, (2, 2, 6))
    labels = ids.clone()
    labels[..., :3] = -100
    before = [training for _, training in modes_of(model)]
    PreferenceLoss(DPOOptions(), without_adapters=model.disable_adapter).loss(
        model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}, None
    )
    assert [training for _, training in modes_of(model)] == before
    assert not block.training
    assert model.base_model.model.model.layers[1].training


def test_writing_functions_leaves_modes_alone():
    model = tiny.llama().train()
    model.model.layers[1].eval()
    write_functions(model, tiny.tokenizer(), ["w3 w4", "w5"], seed=0)
    assert model.training
    assert model.model.layers[0].training
    assert not model.model.layers[1].training


def test_an_evaluation_that_fails_puts_modes_back(tmp_path):
    class Failing(TrainerCallback):
        modes = ()

        def on_train_begin(self, *_, model, **__):
            model.layer.eval()

        def on_step_end(self, *_, model, **__):
            with pytest.raises(ZeroDivisionError):
                trainer.evaluate()
            self.modes = (model.training, model.layer.training)

    def metrics(prediction):
        raise ZeroDivisionError

    failing = Failing()
    settings = TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no")
    rows = tiny.line_rows(8)
    trainer = Trainer(
        tiny.new_line(), settings, train_dataset=rows, eval_dataset=rows, compute_metrics=metrics, callbacks=[failing]
    )
    trainer.train()
    assert failing.modes == (True, False)
