"""Cross-entropy over classes, of rows or of words, with weights of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from trainwright.batch import IGNORED
from trainwright.objectives.objective import Loss, Objective


class ClassLoss(Objective):
    """The mean of -w[y] log p(y) over all targets y, divided by the mean weight of these, as
    `torch.nn.CrossEntropyLoss(weight=w)` has it. Over several micro-batches and ranks it is that of all their targets.

    Args:
        weights: w, one for each class; None weighs all alike.
    """

    def __init__(self, weights: Sequence[float] | None = None) -> None:
        self.weights = None if weights is None else torch.tensor(weights, dtype=torch.float32)

    def count(self, batch: Any) -> Any:
        """Return the weights of this batch's targets, summed up."""
        labels = batch["labels"]
        targets = labels[labels != IGNORED]
        return len(targets) if self.weights is None else float(self.weights[targets.cpu()].double().sum())

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss; logits of shape (rows, classes), or (rows, tokens, classes)."""
        outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
        logits, labels = outputs.logits, batch["labels"]
        weights = None if self.weights is None else self.weights.to(logits.device)
        total = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), weights, ignore_index=IGNORED,
            reduction="sum",
        )  # fmt: skip
        return Loss(total / (self.count(batch) if num_items is None else num_items), outputs)
