"""Objectives of the user's own: the count and the loss are all that they need."""

from __future__ import annotations

import traceback

import pytest
import torch

from tests import tiny
from trainwright import ConfigError, DataError, Loss, Objective, Trainer, TrainingArguments
from trainwright.objectives.targets import sums_of_rows


class Distillation(Objective):
    """Squared distance to a teacher's outputs, weighed by the rows' own weights."""

    def __init__(self, teacher):
        self.teacher = teacher.eval().requires_grad_(False)

    def count(self, batch):
        return len(batch["x"])

    def loss(self, model, batch, num_items):
        outputs = model(batch["x"])
        off = (outputs["logits"] - self.teacher(batch["x"])["logits"]) ** 2
        return Loss(off.sum() / (num_items or len(off)), outputs, terms={"worst": off.max()})


def by_hand(model, teacher, rows, rows_per_step, steps, rate):
    """Return the losses of plain gradient descent over the rows in their order."""
    losses = []
    for step in range(steps):
        x = torch.stack([row["x"] for row in rows[step * rows_per_step : (step + 1) * rows_per_step]])
        loss = ((model(x)["logits"] - teacher(x)["logits"]) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
                parameter.grad = None
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("batch", [8, 2])
def test_an_objective_with_a_count_and_a_loss_trains(tmp_path, batch):
    """As by hand, in one micro-batch or in four; metrics see the model's outputs, terms are logged."""
    rows, teacher = tiny.line_rows(24), tiny.new_line(seed=1)
    wanted = by_hand(tiny.new_line(), teacher, rows, 8, 3, 0.1)
    args = TrainingArguments(
        tmp_path, max_steps=3, per_device_train_batch_size=batch, gradient_accumulation_steps=8 // batch, optim="sgd",
        learning_rate=0.1, lr_scheduler_type="constant", train_sampling_strategy="sequential", logging_steps=1,
        max_grad_norm=0, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        tiny.new_line(),
        args,
        train_dataset=rows,
        eval_dataset=rows[:8],
        objective=Distillation(teacher),
        compute_metrics=lambda p: {"mean": float(p.predictions.mean())},
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["loss"] for log in logs] == pytest.approx(wanted, rel=1e-5)
    assert all(log["worst"] >= log["loss"] for log in logs)
    metrics = trainer.evaluate()
    with torch.no_grad():
        x = torch.stack([row["x"] for row in rows[:8]])
        off = (trainer.model(x)["logits"] - teacher(x)["logits"]) ** 2
        assert metrics["eval_loss"] == pytest.approx(off.mean().item(), rel=1e-5)
        assert metrics["eval_mean"] == pytest.approx(trainer.model(x)["logits"].mean().item(), rel=1e-5)


class Mean(Distillation):
    """The mean over its own batch, whatever number of items it is told."""

    def loss(self, model, batch, num_items):
        return super().loss(model, batch, None)


class Neither(Distillation):
    """A share, and a term beside it that is whole in every micro-batch."""

    def loss(self, model, batch, num_items):
        share = super().loss(model, batch, num_items)
        return Loss(share.value + model.layer.weight.square().sum(), share.outputs)


def test_an_objective_that_returns_a_mean_is_weighed_as_one(tmp_path):
    """As by hand; added up as shares, four micro-batches would weigh four times as much."""
    rows, teacher = tiny.line_rows(24), tiny.new_line(seed=1)
    args = TrainingArguments(
        tmp_path, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=4, optim="sgd",
        learning_rate=0.1, lr_scheduler_type="constant", train_sampling_strategy="sequential", logging_steps=1,
        max_grad_norm=0, save_strategy="no", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(tiny.new_line(), args, train_dataset=rows, objective=Mean(teacher))
    trainer.train()
    wanted = by_hand(tiny.new_line(), teacher, rows, 8, 3, 0.1)
    assert [log["loss"] for log in trainer.state.log_history if "loss" in log] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ConfigError, match="Neither.loss returned .* neither a share of the step's loss"):
        Trainer(tiny.new_line(), args, train_dataset=rows, objective=Neither(teacher)).train()


def test_what_is_no_objective_is_refused(tmp_path):
    args = TrainingArguments(tmp_path, max_steps=1, report_to="none", disable_tqdm=True)
    with pytest.raises(ConfigError, match=r"objective= is a MSELoss; it must be a trainwright\.Objective"):
        Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(), objective=torch.nn.MSELoss())

    class Plain(Distillation):
        def loss(self, model, batch, num_items):
            return super().loss(model, batch, num_items).value

    trainer = Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(), objective=Plain(tiny.new_line()))
    with pytest.raises(DataError, match=r"Plain\.loss returned Tensor; it must return trainwright\.Loss"):
        trainer.train()


