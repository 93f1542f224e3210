"""Evaluation: each row once, the loss weighed by tokens, memory bounded, several sets, transformers' options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

from tests import tiny
from trainwright import EarlyStoppingCallback, Trainer, TrainingArguments


def arguments(folder, **changes):
    return TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **changes)


def evaluator(folder, model=None, rows=None, metrics=None, **changes):
    rows = tiny.tokens(37, ragged=True) if rows is None else rows
    return Trainer(model or tiny.llama(), arguments(folder, **changes), eval_dataset=rows, compute_metrics=metrics)


def exact_loss(model, rows):
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        logits = model.eval()(**batch).logits.double()
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()).item()


@pytest.mark.parametrize("batch", [1, 4, 37])
def test_loss_is_the_mean_over_tokens_for_any_batch_size(tmp_path, batch):
    trainer = evaluator(tmp_path, per_device_eval_batch_size=batch)
    expected = exact_loss(trainer.model, trainer.eval_dataset)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)  # float32 logits


def accuracy(prediction):
    chosen = prediction.predictions.argmax(-1)
    return {"accuracy": float((chosen == prediction.label_ids).mean())}


def classification(folder, trainer=Trainer, **changes):
    return trainer(
        tiny.bert_classifier(),
        arguments(folder, **changes) if trainer is Trainer else theirs(folder, **changes),
        eval_dataset=tiny.sentences(21),
        data_collator=transformers.DataCollatorWithPadding(tiny.tokenizer()),
        compute_metrics=accuracy,
    )


def theirs(folder, **changes):
    return transformers.TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, **changes)


def test_metrics_and_predictions_are_those_of_transformers(tmp_path):
    ours, other = classification(tmp_path), classification(tmp_path, transformers.Trainer)
    mine, reference = ours.evaluate(), other.evaluate()
    assert mine["eval_accuracy"] == reference["eval_accuracy"]
    assert mine["eval_loss"] == pytest.approx(reference["eval_loss"], rel=1e-6)
    assert set(reference) - set(mine) <= {"eval_model_preparation_time"}
    a, b = ours.predict(tiny.sentences(9)), other.predict(tiny.sentences(9))
    np.testing.assert_allclose(a.predictions, b.predictions, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(a.label_ids, b.label_ids)
    assert set(b.metrics) - set(a.metrics) <= {"test_model_preparation_time"}


def test_predictions_of_different_lengths_are_filled_with_minus_100(tmp_path):
    rows = [{"input_ids": r["input_ids"], "labels": r["input_ids"]} for r in tiny.sentences(10)]
    collator = transformers.DataCollatorForSeq2Seq(tiny.tokenizer())

    def made(kind, args):
        return kind(tiny.llama(), args, data_collator=collator).predict(rows)

    ours = made(Trainer, arguments(tmp_path, per_device_eval_batch_size=3))
    other = made(transformers.Trainer, theirs(tmp_path, per_device_eval_batch_size=3))
    np.testing.assert_allclose(ours.predictions, other.predictions, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.label_ids, other.label_ids)


def test_preprocessed_logits_are_what_is_kept(tmp_path):
    seen = {}

    def metrics(prediction):
        seen["shape"], seen["kind"] = prediction.predictions.shape, prediction.predictions.dtype
        return {"right": 1.0}

    trainer = evaluator(tmp_path, metrics=metrics)
    trainer.preprocess_logits_for_metrics = lambda logits, labels: logits.argmax(-1)
    assert trainer.evaluate()["eval_right"] == 1.0
    assert seen == {"shape": (37, 12), "kind": np.int64}


def test_metrics_batch_by_batch(tmp_path):
    rows_seen, finals = [], []

    def metrics(prediction, compute_result):
        rows_seen.append(len(prediction.label_ids))
        finals.append(compute_result)
        return {"rows": float(sum(rows_seen))} if compute_result else {}

    result = evaluator(tmp_path, metrics=metrics, batch_eval_metrics=True).evaluate()
    assert result["eval_rows"] == 37
    assert rows_seen == [8, 8, 8, 8, 5]
    assert finals == [False, False, False, False, True]


def test_inputs_and_losses_for_metrics(tmp_path):
    def metrics(prediction):
        assert prediction.inputs.shape == (37, 12)
        assert prediction.losses.shape == (37,)
        return {"fine": 1.0}

    assert evaluator(tmp_path, metrics=metrics, include_for_metrics=["inputs", "loss"]).evaluate()["eval_fine"] == 1.0


def test_batches_may_be_kept_apart(tmp_path):
    def metrics(prediction):
        return {"batches": float(len(prediction.predictions))}

    assert evaluator(tmp_path, metrics=metrics, eval_do_concat_batches=False).evaluate()["eval_batches"] == 5


def test_loss_only(tmp_path):
    trainer = evaluator(tmp_path, metrics=accuracy, prediction_loss_only=True)
    assert trainer.predict(trainer.eval_dataset).predictions is None


def test_several_sets_with_their_own_metrics_and_a_mean_that_chooses_the_best(tmp_path):
    sets = {"near": tiny.line_rows(16), "far": tiny.line_rows(8)}
    heard = []

    class Hearing(EarlyStoppingCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            heard.append(kwargs["metrics"])

    trainer = Trainer(
        tiny.new_line(),
        arguments(
            tmp_path,
            max_steps=6,
            eval_strategy="steps",
            eval_steps=2,
            save_steps=2,
            learning_rate=0.1,
            load_best_model_at_end=True,
            metric_for_best_model="mean_loss",
        ),
        train_dataset=tiny.line_rows(16),
        eval_dataset=sets,
        compute_metrics={"near": lambda p: {"a": 1.0}, "far": lambda p: {"b": 2.0}},
        callbacks=[Hearing()],
    )
    trainer.train()
    assert len(heard) == 3
    last = heard[-1]
    assert (last["eval_near_a"], last["eval_far_b"]) == (1.0, 2.0)
    assert "eval_near_b" not in last
    assert last["eval_mean_loss"] == pytest.approx((last["eval_near_loss"] + last["eval_far_loss"]) / 2)
    assert trainer.state.best_metric == min(metrics["eval_mean_loss"] for metrics in heard)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")


def test_best_model_is_loaded_at_the_end(tmp_path):
    class Worse(Trainer):
        def evaluate(self, *args, **kwargs):
            return {"eval_score": -float(self.state.global_step)}

    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 1}
    args = arguments(
        tmp_path, **settings, load_best_model_at_end=True, metric_for_best_model="score", learning_rate=0.1
    )
    trainer = Worse(tiny.new_line(), args, train_dataset=tiny.line_rows(), eval_dataset=tiny.line_rows(4))
    weights = {}

    class Keep(EarlyStoppingCallback):
        def on_train_begin(self, *args, **kwargs):
            pass

        def on_step_end(self, args, state, control, **kwargs):
            weights[state.global_step] = kwargs["model"].layer.weight.clone()

    trainer.add_callback(Keep())
    trainer.train()
    assert torch.equal(trainer.model.layer.weight, weights[1])
    assert (tmp_path / "checkpoint-1").is_dir()


def test_early_stopping(tmp_path):
    class Flat(Trainer):
        def evaluate(self, *args, **kwargs):
            metrics = {"eval_score": 1.0}
            self.control = self.callback_handler.fire("evaluate", self.args, self.state, self.control, metrics=metrics)
            return metrics

    args = arguments(
        tmp_path, max_steps=20, eval_strategy="steps", eval_steps=1, save_steps=1, metric_for_best_model="score"
    )
    rows = tiny.line_rows()
    stop = EarlyStoppingCallback(early_stopping_patience=3)
    trainer = Flat(tiny.new_line(), args, train_dataset=rows, eval_dataset=rows, callbacks=[stop])
    assert trainer.train().global_step == 4


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.tokens(37, ragged=True))


def test_streams_and_ready_loaders(tmp_path):
    whole = evaluator(tmp_path).evaluate()["eval_loss"]
    stream = evaluator(tmp_path, rows=Stream()).evaluate()["eval_loss"]
    loader = DataLoader(tiny.tokens(37, ragged=True), batch_size=5)
    ready = Trainer(tiny.llama(), arguments(tmp_path), eval_loader=loader).evaluate()["eval_loss"]
    assert stream == pytest.approx(whole, rel=1e-6)
    assert ready == pytest.approx(whole, rel=1e-6)


def test_evaluation_does_not_disturb_training(tmp_path):
    def weights(**changes):
        args = arguments(tmp_path, max_steps=6, save_strategy="no", **changes)
        rows = tiny.tokens(24)
        trainer = Trainer(tiny.llama(dropout=0.1), args, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    assert torch.equal(weights(), weights(eval_strategy="steps", eval_steps=2, eval_on_start=True))


def test_full_evaluation_in_bfloat16(tmp_path):
    trainer = evaluator(tmp_path, metrics=lambda p: {"kind": float(p.predictions.dtype == np.float32)})
    exact = trainer.evaluate()["eval_loss"]
    half = evaluator(tmp_path, bf16_full_eval=True)
    assert half.evaluate()["eval_loss"] == pytest.approx(exact, rel=1e-2)  # 8 bits of mantissa
    assert next(half.model.parameters()).dtype == torch.bfloat16


def test_seq2seq_generates(tmp_path):
    import trainwright

    rows = [{"input_ids": r["input_ids"], "labels": r["labels"]} for r in tiny.tokens(6)]
    settings = {
        "predict_with_generate": True,
        "generation_max_length": 9,
        "use_cpu": True,
        "per_device_eval_batch_size": 6,
    }

    def made(library):
        args = library.Seq2SeqTrainingArguments(str(tmp_path), **settings)
        return library.Seq2SeqTrainer(tiny.t5(), args, processing_class=tiny.tokenizer()).predict(rows)

    ours, other = made(trainwright), made(transformers)
    np.testing.assert_array_equal(ours.predictions, other.predictions)
    assert ours.metrics["test_loss"] == pytest.approx(other.metrics["test_loss"], rel=1e-5)
