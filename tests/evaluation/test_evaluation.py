"""Evaluation: each row once, the loss weighed by tokens, memory bounded, several sets, transformers' options."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset

import trainwright
from tests import installed, tiny
from trainwright import ConfigError, DataError, EarlyStoppingCallback, Trainer, TrainingArguments
from trainwright.data.sampling.packing import PackedRows
from trainwright.data.text.text_collators import FlatBatch
from trainwright.evaluation.prediction_buffer import Collector


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


class MeanOfABatch(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"return_flash_attn_kwargs": True, "return_seq_idx": True}])
@pytest.mark.parametrize("kind", [Trainer, pytest.param(MeanOfABatch, marks=installed.true_mean)])
def test_documents_in_one_row_are_evaluated_as_rows(tmp_path, kind, more):
    rows = [{"input_ids": r["input_ids"], "labels": r["input_ids"]} for r in tiny.sentences(11)]
    padding = transformers.DataCollatorForSeq2Seq(tiny.tokenizer())
    flat = transformers.DataCollatorWithFlattening(**more)
    seen = []

    def metrics(prediction):
        right = (prediction.predictions[:, :-1].argmax(-1) == prediction.label_ids[:, 1:]).sum(-1)
        seen.append(right)
        return {"right": float(right.mean())}

    def made(trainer, args, collator, function=metrics):
        return trainer(tiny.llama(), args, data_collator=collator, eval_dataset=rows, compute_metrics=function)

    sizes = {"per_device_eval_batch_size": 4}
    ours, other = (
        made(kind, arguments(tmp_path, **sizes), flat),
        made(transformers.Trainer, theirs(tmp_path, **sizes), padding),
    )
    mine, reference = ours.evaluate(), other.evaluate()
    assert mine["eval_right"] == reference["eval_right"]
    np.testing.assert_array_equal(*seen)
    expected = reference if kind is MeanOfABatch else made(kind, arguments(tmp_path, **sizes), padding).evaluate()
    loss_alone = made(kind, arguments(tmp_path, **sizes), flat, None)
    for metrics_of in (mine, loss_alone.evaluate()):
        assert metrics_of["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-5)
    assert loss_alone.evaluation_loop(loss_alone.get_eval_dataloader(), "Evaluation").num_samples == 11
    a, b = ours.predict(rows), other.predict(rows)
    real = b.label_ids != -100
    np.testing.assert_allclose(a.predictions[real], b.predictions[real], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(a.label_ids[:, 1:], b.label_ids[:, 1:])


@pytest.mark.parametrize("metrics", [None, accuracy], ids=["loss alone", "metrics"])
def test_documents_whose_beginnings_have_labels_are_evaluated_as_rows(tmp_path, metrics):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, tiny.VOCABULARY, (8,), generator=generator) for _ in range(3)]
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    data = [{"input_ids": row, "labels": row.clone(), "position_ids": positions} for row in rows]
    trainer = evaluator(tmp_path, rows=data, metrics=metrics, per_device_eval_batch_size=1)
    losses = []
    with torch.no_grad():
        for document in (part for row in rows for part in row.split([5, 3])):
            logits = trainer.model.eval()(input_ids=document[None]).logits[0, :-1]
            losses.append(functional.cross_entropy(logits, document[1:], reduction="none"))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)


def test_packed_rows_are_evaluated_by_document(tmp_path):
    class Documents(list):
        lengths = property(lambda self: [len(row["input_ids"]) for row in self])

        def cut(self, row, start, end):
            return {name: column[start:end] for name, column in self[row].items()}

    rows = Documents(
        {name: torch.tensor(r["input_ids"]) for name in ("input_ids", "labels")} for r in tiny.sentences(13)
    )
    packed = PackedRows(rows, "bfd", 24)
    args = arguments(tmp_path, per_device_eval_batch_size=2, remove_unused_columns=False)
    trainer = Trainer(tiny.llama(), args, data_collator=FlatBatch())
    found = trainer.predict(packed)
    documents = [one for index in range(len(packed)) for one in packed.documents(index)]
    assert len(found.predictions) == len(found.label_ids) == len(documents) == 13
    for ids, logits, document in zip(found.label_ids, found.predictions, documents, strict=True):
        real = len(document["input_ids"])
        assert ids[1:real].tolist() == document["input_ids"][1:].tolist()
        with torch.no_grad():
            alone = trainer.model(document["input_ids"][None]).logits[0]
        np.testing.assert_allclose(logits[:real], alone, rtol=1e-4, atol=1e-5)


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


class OneForEveryRow(tiny.Line):
    """Gives the loss of every row where nothing is learned from it."""

    def forward(self, x, labels=None):
        outputs = super().forward(x, labels)
        if not self.training:
            outputs["loss"] = (outputs["logits"] - labels) ** 2
        return outputs


class OfItsOwn(Trainer):
    def prediction_step(self, model, inputs, *given, **kwargs):
        _, logits, labels = super().prediction_step(model, inputs, *given, **kwargs)
        return (logits - labels) ** 2, logits, labels


@pytest.mark.parametrize("by_batch", [True, False])
def test_losses_for_metrics_are_one_for_every_row(tmp_path, by_batch):
    def run(kind, model, args):
        found = []

        def metrics(prediction, compute_result=True):
            found.append(torch.as_tensor(prediction.losses).double())
            return {"rows": float(sum(map(len, found)))}

        trainer = kind(model, args, eval_dataset=tiny.line_rows(10), compute_metrics=metrics)
        evaluated = trainer.evaluate()
        assert evaluated["eval_rows"] == 10
        return torch.cat(found), evaluated["eval_loss"]

    settings = {"per_device_eval_batch_size": 4, "batch_eval_metrics": by_batch, "include_for_metrics": ["loss"]}
    batches, mean = run(Trainer, tiny.new_line(), arguments(tmp_path, **settings))
    assert torch.equal(batches, run(transformers.Trainer, tiny.new_line(), theirs(tmp_path, **settings))[0])
    with torch.no_grad():
        rows = {name: torch.stack([row[name] for row in tiny.line_rows(10)]) for name in ("x", "labels")}
        exact = ((tiny.new_line()(rows["x"])["logits"] - rows["labels"]) ** 2).double()
    torch.manual_seed(0)
    for kind, model in ((Trainer, OneForEveryRow()), (OfItsOwn, tiny.new_line())):
        each, loss = run(kind, model, arguments(tmp_path, **settings))
        assert each == pytest.approx(exact, rel=1e-6)
        assert loss == pytest.approx(mean, rel=1e-6)


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
    assert len(heard) == 9  # both sets, as with transformers, and their mean
    near, far, mean = heard[-3:]
    assert (near["eval_near_a"], far["eval_far_b"]) == (1.0, 2.0)
    assert "eval_near_b" not in near
    assert mean == {"eval_mean_loss": pytest.approx((near["eval_near_loss"] + far["eval_far_loss"]) / 2)}
    assert mean.items() <= trainer.state.log_history[-2].items()
    assert trainer.state.best_metric == min(metrics["eval_mean_loss"] for metrics in heard[2::3])
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")


def test_the_metrics_of_a_set_are_found_by_its_rows_and_by_the_prefix(tmp_path):
    sets = {"far": tiny.line_rows(8), "not_far": tiny.line_rows(4)}
    sets["again"] = sets["far"]
    functions = {name: lambda p, name=name: {f"of_{name}": 1.0} for name in sets}
    trainer = Trainer(tiny.new_line(), arguments(tmp_path), eval_dataset=sets, compute_metrics=functions)

    def found(rows, prefix="eval"):
        return [name for name in trainer.evaluate(rows, metric_key_prefix=prefix) if "_of_" in name]

    other = tiny.line_rows(2)
    assert found(sets["not_far"]) == ["eval_of_not_far"]
    assert found(sets["far"]) == ["eval_of_far"]
    assert found(sets["far"], "eval_again") == ["eval_again_of_again"]
    assert found(other, "test_far") == ["test_far_of_far"]
    assert found(other, "test_not_far") == ["test_not_far_of_not_far"]  # and not that of `far`
    assert found(other) == []
    assert "test_of_not_far" in trainer.predict(sets["not_far"]).metrics
    trainer.compute_metrics = {"far": functions["far"]}
    assert found(other) == ["eval_of_far"]
    assert found(other, "eval_other") == []


@dataclass
class Ranks:
    """What the strategy of several ranks gathers, called for one after another; the last has all."""

    gathered: list = field(default_factory=list)
    is_distributed: bool = True

    def gather_shards(self, mine):
        self.gathered.append(mine)
        return self.gathered


@pytest.mark.parametrize("join", [True, False])
@pytest.mark.parametrize("order", [None, np.array([4, 2, 0, 9, 7, 5, 3, 1, 8, 6, 10])])
def test_outputs_of_any_form_come_from_all_ranks_in_the_order_of_the_rows(join, order):
    sizes, widths = [3, 3, 3, 2], [2, 4, 3, 1]
    flat = torch.arange(11 * 4.0).reshape(11, 4)
    rows = flat if order is None else flat[order]
    batches = list(zip(rows.split(sizes), widths, strict=True))

    def outputs(batch, width):
        return {"wide": batch[:, :width], "pair": (batch[:, 0].long(), [{"deep": batch[:, None, :2]}])}

    ranks, found = Ranks(), {}
    for rank in range(2):
        collector = Collector(join, True, False)
        for batch, width in batches[rank::2]:
            collector.add(None, outputs(batch, width), None, [str(int(row[0])) for row in batch], len(batch))
        if rank:
            collector.add(None, outputs(rows[:1], 4), None, ["of no row"], 0)
        found = collector.of_all_ranks(ranks, order if rank else None)
    assert found["labels"] is None
    if not join:
        for one, (batch, width) in zip(found["predictions"], batches, strict=True):
            np.testing.assert_array_equal(one["wide"], batch[:, :width])
            np.testing.assert_array_equal(one["pair"][1][0]["deep"], batch[:, None, :2])
        return
    wide = np.full((11, 4), -100.0)
    for (batch, width), first in zip(batches, (0, 3, 6, 9), strict=True):
        wide[first : first + len(batch), :width] = batch[:, :width]
    made = found["predictions"]
    np.testing.assert_array_equal(made["wide"], wide if order is None else wide[np.argsort(order)])
    np.testing.assert_array_equal(made["pair"][0], flat[:, 0])
    np.testing.assert_array_equal(made["pair"][1][0]["deep"], flat[:, None, :2])
    assert found["inputs"] == [str(int(row[0])) for row in flat]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [transformers, trainwright])
def test_several_sets_call_an_overridden_evaluate_once_for_each(tmp_path, engine):
    calls, heard = [], []

    class Own(engine.Trainer):
        def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
            calls.append((eval_dataset, metric_key_prefix))
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    class Hearing(engine.TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            heard.append({name for name in metrics if name.endswith("_loss")})

    settings = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "no", "use_cpu": True}
    trainer = Own(
        tiny.new_line(),
        engine.TrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, **settings),
        train_dataset=tiny.line_rows(8),
        eval_dataset={"near": tiny.line_rows(4), "far": tiny.line_rows(4)},
        callbacks=[Hearing()],
    )
    trainer.train()
    assert calls == [(None, "eval"), ("near", "eval_near"), ("far", "eval_far")]
    assert heard[:2] == [{"eval_near_loss"}, {"eval_far_loss"}]
    assert heard[2:] == ([{"eval_mean_loss"}] if engine is trainwright else [])


def test_a_best_metric_of_none_of_several_sets_is_refused_at_once(tmp_path):
    def made(trainer=Trainer, **changes):
        args = arguments(tmp_path, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, **changes)
        return trainer(tiny.new_line(), args, eval_dataset={"a": tiny.line_rows(4), "b": tiny.line_rows(4)})

    with pytest.raises(
        ConfigError, match=r"'loss' is of none of the evaluation sets 'a', 'b'.* Use 'a_loss', or 'mean_"
    ):
        made()

    class Own(Trainer):
        def evaluate(self, *args, **kwargs):
            return {"eval_loss": 1.0}

    for name in ("b_loss", "eval_a_loss", "mean_loss"):
        made(metric_for_best_model=name)
    made(Own)


class Numbers(Trainer):
    def evaluation_metrics(self, prefix):
        return {f"{prefix}_own": np.float32(0.5)}


def test_metrics_of_any_kind_of_number_are_kept_as_plain_ones(tmp_path):
    metrics = {
        "nested": {"a": {3: np.int64(3)}, "t": torch.tensor(2.5)},
        "array": np.array([1, 2]),
        "bfloat16": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
        "one": np.array([7]),
        "bool": np.bool_(True),
        "text": "fine",
    }
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    args, rows = arguments(tmp_path, **settings), tiny.line_rows(8)
    trainer = Numbers(tiny.new_line(), args, train_dataset=rows, eval_dataset=rows, compute_metrics=lambda p: metrics)
    trainer.train()
    trainer.log({"seen": np.float32(0.25)})
    trainer.save_metrics("eval", {"count": np.int32(2)})
    expected = {
        "eval_nested": {"a": {"3": 3}, "t": 2.5},
        "eval_array": [1, 2],
        "eval_bfloat16": [0.5, 1.0],
        "eval_one": 7,
        "eval_bool": True,
        "eval_text": "fine",
        "eval_own": 0.5,
    }
    logged = next(entry for entry in trainer.state.log_history if "eval_own" in entry)
    assert {name: logged[name] for name in expected} == expected
    assert trainer.state.log_history[-1]["seen"] == 0.25
    saved = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert expected.items() <= saved[0].items()
    trainer.log_metrics("eval", logged)


def test_what_no_log_can_hold_is_refused_at_the_first_evaluation_and_never_later(tmp_path, caplog):
    given = iter([{"fine": 1.0}, {"fine": 2.0, "odd": {"x": object()}}, {"fine": 3.0, "odd": {"x": object()}}])
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}

    def made(metrics):
        rows = tiny.line_rows(8)
        return Trainer(
            tiny.new_line(),
            arguments(tmp_path, **settings),
            train_dataset=rows,
            eval_dataset=rows,
            compute_metrics=metrics,
        )

    trainer = made(lambda p: next(given))
    assert trainer.train().global_step == 3
    assert [entry["eval_fine"] for entry in trainer.state.log_history if "eval_fine" in entry] == [1.0, 2.0, 3.0]
    assert caplog.text.count("'eval_odd.x' is a object; logs and metrics hold numbers") == 1
    with pytest.raises(DataError, match=r"'eval_odd\[1\]' is a object"):
        made(lambda p: {"odd": [1, object()]}).train()


@pytest.mark.slow
def test_nan_is_never_the_best_and_does_not_renew_patience(tmp_path, caplog):
    def run(values, patience):
        given = iter(values)
        settings = {"max_steps": len(values), "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
        choice = {"load_best_model_at_end": True, "metric_for_best_model": "f1", "greater_is_better": True}
        trainer = Trainer(
            tiny.new_line(),
            arguments(tmp_path, **settings, **choice, save_total_limit=1),
            train_dataset=tiny.line_rows(8),
            eval_dataset=tiny.line_rows(4),
            compute_metrics=lambda p: {"f1": next(given)},
            callbacks=[EarlyStoppingCallback(patience)],
        )
        trainer.train()
        return trainer.state.global_step, trainer.state.best_metric, trainer.state.best_global_step

    nan = float("nan")
    assert run([nan, 0.2, 0.5, 0.9, 0.95], 2) == (5, 0.95, 5)
    assert run([0.5, nan, np.float64("nan"), 0.9], 2) == (3, 0.5, 1)
    assert "the last weights stay" not in caplog.text
    assert run([nan, nan, nan], 3) == (3, None, None)
    assert caplog.text.count("no evaluation found a best model that is saved; the last weights stay.") == 1


def test_a_best_metric_that_is_no_number_is_named(tmp_path):
    settings = {"max_steps": 1, "eval_strategy": "steps", "save_strategy": "no", "metric_for_best_model": "f1"}
    args, rows = arguments(tmp_path, eval_steps=1, **settings), tiny.line_rows(8)
    metrics = lambda p: {"f1": np.array([0.1, 0.2])}  # noqa: E731
    with pytest.raises(ConfigError, match=r"metric_for_best_model='f1' is a list, \[0.1, 0.2\]; only a number"):
        Trainer(tiny.new_line(), args, train_dataset=rows, eval_dataset=rows, compute_metrics=metrics).train()


@pytest.mark.parametrize("engine", [transformers, trainwright])
def test_predict_with_metrics_batch_by_batch_returns_the_predictions(tmp_path, engine):
    args = engine.TrainingArguments(str(tmp_path), batch_eval_metrics=True, use_cpu=True, disable_tqdm=True)
    trainer = engine.Trainer(tiny.new_line(), args, compute_metrics=lambda p, compute_result: {"fine": 1.0})
    output = trainer.predict(tiny.line_rows(20))
    assert output.predictions.shape == output.label_ids.shape == (20,)
    assert output.metrics["test_fine"] == 1.0


@pytest.mark.parametrize(
    ("kind", "filled"), [(torch.bool, 0), (torch.uint8, 0), (torch.int8, -100), (torch.half, -100)]
)
def test_rows_are_filled_with_what_their_type_can_hold(tmp_path, kind, filled):
    class Masks(torch.nn.Module):
        def forward(self, input_ids, labels=None):
            return {"loss": torch.zeros(()), "mask": torch.ones_like(input_ids, dtype=kind)}

    rows = [{"input_ids": torch.ones(n, dtype=torch.long), "labels": torch.ones(n)} for n in (2, 5, 3)]
    trainer = Trainer(Masks(), arguments(tmp_path, per_device_eval_batch_size=1))
    predictions = trainer.predict(rows).predictions
    assert predictions.tolist() == [[1, 1, *[filled] * 3], [1] * 5, [1, 1, 1, filled, filled]]


class Given(torch.nn.Module):
    """Returns what its rows hold."""

    def forward(self, values, labels=None):
        return {"loss": torch.zeros(()), "logits": values}


COLUMNS = {
    "fractions last": [[1, 0], [2, 1], [0.5, 0.25]],
    "large numbers last": [np.ones(2, np.uint8), np.full(2, 300)],
    "switches first": [np.array([True, False]), np.array([2, 3])],
    "switches and fractions": [np.array([True, False]), np.array([0.5, 3], np.float32)],
    "half first": [np.array([1, 2], np.float16), np.array([70000.0, 1e-9], np.float32)],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_what_batches_give_is_of_a_type_that_holds_all(tmp_path, name):
    batches = [{"values": torch.as_tensor(column), "labels": torch.as_tensor(column)} for column in COLUMNS[name]]
    output = Trainer(Given(), arguments(tmp_path), eval_loader=batches).evaluation_loop(batches, "Prediction")
    expected = np.concatenate([batch["values"].numpy() for batch in batches])
    for found in (output.predictions, output.label_ids):
        assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_padding_is_that_of_the_type_of_all(tmp_path):
    batches = [{"values": torch.ones(2, 2, dtype=torch.uint8)}, {"values": torch.full((1, 3), 300)}]
    batches += [{"values": torch.ones(1, 1, dtype=torch.uint8)}]
    output = Trainer(Given(), arguments(tmp_path)).evaluation_loop(batches, "Prediction")
    assert output.predictions.tolist() == [[1, 1, -100], [1, 1, -100], [300, 300, 300], [1, -100, -100]]


def boxes(number):
    return {"boxes": torch.full((1 + number % 2, 4), float(number)), "class_labels": torch.arange(1 + number % 2)}


def listed(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


TARGETS = {
    "boxes of every image": boxes,
    "as many boxes as images": lambda number: {"boxes": torch.full((2, 4), float(number))},
    "masks of every image": lambda number: torch.full((1 + number % 3, 2, 2), float(number)),
    "texts": lambda number: f"row {number}",
    "numbers": lambda number: number,
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_labels_in_a_list_are_one_for_every_row(tmp_path, name, batch):
    rows = [{"values": torch.ones(3), "labels": TARGETS[name](number)} for number in range(7)]

    def collate(chosen):
        return {**listed(chosen), "values": torch.stack([row["values"] for row in chosen])}

    args = arguments(tmp_path, per_device_eval_batch_size=batch, remove_unused_columns=False)
    output = Trainer(Given(), args, data_collator=collate).predict(rows)
    assert len(output.label_ids) == len(output.predictions) == 7
    for found, row in zip(output.label_ids, rows, strict=True):
        assert plain(found) == plain(row["labels"])


def plain(value):
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


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


@pytest.mark.parametrize("kind", [EarlyStoppingCallback, transformers.EarlyStoppingCallback], ids=["ours", "theirs"])
@pytest.mark.parametrize(
    ("scores", "greater", "threshold", "stopped"),
    [
        ([1, 2, 3, 4, 5, 6], True, 0.0, 6),
        ([6, 5, 4, 3, 2, 1], True, 0.0, 3),
        ([6, 5, 4, 3, 2, 1], False, 0.0, 6),
        ([1, 2, 3, 4, 5, 6], False, 0.0, 3),
        ([1, 3, 2, 4, 3, 3], True, 0.0, 6),
        ([1, 1.5, 2, 2.5, 3, 3.5], True, 0.5, 3),  # as much as the threshold is no improvement
        ([1, 2, 3, 4, 5, 6], True, 0.5, 6),
        ([6, 5.5, 5, 4.5, 4, 3.5], False, 0.5, 3),
    ],
)
def test_early_stopping_knows_which_way_is_better(tmp_path, kind, scores, greater, threshold, stopped):
    given, rows = iter(scores), tiny.line_rows(8)
    args = arguments(
        tmp_path, max_steps=len(scores), eval_strategy="steps", eval_steps=1, save_strategy="no",
        metric_for_best_model="score", greater_is_better=greater,
    )  # fmt: skip
    trainer = Trainer(
        tiny.new_line(), args, train_dataset=rows, eval_dataset=rows,
        compute_metrics=lambda _: {"score": float(next(given))}, callbacks=[kind(2, threshold)],
    )  # fmt: skip
    assert trainer.train().global_step == stopped


THEIRS = pytest.param(transformers, marks=pytest.mark.slow)


@installed.todays_transformers
@pytest.mark.parametrize("engine", [THEIRS, trainwright], ids=["transformers", "trainwright"])
@pytest.mark.parametrize(
    ("settings", "evaluated"),
    [
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 4}, [4, 6, 8]),
        ({"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 5}, [6, 8]),
        ({"eval_strategy": "steps", "eval_steps": 3, "eval_delay": 2}, [3, 6, 8]),
        ({"eval_strategy": "epoch", "eval_delay": 2}, [4, 6, 8]),
        ({"eval_strategy": "epoch", "eval_delay": 2.5}, [6, 8]),
    ],
)
def test_evaluations_wait_for_the_delay(tmp_path, engine, settings, evaluated):
    args = engine.TrainingArguments(
        str(tmp_path), max_steps=8, per_device_train_batch_size=4, save_strategy="no", logging_strategy="no",
        use_cpu=True, disable_tqdm=True, report_to="none", **settings,
    )  # fmt: skip
    rows = tiny.line_rows(8)  # two steps of a pass
    trainer = engine.Trainer(tiny.new_line(), args, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == evaluated


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
    assert next(half.model.parameters()).dtype == torch.float32  # as it was before


def test_seq2seq_generates(tmp_path):
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


class Paired(torch.nn.Module):
    """Gives a matrix over the columns of each row, as attentions are."""

    def forward(self, x, labels=None):
        return {"loss": (x**2).mean(), "logits": x, "pairs": x[:, None, :, None] * x[:, None, None, :]}


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("lengths", [(3, 3, 1, 1), (1, 1, 3, 3), (3, 3, 2, 2)])
def test_outputs_that_cannot_be_joined_are_refused_as_by_transformers(tmp_path, lengths):
    rows = [{"x": torch.full((n,), 2.0), "labels": torch.tensor(1.0)} for n in lengths]
    settings = {"per_device_eval_batch_size": 2, "report_to": "none"}
    made = Trainer(Paired(), arguments(tmp_path, **settings), stacked)
    with pytest.raises(DataError, match=r"cannot be joined to those before, of shape .*eval_do_concat_batches=False"):
        made.predict(rows)
    other = transformers.Trainer(Paired(), theirs(tmp_path, **settings), stacked)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        other.predict(rows)
    made.args.eval_do_concat_batches = False
    assert [pairs.shape[2] for _, pairs in made.predict(rows).predictions] == [lengths[0], lengths[2]]
