"""Dynamic fine-tuning: every target weighs as much as the model finds it likely (arXiv:2508.05629, equation 9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from trainwright.batch import IGNORED
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import new_watch
from trainwright.objectives.objective import Loss, Objective
from trainwright.objectives.row_log_probs import plain_log_probs

_NOTED = ("top1", "entropy")


@dataclass
class DynamicLoss(Objective):
    """The mean over all targets of -p log p, of whose factor p no gradient is taken.

    Attributes:
        fused: computes log-probabilities without the logits.
    """

    fused: FusedLoss | None = None

    shifted = True
    fusable = True

    def count(self, batch: Any) -> int:
        """Return the number of targets."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and token accuracy and entropy by TRL's names."""
        if self.fused is not None:
            found = self.fused.labelled(model, batch)
            watch = new_watch(_NOTED, found.targets)
            log_probs = self.fused.log_probs(found, watch)
        else:
            log_probs, _, watch = plain_log_probs(model, batch, _NOTED)
        count = max(len(log_probs), 1)
        total = -(log_probs.detach().exp() * log_probs).sum()
        terms = {"mean_token_accuracy": watch["top1"].sum() / count, "entropy": watch["entropy"].sum() / count}
        return Loss(total / (count if num_items is None else num_items), terms=terms)
