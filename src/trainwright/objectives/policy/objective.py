"""What GRPO and RLOO minimise: of completions that are there, with what they were worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainwright.batch import IGNORED, row_count
from trainwright.config.policy_options import GRPOOptions, PolicyOptions, RLOOOptions
from trainwright.evaluation_mode import evaluation_mode
from trainwright.objectives.language import FusedLoss
from trainwright.objectives.linear.rows import TokenStatistics, new_watch
from trainwright.objectives.objective import Loss
from trainwright.objectives.policy.losses import Policy, grpo, mean, rloo
from trainwright.objectives.row_log_probs import ReferencedLoss

_MODEL_INPUTS = ("input_ids", "attention_mask", "labels")


@dataclass
class PolicyLoss(ReferencedLoss):
    """The loss of completions; a batch has, besides the model's inputs of shape (completions, tokens), `advantages`,
    shape (completions,), `tokens_per_completion`, of the same shape, and where they are used `old`, `reference` and
    `sampler`, log-probabilities in the places of the labels.
    """

    options: PolicyOptions

    descends = False

    @property
    def fusable(self) -> bool:
        """Whether log-probabilities alone are wanted: the entropy as a part of the loss needs the logits."""
        return not (isinstance(self.options, GRPOOptions) and self.options.entropy_coef)

    @property
    def adds_up(self) -> bool:
        """Whether the loss of a step is the same however it is cut into micro-batches."""
        options = self.options
        if not isinstance(options, GRPOOptions):
            return True
        return options.loss_type != "bnpo" and not options.entropy_coef and options.top_entropy_quantile >= 1

    def count(self, batch: Any) -> int:
        """Return the number of completions."""
        return row_count(batch)

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return what the model is called with."""
        return {name: batch[name] for name in _MODEL_INPUTS}

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and metrics by TRL's names; never the model's outputs.

        Args:
            model: the policy.
            batch: on the model's device.
            num_items: completions of the whole step; None for the mean over this batch.
        """
        new, entropy = self.log_probs(model, self.model_inputs(batch), self.fused)
        known = {name: batch[name][:, 1:].to(new.dtype) for name in ("old", "reference", "sampler") if name in batch}
        policy = Policy(
            new=new,
            mask=(batch["labels"][:, 1:] != IGNORED).to(new.dtype),
            advantages=batch["advantages"].to(new.dtype),
            entropy=entropy,
            tokens_per_completion=batch["tokens_per_completion"].to(new.dtype),
            **known,
        )
        losses, terms = rloo(policy, self.options) if isinstance(self.options, RLOOOptions) else self._grpo(policy)
        total = losses.sum() / (len(losses) if num_items is None else num_items)
        return Loss(total, terms=terms | {"entropy": mean(policy, entropy)})

    def _grpo(self, policy: Policy) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        assert isinstance(self.options, GRPOOptions)
        return grpo(policy, self.options)

    @torch.no_grad()
    def old_log_probs(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities under the policy as it is, without dropout; shape (completions, tokens - 1)."""
        inner = getattr(model, "module", model)
        with evaluation_mode(inner):
            return self.log_probs(inner, rows, self.fused)[0]

    def reference_log_probs(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities under the reference, shape (completions, tokens - 1)."""
        return self.of_reference(model, lambda judge, fused: self.log_probs(judge, rows, fused)[0])

    def log_probs(
        self, model: nn.Module, rows: Mapping[str, torch.Tensor], fused: FusedLoss | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and entropies, shape (completions, tokens - 1), at the temperature of the
        generation; 0 in places that are no target."""
        wanted = rows["labels"][:, 1:] != IGNORED
        if fused is None:
            per_token, entropy = self._from_logits(model, rows, wanted)
        else:
            found = fused.answers(model, rows)
            watch: TokenStatistics = new_watch(("entropy",), found.targets)
            per_token = fused.log_probs(found, watch, self.temperature)
            entropy = watch["entropy"].to(per_token.dtype)
        empty = per_token.new_zeros(wanted.shape)
        return empty.masked_scatter(wanted, per_token), empty.masked_scatter(wanted, entropy)

    @property
    def temperature(self) -> float:
        """What logits are divided by; greedy completions are measured at 1."""
        return self.options.temperature or 1.0

    def _from_logits(
        self, model: nn.Module, rows: Mapping[str, torch.Tensor], wanted: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(**{name: value for name, value in rows.items() if name != "labels"}).logits[:, :-1][wanted]
        logs = (logits if logits.dtype == torch.float64 else logits.float()).div(self.temperature).log_softmax(-1)
        picked = logs.gather(1, rows["labels"][:, 1:][wanted][:, None]).squeeze(1)
        return picked, -(logs.exp() * logs).sum(-1)
