"""Micro-batches that are cut where memory runs out: each piece weighs what it holds, whatever the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests import tiny
from trainwright import Trainer, TrainingArguments

CLOSE = 1e-9  # float64: only the order of additions differs


class Own(Trainer):
    """A mean of the user's, on a device that holds `most` rows."""

    most = 100

    def compute_loss(self, model, inputs, return_outputs=False):
        logits, labels = self.outputs(model, inputs)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def outputs(self, model, inputs):
        rows = len(inputs["input_ids"])
        inputs["input_ids"].add_(1).remainder_(tiny.VOCABULARY)  # what is cut afterwards is the batch as it was
        labels = inputs.pop("labels")
        if rows > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return model(**inputs)["logits"], labels


class Told(Own):
    """The same mean, though it is told the number of items."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs)


class Said(Told):
    loss_is_scaled_for_ga = False


class Terms(Own):
    def compute_loss(self, model, inputs, return_outputs=False):
        loss = super().compute_loss(model, inputs)
        self.record("noted", loss * 3)
        return {"loss": loss, "twice": loss * 2}


class Stepping(Own):
    def training_step(self, model, inputs, num_items_in_batch=None):
        return super().training_step(model, inputs, num_items_in_batch)


class Shared(Own):
    """A share, for comparison."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        logits, labels = self.outputs(model, inputs)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / num_items_in_batch


def trained(folder, kind, most, rows, accumulation, model=None):
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=5, gradient_accumulation_steps=accumulation, max_steps=3,
        learning_rate=0.05, save_strategy="no", logging_steps=1, use_cpu=True, disable_tqdm=True,
        auto_find_batch_size=True, train_sampling_strategy="sequential",
    )  # fmt: skip
    trainer = kind(model or tiny.words(), args, train_dataset=rows)
    trainer.most = most
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), logs


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("kind", [Own, Told, Said, Terms, Stepping, Shared])
def test_pieces_weigh_what_they_hold(tmp_path, kind, accumulation):
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in tiny.tokens(17, ragged=True)]
    whole, logs = trained(tmp_path, kind, 100, rows, accumulation)
    for most in (3, 1):  # 3 + 2 rows, then 1 + 1 + 1 + 1 + 1
        cut, cut_logs = trained(tmp_path, kind, most, rows, accumulation)
        assert (cut - whole).abs().max() < CLOSE
        for one, other in zip(logs, cut_logs, strict=True):
            for name in {"loss", "twice", "noted", "grad_norm"} & set(one):
                assert other[name] == pytest.approx(one[name], rel=1e-5)


def test_a_mean_over_rows_is_cut_into_means_over_rows(tmp_path):
    class Regression(Own):
        def compute_loss(self, model, inputs, return_outputs=False):
            if len(inputs["x"]) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return functional.mse_loss(model(inputs["x"])["logits"], inputs["labels"])

    rows = [{name: value.double() for name, value in row.items()} for row in tiny.line_rows(15)]
    results = [trained(tmp_path, Regression, most, rows, 1, tiny.new_line().double())[0] for most in (100, 2, 1)]
    assert (results[0] - results[1]).abs().max() < CLOSE
    assert (results[0] - results[2]).abs().max() < CLOSE
