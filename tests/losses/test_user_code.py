"""What the user's code does with a batch, and which metrics it gives, against transformers and loops by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

import trainwright
from tests import tiny
from trainwright import ConfigError, Trainer, TrainingArguments
from trainwright.batch import map_tensors, row_count
from trainwright.losses.out_of_memory import split

ENGINES = [trainwright, transformers]


def arguments(folder, engine=trainwright, **changes):
    settings = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", **changes}
    return engine.TrainingArguments(str(folder), **settings)


def squared(prediction):
    return {"mse": float(((prediction.predictions - prediction.label_ids) ** 2).mean())}


def popping(inputs):
    return inputs.pop("labels")


def emptying(inputs):
    labels = inputs["labels"]
    for name in [name for name in inputs if name != "x"]:
        del inputs[name]
    return labels


def overwriting(inputs):
    labels = inputs["labels"].clone()
    inputs["labels"].zero_()
    inputs["note"] = "mine"
    return labels


def with_loss(engine, take):
    class Own(engine.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = take(inputs)
            outputs = model(x=inputs["x"])
            loss = functional.mse_loss(outputs["logits"], labels)
            inputs["x"].zero_()
            return (loss, outputs) if return_outputs else loss

    return Own


@pytest.mark.parametrize("take", [popping, emptying, overwriting])
@pytest.mark.parametrize("changes", [{}, {"include_for_metrics": ["inputs", "loss"]}, {"batch_eval_metrics": True}])
def test_compute_loss_may_do_to_its_inputs_what_it_likes(tmp_path, take, changes):
    seen = []

    def metrics(prediction, compute_result=True):
        seen.append(prediction)
        return squared(prediction)

    rows = tiny.line_rows(6)
    model = tiny.new_line()
    model.main_input_name = "x"
    settings = arguments(tmp_path, per_device_eval_batch_size=6, **changes)
    found = with_loss(trainwright, take)(model, settings, eval_dataset=rows, compute_metrics=metrics).evaluate()
    x, labels = (torch.stack([row[name] for row in rows]) for name in ("x", "labels"))
    expected = functional.mse_loss(model(x)["logits"], labels).item()
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert found["eval_mse"] == pytest.approx(expected, rel=1e-6)
    if "include_for_metrics" in changes:
        assert np.array_equal(seen[0].inputs, x.numpy())


def test_labels_that_compute_loss_pops_reach_the_metrics_as_with_transformers(tmp_path):
    class Popping:
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = functional.mse_loss(outputs["logits"], labels)
            return (loss, outputs) if return_outputs else loss

    ours, theirs = (
        type("Own", (Popping, engine.Trainer), {})(
            tiny.new_line(), arguments(tmp_path, engine), eval_dataset=tiny.line_rows(6), compute_metrics=squared
        ).evaluate()
        for engine in ENGINES
    )
    for name in ("eval_loss", "eval_mse"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6)


def test_an_override_of_prediction_step_may_take_the_batch_apart(tmp_path):
    class Own(Trainer):
        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            labels = inputs.pop("labels")
            logits = model(x=inputs.pop("x").mul_(1.0))["logits"].detach()
            return None, logits, labels

    model = tiny.new_line()
    model.main_input_name = "x"
    settings = arguments(tmp_path, include_for_metrics=["inputs"])
    seen = []
    trainer = Own(model, settings, eval_dataset=tiny.line_rows(5), compute_metrics=lambda p: seen.append(p) or {})
    trainer.evaluate()
    assert seen[0].inputs.shape == (5, 4)
    assert seen[0].label_ids.shape == (5,)
    assert trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation").num_samples == 5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("take", [popping, lambda inputs: inputs.get("labels") * 1.0])
def test_predicting_rows_without_labels_runs_the_model(tmp_path, engine, take):
    rows = [{"x": row["x"]} for row in tiny.line_rows(6)]
    model = tiny.new_line()
    trainer = with_loss(engine, take)(model, arguments(tmp_path, engine), compute_metrics=squared)
    output = trainer.predict(rows)
    expected = model(torch.stack([row["x"] for row in rows]))["logits"].detach().numpy()
    assert np.allclose(output.predictions, expected, atol=1e-6)
    assert output.label_ids is None
    assert not {"test_loss", "test_mse"} & set(output.metrics)


class Pairs(nn.Module):
    """Two views of a row as one vector each; its loss needs no labels, and is no matter of its forward."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return {"logits": self.layer(x)}


