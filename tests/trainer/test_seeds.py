"""The examples that users start from run with only the import line changed.

Hub names are local stand-ins, `load_metric` (gone from its library) is a small local function, and variables that the
examples leave undefined are fixtures.
"""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with local stand-ins for the names of the hub, as the current directory."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny.tokenizer()
    for name, model in {
        "bert-base-uncased": tiny.bert_classifier(num_labels=2),
        "roberta-base": tiny.bert_classifier(num_labels=2),
        "gpt2": tiny.gpt2(),
    }.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    return tmp_path


def load_dataset(name, subset, split=None):
    """Stand in for datasets.load_dataset with generated sentences."""
    generator = torch.Generator().manual_seed(5)

    def sentence():
        count = int(torch.randint(3, 9, (1,), generator=generator))
        return " ".join(f"w{i}" for i in torch.randint(3, 60, (count,), generator=generator).tolist())

    pairs = [{"sentence1": sentence(), "sentence2": sentence(), "label": i % 2} for i in range(32)]
    texts = datasets.Dataset.from_list([{"text": sentence()} for _ in range(16)])
    if split is not None:
        return texts
    return datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(pairs), "validation": datasets.Dataset.from_list(pairs[:8])}
    )


class Metric:
    def __init__(self, name):
        self.name = name

    def compute(self, predictions, references):
        return {self.name: float(np.mean(np.asarray(predictions) == np.asarray(references)))}


def load_metric(name):
    """Stand in for datasets.load_metric, which is gone."""
    return Metric(name)


@pytest.fixture
def sets(place):
    """train_dataset, eval_dataset and tokenizer, which the examples leave undefined."""
    tokenizer = tiny.tokenizer()
    pairs = load_dataset("glue", "mrpc")
    ready = pairs.map(lambda rows: tokenizer(rows["sentence1"], padding="max_length", max_length=12), batched=True)
    return ready["train"], ready["validation"], tokenizer


def test_basic(place):
    from trainwright import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained("bert-base-uncased")
    dataset = load_dataset("glue", "mrpc")

    def tokenize_function(examples):
        return tokenizer(examples["sentence1"], examples["sentence2"], truncation=True)

    tokenized_dataset = dataset.map(tokenize_function, batched=True)
    training_args = TrainingArguments(
        output_dir="./results", num_train_epochs=3, per_device_train_batch_size=16, eval_strategy="epoch"
    )
    data_collator = DataCollatorWithPadding(tokenizer=tokenizer)
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=tokenized_dataset["train"],
        eval_dataset=tokenized_dataset["validation"],
        data_collator=data_collator,
    )
    result = trainer.train()
    assert result.global_step == 6
    assert [entry["epoch"] for entry in trainer.state.log_history if "eval_loss" in entry] == [1.0, 2.0, 3.0]


def test_custom_metrics(sets):
    from trainwright import AutoModelForSequenceClassification, Trainer, TrainingArguments

    train_dataset, eval_dataset, tokenizer = sets
    model = AutoModelForSequenceClassification.from_pretrained("roberta-base", num_labels=2)
    accuracy_metric = load_metric("accuracy")
    f1_metric = load_metric("f1")

    def compute_metrics(eval_pred):
        logits, labels = eval_pred
        predictions = np.argmax(logits, axis=-1)
        accuracy = accuracy_metric.compute(predictions=predictions, references=labels)
        f1 = f1_metric.compute(predictions=predictions, references=labels)
        return {"accuracy": accuracy["accuracy"], "f1": f1["f1"]}

    # as written, the example evaluates by epoch and saves by steps, which transformers refuses too
    training_args = TrainingArguments(
        output_dir="./results",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
    )
    trainer.train()
    assert trainer.state.best_metric == max(e["eval_f1"] for e in trainer.state.log_history if "eval_f1" in e)
    assert (AutoModelForSequenceClassification.from_pretrained(trainer.state.best_model_checkpoint)) is not None


def test_custom_metrics_as_written_is_refused_with_a_sentence():
    from trainwright import ConfigError, TrainingArguments

    with pytest.raises(ConfigError, match="eval_strategy='epoch' and save_strategy='steps' differ"):
        TrainingArguments(
            output_dir="./results",
            eval_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="f1",
            greater_is_better=True,
        )


def test_custom_optimizer(sets):
    from torch.optim import AdamW

    from trainwright import AutoModelForCausalLM, Trainer, TrainingArguments, get_cosine_schedule_with_warmup

    train_dataset = datasets.Dataset.from_list(
        [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in tiny.tokens(32)]
    )
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    training_args = TrainingArguments(
        output_dir="./custom-optimizer-results", num_train_epochs=5, per_device_train_batch_size=8
    )
    optimizer = AdamW(model.parameters(), lr=3e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    num_training_steps = len(train_dataset) // 8 * 5
    lr_scheduler = get_cosine_schedule_with_warmup(
        optimizer, num_warmup_steps=100, num_training_steps=num_training_steps
    )
    trainer = Trainer(
        model=model, args=training_args, train_dataset=train_dataset, optimizers=(optimizer, lr_scheduler)
    )
    assert trainer.train().global_step == 20
    assert trainer.optimizer is optimizer
    assert lr_scheduler.last_epoch == 20


@pytest.mark.slow  # the example reads the last log at the end of an epoch, so an epoch must reach logging_steps=500
def test_callbacks(sets, capsys):
    from trainwright import (
        AutoModelForSequenceClassification,
        EarlyStoppingCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    train_dataset, eval_dataset, _ = sets
    train_dataset = datasets.concatenate_datasets([train_dataset] * 125)
    model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)

    class CustomCallback(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            print(f"Epoch {state.epoch} completed")
            print(f"Current learning rate: {state.log_history[-1].get('learning_rate', 'N/A')}")

    training_args = TrainingArguments(
        output_dir="./results-with-callbacks",
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=3), CustomCallback()],
    )
    trainer.train()
    assert "Epoch 3.0 completed" in capsys.readouterr().out


