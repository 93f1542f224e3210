"""One sum over one count: the same rows give the same parameters, however they are cut into micro-batches."""

from __future__ import annotations

import functools
import random
import re
import warnings

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import trainwright
from tests import installed, tiny
from trainwright import ConfigError, DataError, Trainer, TrainingArguments
from trainwright.data.loaders.collate import default_data_collator
from trainwright.models.inspect import shifts_labels

ROWS = 12
CLOSE = 1e-9  # float64: only the order of additions differs


def arguments(folder, micro, steps=20, **changes):
    return TrainingArguments(
        str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=ROWS // micro,
        max_steps=steps,
        learning_rate=1e-3,
        save_strategy="no",
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        **changes,
    )


def ragged():
    return tiny.tokens(ROWS, ragged=True)


def parameters(trainer):
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory):
    trainer = Trainer(tiny.words(), arguments(tmp_path_factory.mktemp("whole"), 12), train_dataset=ragged())
    return parameters(trainer)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_of_any_size_give_the_same_parameters(tmp_path, micro, whole_batch):
    trainer = Trainer(tiny.words(), arguments(tmp_path, micro), train_dataset=ragged())
    assert (parameters(trainer) - whole_batch).abs().max() < CLOSE


def test_shifted_labels_count_as_they_are_predicted(tmp_path):
    def weights(micro):
        return parameters(Trainer(tiny.llama(), arguments(tmp_path, micro, steps=8), train_dataset=ragged()))

    # float32, and Adam divides by small gradients: 1e-5 is far below what a wrong count does (1e-3)
    torch.testing.assert_close(weights(3), weights(12), rtol=0, atol=1e-5)


def test_the_mean_of_means_would_be_wrong(tmp_path, whole_batch):
    class MeanOfMeans(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return model(**inputs)["loss"]

    trainer = MeanOfMeans(tiny.words(), arguments(tmp_path, 3), train_dataset=ragged())
    assert (parameters(trainer) - whole_batch).abs().max() > 1e-4  # so that the test above can fail


def summed(logits, labels, num_items):
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / num_items


def test_compute_loss_func_gets_the_global_count(tmp_path, whole_batch):
    def loss(outputs, labels, num_items_in_batch):
        return summed(outputs["logits"], labels, num_items_in_batch)

    args = arguments(tmp_path, 4)
    trainer = Trainer(tiny.words(), args, train_dataset=ragged(), compute_loss_func=loss)
    assert (parameters(trainer) - whole_batch).abs().max() < CLOSE


def test_compute_loss_with_the_count_returns_a_share(tmp_path, whole_batch):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            loss = summed(outputs["logits"], inputs["labels"], num_items_in_batch)
            return (loss, outputs) if return_outputs else loss

    trainer = Own(tiny.words(), arguments(tmp_path, 3), train_dataset=ragged())
    assert (parameters(trainer) - whole_batch).abs().max() < CLOSE


def test_compute_loss_that_calls_the_base_class(tmp_path, whole_batch):
    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    trainer = Own(tiny.words(), arguments(tmp_path, 3), train_dataset=ragged())
    assert (parameters(trainer) - whole_batch).abs().max() < CLOSE


def reference_mean(micro, model, rows, steps, lr=1e-3):
    """A hand-written loop: the mean over micro-batches of each one's mean loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (steps - step) / steps
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42 + step)).tolist()
        for start in range(0, len(rows), micro):
            chosen = [rows[i] for i in order[start : start + micro]]
            batch = {name: torch.stack([row[name] for row in chosen]) for name in ("input_ids", "labels")}
            (model(**batch)["loss"] * micro / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_compute_loss_without_the_count_is_a_mean_over_micro_batches(tmp_path):
    class Old(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            outputs = model(**inputs)
            return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    expected = reference_mean(3, tiny.words(), ragged(), 8)
    trainer = Old(tiny.words(), arguments(tmp_path, 3, steps=8), train_dataset=ragged())
    assert (parameters(trainer) - expected).abs().max() < CLOSE


def test_loss_is_scaled_for_ga_says_that_a_result_is_a_mean(tmp_path):
    class Mean(Trainer):
        loss_is_scaled_for_ga = False

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs)["loss"]

    expected = reference_mean(4, tiny.words(), ragged(), 8)
    trainer = Mean(tiny.words(), arguments(tmp_path, 4, steps=8), train_dataset=ragged())
    assert (parameters(trainer) - expected).abs().max() < CLOSE


def mean_of(model, inputs):
    """A user's loss: it takes its labels out of the batch, draws random numbers, and is a mean."""
    labels = inputs.pop("labels")
    outputs = model(**inputs)
    torch.rand(3), np.random.rand(), random.random()
    loss = functional.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten())
    return loss, outputs