def test_a_loss_that_needs_no_labels_is_computed_in_prediction_too(tmp_path):
    class Contrast(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            first, second = (model(inputs[name])["logits"] for name in ("first", "second"))
            loss = functional.mse_loss(first, second)
            return (loss, {"loss": loss, "logits": first}) if return_outputs else loss

    rows = [{"first": row["x"], "second": row["x"] + 1} for row in tiny.line_rows(6)]
    trainer = Contrast(Pairs(), arguments(tmp_path, remove_unused_columns=False), eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.predict(rows).metrics["test_loss"], rel=1e-6)


class Clip(nn.Module):
    """Knows of no labels, and returns its loss by itself, as CLIP."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, return_loss=True):
        logits = self.layer(x)
        return {"loss": logits.square().mean(), "logits": logits}


class ClipInATuple(Clip):
    def forward(self, x, return_loss=True):
        return tuple(super().forward(x).values())


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, labels=None):
        return {"logits": self.layer(x)}


@pytest.mark.parametrize("changes", [{}, {"eval_do_concat_batches": False}, {"batch_eval_metrics": True}])
@pytest.mark.parametrize(("model", "called"), [(Clip, True), (ClipInATuple, True), (Silent, False)])
def test_metrics_without_labels_are_asked_for_as_transformers_does(tmp_path, model, called, changes):
    rows = [{"x": row["x"]} for row in tiny.line_rows(6)]
    results = []
    for engine in ENGINES:
        torch.manual_seed(0)
        asked = []

        def metrics(prediction, compute_result=True, asked=asked):
            asked.append(prediction.label_ids)
            return {"found": 1.0}

        trainer = engine.Trainer(model(), arguments(tmp_path, engine, **changes), compute_metrics=metrics)
        output = trainer.predict(rows)
        kind = None if output.label_ids is None else type(output.label_ids)
        results.append((bool(asked), "test_found" in output.metrics, kind, output.metrics.get("test_loss")))
    ours, theirs = results
    assert ours[:2] == theirs[:2] == (called, called)
    assert (ours[2] is None) == (theirs[2] is None)
    assert (ours[3] or 0) == pytest.approx(theirs[3] or 0, rel=1e-5)


# ---- which rows a batch has


IMAGES = [torch.zeros(3, 5, 7), torch.zeros(3, 6, 4)]
BOXES = [{"boxes": torch.zeros(4, 4)}, {"boxes": torch.zeros(1, 4)}]
BATCHES = {
    "a tensor": (torch.zeros(4, 2), 4),
    "texts first": ({"texts": ["a", "b"], "x": torch.zeros(5, 2)}, 5),
    "names of names first": ({"names": [["a"], ["b", "c"]], "x": torch.zeros(3)}, 3),
    "texts alone": ({"texts": ["a", "b", "c"]}, 3),
    "a list of texts": (["a", "b", "c"], 3),
    "a number first": ({"temperature": torch.tensor(1.0), "x": torch.zeros(6, 1)}, 6),
    "an array of numpy's": ({"x": np.zeros((7, 2))}, 7),
    "targets of detection first": ({"labels": BOXES, "pixel_values": torch.zeros(2, 3, 8, 8)}, 2),
    "images of different sizes": (([torch.zeros(3, 5, 7), torch.zeros(1, 6, 4)], BOXES), 2),
    "texts, and inputs in a dict": ({"texts": ["a", "b"], "inputs": {"x": torch.zeros(2, 3)}}, 2),
    "two inputs in a tuple": ((torch.zeros(3, 2), torch.zeros(3)), 3),
    "inputs in a dict": ({"inputs": {"x": torch.zeros(9, 3), "y": torch.zeros(9)}}, 9),
    "an empty dict": ({}, 1),
    "a number": ({"x": 3.0}, 1),
}


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    labels: torch.Tensor
    note: str = "mine"


@dataclass(slots=True)
class Outputs:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    note: str = field(init=False, default="mine")


class AsAttrs:
    """A class as attrs makes it."""

    __attrs_attrs__ = (SimpleNamespace(name="x"), SimpleNamespace(name="labels"))
    __slots__ = ("labels", "x")

    def __init__(self, x, labels):
        self.x, self.labels = x, labels


class Named(NamedTuple):
    x: torch.Tensor
    labels: torch.Tensor


class NamedOutputs(NamedTuple):
    logits: torch.Tensor
    loss: torch.Tensor | None


BATCHES |= {
    "a dataclass": (Batch(torch.zeros(4, 2), torch.zeros(4)), 4),
    "a dataclass in a dict": ({"inputs": Batch(torch.zeros(4, 2), torch.zeros(4))}, 4),
    "a class of attrs": (AsAttrs(torch.zeros(4, 2), torch.zeros(4)), 4),
    "a named tuple": (Named(torch.zeros(4, 2), torch.zeros(4)), 4),
}


class OfBatches(tiny.Line):
    """Takes a batch as it is, and returns one kind of outputs."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, batch, labels=None):
        x, labels = (batch, labels) if labels is not None else (batch.x, batch.labels)
        outputs = super().forward(x, labels)
        return self.kind(loss=outputs["loss"], logits=outputs["logits"])


@pytest.mark.parametrize("returned", [Outputs, NamedOutputs, SimpleNamespace, dict])
@pytest.mark.parametrize("kind", [Batch, AsAttrs, Named])
def test_batches_and_outputs_of_the_users_classes(tmp_path, kind, returned):
    rows = tiny.line_rows(5)
    torch.manual_seed(0)
    model = OfBatches(returned)
    whole = {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}
    with torch.no_grad():
        predicted = model.layer(whole["x"]).squeeze(-1)
        expected = float(functional.mse_loss(predicted, whole["labels"]))
    args = arguments(
        tmp_path, per_device_eval_batch_size=4, per_device_train_batch_size=2, gradient_accumulation_steps=3,
        max_steps=1, logging_steps=1, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        model, args, train_dataset=rows, eval_dataset=rows, compute_metrics=squared,
        data_collator=lambda chosen: kind(*(torch.stack([row[name] for row in chosen]) for name in ("x", "labels"))),
    )  # fmt: skip
    metrics = trainer.evaluate()
    assert (metrics["eval_loss"], metrics["eval_mse"]) == pytest.approx((expected, expected), rel=1e-6)
    assert round(metrics["eval_samples_per_second"] * metrics["eval_runtime"]) == 5
    output = trainer.predict(rows)
    assert output.predictions == pytest.approx(predicted.numpy(), rel=1e-6)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [Batch, AsAttrs, Named])
