"""The numbers are transformers': both engines run, and every step's loss, learning rate and gradient norm agree."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
from torch.utils.data import IterableDataset

import trainwright
from tests import installed, tiny

STEPS = 20
TOLERANCE = 1e-5  # both compute in float32; the order of additions may differ


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def history(engine, model, folder, data, collator=None, processing_class=None, **arguments):
    """Train for STEPS steps and return what was logged at every step."""
    settings = {"max_steps": STEPS, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = engine.Trainer(
            model=model,
            args=engine.TrainingArguments(output_dir=str(folder), report_to="none", **{**settings, **arguments}),
            train_dataset=data,
            data_collator=collator,
            processing_class=processing_class,
        )
        trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def assert_equal(theirs, ours, keys=("loss", "learning_rate", "grad_norm")):
    assert len(theirs) == len(ours) == STEPS
    for key in keys:
        a = torch.tensor([entry[key] for entry in theirs])
        b = torch.tensor([entry[key] for entry in ours])
        torch.testing.assert_close(b, a, rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, key=key: f"{key}: {m}")


def both(folder, make_model, data, reference=None, **settings):
    theirs = history(transformers, make_model(), folder / "theirs", data, **{**settings, **(reference or {})})
    ours = history(trainwright, make_model(), folder / "ours", data, **settings)
    assert_equal(theirs, ours)


CAUSAL = {
    "plain": {"learning_rate": 1e-3},
    "accumulation": {"learning_rate": 1e-3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    "cosine with warm-up": {"learning_rate": 1e-3, "lr_scheduler_type": "cosine", "warmup_steps": 5},
    "weight decay": {"learning_rate": 1e-3, "weight_decay": 0.3},
    "no clipping": {"learning_rate": 1e-3, "max_grad_norm": 0.0},
    "label smoothing": {"learning_rate": 1e-3, "label_smoothing_factor": 0.1},
    "odd batch": {"learning_rate": 1e-3, "per_device_train_batch_size": 7, "gradient_accumulation_steps": 3},
    "sequential": {"learning_rate": 1e-3, "train_sampling_strategy": "sequential"},
    "drop last": {"learning_rate": 1e-3, "per_device_train_batch_size": 7, "dataloader_drop_last": True},
    "sgd": {"learning_rate": 1e-2, "optim": "sgd"},
    "adafactor": {"learning_rate": 1e-3, "optim": "adafactor"},
    "polynomial": {"learning_rate": 1e-3, "lr_scheduler_type": "polynomial"},
    "workers": {"learning_rate": 1e-3, "dataloader_num_workers": 2},
    "data seed": {"learning_rate": 1e-3, "data_seed": 7},
}


@pytest.mark.slow
@installed.true_mean
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_language_model(tmp_path, name):
    both(tmp_path, tiny.llama, tiny.tokens(ragged=True), **CAUSAL[name])


@pytest.mark.slow
def test_classification_with_padding_collator(tmp_path):
    collator = transformers.DataCollatorWithPadding(tiny.tokenizer())
    both(tmp_path, tiny.bert_classifier, tiny.sentences(), collator=collator, learning_rate=1e-3)


@pytest.mark.slow
def test_classification_pads_by_itself_with_a_tokenizer(tmp_path):
    both(tmp_path, tiny.bert_classifier, tiny.sentences(), processing_class=tiny.tokenizer(), learning_rate=1e-3)


@pytest.mark.slow
def test_classification_accumulates_to_the_large_batch(tmp_path):
    # With accumulation, transformers' classification loss is too large by that factor: its large batch is the truth.
    collator = transformers.DataCollatorWithPadding(tiny.tokenizer())
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    large = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    both(tmp_path, tiny.bert_classifier, tiny.sentences(), large, collator=collator, learning_rate=1e-3, **small)


def seq2seq_rows():
    return [{"input_ids": r["input_ids"], "labels": r["labels"].flip(0)} for r in tiny.tokens(ragged=True)]


@pytest.mark.slow
def test_seq2seq(tmp_path):
    both(tmp_path, tiny.t5, seq2seq_rows(), learning_rate=1e-3)


@pytest.mark.slow
def test_seq2seq_accumulates_to_the_large_batch(tmp_path):
    small = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    large = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    both(tmp_path, tiny.t5, seq2seq_rows(), large, learning_rate=1e-3, **small)


@pytest.mark.slow
def test_group_by_length(tmp_path):
    collator = transformers.DataCollatorWithPadding(tiny.tokenizer())
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 4}
    both(tmp_path, tiny.bert_classifier, tiny.sentences(96), collator=collator, learning_rate=1e-3, **settings)


@pytest.mark.slow
@installed.true_mean
def test_iterable_dataset(tmp_path):
    both(tmp_path, tiny.llama, Stream(tiny.tokens(200, ragged=True)), learning_rate=1e-3)


@installed.true_mean
@pytest.mark.slow
def test_iterable_dataset_with_accumulation(tmp_path):
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    both(tmp_path, tiny.llama, Stream(tiny.tokens(200, ragged=True)), learning_rate=1e-3, **settings)


@pytest.mark.slow
def test_plain_module(tmp_path):
    both(tmp_path, tiny.new_line, tiny.line_rows(), learning_rate=1e-2)


@pytest.mark.slow
@installed.true_mean
@pytest.mark.parametrize("make", [tiny.gpt_neox, tiny.llama])
def test_dropout(tmp_path, make):
    data = tiny.tokens(40, ragged=True)
    both(tmp_path, lambda: make(dropout=0.1), data, learning_rate=1e-3, per_device_train_batch_size=4)


@installed.true_mean
def test_gpt2_counts_its_targets_where_transformers_counts_the_first_label_of_every_row_too(tmp_path):
    rows, length = tiny.tokens(32, length=15), 15
    theirs = history(transformers, tiny.gpt2(), tmp_path / "theirs", rows, max_steps=1)[0]["loss"]
    ours = history(trainwright, tiny.gpt2(), tmp_path / "ours", rows, max_steps=1)[0]["loss"]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()[:8]
    batch = {name: torch.stack([rows[i][name] for i in order]) for name in rows[0]}
    with torch.no_grad():
        logits = tiny.gpt2()(**batch).logits[:, :-1].flatten(0, 1)
    exact = torch.nn.functional.cross_entropy(logits.double(), batch["labels"][:, 1:].flatten()).item()
    assert ours == pytest.approx(exact, rel=TOLERANCE)
    assert theirs == pytest.approx(exact * (length - 1) / length, rel=TOLERANCE)
    assert (round(theirs, 3), round(ours, 3)) == (3.825, 4.098)  # as docs/differences.md has it


@pytest.mark.slow
@installed.true_mean
def test_a_step_without_targets_is_in_no_average(tmp_path):
    rows = tiny.tokens(32)
    for row in rows[16:24]:
        row["labels"] = torch.full_like(row["labels"], -100)
    settings = {"max_steps": 4, "logging_steps": 4, "train_sampling_strategy": "sequential"}
    theirs = history(transformers, tiny.llama(), tmp_path / "theirs", rows, **settings)[0]["loss"]
    ours = history(trainwright, tiny.llama(), tmp_path / "ours", rows, **settings)[0]["loss"]
    each = history(trainwright, tiny.llama(), tmp_path / "each", rows, **{**settings, "logging_steps": 1})
    assert ours == pytest.approx(sum(entry["loss"] for entry in each) / 3, rel=1e-6)
    assert (round(theirs, 3), round(ours, 3)) == (3.762, 4.104)  # as docs/differences.md has it


@pytest.mark.slow
def test_means_of_a_users_loss_are_averaged_where_transformers_adds_them(tmp_path):
    def losses(engine):
        class Own(engine.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                return model(**inputs).loss

        found = []
        for micro in (8, 2):
            settings = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro}
            args = engine.TrainingArguments(
                str(tmp_path),
                max_steps=1,
                logging_steps=1,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                **settings,
            )
            trainer = Own(tiny.llama(), args, train_dataset=tiny.tokens(40))
            trainer.train()
            found.append(round(trainer.state.log_history[0]["loss"], 3))
        return found

    assert losses(trainwright) == [4.122, 4.122]
    assert losses(transformers) == [4.122, 16.487]  # as docs/differences.md has it


@pytest.mark.slow
@installed.true_mean
def test_bf16(tmp_path):
    # bfloat16 keeps 8 bits of mantissa, so only the course of the loss is compared
    settings = {"learning_rate": 1e-3, "bf16": True}
    theirs = history(transformers, tiny.llama(), tmp_path / "a", tiny.tokens(), **settings)
    ours = history(trainwright, tiny.llama(), tmp_path / "b", tiny.tokens(), **settings)
    losses = [[entry["loss"] for entry in run] for run in (theirs, ours)]
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=2e-2, atol=2e-2)