def run(tmp_path, objective, capsys=None):
    args = TrainingArguments(tmp_path, max_steps=2, save_strategy="no", report_to="none", disable_tqdm=True)
    Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(16), objective=objective).train()


@pytest.mark.parametrize("name", ["loss", "grad_norm", "learning_rate"])
def test_a_term_does_not_take_the_place_of_what_is_logged_anyway(tmp_path, name):
    class Named(Distillation):
        def loss(self, model, batch, num_items):
            loss = super().loss(model, batch, num_items)
            return Loss(loss.value, loss.outputs, {name: loss.value})

    with pytest.raises(DataError, match=f"'{name}' is logged anyway; .* needs another name"):
        run(tmp_path, Named(tiny.new_line(seed=1)))


@pytest.mark.parametrize("items", [None, -1, float("nan"), "8"])
def test_a_count_that_is_no_number_of_items_is_told(tmp_path, items):
    class Counting(Distillation):
        def count(self, batch):
            return items

    with pytest.raises(DataError, match=f"Counting.count returned {items!r}; it must return the number of items"):
        run(tmp_path, Counting(tiny.new_line(seed=1)))


def test_a_count_that_is_always_0_is_not_taken_for_masked_labels(tmp_path):
    class Counting(Distillation):
        def count(self, batch):
            return 0

    with pytest.raises(DataError, match="Counting.count returned 0 for every batch"):
        run(tmp_path, Counting(tiny.new_line(seed=1)))


def test_parameters_of_an_objective_that_nobody_trains_are_said(tmp_path, caplog):
    class Headed(Distillation):
        def __init__(self, teacher):
            super().__init__(teacher)
            self.head = torch.nn.Linear(1, 1)

    run(tmp_path, Headed(tiny.new_line(seed=1)))
    assert "though they require gradients: head.weight, head.bias of Headed" in caplog.text
    caplog.clear()
    run(tmp_path, Distillation(tiny.new_line(seed=1)))
    assert "Not trained" not in caplog.text


def test_sums_of_rows_are_those_of_additions_one_by_one():
    rows = torch.tensor([0, 0, 2, 2, 2, 5])  # rows 1, 3 and 4 have no target
    for shape in ((6,), (6, 3)):
        values = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        factors = torch.arange(7.0, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        ours = sums_of_rows(values, rows, 7)
        plain = torch.zeros(7, *shape[1:], dtype=torch.float64).index_add(0, rows, values)
        assert torch.equal(ours, plain)
        gradients = [torch.autograd.grad((sums * factors).sum(), values)[0] for sums in (ours, plain)]
        assert torch.equal(*gradients)


def test_from_the_loop_to_the_loss_are_five_stops(tmp_path):
    """The walk of docs/architecture.md; the Trainer's one-line methods, which users override, are no stops."""
    walks = []

    class Looking(Distillation):
        def loss(self, model, batch, num_items):
            frames = traceback.extract_stack()
            ours = [one for one in frames if "/src/trainwright/" in one.filename and "/trainer/" not in one.filename]
            walks.append([one.name for one in ours])
            return super().loss(model, batch, num_items)

    args = TrainingArguments(tmp_path, max_steps=1, save_strategy="no", report_to="none", disable_tqdm=True)
    objective = Looking(tiny.new_line(seed=1))
    Trainer(tiny.new_line(), args, train_dataset=tiny.line_rows(8), objective=objective).train()
    first = walks[0].index("backward")
    assert walks[0][first:] == ["backward", "micro_batch", "training_step", "compute_loss"]  # and the objective's own
