"""Question answering: a Trainer with `evaluate` and `predict` of its own, which turn logits into answers."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, EvalPrediction
from transformers.trainer_utils import PredictionOutput, speed_metrics

from tests import tiny
from tests.scripts.common import begin, finish


def own_trainer(base: type) -> type:
    """Return the Trainer of the task."""

    class QuestionAnsweringTrainer(base):  # type: ignore[misc, valid-type]
        def __init__(
            self, *args: Any, eval_examples: Any = None, post_process_function: Any = None, **more: Any
        ) -> None:
            super().__init__(*args, **more)
            self.eval_examples = eval_examples
            self.post_process_function = post_process_function

        def evaluate(
            self, eval_dataset: Any = None, eval_examples: Any = None, ignore_keys: Any = None,
            metric_key_prefix: str = "eval",
        ) -> dict[str, float]:  # fmt: skip
            rows = self.eval_dataset if eval_dataset is None else eval_dataset
            loader = self.get_eval_dataloader(rows)
            examples = self.eval_examples if eval_examples is None else eval_examples
            compute_metrics = self.compute_metrics
            self.compute_metrics = None
            start = time.time()
            try:
                output = self.evaluation_loop(
                    loader,
                    description="Evaluation",
                    prediction_loss_only=True if compute_metrics is None else None,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=metric_key_prefix,
                )
            finally:
                self.compute_metrics = compute_metrics
            total = self.args.eval_batch_size * self.args.world_size
            output.metrics.update(
                speed_metrics(
                    metric_key_prefix,
                    start,
                    num_samples=output.num_samples,
                    num_steps=math.ceil(output.num_samples / total),
                )
            )
            if self.post_process_function is not None and self.compute_metrics is not None and self.args.should_save:
                answers = self.post_process_function(examples, rows, output.predictions)
                metrics = self.compute_metrics(answers)
                for key in list(metrics.keys()):
                    if not key.startswith(f"{metric_key_prefix}_"):
                        metrics[f"{metric_key_prefix}_{key}"] = metrics.pop(key)
                metrics.update(output.metrics)
            else:
                metrics = output.metrics
            if self.args.should_log:
                self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def predict(
            self, predict_dataset: Any, predict_examples: Any = None, ignore_keys: Any = None,
            metric_key_prefix: str = "test",
        ) -> PredictionOutput:  # fmt: skip
            loader = self.get_test_dataloader(predict_dataset)
            output = self.evaluation_loop(
                loader, description="Prediction", ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix
            )
            answers = self.post_process_function(predict_examples, predict_dataset, output.predictions, "predict")
            metrics = {f"{metric_key_prefix}_{k}": v for k, v in self.compute_metrics(answers).items()}
            return PredictionOutput(answers.predictions, answers.label_ids, {**metrics, **output.metrics})

    return QuestionAnsweringTrainer


def main(library: Any, command: list[str]) -> dict[str, float]:
    """Train a model that marks the beginning and end of an answer."""
    args, _, last = begin(library.TrainingArguments, command)
    tokenizer = tiny.tokenizer()
    contexts = [" ".join(f"w{3 + (i * k) % 50}" for k in range(1, 12)) for i in range(1, 33)]
    examples = Dataset.from_dict({"id": list(range(32)), "context": contexts})

    def prepare(rows: Any) -> Any:
        tokens = tokenizer(rows["context"])
        return {
            **tokens,
            "start_positions": [i % 5 for i in rows["id"]],
            "end_positions": [5 + i % 5 for i in rows["id"]],
        }

    with args.main_process_first(desc="train dataset map pre-processing"):
        rows = examples.map(prepare, batched=True)

    def post_processing(examples: Any, features: Any, predictions: Any, stage: str = "eval") -> EvalPrediction:
        starts, ends = (np.argmax(logits, axis=-1) for logits in predictions)
        found = np.stack([starts, ends], axis=1)
        wanted = np.array([[row["start_positions"], row["end_positions"]] for row in features])
        return EvalPrediction(predictions=found, label_ids=wanted)

    def compute_metrics(p: EvalPrediction) -> dict[str, float]:
        return {"exact_match": float((p.predictions == p.label_ids).all(axis=1).mean())}

    trainer = own_trainer(library.Trainer)(
        model=tiny.bert_reader(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        eval_examples=examples,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        post_process_function=post_processing,
        compute_metrics=compute_metrics,
    )
    return finish(trainer, args, last, rows, prediction=rows, tasks="question-answering", dataset_tags="squad")
