"""Log-probabilities of the answers in a batch, one sum for every row, without the logits where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.batch import IGNORED
from trainwright.devices import widest_float
from trainwright.evaluation_mode import evaluation_mode
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import TokenStatistics, new_watch
from trainwright.objectives.objective import Objective
from trainwright.objectives.targets import sums_of_rows

Rows = Mapping[str, torch.Tensor]
"""input_ids, attention_mask and labels of padded rows, each of shape (rows, tokens)."""


@dataclass(frozen=True)
class RowLogProbs:
    """What a model says of the targets of a batch.

    Attributes:
        sums: log-probability of all targets of a row, in the widest format of the device; shape (rows,).
        tokens: targets of every row, shape (rows,).
        per_token: log-probability of every target, shape (targets,).
        rows: the row of every target, shape (targets,).
        watch: what else was noted of every target.
    """

    sums: torch.Tensor
    tokens: torch.Tensor
    per_token: torch.Tensor
    rows: torch.Tensor
    watch: TokenStatistics


def row_log_probs(model: nn.Module, rows: Rows, fused: FusedLoss | None, noted: tuple[str, ...] = ()) -> RowLogProbs:
    """Return the log-probabilities of a batch's targets.

    Args:
        model: a causal language model.
        rows: padded on the right.
        fused: computes them without the logits; None builds these.
        noted: what else is noted of every target, by the names of `TokenStatistics`.
    """
    if fused is not None:
        found = fused.labelled(model, rows)
        watch = new_watch(noted, found.targets)
        per_token, owners = fused.log_probs(found, watch or None), found.rows
    else:
        per_token, owners, watch = plain_log_probs(model, rows, noted)
    count = len(rows["labels"])
    exact = per_token.to(widest_float(per_token.device))  # log-ratios are small differences of large sums
    sums = sums_of_rows(exact, owners, count)
    tokens = torch.zeros(count, dtype=torch.int64, device=exact.device).index_add_(0, owners, torch.ones_like(owners))
    return RowLogProbs(sums, tokens, per_token, owners, watch)


def plain_log_probs(
    model: nn.Module, rows: Mapping[str, torch.Tensor], noted: tuple[str, ...]
) -> tuple[torch.Tensor, torch.Tensor, TokenStatistics]:
    """Return (log-probability, row, what is noted) of every target by way of the logits."""
    outputs = model(**{name: value for name, value in rows.items() if name != "labels"})
    logits, labels = outputs.logits[:, :-1], rows["labels"][:, 1:]
    row, place = (labels != IGNORED).nonzero(as_tuple=True)
    picked, targets = logits[row, place].float(), labels[row, place]
    chances = picked.log_softmax(-1)
    watch = new_watch(noted, targets)
    with torch.no_grad():
        everything = {
            "top1": (picked.argmax(-1) == targets).float(),
            "entropy": -(chances.exp() * chances).sum(-1),
            "mean_logit": picked.mean(-1),
            "log_sum_square": (2 * chances).logsumexp(-1),
        }
        for name in watch:
            watch[name].copy_(everything[name])
    return chances.gather(1, targets[:, None]).squeeze(1), row, watch


@dataclass
class ReferencedLoss(Objective):
    """Base of losses that measure the model against a reference: another one, or the model without its adapters.

    Attributes:
        options: which loss, and its settings.
        reference: the reference model; None where the batch brings its log-probabilities, adapters are switched off, or
            there is none.
        without_adapters: the context in which the trained model is its own reference.
        fused: computes log-probabilities without the logits.
        fused_reference: the same for the reference model.
    """

    options: Any
    reference: nn.Module | None = None
    without_adapters: Callable[[], AbstractContextManager[object]] | None = None
    fused: FusedLoss | None = None
    fused_reference: FusedLoss | None = None

    shifted = True

    @torch.no_grad()
    def of_reference(
        self, model: nn.Module, compute: Callable[[nn.Module, FusedLoss | None], torch.Tensor]
    ) -> torch.Tensor:
        """Return what `compute` gives for the reference, which is called with that model and its fused loss."""
        if self.reference is not None:
            return compute(self.reference, self.fused_reference)
        inner = getattr(model, "module", model)
        with evaluation_mode(inner), self.without_adapters() if self.without_adapters is not None else nullcontext():
            return compute(inner, self.fused)
