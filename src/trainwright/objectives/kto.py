"""Kahneman-Tversky optimisation: answers that are each good or bad, measured against a reference and against how far
the policy has gone from it on answers that belong to other prompts (arXiv:2402.01306)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from trainwright.batch import IGNORED
from trainwright.config.options import KTOOptions
from trainwright.objectives.objective import Loss, Peers
from trainwright.objectives.row_log_probs import ReferencedLoss, RowLogProbs, Rows, row_log_probs

_NAMES = ("input_ids", "attention_mask", "labels")
_MIXED = "kl_"  # before the names of rows whose completions belong to other prompts
_PAD = 0  # any token: the attention mask tells


@dataclass
class KTOLoss(ReferencedLoss):
    """The mean over rows of 1 - sigmoid(beta · (r - kl)) where the completion is desirable, and of
    1 - sigmoid(beta · (kl - r)) where it is not; r is the log-ratio of policy and reference.

    `kl` is one number of a step: the mean, at least 0, of the log-ratios of completions under the prompts that follow
    theirs in the step. With `apo_zero_unpaired` (arXiv:2408.06266, equation 7) it is 0.
    """

    options: KTOOptions

    fusable = True

    def count(self, batch: Any) -> int:
        """Return the number of rows; TRL's mean is one of the micro-batches' means."""
        return 1 if self.options.trl_compatible else len(batch["input_ids"])

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return what the model is called with."""
        return {name: batch[name] for name in _NAMES}

    def reference_log_probs(self, model: nn.Module, rows: Rows) -> torch.Tensor:
        """Return the log-probabilities of the completions under the reference, shape (rows,)."""
        return self.of_reference(model, lambda judge, fused: row_log_probs(judge, rows, fused).sums)

    @torch.no_grad()
    def look_ahead(self, model: nn.Module, batches: list[Any], items: Sequence[float], peers: Peers) -> list[Any]:
        """Return the micro-batches of a step with the divergence of the step, `kl` of shape (rows,).

        A completion goes to the prompt that follows its own in the step, over its micro-batches and ranks; the last
        one to the first. TRL's go to where the rows say, and every micro-batch has a divergence of its own.
        """
        if self.options.loss_type != "kto":
            return batches
        own = self.options.trl_compatible
        mixed = batches if own else _mixed(batches, items, peers, self.options.max_length)
        sums = torch.stack([self._divergence(model, peers.to_device(batch)).sum() for batch in mixed])
        rows = sums.new_tensor(
            [len(batch["input_ids"]) * (weight > 0) for batch, weight in zip(batches, items, strict=True)]
        )
        if own:
            means = peers.sum_tensor(sums / rows.clamp(min=1)) / peers.sum_tensor((rows > 0).to(sums.dtype)).clamp(
                min=1
            )
        else:
            means = (peers.sum_tensor((sums * (rows > 0)).sum()) / peers.sum_tensor(rows.sum())).expand(len(sums))
        found = means.clamp(min=0)
        return [{**batch, "kl": kl.expand(len(batch["input_ids"]))} for batch, kl in zip(batches, found, strict=True)]

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and metrics by TRL's names; never the model's outputs.

        Args:
            model: the policy.
            batch: an `UnpairedBatch` on the model's device.
            num_items: rows of the whole step; None for the mean over this batch.
        """
        rows = self.model_inputs(batch)
        policy = row_log_probs(model, rows, self.fused, ("entropy", "mean_logit"))
        reference = batch["reference"] if "reference" in batch else self.reference_log_probs(model, rows)
        ratios, good = policy.sums - reference, batch["good"]
        kl = self._kl(model, batch).to(ratios.dtype)
        beta, weights = self.options.beta, (self.options.desirable_weight, self.options.undesirable_weight)
        gains = beta * torch.where(good, ratios - kl, kl - ratios)
        losses = torch.where(good, *weights) * (1 - gains.sigmoid())
        mean = losses.sum() / len(losses)
        total = mean if num_items is None else mean * (self.count(batch) / num_items)
        terms, parts = metrics(policy, (beta * ratios).detach(), good)
        return Loss(total.to(policy.per_token.dtype), terms={"kl": kl.mean(), **terms}, parts=parts)

    @torch.no_grad()
    def _kl(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """Return the divergence that a batch is measured by, of shape (rows,) or (): its own, where it stands alone."""
        if self.options.loss_type != "kto":
            return torch.zeros((), device=batch["input_ids"].device)
        if "kl" in batch:
            kl: torch.Tensor = batch["kl"]
            return kl
        mixed = batch if self.options.trl_compatible else _turned(batch, self.options.max_length)
        return self._divergence(model, mixed).mean().clamp(min=0)

    def _divergence(self, model: nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the log-ratios of completions under other prompts, shape (rows,)."""
        rows = {name: batch[f"{_MIXED}{name}"] for name in _NAMES}
        inner = getattr(model, "module", model)
        return row_log_probs(inner, rows, self.fused).sums - self.reference_log_probs(model, rows)


