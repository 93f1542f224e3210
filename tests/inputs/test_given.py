"""Loaders, modules and losses of one's own: what works as it is, and the line to write where it does not."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas
import pytest
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tests import tiny
from trainwright import ConfigError, DataError, Trainer, TrainingArguments
from trainwright.inputs import dataloaders
from trainwright.trainer.face import session_of
from trainwright.training import setup

X, Y = torch.arange(24.0).reshape(8, 3) / 10, torch.arange(8.0)
ROWS = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
SET = TensorDataset(X, Y)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Line(nn.Module):
    """Gives its loss by name; its targets are called y."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def forward(self, x, y=None):
        found = self.line(x).squeeze(-1)
        return {"found": found} if y is None else {"loss": (found - y).square().mean(), "found": found}


class Bare(Line):
    """Gives what it finds."""

    def forward(self, x):
        return self.line(x).squeeze(-1)


def squared(found, wanted, num_items_in_batch=None):
    return (found - wanted).square().sum() / (num_items_in_batch or len(wanted))


def trainer(tmp_path, model=None, kind=Trainer, args=None, **given):
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        use_cpu=True,
        report_to="none",
        learning_rate=0.01,
        per_device_eval_batch_size=4,
        disable_tqdm=True,
        save_strategy="no",
        **(args or {}),
    )
    return kind(model or Line(), arguments, **given)


def weights(made):
    made.train()
    return [parameter.detach() for parameter in made.model.parameters()]


def test_a_loss_that_the_model_gives_is_the_evaluations(tmp_path):
    made = trainer(tmp_path, eval_dataset=ROWS)
    with torch.no_grad():
        wanted = float(made.model(X, Y)["loss"])
    assert made.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-6)
    assert "eval_loss" not in trainer(tmp_path, eval_dataset=[{"x": x} for x in X]).evaluate()


def test_rows_without_names_are_trained_on_as_those_with_names(tmp_path):
    named = weights(trainer(tmp_path, train_dataset=ROWS))
    for rows in (SET, list(SET)):
        for one, other in zip(named, weights(trainer(tmp_path, train_dataset=rows)), strict=True):
            assert torch.equal(one, other)
        bare = trainer(tmp_path, Bare(), train_dataset=rows, eval_dataset=rows, compute_loss_func=squared)
        for one, other in zip(named, weights(bare), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)  # a sum over rows in place of their mean
        assert bare.evaluate()["eval_loss"] > 0


def test_batches_without_names_of_ones_own_loader(tmp_path):
    loader = DataLoader(SET, batch_size=4)
    assert trainer(tmp_path, Bare(), train_loader=loader, compute_loss_func=squared).train().global_step == 2


def test_batches_in_a_list_are_a_loader(tmp_path):
    batches = list(DataLoader(ROWS, batch_size=4))
    args = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    made = trainer(tmp_path, args=args, train_loader=batches, eval_loader=batches)
    by_hand = Line()
    for batch in batches:
        loss = by_hand(**batch)["loss"]
        for parameter, gradient in zip(
            by_hand.parameters(), torch.autograd.grad(loss, list(by_hand.parameters())), strict=True
        ):
            parameter.data -= 0.01 * gradient
    for one, other in zip(weights(made), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-6, atol=1e-7)  # float32
    assert made.evaluate()["eval_loss"] == pytest.approx(by_hand(X, Y)["loss"].item(), rel=1e-6)


NO_DATASETS = {
    "a loader": (
        DataLoader(ROWS, batch_size=4),
        "is a DataLoader, which brings whole batches. Give it as train_loader=",
    ),
    "a path": ("rows.jsonl", "is the path 'rows.jsonl'. Read it first: datasets.load_dataset('json', data_files='rows"),
    "another path": (Path("rows.csv"), "is the path 'rows.csv'"),
    "a frame": (
        pandas.DataFrame({"x": [1, 2]}),
        "is a DataFrame. Make a dataset of it: train_dataset=datasets.Dataset",
    ),
    "a function": (squared, "is the function or class 'squared'. Call it, and give what it returns"),
    "a class": (Line, "is the function or class 'Line'"),
    "X and y": ((X, Y), "is a tuple of inputs and targets. Make rows of them: train_dataset=torch.utils.data.Tensor"),
    "X and y of numpy": ((X.numpy(), Y.numpy()), "is a tuple of inputs and targets"),
    "X": (X, "is a Tensor of shape (8, 3). Make rows of it, with its targets: train_dataset=torch.utils.data.Tensor"),
    "X of numpy": (X.numpy(), "is a ndarray of shape (8, 3). Make rows of it"),
    "several": ([SET, SET], "is a list of datasets. Join them: train_dataset=torch.utils.data.ConcatDataset(sets)"),
    "columns": (
        {"x": X, "y": Y},
        "is a mapping with 'x', 'y'. Make a dataset of its columns: datasets.Dataset.from_dict",
    ),
    "splits": ({"train": SET}, "is a mapping with 'train'. Give one of its sets: train_dataset=sets['train']"),
}