def test_tensors_of_the_users_classes_are_moved_and_cut(kind):
    batch = kind(torch.arange(8.0).view(4, 2), torch.arange(4))
    moved = map_tensors(batch, lambda tensor: tensor.to("meta"))
    assert isinstance(moved, kind)
    assert (moved.x.device.type, moved.labels.device.type) == ("meta", "meta")
    assert batch.x.device.type == "cpu"
    first, second = split(batch, 2)
    assert (first.labels.tolist(), second.labels.tolist()) == ([0, 1], [2, 3])
    assert second.x.tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize("name", BATCHES)
def test_rows_are_counted_by_tensors(name):
    batch, rows = BATCHES[name]
    assert row_count(batch) == rows


def test_what_is_one_for_each_row_is_cut_with_the_rows():
    batch = {"pixel_values": torch.arange(2.0).view(2, 1), "labels": BOXES, "names": ["a", "b"], "scale": 2.0}
    batch["array"], batch["pair"] = np.arange(2), [torch.arange(2), torch.arange(2)]
    first, second = split(batch, 2)
    assert first["labels"] == BOXES[:1]
    assert second["labels"] == BOXES[1:]
    assert (first["names"], second["names"], first["scale"]) == (["a"], ["b"], 2.0)
    assert first["array"].tolist() == [0]
    assert second["pixel_values"].tolist() == [[1.0]]
    assert [part.tolist() for part in second["pair"]] == [[1], [1]]


class WithTexts(tiny.Line):
    def forward(self, texts, x, labels=None):
        assert len(texts) == len(x)
        return super().forward(x, labels)


class Collate:
    def __init__(self, texts_first):
        self.texts_first = texts_first

    def __call__(self, rows):
        texts = {"texts": ["row"] * len(rows)}
        batch = {name: torch.stack([row[name] for row in rows]) for name in ("x", "labels")}
        return {**texts, **batch} if self.texts_first else {**batch, **texts}