class TakesTheCount(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = mean_of(model, inputs)
        return (loss, outputs) if return_outputs else loss


class TakesAnything(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = mean_of(model, inputs)
        return (loss, outputs) if return_outputs else loss


class Wrapped(Trainer):
    @functools.wraps(Trainer.compute_loss)
    def compute_loss(self, *args, **kwargs):
        return mean_of(*args)[0]


def ignoring(outputs, labels, num_items_in_batch=None):
    return functional.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten())


def replaced(model, inputs, return_outputs=False, num_items_in_batch=None):
    return mean_of(model, inputs)[0]


MEANS = {"count": TakesTheCount, "kwargs": TakesAnything, "wraps": Wrapped, "function": Trainer, "replaced": Trainer}


@pytest.mark.parametrize("name", MEANS)
def test_a_loss_that_ignores_the_count_is_a_mean_over_micro_batches(tmp_path, name):
    expected = reference_mean(3, tiny.words(), ragged(), 8)
    function = ignoring if name == "function" else None
    args = arguments(tmp_path, 3, steps=8)
    trainer = MEANS[name](tiny.words(), args, train_dataset=ragged(), compute_loss_func=function)
    if name == "replaced":
        trainer.compute_loss = replaced
    assert (parameters(trainer) - expected).abs().max() < CLOSE


def test_what_wraps_an_override_takes_what_that_takes(tmp_path):
    def passed_on(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    class Old(Trainer):
        @passed_on
        def compute_loss(self, model, inputs, return_outputs=False):
            return mean_of(model, inputs)[0]

    expected = reference_mean(3, tiny.words(), ragged(), 2)
    trainer = Old(tiny.words(), arguments(tmp_path, 3, steps=2), train_dataset=ragged())
    assert (parameters(trainer) - expected).abs().max() < CLOSE


def test_transformers_weighs_the_same_loss_the_same(tmp_path):
    def logged(engine, steps=3):
        class Own(engine.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                return functional.mse_loss(model(inputs["x"])["logits"], inputs["labels"])

        kept = {"logging_steps": 1, "max_steps": steps, "save_strategy": "no", "use_cpu": True, "report_to": "none"}
        args = engine.TrainingArguments(
            str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, disable_tqdm=True, **kept
        )
        trainer = Own(tiny.new_line(), args, train_dataset=tiny.line_rows(24))
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert logged(trainwright) == pytest.approx(logged(transformers), rel=1e-5)  # float32


class Noisy(torch.nn.Module):
    """It draws, has a generator of its own, and buffers of which one is not saved and one appears later."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)
        self.own = torch.Generator().manual_seed(3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("last", None)

    def forward(self, x, labels=None):
        self.calls += 1
        hidden = functional.dropout(self.norm(self.layer(x)), 0.5)
        self.last = hidden.detach().mean(0)
        return {"logits": hidden.sum(1) + torch.randn(len(x), generator=self.own)}


def test_asking_leaves_no_trace(tmp_path):
    def trained(known):
        class Own(Trainer):
            loss_is_scaled_for_ga = False if known else None

            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                self.record("noise", np.random.rand())
                inputs["x"].add_(1.0)
                return functional.mse_loss(model(inputs["x"])["logits"], inputs["labels"])

        torch.manual_seed(0)
        trainer = Own(Noisy(), arguments(tmp_path, 3, steps=3), train_dataset=tiny.line_rows(24))
        trainer.train()
        model = trainer.model
        noise = [entry["noise"] for entry in trainer.state.log_history if "noise" in entry]
        streams = [model.own.get_state(), torch.get_rng_state(), torch.tensor(np.random.rand())]
        return [*model.state_dict().values(), model.calls, model.last, *streams, torch.tensor(noise)]

    assert all(torch.equal(a, b) for a, b in zip(trained(True), trained(False), strict=True))


def test_an_overridden_training_step_is_asked_as_it_trains(tmp_path):
    class Prepared(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            return super().training_step(model, {"ids": inputs["input_ids"], **inputs}, num_items_in_batch)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(input_ids=inputs["ids"], labels=inputs["labels"])["loss"]

    class Itself(Trainer):
        steps = 0

        def training_step(self, model, inputs, num_items_in_batch=None):
            self.steps += 1
            loss = self.compute_loss(model, inputs) / 4
            loss.backward()
            return loss.detach()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(**inputs)["loss"]

    expected = reference_mean(3, tiny.words(), ragged(), 8)
    for kind in (Prepared, Itself):
        trainer = kind(tiny.words(), arguments(tmp_path, 3, steps=8), train_dataset=ragged())
        assert (parameters(trainer) - expected).abs().max() < CLOSE
    assert trainer.steps == 32


def test_a_step_of_one_micro_batch_is_not_asked(tmp_path):
    calls = []

    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            calls.append(num_items_in_batch)
            return model(**inputs)["loss"]

    Own(tiny.new_line(), arguments(tmp_path, ROWS, steps=3), train_dataset=tiny.line_rows(24)).train()
    assert calls == [12, 12, 12]
    calls.clear()
    Own(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24)).train()
    assert calls == [12, 24, 12, 2, 2, 2, 2]  # three times more; a mean is over micro-batches


@pytest.mark.parametrize("weight", [lambda calls: min(1, calls / 8), lambda calls: 1 / calls], ids=["rises", "falls"])
def test_a_loss_that_changes_with_every_call_is_refused_before_a_step(tmp_path, weight):
    class Counting(Trainer):
        calls = 0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            self.calls += 1
            return model(**inputs)["loss"] * weight(self.calls)

    trainer = Counting(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24))
    with pytest.raises(ConfigError, match=r"it changes with every call, .* follow the step \(self.state.global_step\)"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer.loss_is_scaled_for_ga = False
    assert trainer.train()


def test_a_loss_that_is_neither_share_nor_mean_is_refused_before_a_step(tmp_path):
    class Mixed(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            share = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            return share + 0.1 * sum(p.square().sum() for p in model.parameters())

    trainer = Mixed(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24))
    with pytest.raises(ConfigError, match=r"told 12 items and .* neither a share .* loss_is_scaled_for_ga"):
        trainer.train()
    assert trainer.state.global_step == 0

    class Said(Mixed):
        loss_is_scaled_for_ga = True

    assert Said(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24)).train()


def test_steps_without_targets_move_the_data_alone(tmp_path):
    rows = ragged()
    for row in (*rows[2:4], *rows[8:10]):
        row["labels"] = torch.full_like(row["labels"], -100)
    model, optimizer_steps, losses, rates = tiny.words(), 4, [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for start in range(0, ROWS, 2):  # a hand-written loop that leaves such steps out
        batch = {name: torch.stack([row[name] for row in rows[start : start + 2]]) for name in ("input_ids", "labels")}
        if not (batch["labels"] != -100).any():
            continue
        optimizer.param_groups[0]["lr"] = 0.1 * (6 - len(losses)) / 6
        rates.append(optimizer.param_groups[0]["lr"])
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(losses) == optimizer_steps
    args = arguments(tmp_path, 2, steps=6, optim="sgd", max_grad_norm=0.0, train_sampling_strategy="sequential")
    args.gradient_accumulation_steps, args.learning_rate, args.logging_steps = 1, 0.1, 2
    trainer = Trainer(tiny.words(), args, train_dataset=rows)
    result = trainer.train()
    logs = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    assert [entry["step"] for entry in logs] == [2, 4, 6]
    expected = [losses[0], sum(losses[1:3]) / 2, losses[3]]
    assert [entry["loss"] for entry in logs] == pytest.approx(expected, rel=1e-6)  # logged as float32
    assert [entry["learning_rate"] for entry in logs] == pytest.approx([rates[0], rates[2], rates[3]])
    assert result.training_loss == pytest.approx(sum(losses) / optimizer_steps, rel=1e-6)
    trained = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert (trained - torch.cat([p.detach().flatten() for p in model.parameters()])).abs().max() < CLOSE


def test_an_error_of_the_users_loss_is_shown_as_it_is(tmp_path):
    def helper(value):
        return value

    class Own(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return helper(inputs["x"], reduction="mean")

    class Calls(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return model(inputs["x"], weight=1.0)

    for kind, words in ((Own, "helper() got an unexpected"), (Calls, "forward() got an unexpected")):
        trainer = kind(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24))
        with pytest.raises(TypeError, match=re.escape(words)) as raised:
            trainer.train()
        assert "compute_loss" in [entry.name for entry in raised.traceback]
    args = arguments(tmp_path, 6, steps=2, remove_unused_columns=False)
    rows = [{**row, "weight": torch.ones(())} for row in tiny.line_rows(24)]
    with pytest.raises(DataError, match=r"the batch has \['labels', 'weight', 'x'\], but the model's forward takes"):
        Trainer(tiny.new_line(), args, train_dataset=rows).train()


def test_an_overridden_training_step_does_its_own_backward(tmp_path):
    class OwnStep(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**self._prepare_inputs(inputs))["loss"] / self.args.gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

    expected = reference_mean(4, tiny.words(), ragged(), 8)
    trainer = OwnStep(tiny.words(), arguments(tmp_path, 4, steps=8), train_dataset=ragged())
    assert (parameters(trainer) - expected).abs().max() < CLOSE


# ---- what a loss is a mean over


class OverRows(tiny.Words):
    """Its loss is a mean over rows of sums, as that of a conditional random field is; labels are padded with 0."""

    def forward(self, input_ids, labels=None, mask=None):
        logits = super().forward(input_ids)["logits"]
        each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return {"loss": (each * mask).sum(1).mean(), "logits": logits}


class Summed(tiny.Words):
    def forward(self, input_ids, labels=None, mask=None):
        logits = super().forward(input_ids)["logits"]
        return {"loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")}


class Shifting(tiny.Words):
    def forward(self, input_ids, labels=None, mask=None):
        logits = super().forward(input_ids)["logits"]
        labels = labels.masked_fill(mask == 0, -100)
        return {"loss": torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


class ShiftingLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(inputs["input_ids"])
        labels = inputs["labels"].masked_fill(inputs["mask"] == 0, -100)
        told = num_items_in_batch is not None
        loss = torch.nn.functional.cross_entropy(
            outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum" if told else "mean"
        )
        loss = loss / num_items_in_batch if told else loss
        return (loss, outputs) if return_outputs else loss


def masked_rows(padding=0):
    generator = torch.Generator().manual_seed(2)
    rows = []
    for length in (2, 3, 12, 12, 4, 2, 9, 5):
        ids, mask = torch.randint(3, tiny.VOCABULARY, (12,), generator=generator), torch.zeros(12)
        mask[:length] = 1
        rows.append({"input_ids": ids, "labels": ids.masked_fill(mask == 0, padding), "mask": mask})
    return rows


def as_wide_as_needed(rows):
    width = int(max(row["mask"].sum() for row in rows))
    return {name: torch.stack([row[name][:width] for row in rows]) for name in rows[0]}


OVER = {
    "its rows": (OverRows, Trainer, 0, "a mean over its rows"),
    "nothing": (Summed, Trainer, 0, "a mean over nothing: a sum"),
    "labels but the first": (Shifting, Trainer, -100, "a mean over its labels but the first of each row"),
    "those of a compute_loss": (tiny.Words, ShiftingLoss, -100, "a mean over its labels but the first of each row"),
}


@pytest.mark.parametrize("name", OVER)
@pytest.mark.parametrize("batch", [2, 4])
def test_a_loss_is_weighed_by_what_it_is_a_mean_over(tmp_path, caplog, name, batch):
    kind, engine, padding, told = OVER[name]
    rows, results = masked_rows(padding), []
    for size in (8, batch):
        torch.manual_seed(0)
        args = TrainingArguments(
            str(tmp_path / str(size)), per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
            per_device_eval_batch_size=size, max_steps=4, learning_rate=1e-3, logging_steps=1, use_cpu=True,
            disable_tqdm=True, report_to="none", save_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        collator = as_wide_as_needed if kind is OverRows else None
        trainer = engine(kind().double(), args, collator, rows, rows)
        if size == 8:
            trainer.objective.asked = 8  # one batch of all rows is what it is by any rule
        evaluated = trainer.evaluate()["eval_loss"]
        weights = parameters(trainer)
        results.append((evaluated, [e["loss"] for e in trainer.state.log_history if "loss" in e], weights))
    (one, losses, whole), (other, found, cut) = results
    whole_batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    if engine is Trainer:
        torch.manual_seed(0)
        with torch.no_grad():
            by_hand = float(kind().double()(**whole_batch)["loss"])
        assert other == pytest.approx(by_hand, rel=1e-9)
        assert found[0] == pytest.approx(by_hand, rel=1e-9)
        assert found == pytest.approx(losses, rel=1e-9)
        assert (whole - cut).abs().max() < CLOSE
    else:
        torch.manual_seed(0)
        logits = kind().double()(whole_batch["input_ids"])["logits"][:, :-1].flatten(0, 1)
        by_hand = float(torch.nn.functional.cross_entropy(logits, whole_batch["labels"][:, 1:].flatten()))
        assert (other, found[0]) == pytest.approx((by_hand, by_hand), rel=1e-9)
    assert caplog.text.count(told) == 1


@pytest.mark.parametrize("shape", ["rows of one length", "rows with padding"])
def test_a_loss_that_shifts_by_itself_counts_what_it_predicts(tmp_path, shape):
    rows = masked_rows(-100)
    rows = rows if shape == "rows with padding" else [{**row, "mask": torch.ones(12)} for row in masked_rows(5)]
    whole = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    torch.manual_seed(0)
    model = tiny.Words().double()
    logits = model(whole["input_ids"])["logits"].detach()[:, :-1].flatten(0, 1)
    expected = float(torch.nn.functional.cross_entropy(logits, whole["labels"][:, 1:].flatten()))
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, per_device_eval_batch_size=2,
        max_steps=1, logging_steps=1, use_cpu=True, disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    trainer = ShiftingLoss(model, args, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-9)
    trainer = ShiftingLoss(model, args, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_loss_that_is_asked_logs_nothing(tmp_path):
    class Logs(ShiftingLoss):
        def compute_loss(self, *given, **more):
            self.log({"mine": 1.0})
            return super().compute_loss(*given, **more)

    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2, use_cpu=True,
        disable_tqdm=True, save_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    trainer = Logs(tiny.words(), args, train_dataset=masked_rows(-100))
    trainer.train()
    assert sum("mine" in entry for entry in trainer.state.log_history) == 8  # micro-batches, as in transformers


class Alike(tiny.Words):
    """Its rows see each other."""

    def forward(self, input_ids, labels=None, mask=None):
        outputs = super().forward(input_ids, labels.masked_fill(mask == 0, -100))
        return {**outputs, "loss": outputs["loss"] + outputs["logits"].mean(0).square().sum()}


class Draws(tiny.Words):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, input_ids, labels=None, mask=None):
        self.calls += 1
        outputs = super().forward(input_ids, labels.masked_fill(mask == 0, -100))
        return {**outputs, "loss": outputs["loss"] * (1 + self.calls)}


@pytest.mark.parametrize(("kind", "said"), [(Alike, 1), (Draws, 0), (tiny.Words, 0)])
def test_a_loss_that_follows_from_no_parts_is_weighed_by_labels(tmp_path, caplog, kind, said):
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=2, use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(kind(), args, train_dataset=masked_rows(-100))
    trainer.train()
    assert caplog.text.count("is a mean over none of its labels and its rows") == said
    assert "and is weighed so" not in caplog.text


def speech(reduction):
    config = transformers.Wav2Vec2Config(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0,
        activation_dropout=0.0, final_dropout=0.0, layerdrop=0.0, apply_spec_augment=False, pad_token_id=0,
        ctc_loss_reduction=reduction,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    rows = [
        {
            "input_values": torch.randn(400, generator=generator),
            "labels": torch.randint(1, 12, (5,), generator=generator),
        }
        for _ in range(8)
    ]
    return transformers.Wav2Vec2ForCTC(config), rows


def segments(classes):
    config = transformers.SegformerConfig(
        num_labels=classes, hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0, drop_path_rate=0.0,
        initializer_range=1.0,
    )  # fmt: skip
    generator, rows = torch.Generator().manual_seed(1), []
    for number in range(8):
        labels = torch.full((32, 32), 255)
        labels[: 4 * number + 1] = int(number > 4)
        rows.append({"pixel_values": torch.randn(3, 32, 32, generator=generator) * (1 + number), "labels": labels})
    return transformers.SegformerForSemanticSegmentation(config), rows


CONFIGURED = {
    "a sum over rows": lambda: speech("sum"),
    "a mean over rows": lambda: speech("mean"),
    "pixels but those of 255": lambda: segments(3),
    "all pixels": lambda: segments(1),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_loss_that_the_configuration_decides(tmp_path, name):
    torch.manual_seed(0)
    model, rows = CONFIGURED[name]()
    for part in model.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.train = lambda mode=True: None
            part.training = False
    with torch.no_grad():
        expected = float(model.eval()(**{key: torch.stack([row[key] for row in rows]) for key in rows[0]}).loss)
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=4, per_device_eval_batch_size=2,
        max_steps=1, logging_steps=1, use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, args, train_dataset=rows, eval_dataset=rows)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
    trainer.train()
    assert trainer.state.log_history[-2]["loss"] == pytest.approx(expected, rel=1e-5)


class Copied(Trainer):
    """Has transformers' own step."""

    training_step = transformers.Trainer.training_step


class CopiedBoth(Copied):
    compute_loss = transformers.Trainer.compute_loss


COPIED = {
    "a plain module": (tiny.new_line, {}),
    "a Llama": (tiny.llama, {}),
    "a Llama with smoothing": (tiny.llama, {"label_smoothing_factor": 0.1}),
    "a loss function": (tiny.llama, {"compute_loss_func": lambda outputs, labels, num_items_in_batch: (
        torch.nn.functional.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum"
        ) / num_items_in_batch
    )}),
}  # fmt: skip


@installed.divided_once
@pytest.mark.parametrize("kind", [Copied, CopiedBoth])
@pytest.mark.parametrize("name", COPIED)
def test_a_copied_training_step_trains_as_in_transformers(tmp_path, kind, name):
    made, given = COPIED[name]
    given = dict(given)
    function = {"compute_loss_func": given.pop("compute_loss_func")} if "compute_loss_func" in given else {}
    rows = tiny.line_rows(20) if made is tiny.new_line else tiny.tokens(20)
    results = []
    for engine, trainer in ((trainwright, kind), (transformers, transformers.Trainer)):
        args = engine.TrainingArguments(
            str(tmp_path / engine.__name__), per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=5,
            learning_rate=0.01, optim="adamw_torch", logging_steps=1, use_cpu=True, disable_tqdm=True, report_to="none",
            save_strategy="no", **given,
        )  # fmt: skip
        done = trainer(made(), args, train_dataset=rows, **function)
        done.train()
        logged = [entry["loss"] for entry in done.state.log_history if "loss" in entry]
        results.append((logged, torch.cat([p.detach().flatten() for p in done.model.parameters()])))
    (ours, mine), (theirs, other) = results
    assert ours == pytest.approx(theirs, abs=1e-4)  # which transformers rounds
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)  # Adam in float32, of steps of 0.01


def test_a_training_step_may_call_ours_by_any_name(tmp_path, whole_batch):
    class Calls(Trainer):
        def training_step(self, *given, **more):
            return getattr(Trainer, "training" + "_step")(self, *given, **more)

    trainer = Calls(tiny.words(), arguments(tmp_path, 4), train_dataset=ragged())
    assert (parameters(trainer) - whole_batch).abs().max() < CLOSE


def test_a_micro_batch_without_targets_is_skipped_before_forward(tmp_path):
    rows = ragged()
    for row in rows[:5]:
        row["labels"] = torch.full_like(row["labels"], -100)
    seen = []

    class Watching(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            seen.append(int((inputs["labels"] != -100).sum()))
            return super().training_step(model, inputs, num_items_in_batch)

    trainer = Watching(tiny.llama(), arguments(tmp_path, 1, steps=1), train_dataset=rows)
    trainer.train()
    assert len(seen) == 7
    assert all(seen)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_dict_of_losses_is_minimised_by_its_loss_and_logged(tmp_path):
    class Losses(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            outputs = model(**inputs)
            terms = {"loss": outputs["loss"], "half": outputs["loss"] / 2}
            return (terms, outputs) if return_outputs else terms

    args = arguments(tmp_path, 6, steps=4)
    trainer = Losses(tiny.new_line(), args, train_dataset=tiny.line_rows(24), eval_dataset=tiny.line_rows(8))
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "half" in entry]
    assert len(entries) == 4
    for entry in entries:
        assert entry["half"] == pytest.approx(entry["loss"] / 2, rel=1e-5)
    assert trainer.evaluate()["eval_loss"] > 0


def test_the_loss_of_ctc_is_a_mean_over_rows(tmp_path):
    def model():
        torch.manual_seed(0)
        config = transformers.Wav2Vec2Config(
            vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            pad_token_id=0, conv_dim=(8, 8), conv_kernel=(8, 4), conv_stride=(4, 4), num_conv_pos_embeddings=4,
            layerdrop=0.0,
            num_conv_pos_embedding_groups=2, num_feat_extract_layers=2, apply_spec_augment=False, hidden_dropout=0.0,
            attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0,
            ctc_loss_reduction="mean",
        )  # fmt: skip
        return transformers.Wav2Vec2ForCTC(config).double()

    numbers = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_values": torch.randn(200, generator=numbers, dtype=torch.float64),
            "labels": torch.tensor([1 + i % 3, 4, 5 + i % 2, 7])[: 1 + i % 4].tolist() + [-100] * (3 - i % 4),
        }
        for i in range(12)
    ]
    runs = []
    for micro in (12, 4, 3):
        trainer = Trainer(model(), arguments(tmp_path, micro, steps=3, per_device_eval_batch_size=5), None, rows, rows)
        runs.append((parameters(trainer), trainer.evaluate()["eval_loss"]))
    one, batch = runs[0], default_data_collator(rows)
    for values, loss in runs[1:]:
        assert (values - one[0]).abs().max() < CLOSE
        assert loss == pytest.approx(one[1], abs=1e-6)
    with torch.no_grad():
        assert float(trainer.model.eval()(**batch).loss) == pytest.approx(one[1], abs=1e-6)


