"""Summarisation and translation: sequence to sequence, evaluated by what is generated."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

from tests import tiny
from tests.scripts.common import begin, finish


def main(library: Any, command: list[str], task: str = "summarization") -> dict[str, float]:
    """Train a model that writes the first words of a text."""
    args, _, last = begin(library.Seq2SeqTrainingArguments, command)
    tokenizer = tiny.tokenizer()
    model = tiny.t5()
    lines = [" ".join(f"w{3 + (i * k) % 50}" for k in range(1, 5 + i % 5)) for i in range(1, 33)]
    raw = Dataset.from_dict({"document": lines, "summary": [" ".join(line.split()[:3]) for line in lines]})

    def prepare(rows: Any) -> Any:
        tokens = tokenizer(rows["document"], max_length=16, truncation=True)
        tokens["labels"] = tokenizer(text_target=rows["summary"], max_length=8, truncation=True)["input_ids"]
        return tokens

    with args.main_process_first(desc="train dataset map pre-processing"):
        rows = raw.map(prepare, batched=True, remove_columns=raw.column_names)

    def compute_metrics(predicted: Any) -> dict[str, float]:
        preds, labels = predicted
        preds = np.where(preds != -100, preds, tokenizer.pad_token_id)
        labels = np.where(labels != -100, labels, tokenizer.pad_token_id)
        written = tokenizer.batch_decode(preds, skip_special_tokens=True)
        wanted = tokenizer.batch_decode(labels, skip_special_tokens=True)
        return {
            "exact": round(float(np.mean([a == b for a, b in zip(written, wanted, strict=True)])), 4),
            "gen_len": float(np.mean([np.count_nonzero(one != tokenizer.pad_token_id) for one in preds])),
        }

    args.generation_max_length = args.generation_max_length if args.generation_max_length is not None else 10
    args.generation_num_beams = 2 if task == "translation" else args.generation_num_beams
    trainer = library.Seq2SeqTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(
            tokenizer, model=model, label_pad_token_id=-100, pad_to_multiple_of=8 if args.fp16 else None
        ),
        compute_metrics=compute_metrics if args.predict_with_generate else None,
    )
    return finish(
        trainer, args, last, rows, prediction=rows, tasks=task, finetuned_from="t5-tiny", language=["en", "ro"]
    )