@pytest.mark.parametrize("texts_first", [True, False])
def test_losses_of_batches_with_texts_are_those_of_their_rows(tmp_path, texts_first):
    rows = tiny.line_rows(5)
    torch.manual_seed(0)
    model = WithTexts()
    x, labels = (torch.stack([row[name] for row in rows]) for name in ("x", "labels"))
    expected = functional.mse_loss(model.layer(x).squeeze(-1), labels).item()
    settings = arguments(
        tmp_path, per_device_eval_batch_size=2, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        max_steps=1, logging_steps=1, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(model, settings, data_collator=Collate(texts_first), train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-6)
    assert trainer.evaluation_loop(trainer.get_eval_dataloader(), "Evaluation").num_samples == 5
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-5)  # 4 + 1 rows, one mean


# ---- attributes called `lengths`


class Rows(list):
    """Rows with an attribute of the user's, which may mean anything."""

    lengths: object = None


LENGTHS = {
    "of the files that were joined": [6, 4],
    "of another part": list(range(11)),
    "a method": lambda: [1] * 10,
    "texts": ["short"] * 10,
    "pairs": [(1, 2)] * 10,
    "ragged": [[1]] * 9 + [[1, 2]],
    "one": 7,
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_that_are_not_one_for_each_row_are_the_users_own(tmp_path, name):
    rows = Rows(tiny.line_rows(10))
    rows.lengths = LENGTHS[name]
    model = tiny.new_line()
    settings = arguments(tmp_path, per_device_eval_batch_size=4)
    trainer = Trainer(model, settings, eval_dataset=rows, compute_metrics=squared)
    found = trainer.evaluate()
    x, labels = (torch.stack([row[name] for row in rows]) for name in ("x", "labels"))
    assert found["eval_loss"] == pytest.approx(functional.mse_loss(model(x)["logits"], labels).item(), rel=1e-6)
    assert found["eval_mse"] == pytest.approx(found["eval_loss"], rel=1e-6)
    assert len(trainer.predict(rows).predictions) == 10


@pytest.mark.parametrize("lengths", [[6, 4], None])
def test_grouping_by_length_counts_itself_where_lengths_mean_something_else(tmp_path, lengths):
    rows = Rows({"input_ids": [3] * (1 + n % 5), "labels": [3] * (1 + n % 5)} for n in range(10))
    rows.lengths = lengths
    settings = arguments(
        tmp_path, num_train_epochs=1, per_device_train_batch_size=2, train_sampling_strategy="group_by_length",
        save_strategy="no",
    )  # fmt: skip
    collate = transformers.DataCollatorForSeq2Seq(tiny.tokenizer(), padding=True)
    trainer = Trainer(tiny.llama(), settings, train_dataset=rows, data_collator=collate)
    assert trainer.train().global_step == 5


class Extra(tiny.Line):
    """Beside one number for a row, it gives one for the batch, and two for every row."""

    def forward(self, x, labels=None):
        found = super().forward(x, labels)
        found["logits"] = x[:, 0]
        return {**found, "aux_loss": x[0, 0].clone(), "router_logits": x[:, :1].repeat(2, 1)}


@pytest.mark.parametrize("lengths", [None, [3, 1, 6, 2, 5, 4]])
def test_outputs_that_are_not_one_for_each_row_pass_an_evaluation_by_length(tmp_path, lengths):
    rows = Rows(tiny.line_rows(6))
    rows.lengths = lengths
    order = [0, 1, 2, 3, 4, 5] if lengths is None else [2, 4, 5, 0, 3, 1]
    seen = []
    trainer = Trainer(
        Extra(), arguments(tmp_path, per_device_eval_batch_size=2), eval_dataset=rows,
        compute_metrics=lambda prediction: seen.append(prediction) or {"seen": 1.0},
    )  # fmt: skip
    assert trainer.evaluate()["eval_seen"] == 1.0
    firsts = np.array([float(row["x"][0]) for row in rows], dtype=np.float32)
    logits, aux, router = seen[0].predictions
    assert np.array_equal(logits, firsts)
    assert np.array_equal(seen[0].label_ids, np.array([float(row["labels"]) for row in rows], dtype=np.float32))
    assert np.array_equal(aux, firsts[order[::2]])  # as the batches came
    assert router.shape == (12, 1)
    assert set(router[:, 0]) == set(firsts)


# ---- the metrics of a set


def sets_with_metrics(folder, **changes):
    sets = {"near": tiny.line_rows(4), "far_off": tiny.line_rows(8)}
    functions = {name: lambda prediction, name=name: {name: len(prediction.label_ids)} for name in sets}
    return Trainer(tiny.new_line(), arguments(folder, **changes), eval_dataset=sets, compute_metrics=functions), sets


CALLS = {
    "by name": lambda trainer, sets: trainer.evaluate("far_off"),
    "by rows": lambda trainer, sets: trainer.evaluate(sets["far_off"]),
    "by rows, with a prefix": lambda trainer, sets: trainer.evaluate(sets["far_off"], metric_key_prefix="test"),
    "by prefix": lambda trainer, sets: trainer.evaluate(tiny.line_rows(8), metric_key_prefix="eval_far_off"),
    "by the prefix alone": lambda trainer, sets: trainer.evaluate(tiny.line_rows(8), metric_key_prefix="far_off"),
    "in prediction": lambda trainer, sets: trainer.predict(sets["far_off"]).metrics,
    "in prediction, by prefix": lambda trainer, sets: (
        trainer.predict(tiny.line_rows(8), metric_key_prefix="my_test_far_off").metrics
    ),
    "all": lambda trainer, sets: trainer.evaluate(),
    "all, given anew": lambda trainer, sets: trainer.evaluate(dict(sets)),
    "a loader": lambda trainer, sets: (
        trainer.evaluation_loop(trainer.get_eval_dataloader("far_off"), "Evaluation").metrics
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_metrics_belong_to_the_set_whatever_the_call(tmp_path, call):
    trainer, sets = sets_with_metrics(tmp_path)
    found = CALLS[call](trainer, sets)
    named = {name: value for name, value in found.items() if name.endswith(("_near", "_far_off"))}
    assert list(named.values()) == ([4, 8] if call.startswith("all") else [8]), found


def test_a_set_that_no_metrics_are_for_has_none(tmp_path):
    trainer, _ = sets_with_metrics(tmp_path)
    found = trainer.evaluate(tiny.line_rows(3), metric_key_prefix="eval_other")
    assert set(found) & {"eval_other_near", "eval_other_far_off"} == set()
    assert "eval_other_loss" in found


@pytest.mark.parametrize("engine", ENGINES)
def test_metrics_of_several_sets_may_be_texts_and_tables(tmp_path, engine):
    given = {"acc": 1.0, "report": "good", "table": [[1, 2], [3, 4]]}
    sets = {"a": tiny.line_rows(4), "b": tiny.line_rows(8)}
    trainer = engine.Trainer(
        tiny.new_line(), arguments(tmp_path, engine), eval_dataset=sets, compute_metrics=lambda prediction: given
    )
    found = trainer.evaluate()
    for name in sets:
        assert {key: found[f"eval_{name}_{key}"] for key in given} == given
    if engine is trainwright:
        assert found["eval_mean_acc"] == 1.0
        assert not {"eval_mean_report", "eval_mean_table"} & set(found)


# ---- a schedule without a metric


def test_a_plateau_without_the_name_of_a_metric_is_told_before_training(tmp_path):
    model = tiny.new_line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    settings = arguments(tmp_path, eval_strategy="steps", eval_steps=1, max_steps=2, save_strategy="no")
    rows = tiny.line_rows(8)
    trainer = Trainer(model, settings, train_dataset=rows, eval_dataset=rows, optimizers=(optimizer, schedule))
    with pytest.raises(ConfigError, match="set metric_for_best_model, such as 'loss'"):
        trainer.train()
    assert trainer.state.global_step == 0
    named = TrainingArguments(
        str(tmp_path / "named"), use_cpu=True, disable_tqdm=True, eval_strategy="steps", eval_steps=1, max_steps=2,
        save_strategy="no", metric_for_best_model="loss",
    )  # fmt: skip
    Trainer(model, named, train_dataset=rows, eval_dataset=rows, optimizers=(optimizer, schedule)).train()
    assert schedule.last_epoch == 2


# ---- faults that a batch explains


class Table(transformers.PreTrainedModel):
    """One number for every token; rows of any shape."""

    config_class = transformers.BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.table = nn.Embedding(config.vocab_size, 1)
        self.post_init()

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, labels=None):
        found = self.table(input_ids).squeeze(-1)
        return {"loss": functional.mse_loss(found, labels), "logits": found}


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_token_out_of_range_is_named_in_rows_of_any_shape(tmp_path, shape):
    rows = [{"input_ids": torch.full(shape, 40), "labels": torch.full(shape, 1.0)} for _ in range(4)]
    model = Table(transformers.BertConfig(vocab_size=32))
    trainer = Trainer(model, arguments(tmp_path, max_steps=1, save_strategy="no"), train_dataset=rows)
    with pytest.raises(trainwright.DataError, match="row 0 of the batch has token 40"):
        trainer.train()