class Terms(Trainer):
    """Losses of both kinds: `sum` (a share), `hit` (a mean), `later` (a share that is 0 in the first step)."""

    is_share = True

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs, labels = model(**inputs), inputs["labels"]
        real, logits = labels != -100, outputs["logits"]
        count = num_items_in_batch if self.is_share else real.sum()
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / count
        hit = (logits.argmax(-1) == labels)[real].double().mean()
        terms = {"loss": loss, "sum": loss, "hit": hit, "later": loss * min(self.state.global_step, 1)}
        return (terms, outputs) if return_outputs else terms


@torch.no_grad()
def by_hand(trainer, rows):
    """Return cross-entropy and accuracy over all targets of some rows."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}
    logits, labels = trainer.model(**batch)["logits"], batch["labels"]
    real = labels != -100
    return float(functional.cross_entropy(logits[real], labels[real])), float(
        (logits.argmax(-1) == labels)[real].double().mean()
    )


@pytest.mark.parametrize("micro", [12, 4, 3])
def test_losses_of_a_dict_are_logged_as_what_they_are(tmp_path, micro):
    rows = tiny.tokens(24, ragged=True)
    args = arguments(tmp_path, micro, steps=2, train_sampling_strategy="sequential")
    trainer = Terms(tiny.words(), args, train_dataset=rows, eval_dataset=rows[:7])
    before = by_hand(trainer, rows[:12])
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert [first[name] for name in ("loss", "sum", "hit", "later")] == pytest.approx([before[0], *before, 0], abs=1e-6)
    assert second["later"] == second["sum"] == pytest.approx(second["loss"], abs=1e-6)
    loss, hit = by_hand(trainer, rows[:7])
    evaluated = trainer.evaluate()
    assert [evaluated[f"eval_{name}"] for name in ("loss", "sum", "hit")] == pytest.approx([loss, loss, hit], abs=1e-6)


@pytest.mark.parametrize("said", [None, True])
def test_losses_of_a_dict_that_are_means_are_averaged(tmp_path, said):
    class Means(Terms):
        is_share = False

        def compute_loss(self, *args, **named):
            terms = super().compute_loss(*args, **named)
            self.seen = [*getattr(self, "seen", []), [float(terms[name].detach()) for name in ("sum", "hit")]]
            return {**terms, "loss": 4 * terms["loss"] / named["num_items_in_batch"]} if said else terms

    Means.loss_is_scaled_for_ga = said
    trainer = Means(tiny.words(), arguments(tmp_path, 3, steps=1), train_dataset=ragged())
    trainer.train()
    weights = None
    if said:  # a share: every mean weighs what its targets do
        batches = trainer.get_train_dataloader()
        weights = [int((batch["labels"] != -100).sum()) for batch in batches]
    expected = np.average(trainer.seen[-4:], axis=0, weights=weights)
    assert [trainer.state.log_history[0][name] for name in ("sum", "hit")] == pytest.approx(expected, abs=1e-6)


def test_what_skipped_steps_and_failed_attempts_record_is_not_logged(tmp_path):
    class Stumbling(Terms):
        failed = False

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            self.record("rows", float(len(inputs["labels"])))
            if self.state.global_step == 2 and len(inputs["labels"]) == 12 and not self.failed:
                self.failed = True
                raise torch.OutOfMemoryError("CUDA out of memory.")
            terms = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return {**terms, "loss": terms["loss"] * float("nan")} if self.state.global_step == 1 else terms

    args = arguments(tmp_path, 12, steps=4, auto_find_batch_size=True)
    args.logging_steps = 4
    trainer = Stumbling(tiny.words(), args, train_dataset=tiny.tokens(48, ragged=True))
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["skipped_steps"] == 1
    assert log["sum"] == pytest.approx(log["loss"], abs=1e-6)
    assert 6 < log["rows"] < 12  # one whole step, and two of halves


@pytest.mark.parametrize("value", ["text", None, {"a": 1.0}], ids=["text", "none", "nested"])
def test_what_is_no_number_beside_a_loss_is_named(tmp_path, value):
    class Wordy(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False):
            return {"loss": super().compute_loss(model, inputs), "said": value}

    trainer = Wordy(tiny.words(), arguments(tmp_path, 4, steps=1), train_dataset=ragged())
    with pytest.raises(DataError, match=f"'said', recorded beside the loss, is a {type(value).__name__};"):
        trainer.train()


def test_record_averages_over_the_window(tmp_path):
    class Recording(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            self.record("done_before", float(self.state.global_step))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    args = arguments(tmp_path, 12, steps=4, logging_strategy="steps")
    args.logging_steps = 2
    trainer = Recording(tiny.new_line(), args, train_dataset=tiny.line_rows(24))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    assert [entry["done_before"] for entry in logged] == [0.5, 2.5]


@pytest.mark.parametrize("kind", ["dict", "tuple", "bare"])
def test_models_may_return_a_dict_a_tuple_or_a_bare_loss(tmp_path, kind):
    class Model(tiny.Line):
        def forward(self, x, labels=None):
            outputs = super().forward(x, labels)
            return {"dict": outputs, "tuple": (outputs["loss"], outputs["logits"]), "bare": outputs["loss"]}[kind]

    torch.manual_seed(0)
    trainer = Trainer(Model(), arguments(tmp_path, 6, steps=4), train_dataset=tiny.line_rows(24))
    expected = Trainer(tiny.new_line(), arguments(tmp_path, 6, steps=4), train_dataset=tiny.line_rows(24))
    assert torch.equal(parameters(trainer), parameters(expected))


def test_no_warning_is_raised_by_a_plain_run(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(tiny.new_line(), arguments(tmp_path, 6, steps=2), train_dataset=tiny.line_rows(24)).train()


class Scores(torch.nn.Module):
    """A layer with the loss of a regression, or of two sets of labels."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x, labels=None, more=None):
        logits = self.layer(x)
        return {"loss": logits.pow(2).mean(), "logits": logits}