def _mixed(batches: list[Any], items: Sequence[float], peers: Peers, longest: int | None) -> list[dict[str, Any]]:
    """Return the rows of a step's micro-batches, each prompt with the completion of the row before it in the step."""
    parts = [_parts_of(batch) for batch in batches]
    last = [found[-1][1] if weight else None for found, weight in zip(parts, items, strict=True)]
    everyone = peers.gather_shards(last)
    shard, shards = peers.data_shard.index, len(everyone)
    order = [everyone[rank][number] for number in range(len(batches)) for rank in range(shards)]
    mixed = []
    for number, found in enumerate(parts):
        place = number * shards + shard
        before = [one for one in (*order[place:], *order[:place]) if one is not None]
        mixed.append(_rows([prompt for prompt, _ in found], [before[-1], *(one for _, one in found[:-1])], longest))
    return mixed


def _turned(batch: Mapping[str, Any], longest: int | None) -> dict[str, Any]:
    """Return the rows of a batch, each prompt with the completion of the row before it, the first with the last's."""
    prompts, completions = zip(*_parts_of(batch), strict=True)
    return _rows(prompts, [completions[-1], *completions[:-1]], longest)


def _parts_of(batch: Mapping[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return prompt and completion of every row, each of shape (tokens,)."""
    lengths, learned = batch["attention_mask"].sum(dim=1).tolist(), batch["labels"] != IGNORED
    return [
        (ids[:length][~wrote[:length]], ids[:length][wrote[:length]])
        for ids, wrote, length in zip(batch["input_ids"], learned, lengths, strict=True)
    ]


def _rows(
    prompts: Sequence[torch.Tensor], completions: Sequence[torch.Tensor], longest: int | None
) -> dict[str, torch.Tensor]:
    """Return prompts and completions as padded rows of at most `longest` tokens, shape (rows, tokens)."""
    ids, labels = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        completion = completion.to(prompt.device)
        ids.append(torch.cat([prompt, completion])[:longest])
        labels.append(torch.cat([torch.full_like(prompt, IGNORED), completion])[:longest])
    columns = {
        "input_ids": (ids, _PAD),
        "labels": (labels, IGNORED),
        "attention_mask": ([*map(torch.ones_like, ids)], 0),
    }
    return {
        f"{_MIXED}{name}": pad_sequence(list(values), batch_first=True, padding_value=filler)
        for name, (values, filler) in columns.items()
    }


@torch.no_grad()
def metrics(
    policy: RowLogProbs, rewards: torch.Tensor, good: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the numbers that are logged, by TRL's names, and which part of the batch's weight each has.

    Args:
        policy: what the model says of the completions.
        rewards: of the rows, shape (rows,).
        good: which are desirable, shape (rows,).
    """
    rows = len(good)
    terms, parts = {"entropy": policy.watch["entropy"].mean()}, {"entropy": policy.tokens.sum() / rows}
    for name, chosen in (("chosen", good), ("rejected", ~good)):
        written = chosen[policy.rows]
        for what, values, where in (
            ("rewards", rewards, chosen),
            ("logps", policy.sums.detach(), chosen),
            ("logits", policy.watch["mean_logit"], written),
        ):
            terms[f"{what}/{name}"] = (values * where).sum() / where.sum().clamp(min=1)
            parts[f"{what}/{name}"] = where.sum() / rows
    both = good.any() & ~good.all()
    terms["rewards/margins"] = terms["rewards/chosen"] - terms["rewards/rejected"]
    parts["rewards/margins"] = both.to(rewards.dtype)
    return terms, parts
