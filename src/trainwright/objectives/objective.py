"""What a run minimises, as the engine sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from trainwright.errors import DataError
from trainwright.objectives.language import FusedLoss


@dataclass
class Loss:
    """What an objective makes of a batch.

    Attributes:
        value: this batch's share of the step's loss, a scalar.
        outputs: what the model returned, for metrics; None where there is nothing that they could be computed from.
        terms: scalars that are logged besides, by name.
        parts: what a term weighs, where that is not what the batch does, as a part of that: a mean over some of the
            batch's rows has their share. A term whose parts are all 0 is not logged.
    """

    value: torch.Tensor
    outputs: Any = None
    terms: Mapping[str, torch.Tensor] = field(default_factory=dict)
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)


def check_loss(objective: Any, loss: Any) -> None:
    """Check what an objective's `loss` has returned.

    Raises:
        DataError: it is no `Loss`, or one of something else.
    """
    name = f"{type(objective).__name__}.loss"
    if not isinstance(loss, Loss):
        raise DataError(
            f"{name} returned {type(loss).__name__}; it must return trainwright.Loss(value, outputs, terms)."
        )
    if not (isinstance(loss.value, torch.Tensor) and isinstance(loss.terms, Mapping)):
        raise DataError(
            f"{name} returned Loss(value={type(loss.value).__name__}, terms={type(loss.terms).__name__}); the value "
            "must be a scalar tensor, and the terms scalars by name."
        )


class Shard(Protocol):
    """Which part of the rows a process reads."""

    @property
    def index(self) -> int:
        """Its number."""


class Peers(Protocol):
    """The processes of a run, as an objective may ask for them; a `Strategy` is one."""

    @property
    def data_shard(self) -> Shard:
        """Which part of the rows this process reads."""

    def gather_shards(self, value: Any) -> list[Any]:
        """Return an object of one process for each shard of the data."""

    def sum_tensor(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the shards of the data."""

    def to_device(self, batch: Any) -> Any:
        """Return the batch with every tensor on the device."""


class Objective:
    """Base of what is minimised: override `count` and `loss`. The rest is for what computes its loss without logits.

    Every loss is handed on as a share: the sum over this batch's items, divided by the items of the whole optimizer
    step (all micro-batches and ranks). The shares of a step add up to its loss. Models that an objective holds as
    attributes are moved to the device of the batches.

    Attributes:
        shifted: whether the targets are the labels but the first of every row, as for causal language models.
        descends: whether its value falls while a model learns; that of a policy gradient is near 0 whatever it learns.
        fused: computes log-probabilities without the logits; the engine sets it where that is the model's own loss.
        reference: a model that is not trained and is called with the same inputs.
        fused_reference: the same as `fused`, for the reference.
    """

    shifted: bool = False
    descends: bool = True
    fused: FusedLoss | None = None
    reference: nn.Module | None = None
    fused_reference: FusedLoss | None = None

    def count(self, batch: Any) -> int:
        """Return the number of items that this batch's loss is a mean over."""
        raise NotImplementedError

    def look_ahead(self, model: nn.Module, batches: list[Any], items: Sequence[float], peers: Peers) -> list[Any]:
        """Return the micro-batches of a step as their losses are computed, called before the first of them is.

        What takes all of them to know, on all ranks, goes into the batches here, in tensors with one value for a row;
        without gradients. By default they stay as they are.

        Args:
            model: the model, or what the strategy wrapped around it.
            batches: the micro-batches of this rank, on the host.
            items: what each is weighed by; 0 for one that is only repeated to keep in step.
            peers: this process and the others, which all come here.
        """
        return batches

    def loss(self, model: nn.Module, batch: Any, num_items: float | None) -> Loss:
        """Return this batch's share of the loss.

        Args:
            model: the model, or what the strategy wrapped around it.
            batch: on the model's device.
            num_items: items of the whole step; None for the plain mean over this batch.
        """
        raise NotImplementedError

    @property
    def fusable(self) -> bool:
        """Whether `fused` is used where it is set."""
        return False

    @property
    def has_reference(self) -> bool:
        """Whether a step runs another model, or the model in another way, on its inputs, without learning from that."""
        return self.reference is not None

    @property
    def sums(self) -> bool:
        """Whether the loss of a batch is a sum, so that those of an evaluation are added up."""
        return False

    def unfused(self) -> Objective:
        """Return this objective for when the model's outputs are asked for: with logits, if it has any."""
        return self

    def model_inputs(self, batch: Any) -> Any:
        """Return what the model is called with."""
        return batch