@pytest.mark.parametrize(
    ("labels", "said"),
    [({"labels": [0.5, 1.5]}, "but they are torch.float32 of shape (4, 2)"),
     ({"labels": [1, 0]}, "but they are torch.int64 of shape (4, 2)"),
     ({"labels": 1, "more": 0}, "but they are several")],
)  # fmt: skip
def test_label_smoothing_needs_classes(tmp_path, labels, said):
    rows = [{"x": torch.ones(3), **{name: torch.tensor(value) for name, value in labels.items()}}] * ROWS
    args = arguments(tmp_path, 4, 1, label_smoothing_factor=0.1, label_names=list(labels))
    with pytest.raises(DataError, match=re.escape(said)):
        Trainer(Scores(), args, train_dataset=rows).train()


def test_labels_that_are_none_are_no_labels(tmp_path):
    rows = [{"x": torch.ones(3), "labels": None, "more": 1}] * 4
    trainer = Trainer(
        Scores(), arguments(tmp_path, 4, 1, label_names=["labels", "more"]),
        data_collator=lambda some: {"x": torch.ones(len(some), 3), "labels": None, "more": torch.ones(len(some))},
    )  # fmt: skip
    assert trainer.predict(rows).label_ids.tolist() == [1, 1, 1, 1]
    mixed = [{"x": torch.ones(3), "labels": None}, {"x": torch.ones(3), "labels": 1}]
    with pytest.raises(DataError, match="row 0 has None in field 'labels'"):
        Trainer(Scores(), arguments(tmp_path, 4, 1)).predict(mixed)


