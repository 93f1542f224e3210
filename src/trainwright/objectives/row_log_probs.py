"""Log-probabilities of the answers in a batch, one sum for every row, without the logits where that is possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from trainwright.devices import widest_float
from trainwright.evaluation_mode import evaluation_mode
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear_loss import TokenStatistics, new_watch
from trainwright.objectives.preference import plain_log_probs
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


@dataclass(frozen=True)
class Judge:
    """The reference: a model of its own, or the trained one without its adapters.

    Attributes:
        model: None for the trained model without adapters.
        fused: the fused loss of the one that is called.
        without_adapters: the context in which the trained model is its own reference.
    """

    model: nn.Module | None
    fused: FusedLoss | None
    without_adapters: Callable[[], AbstractContextManager[object]] | None

    @torch.no_grad()
    def sums(self, policy: nn.Module, rows: Rows) -> torch.Tensor:
        """Return the log-probability of every row's targets, shape (rows,)."""
        if self.model is not None:
            return row_log_probs(self.model, rows, self.fused).sums
        inner = getattr(policy, "module", policy)
        context = self.without_adapters() if self.without_adapters is not None else nullcontext()
        with evaluation_mode(inner), context:
            return row_log_probs(inner, rows, self.fused).sums
