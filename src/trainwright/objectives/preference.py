"""Direct preference optimisation: which of two answers is the better one, measured against a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.config.options import DPOOptions
from trainwright.devices import widest_float
from trainwright.objectives.dpo_losses import Pairs, losses_of
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import TokenStatistics, new_watch
from trainwright.objectives.objective import Loss
from trainwright.objectives.row_log_probs import ReferencedLoss, plain_log_probs
from trainwright.objectives.targets import sums_of_rows

_MODEL_INPUTS = ("input_ids", "attention_mask", "labels")


@dataclass
class Answers:
    """Both answers of every pair under one model; tensors of shape (pairs, 2), the chosen answer first.

    Attributes:
        log_probs: of the whole answers, in the widest format of the device.
        tokens: of the answers.
        nll: sum over the tokens of the chosen answers of -log p.
        per_token: log-probability of every target, shape (targets,).
        rows: the answer of every target, shape (targets,).
        watch: what else was noted of every target.
    """

    log_probs: torch.Tensor
    tokens: torch.Tensor
    nll: torch.Tensor
    per_token: torch.Tensor
    rows: torch.Tensor
    watch: TokenStatistics


@dataclass
class PreferenceLoss(ReferencedLoss):
    """The loss of pairs of answers."""

    options: DPOOptions

    fusable = True

    @property
    def has_reference(self) -> bool:
        """Whether the reference is computed in the step."""
        return self.reference is not None or self.without_adapters is not None

    def count(self, batch: Any) -> int:
        """Return the number of pairs."""
        return len(batch["input_ids"])

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return what the model is called with: all answers as rows, shape (2 · pairs, tokens)."""
        return {name: batch[name].flatten(0, 1) for name in _MODEL_INPUTS}

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and metrics by TRL's names; never the model's outputs.

        Args:
            model: the policy.
            batch: a `PairBatch` on the model's device.
            num_items: pairs of the whole step; None for the mean over this batch.
        """
        rows = self.model_inputs(batch)
        noted = ("top1", "entropy", "mean_logit", *(["log_sum_square"] if self.options.use_weighting else []))
        policy = self._answers(model, rows, self.fused, noted)
        reference = batch["reference"] if "reference" in batch else self.reference_log_probs(model, rows)
        chosen_tokens = policy.tokens[:, 0].sum().clamp(min=1)
        pairs = Pairs(
            chosen=policy.log_probs[:, 0],
            rejected=policy.log_probs[:, 1],
            ref_chosen=reference[:, 0],
            ref_rejected=reference[:, 1],
            chosen_tokens=policy.tokens[:, 0].clamp(min=1),
            rejected_tokens=policy.tokens[:, 1].clamp(min=1),
            chosen_nll=policy.nll / chosen_tokens,
        )
        losses = losses_of(pairs, self.options, self._weights(policy) if self.options.use_weighting else None)
        total = losses.sum() / (len(losses) if num_items is None else num_items)
        return Loss(total.to(policy.per_token.dtype), terms=metrics(pairs, policy, self.options.beta))

    def reference_log_probs(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of the answers under the reference, shape (pairs, 2)."""
        return self.of_reference(model, lambda judge, fused: self._answers(judge, rows, fused, ()).log_probs)

    def _answers(
        self, model: nn.Module, rows: Mapping[str, torch.Tensor], fused: FusedLoss | None, noted: tuple[str, ...]
    ) -> Answers:
        labels = rows["labels"]
        if fused is not None:
            found = fused.answers(model, rows)
            watch = new_watch(noted, found.targets)
            per_token, owners = fused.log_probs(found, watch or None), found.rows
        else:
            per_token, owners, watch = plain_log_probs(model, rows, noted)
        count = len(labels)
        tokens = torch.zeros(count, device=per_token.device).index_add_(0, owners, torch.ones_like(per_token).float())
        weight = self._token_weights(owners, tokens)
        exact = per_token.to(widest_float(per_token.device))  # log-ratios are small differences of large sums
        weighted = exact if weight is None else exact * weight
        sums = sums_of_rows(weighted, owners, count)
        nll = -torch.where(owners % 2 == 0, exact, 0.0).sum()
        return Answers(
            log_probs=sums.unflatten(0, (-1, 2)),
            tokens=tokens.unflatten(0, (-1, 2)),
            nll=nll,
            per_token=per_token,
            rows=owners,
            watch=watch,
        )

    def _token_weights(self, owners: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor | None:
        """Return the weight of every target (LD-DPO, arXiv:2409.06411): less past the length of the shorter answer."""
        if self.options.ld_alpha is None:
            return None
        shared = tokens.unflatten(0, (-1, 2)).amin(dim=1).repeat_interleave(2)
        first = torch.searchsorted(owners, torch.arange(len(tokens), device=owners.device))
        place = torch.arange(len(owners), device=owners.device) - first[owners]
        return torch.where(place < shared[owners], 1.0, self.options.ld_alpha)

    def _weights(self, policy: Answers) -> torch.Tensor:
        """Return the weights of the pairs, from how likely the policy finds both answers; detached."""
        aligned = policy.per_token.detach() - policy.watch["log_sum_square"]
        sums = sums_of_rows(aligned.float(), policy.rows, policy.tokens.numel())
        mean: torch.Tensor = sums.unflatten(0, (-1, 2)) / policy.tokens.clamp(min=1)
        return mean.exp().prod(dim=1)


@torch.no_grad()
def metrics(pairs: Pairs, policy: Answers, beta: float) -> dict[str, torch.Tensor]:
    """Return the numbers that are logged, by TRL's names; scalars on the device."""
    chosen, rejected = beta * (pairs.chosen - pairs.ref_chosen), beta * (pairs.rejected - pairs.ref_rejected)
    first = policy.rows % 2 == 0
    second = ~first
    watch = policy.watch
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "logps/chosen": pairs.chosen.mean(),
        "logps/rejected": pairs.rejected.mean(),
        "logits/chosen": _mean(watch["mean_logit"], first),
        "logits/rejected": _mean(watch["mean_logit"], second),
        "mean_token_accuracy": _mean(watch["top1"], first),
        "entropy": watch["entropy"].mean(),
    }


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)