def causal_classes():
    small = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    gpt = {"vocab_size": 61, "n_embd": 32, "n_layer": 1, "n_head": 2}
    bart = {"vocab_size": 61, "d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "encoder_layers": 1}
    return {
        "LlamaForCausalLM": ("LlamaConfig", {**small, "intermediate_size": 48}),
        "BertGenerationDecoder": ("BertGenerationConfig", {**small, "intermediate_size": 48, "is_decoder": True}),
        "BertLMHeadModel": ("BertConfig", {**small, "intermediate_size": 48, "is_decoder": True}),
        "BertForMaskedLM": ("BertConfig", {**small, "intermediate_size": 48}),
        "GPT2LMHeadModel": ("GPT2Config", gpt),
        "CTRLLMHeadModel": ("CTRLConfig", {**gpt, "dff": 32}),
        "XLMWithLMHeadModel": ("XLMConfig", {"vocab_size": 61, "emb_dim": 32, "n_layers": 1, "n_heads": 2}),
        "XLNetLMHeadModel": (
            "XLNetConfig",
            {"vocab_size": 61, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32},
        ),
        "BartForCausalLM": ("BartConfig", {**bart, "decoder_ffn_dim": 32, "is_encoder_decoder": False}),
        "PegasusForCausalLM": ("PegasusConfig", {**bart, "decoder_ffn_dim": 32, "is_encoder_decoder": False}),
    }


@pytest.mark.parametrize("name", causal_classes())
def test_the_first_label_counts_where_the_model_learns_it(name):
    config, settings = causal_classes()[name]
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**settings)).eval()
    ids = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    without = ids.clone()
    without[:, 0] = -100
    with torch.no_grad():
        ignored = torch.equal(model(input_ids=ids, labels=ids).loss, model(input_ids=ids, labels=without).loss)
    assert shifts_labels(model) is ignored


class WholeBatches(torch.nn.Module):
    """A loss that takes no parts of a batch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x, labels=None):
        if len(x) < 4:
            raise RuntimeError("four rows are expected")
        logits = self.layer(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_loss_that_cannot_be_asked_is_said_to_be_weighed_as_it_is(tmp_path, caplog):
    rows = [{"x": torch.ones(4) * number, "labels": torch.tensor(number % 2)} for number in range(16)]
    args = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True,
        save_strategy="no", report_to=[],
    )  # fmt: skip
    with caplog.at_level("INFO", logger="trainwright"):
        Trainer(WholeBatches(), args, train_dataset=rows).train()
    said = [record.message for record in caplog.records if "cannot be found out" in record.message]
    assert len(said) == 1
    assert "RuntimeError: four rows are expected" in said[0]
