"""Language modelling, with a causal and with a masked model: blocks of tokens, accuracy, perplexity."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, default_data_collator

from tests import tiny
from tests.scripts.common import begin, finish, first

BLOCK = 12


def texts(rows: int = 60) -> Dataset:
    """Return lines of words."""
    return Dataset.from_dict({"text": [" ".join(f"w{3 + (i * k) % 40}" for k in range(1, 9)) for i in range(1, rows)]})


def accuracy(causal: bool) -> Any:
    """Return `compute_metrics` over the tokens that are predicted."""

    def compute(predicted: Any) -> dict[str, float]:
        preds, labels = predicted.predictions, predicted.label_ids
        if causal:
            preds, labels = preds[:, :-1], labels[:, 1:]
        wanted = labels != -100
        return {"accuracy": float((preds == labels)[wanted].mean())}

    return compute


def argmax(logits: Any, labels: Any) -> Any:
    """Keep the predicted tokens alone."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def main(library: Any, command: list[str], causal: bool = True) -> dict[str, float]:
    """Train a language model on blocks of text."""
    args, data, last = begin(library.TrainingArguments, command)
    tokenizer = tiny.tokenizer()
    tokenizer.mask_token = "<unk>"
    model = tiny.llama() if causal else tiny.bert_masked()
    with args.main_process_first(desc="dataset map tokenization"):
        tokens = texts().map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns=["text"])

    def grouped(rows: Any) -> dict[str, Any]:
        joined = {name: list(chain(*rows[name])) for name in rows}
        length = len(joined["input_ids"]) // BLOCK * BLOCK
        result = {name: [v[i : i + BLOCK] for i in range(0, length, BLOCK)] for name, v in joined.items()}
        if causal:
            result["labels"] = [list(block) for block in result["input_ids"]]
        return result

    with args.main_process_first(desc="grouping texts together"):
        blocks = tokens.map(grouped, batched=True)
    train, evaluation = first(blocks, data.max_train_samples), first(blocks, data.max_eval_samples)
    trainer = library.Trainer(
        model=model,
        args=args,
        train_dataset=train if args.do_train else None,
        eval_dataset=evaluation if args.do_eval else None,
        processing_class=tokenizer,
        data_collator=default_data_collator if causal else DataCollatorForLanguageModeling(tokenizer, seed=0),
        compute_metrics=accuracy(causal) if args.do_eval else None,
        preprocess_logits_for_metrics=argmax if args.do_eval else None,
    )
    metrics = finish(trainer, args, last, train, tasks="text-generation", dataset_tags="wikitext", dataset="wikitext")
    metrics["perplexity"] = math.exp(metrics["eval_loss"])
    return metrics