@pytest.mark.slow
def test_hyperparameter_search(sets):
    from trainwright import AutoModelForSequenceClassification, Trainer, TrainingArguments

    train_dataset, eval_dataset, _ = sets

    def model_init():
        return AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=2)

    def compute_metrics(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    training_args = TrainingArguments(output_dir="./hp-search-results", eval_strategy="epoch", save_strategy="no")
    trainer = Trainer(
        model_init=model_init,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        compute_metrics=compute_metrics,
    )
    best_trial = trainer.hyperparameter_search(direction="maximize", n_trials=3, backend="optuna")
    assert 0 <= best_trial.objective <= 1
    assert 1e-6 <= best_trial.hyperparameters["learning_rate"] <= 1e-4
    assert trainer.args is training_args
    # the study is kept: the same call adds nothing, a larger one adds what is missing
    assert trainer.hyperparameter_search(direction="maximize", n_trials=3).run_id == best_trial.run_id
    import optuna

    storage = f"sqlite:///{(trainer.run_folder / 'hyperparameter_search.db').resolve()}"
    assert len(optuna.load_study(study_name="search", storage=storage).trials) == 3


@pytest.mark.slow
def test_a_search_that_was_stopped_tries_the_same_point_and_then_new_ones(tmp_path):
    import optuna

    from trainwright import Trainer, TrainerCallback, TrainingArguments

    class Stops(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.trial_name == "run-1":
                raise SystemExit(143)  # as a signal does

    def search(callbacks, n_trials=4):
        args = TrainingArguments(tmp_path / "out", max_steps=1, eval_strategy="steps", save_strategy="no", report_to=[])
        data = tiny.line_rows(8)
        trainer = Trainer(
            None, args, train_dataset=data, eval_dataset=data, model_init=lambda: tiny.new_line(), callbacks=callbacks
        )
        trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("rate", 0, 1)}, n_trials=n_trials
        )

    with pytest.raises(SystemExit):
        search([Stops()])
    search([])
    search([])  # it is complete
    storage = f"sqlite:///{tmp_path}/out/hyperparameter_search.db"
    trials = optuna.load_study(study_name="search", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    rates = [trial.params["rate"] for trial in trials]
    assert rates[1] == rates[2]
    assert len(set(rates)) == 4
    assert not (tmp_path / "out" / ".trainwright.lock").exists()


def test_minimal_names_the_text_column_and_the_line_that_tokenises_it(place):
    from trainwright import AutoModelForCausalLM, DataError, Trainer

    dataset = load_dataset("wikitext", "wikitext-2-raw-v1", split="train[:1%]")
    trainer = Trainer(model=AutoModelForCausalLM.from_pretrained("gpt2"), train_dataset=dataset)
    assert trainer.train().global_step == 6  # with the tokenizer of the model's folder

    for file in Path("gpt2").glob("tokenizer*"):
        file.unlink()
    model = AutoModelForCausalLM.from_pretrained("gpt2")
    trainer = Trainer(model=model, train_dataset=dataset)
    with pytest.raises(DataError, match=r"'text'.*dataset\.map\(lambda rows: tokenizer\(rows\['text'\]"):
        trainer.train()

    tokenizer = tiny.tokenizer()

    def tokenise(rows):
        ids = tokenizer(rows["text"], padding="max_length", max_length=8, truncation=True)
        return {**ids, "labels": ids["input_ids"]}

    trainer = Trainer(model=model, train_dataset=dataset.map(tokenise, batched=True))
    assert trainer.train().global_step == 6
    assert trainer.args.output_dir == "tmp_trainer"


def test_base_trainer_with_a_ready_loader(tmp_path):
    from trainwright import BaseTrainer, Trainer, TrainingArguments

    class ACTTrainer(BaseTrainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            loss_dict = model(**inputs)
            loss = loss_dict["loss"]
            return (loss, loss_dict) if return_outputs else loss

    train_loader = DataLoader(tiny.line_rows(32), batch_size=8, shuffle=True)
    training_args = TrainingArguments(
        output_dir=str(tmp_path / "ckpt/my_act_model"),
        num_train_epochs=100,
        learning_rate=1e-1,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=4,
        fp16=True,
        logging_steps=50,
    )
    trainer = ACTTrainer(model=tiny.new_line(), args=training_args, train_loader=train_loader)
    result = trainer.train()
    assert BaseTrainer is Trainer
    assert result.global_step == 100
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.1 * losses[0]