@pytest.mark.parametrize("name", NO_DATASETS)
def test_what_is_no_dataset_is_told_with_what_to_write(tmp_path, name):
    given, said = NO_DATASETS[name]
    with pytest.raises(DataError) as caught:
        trainer(tmp_path, train_dataset=given)
    assert str(caught.value).startswith(f"train_dataset {said}")
    if name not in ("columns", "splits"):  # several evaluation sets are a mapping
        with pytest.raises(DataError, match=r"^eval_dataset\['one'\] is "):
            trainer(tmp_path, eval_dataset={"one": given})


def test_datasets_are_none_of_these(tmp_path):
    for given in (
        ROWS,
        SET,
        Dataset.from_list([{"x": x.tolist(), "y": float(y)} for x, y in SET]),
        tuple(ROWS),
        [(X[0], Y[0])],
    ):
        trainer(tmp_path, train_dataset=given, eval_dataset={"one": given})


class OldLoss(Trainer):
    """Its loss cannot be asked for outputs."""

    def compute_loss(self, model, inputs):
        return model(**inputs)["loss"]


def test_a_loss_that_cannot_be_evaluated_is_told_before_training(tmp_path):
    with pytest.raises(ConfigError, match="OldLoss.compute_loss takes no return_outputs, which an evaluation asks it"):
        trainer(tmp_path, kind=OldLoss, train_dataset=ROWS, eval_dataset=ROWS)
    assert trainer(tmp_path, kind=OldLoss, train_dataset=ROWS).train().global_step == 2


def test_what_a_loader_leaves_without_effect_is_told(tmp_path, caplog):
    loader = DataLoader(ROWS, batch_size=4)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, train_loader=loader, args={"per_device_train_batch_size": 4})
        trainer(tmp_path, train_loader=loader)
        assert "is ignored" not in caplog.text
        trainer(tmp_path, train_loader=loader, args={"per_device_train_batch_size": 3})
    assert "per_device_train_batch_size=3 is ignored: train_loader= brings its own batches." in caplog.text


def test_gpus_that_are_not_used_are_told(tmp_path, caplog, monkeypatch):
    made = trainer(tmp_path, train_dataset=ROWS)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    setup.tell_of_idle_devices(made.strategy, made.note)
    assert "GPUs" not in caplog.text  # for it uses the CPU
    monkeypatch.setattr(made.strategy, "device", torch.device("cuda"))
    with caplog.at_level(logging.WARNING):
        setup.tell_of_idle_devices(made.strategy, made.note)
    assert (
        "4 GPUs are visible, and one process uses one of them. All of them: torchrun --nproc-per-node=4 " in caplog.text
    )


def without_pad_token():
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("label", "tokenizer", "said"),
    [
        (
            lambda row: "good",
            tiny.tokenizer,
            r"'label' of the dataset's row \d is the text 'good', but a class is a numb",
        ),
        (
            lambda row: 1,
            without_pad_token,
            "The tokenizer has no pad token, .* Write tokenizer.pad_token = tokenizer.eos",
        ),
        (lambda row: row["input_ids"], tiny.tokenizer, r"Field 'label' has shape .* Pass a collator that pads it too"),
    ],
)
def test_rows_that_a_tokenizers_collator_cannot_join_are_told(tmp_path, label, tokenizer, said):
    rows = [{**row, "label": label(row)} for row in tiny.sentences(8)]
    args = TrainingArguments(tmp_path, max_steps=1, use_cpu=True, report_to="none")
    trainer = Trainer(tiny.bert_classifier(), args, train_dataset=rows, processing_class=tokenizer())
    with pytest.raises(DataError, match=said):
        trainer.train()


@pytest.mark.parametrize("data", [SET, Stream()], ids=["rows", "stream"])
def test_a_loader_of_ones_own_keeps_its_workers_and_what_they_do_ahead(tmp_path, data):
    given = DataLoader(data, batch_size=2, num_workers=1, prefetch_factor=3, persistent_workers=True)
    trainer = Trainer(Line(), TrainingArguments(tmp_path, max_steps=1, use_cpu=True), train_loader=given)
    source = dataloaders.train_loader(session_of(trainer)).source
    read = source.rebuilt if hasattr(source, "rebuilt") else source.loader
    assert read is not given
    assert (read.num_workers, read.prefetch_factor, read.persistent_workers) == (1, 3, True)
