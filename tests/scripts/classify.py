"""Classification of texts, and of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding, EvalPrediction

from tests import tiny
from tests.scripts.common import begin, finish, first


def texts(args: Any, tokenizer: Any) -> Dataset:
    """Return tokenised sentences with a label, and columns that no model takes."""
    words = [[f"w{3 + (i * k) % 50}" for k in range(1, 4 + i % 6)] for i in range(1, 41)]
    raw = Dataset.from_dict({
        "sentence1": [" ".join(line) for line in words],
        "idx": list(range(40)),
        "label": [len(line) % 3 for line in words],
    })  # fmt: skip
    with args.main_process_first(desc="dataset map pre-processing"):
        return raw.map(lambda rows: tokenizer(rows["sentence1"], truncation=True), batched=True)


def of_texts(library: Any, command: list[str]) -> dict[str, float]:
    """Train a classifier of sentences; predict what has no labels."""
    args, data, last = begin(library.TrainingArguments, command)
    tokenizer = tiny.tokenizer()
    rows = texts(args, tokenizer)
    train = first(rows, data.max_train_samples)

    def compute_metrics(predicted: EvalPrediction) -> dict[str, float]:
        preds = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
        result = {"accuracy": float((np.argmax(preds, axis=1) == predicted.label_ids).mean()), "f1": 0.5}
        result["combined_score"] = np.mean(list(result.values())).item()
        return result

    trainer = library.Trainer(
        model=tiny.bert_classifier(),
        args=args,
        train_dataset=train,
        eval_dataset=rows,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
    )
    metrics = finish(trainer, args, last, train, prediction=rows, tasks="text-classification", language="en")
    unlabelled = rows.remove_columns("label")
    classes = np.argmax(trainer.predict(unlabelled, metric_key_prefix="predict").predictions, axis=1)
    return {**metrics, "classes": classes.tolist()}


def of_tokens(library: Any, command: list[str]) -> dict[str, float]:
    """Train a classifier of words."""
    args, _, last = begin(library.TrainingArguments, command)
    tokenizer = tiny.tokenizer()
    rows = texts(args, tokenizer)
    rows = rows.map(lambda row: {"labels": [i % 3 for i in row["input_ids"]]}, remove_columns=["label"])

    def compute_metrics(p: Any) -> dict[str, float]:
        predictions, labels = p
        predictions = np.argmax(predictions, axis=2)
        true = [
            (p, one)
            for prediction, label in zip(predictions, labels, strict=True)
            for p, one in zip(prediction, label, strict=True)
            if one != -100
        ]
        return {"accuracy": sum(p == one for p, one in true) / len(true)}

    trainer = library.Trainer(
        model=tiny.bert_tagger(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=compute_metrics,
    )
    return finish(trainer, args, last, rows, prediction=rows, tasks="token-classification")
