"""A model that scores answers, learned from pairs of which one is better (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from trainwright.config.options import RewardOptions
from trainwright.errors import DataError
from trainwright.objectives.language import FlatInputs
from trainwright.objectives.objective import Loss, Objective
from trainwright.objectives.padding_free import flattened

_NAMES = ("input_ids", "attention_mask", "labels")
CALIBRATION = "calibration"
SURE = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Edges of how sure a model is of a pair: the probability, by its scores, of the answer that it prefers."""


@dataclass
class RewardLoss(Objective):
    """The mean over pairs of -log sigmoid(r_c - r_r - margin) + coefficient · (r_c + r_r)².

    Attributes:
        options: the settings.
        layer: the layer that gives every token a score, that of the last being the row's; None where the
            model returns one logit for every row, as it is where TRL's rule is asked for.
        flat_rows: how the model takes rows one after another, without padding; None where it does not.
    """

    options: RewardOptions
    layer: nn.Module | None = None
    flat_rows: FlatInputs | None = None

    def count(self, batch: Any) -> int:
        """Return the number of pairs."""
        return len(batch["input_ids"])

    def model_inputs(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return all answers as rows, shape (2 · pairs, tokens)."""
        return {name: batch[name].flatten(0, 1) for name in _NAMES}

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss, and metrics by TRL's names.

        Args:
            model: what scores.
            batch: a `ScoredBatch` on the model's device.
            num_items: pairs of the whole step; None for the mean over this batch.
        """
        scores = self.scores(model, self.model_inputs(batch))
        better, worse = scores.unflatten(0, (-1, 2)).unbind(1)
        losses = -logsigmoid(better - worse - batch["margin"].to(scores.dtype))
        if self.options.center_rewards_coefficient is not None:
            losses = losses + self.options.center_rewards_coefficient * (better + worse) ** 2
        total = losses.sum() / (len(losses) if num_items is None else num_items)
        terms, parts = metrics(better.detach(), worse.detach()), dict[str, torch.Tensor]()
        if not torch.is_grad_enabled():  # in an evaluation
            of_pairs, parts = calibration(better - worse)
            terms |= of_pairs
        return Loss(total, terms=terms, parts=parts)

    def scores(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the score of every row, at its last token by the attention mask, shape (rows,).

        Raises:
            DataError: the model gives no single score.
        """
        if self.layer is None or self.options.trl_compatible:
            return _one_each(model(**_unlabelled(rows)), len(rows["input_ids"]))
        told = self.flat_rows
        flat = flattened(rows) if told is not None and told.unpads else None
        with _outputs_of(self.layer) as seen:
            if flat is None or told is None:
                model(**_unlabelled(rows))
            else:
                model(input_ids=flat.input_ids, position_ids=flat.position_ids, **told.inputs(flat.lengths))
        values = seen[-1].squeeze(-1)  # of every token
        if flat is not None:
            return values[0, torch.tensor(flat.lengths, device=values.device).cumsum(0) - 1]
        last = rows["attention_mask"].sum(dim=1) - 1
        return values[torch.arange(len(last), device=values.device), last]


def _unlabelled(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return rows without their labels, which a classifier would take for classes."""
    return {name: values for name, values in rows.items() if name != "labels"}


def _one_each(outputs: Any, rows: int) -> torch.Tensor:
    """Return one number for every row of a model's outputs, its logits or the tensor that it returned."""
    named = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(named, torch.Tensor) or named.numel() != rows:
        shape = tuple(named.shape) if isinstance(named, torch.Tensor) else type(named).__name__
        raise DataError(
            f"A model that scores returns one number for each of {rows} rows, but its logits are {shape}. Give it one "
            "class (num_labels=1)."
        )
    return named.reshape(rows)


@contextmanager
def _outputs_of(layer: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what a layer returns."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda part, given, output: seen.append(output))
    try:
        yield seen
    finally:
        handle.remove()


def metrics(better: torch.Tensor, worse: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the numbers that are logged, by TRL's names; scalars on the device."""
    both = torch.cat([better, worse])
    return {
        "min_reward": both.min(),
        "mean_reward": both.mean(),
        "max_reward": both.max(),
        "accuracy": (better > worse).float().mean(),
        "margin": (better - worse).mean(),
    }


def calibration(margins: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return (numbers by name, which part of the batch each is a mean over): whether a model is as often right as it is
    sure (Guo et al. 2017, arXiv:1706.04599).

    For the pairs between two edges these are `calibration/<lower edge>/right`, how many are the right way round (half
    of those with equal scores), `sure`, how many ought to be, and `share`, their part of all pairs.

    Args:
        margins: score of the better answer less that of the worse one, shape (pairs,).
    """
    sure, right = margins.abs().sigmoid(), (margins.sign() + 1) / 2
    bins = torch.bucketize(sure, torch.tensor(SURE[1:-1], device=sure.device, dtype=sure.dtype), right=True)
    terms, parts = {}, {}
    for number, low in enumerate(SURE[:-1]):
        inside = (bins == number).to(sure.dtype)
        share, count = inside.mean(), inside.sum().clamp(min=1)
        for name, values in (("right", right), ("sure", sure)):
            terms[f"{CALIBRATION}/{low}/{name}"] = (values * inside).sum() / count
            parts[f"{CALIBRATION}/{low}/{name}"] = share
        terms[f"{CALIBRATION}/{low}/share"] = share
    return terms, parts
