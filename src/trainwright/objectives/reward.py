"""A model that scores answers, learned from pairs of which one is better (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from trainwright.batch import IGNORED
from trainwright.config.options import RewardOptions
from trainwright.errors import DataError
from trainwright.objectives.language import FlatInputs
from trainwright.objectives.objective import Loss, Objective
from trainwright.objectives.padding_free import Flat, flattened, sharing

_NAMES = ("input_ids", "attention_mask", "labels")
_SAME = 1e-3  # difference of scores by their size, where padding or what is shared makes none
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
        shares: whether what both answers of a pair begin with may be computed once; None before it was tried.
    """

    options: RewardOptions
    layer: nn.Module | None = None
    flat_rows: FlatInputs | None = None
    shares: bool | None = None

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
        if told is None or not told.unpads:
            return self._of_rows(model, rows)
        pairs = self._of_pairs(rows) if told.goes_on else None
        if pairs is None or self.shares is False:
            return self._of_flat(model, rows, flattened(rows))
        if self.shares is None:
            with torch.no_grad():
                usual, found = (self._of_flat(model, rows, flat) for flat in (flattened(rows), pairs))
            self.shares = bool((usual - found).abs().max() <= _SAME * usual.abs().max())
        return self._of_flat(model, rows, pairs if self.shares else flattened(rows))

    def _of_rows(self, model: nn.Module, rows: Mapping[str, torch.Tensor]) -> torch.Tensor:
        assert self.layer is not None
        with _outputs_of(self.layer) as seen:
            model(**_unlabelled(rows))
        last = rows["attention_mask"].sum(dim=1) - 1
        return seen[-1].squeeze(-1)[torch.arange(len(last), device=last.device), last]

    def _of_flat(self, model: nn.Module, rows: Mapping[str, torch.Tensor], flat: Flat | None) -> torch.Tensor:
        """Return the scores of rows that lie one after another; of documents that others go on from, none."""
        if flat is None or self.flat_rows is None or self.layer is None:
            return self._of_rows(model, rows)
        with _outputs_of(self.layer) as seen:
            told = self.flat_rows.inputs(flat.lengths, flat.begins)
            model(input_ids=flat.input_ids, position_ids=flat.position_ids, **told)
        values = seen[-1].squeeze(-1)[0]  # of every token
        ends = torch.tensor(flat.lengths, device=values.device).cumsum(0) - 1
        if flat.begins is not None:
            ends = ends[torch.tensor([begin is not None for begin in flat.begins], device=ends.device)]
        return values[ends]

    def _of_pairs(self, rows: Mapping[str, torch.Tensor]) -> Flat | None:
        """Return rows of which what both answers of a pair begin with stands once; None where some differ at once, and
        in float64 (`FusedLoss.answers`)."""
        if self.layer is None or next(self.layer.parameters()).dtype == torch.float64:
            return None
        ids, real = (rows[name].unflatten(0, (-1, 2)) for name in ("input_ids", "attention_mask"))
        alike = ((ids[:, 0] == ids[:, 1]) & real.bool().all(dim=1)).int().cumprod(dim=1).sum(dim=1)
        begin = torch.minimum(alike, real.sum(dim=2).amin(dim=1) - 1).repeat_interleave(
            2
        )  # each has a token of its own
        before = torch.arange(ids.shape[-1], device=ids.device) < begin[:, None]
        layout = sharing({**rows, "labels": rows["labels"].masked_fill(before, IGNORED)})
        return None if layout is None else layout.flat


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
