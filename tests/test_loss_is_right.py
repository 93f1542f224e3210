"""One sum over one count: the same rows give the same parameters, however they are cut into micro-batches."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch.nn import functional

from tests import tiny
from trainwright import DataError, Trainer, TrainingArguments

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


def test_an_overridden_training_step_does_its_own_backward(tmp_path):
    class OwnStep(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**self._prepare_inputs(inputs))["loss"] / self.args.gradient_accumulation_steps
            self.accelerator.backward(loss)
            return loss.detach()

    expected = reference_mean(4, tiny.words(), ragged(), 8)
    trainer = OwnStep(tiny.words(), arguments(tmp_path, 4, steps=8), train_dataset=ragged())
    assert (parameters(trainer) - expected).abs().max() < CLOSE


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
