"""Distillation: the student learns to predict what the teacher does (arXiv:2306.13649)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.batch import IGNORED
from trainwright.objectives.distillation.linear_divergence import Layer, divergence, linear_divergence
from trainwright.objectives.language import FusedLoss, Labelled
from trainwright.objectives.objective import Loss, Objective


@dataclass
class DistillationLoss(Objective):
    """The mean over all targets of the divergence of the student's prediction from the teacher's.

    Attributes:
        beta: 0 for KL(teacher‖student), 1 for KL(student‖teacher), between them generalised Jensen-Shannon.
        temperature: that the logits of both are divided by.
        reference: the teacher.
        fused: the student's head, by which no logits are built.
        fused_reference: the teacher's.
    """

    beta: float
    temperature: float = 1.0
    reference: nn.Module | None = None
    fused: FusedLoss | None = None
    fused_reference: FusedLoss | None = None

    shifted = True
    fusable = True

    def count(self, batch: Any) -> int:
        """Return the number of targets."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and the entropy of the student's predictions."""
        assert self.reference is not None
        if self.fused is not None and self.fused_reference is not None:
            student = self.fused.labelled(model, batch)
            with torch.no_grad():
                teacher = self.fused_reference.labelled(self.reference, batch)
            total, entropy = linear_divergence(
                _layer(self.fused, student), _layer(self.fused_reference, teacher), self.beta, self.temperature
            )
        else:
            own = _log_probs(model, batch, self.temperature)
            with torch.no_grad():
                known = _log_probs(self.reference, batch, self.temperature)
            total, entropy = _divergence(own, known, self.beta)
        count = max(len(entropy), 1)
        return Loss(total / (count if num_items is None else num_items), terms={"entropy": entropy.sum() / count})


def _layer(fused: FusedLoss, found: Labelled) -> Layer:
    head = fused.head
    return Layer(found.hidden, head.weight, head.bias, head.scale, head.cap)


def _log_probs(model: nn.Module, batch: Mapping[str, Any], temperature: float) -> torch.Tensor:
    """Return the predictions of a batch's targets by way of the logits, shape (targets, classes)."""
    outputs = model(**{name: value for name, value in batch.items() if name != "labels"})
    wanted = batch["labels"][:, 1:] != IGNORED
    logits: torch.Tensor = outputs.logits[:, :-1][wanted]
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)


def _divergence(own: torch.Tensor, known: torch.Tensor, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the rows' divergences with its gradient, and the student's entropy at every row."""
    with torch.no_grad():
        value, gradient, entropy = divergence(own, known, beta)
    # the gradient to log-softmax is that to the logits, for it adds up to 0 in every row
    return value.sum() + ((own - own.detach()) * gradient).sum(), entropy
